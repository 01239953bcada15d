"""Other programs that evaluate a model: onnxruntime at each of its levels, and torch.compile with inductor."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from itertools import product

import onnxruntime as ort
import torch
from torch import nn

from tests.certify.layers import Array

BATCHES = (1, 7, 64)
THREADS = (1, 2)
_LEVELS = ort.GraphOptimizationLevel
LEVELS = (_LEVELS.ORT_DISABLE_ALL, _LEVELS.ORT_ENABLE_BASIC, _LEVELS.ORT_ENABLE_EXTENDED, _LEVELS.ORT_ENABLE_ALL)


def onnxruntime(
    model: nn.Module, points: Array, *, levels: Sequence[object] = LEVELS, batches: Sequence[int] = BATCHES
) -> Iterator[tuple[object, Array]]:
    """The outputs of float32 images (N, C, H, W), or of the first of them, in each setting, and the setting."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is an old one; the newer needs a package more
        torch.onnx.export(
            model, (torch.from_numpy(points[:2]),), file, dynamo=False, input_names=["image"],
            dynamic_axes={"image": {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,  # onnxruntime is to fold the batch norms, not the exporter
        )  # fmt: skip
    for level, threads in product(levels, THREADS):
        options = ort.SessionOptions()
        options.graph_optimization_level, options.intra_op_num_threads = level, threads
        session = ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        for size in batches:
            for batch in _batches(points, size):
                yield (level, threads, size), session.run(None, {"image": batch})[0]


def inductor(
    model: nn.Module, points: Array, *, batches: Sequence[int] = BATCHES, freezing: Sequence[bool] = (False, True)
) -> Iterator[tuple[object, Array]]:
    """The same by torch.compile; freezing folds batch norms, and takes oneDNN's merged operators."""
    from torch._inductor import config as inductor_config  # seconds, for the few tests that compile
    from torch._inductor.utils import fresh_cache

    for freeze, size in product(freezing, batches):
        torch.compiler.reset()
        settings = inductor_config.patch(freezing=freeze, compile_threads=1, cpp_cache_precompile_headers=False)
        with torch.no_grad(), fresh_cache(), settings, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = torch.compile(model, dynamic=False)
            for batch in _batches(points, size):
                yield (freeze, size), compiled(torch.from_numpy(batch)).numpy()


def _batches(points: Array, size: int) -> list[Array]:
    """Some of the points in batches of one size; fewer where they are small."""
    size = min(size, len(points))
    return [points[first : first + size] for first in range(0, min(len(points), 16 * size) - size + 1, size)]
