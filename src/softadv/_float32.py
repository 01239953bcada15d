"""How coarsely PyTorch may round the factors of float32 products: not at all, unless a training asks for TF32.

Accuracies, attacks and trainings (softadv.evaluate, certified_curve, pgd, train, training/evaluation.py) compute in
plain float32, whatever PyTorch is set to, and put its settings back. The certifier sets nothing: a certificate holds
for the arithmetic that PyTorch is set to, and certify/rounding.py refuses a coarse one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

_PLAIN = ("none", "ieee")
_T = TypeVar("_T")


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Within the block, or in a function that this decorates, PyTorch multiplies float32 numbers as they are.

    tf32: a GPU rounds the factors to TF32 instead, which has 10 of float32's 23 binary places.
    """
    # PyTorch's stubs know nothing of these settings.
    cuda, cudnn, mkldnn = (cast(Any, m) for m in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn))
    on_gpu, on_cpu = (cuda.matmul, cudnn.conv, cudnn.rnn), (mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
    before = [(backend, backend.fp32_precision) for backend in (*on_gpu, *on_cpu)]
    # The older settings of the same are kept in step: PyTorch raises when it is asked for one that says otherwise.
    products = _unless_mixed(lambda: cuda.matmul.allow_tf32)
    precision = _unless_mixed(torch.get_float32_matmul_precision)
    convolutions = _unless_mixed(lambda: cudnn.allow_tf32)
    try:
        cuda.matmul.allow_tf32 = cudnn.allow_tf32 = tf32
        for backend in on_gpu:
            if (backend.fp32_precision not in _PLAIN) != tf32:
                backend.fp32_precision = "tf32" if tf32 else "ieee"
        for backend in on_cpu:
            if backend.fp32_precision not in _PLAIN:
                backend.fp32_precision = "ieee"
        yield
    finally:
        if products is not None:
            cuda.matmul.allow_tf32 = products
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        for backend, own in before:
            if backend.fp32_precision != own:
                backend.fp32_precision = own


def _unless_mixed(read: Callable[[], _T]) -> _T | None:
    """An older setting; None where the newer ones are set so that it has no value."""
    try:
        return read()
    except RuntimeError:
        return None
