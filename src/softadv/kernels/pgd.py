"""The steps of PGD in a compiled kernel (cpp/gradients/attack.cpp), on a CPU.

It takes the chains that input_gradients.py differentiates by hand, in float32. Its images equal PyTorch's bit for bit
wherever the two agree on the sign of every gradient.
"""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from softadv._ranges import UNIT, Clip
from softadv.kernels import build as compiled
from softadv.kernels import threads
from softadv.kernels.chain import Chain, CNetwork, in_memory

SOURCE = Path(__file__).parent / "cpp" / "gradients" / "attack.cpp"


def available() -> bool:
    """Whether the compiled kernel is used for models on the CPU."""
    return compiled.available(SOURCE)


def missing() -> str | None:
    """Why there is no compiled kernel, or None where there is one."""
    return compiled.missing(SOURCE)


def threads_of_attack(model: nn.Module, x: Tensor, y: Tensor) -> AbstractContextManager[None]:
    """For an attack and the small operations around it: threads.of_their_own, where climb takes the model.

    Arguments as in climb. What is left to PyTorch must treat each number by itself, so that the number of its threads
    changes no bit.
    """
    if not threads.are_their_own() and available() and Chain.of(model, x, y) is not None:
        return threads.of_their_own()
    return nullcontext()


def climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    clip: Clip = UNIT,
    further: int | None = None,
) -> Tensor | None:
    """Take PGD steps along the sign of the cross-entropy's gradient, each projected to the ball and to clip.

    x, start: (N, C, H, W), the centres of the balls and the starting points; start may be overwritten. y: int64 (N,),
    labels; or float32 (N, classes), target probabilities.
    eps, alpha: in the units of x. clip: the smallest and the largest pixel value.
    further: an image stops this many steps after the first one that makes the model misclassify it; None takes all
    steps. The model is computed as in eval mode, whatever mode it is in.
    Returns the last images, (N, C, H, W), or None where the kernel does not support the model or the tensors.
    Raises MemoryError where memory runs out.
    """
    if start.dtype != torch.float32 or start.device.type != "cpu" or start.shape != x.shape or not available():
        return None
    chain = Chain.of(model, x, y)
    if chain is None:
        return None
    point = in_memory(start)
    assert further is None or y.ndim == 1
    attack = _CAttack(
        network=chain.network(),
        steps=steps,
        further=-1 if further is None else further,
        eps=eps,
        alpha=alpha,
        lowest=clip[0],
        highest=clip[1],
        point=point.data_ptr(),
    )
    compiled.call_kernel(SOURCE, "climb", attack)
    return point


class _CAttack(ctypes.Structure):
    """Attack of cpp/gradients/attack_block.h."""

    _fields_ = (
        ("network", CNetwork),
        *((name, ctypes.c_int32) for name in ("steps", "further")),
        *((name, ctypes.c_float) for name in ("eps", "alpha", "lowest", "highest")),
        ("point", ctypes.c_void_p),
    )
