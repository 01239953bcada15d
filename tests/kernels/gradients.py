"""Gradients by the kernel and by autograd, and how near they must be."""

import copy

import torch
import torch.nn.functional as F

from softadv.kernels import weight_gradients as compiled_update


def by_kernel(model, x, y):
    """The loss and the gradients of a float32 copy of a model."""
    model = copy.deepcopy(model).float()
    loss = compiled_update.gradients(model, x.float(), y)
    assert loss is not None
    return loss, [parameter.grad for parameter in model.parameters()]


def by_autograd(model, x, y):
    """The same in float64, at the numbers that the kernel sees."""
    model = copy.deepcopy(model).float().double()
    loss = F.cross_entropy(model(x.float().double()), y)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


def by_roundings(model, x, y):
    """How far each gradient moves when the numbers that it is made of are rounded: far, where terms nearly cancel."""
    generator = torch.Generator().manual_seed(0)

    def rounded(numbers):
        return numbers * (1 + 2**-24 * torch.empty_like(numbers).uniform_(-1, 1, generator=generator))

    _, exact = by_autograd(model, x, y)
    moved = [0.0] * len(exact)
    for _ in range(3):
        other = copy.deepcopy(model).float().double()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(rounded(parameter))
        F.cross_entropy(rounded(other(x.float().double())), y).backward()
        gradients = [parameter.grad for parameter in other.parameters()]
        moved = [max(a, float((g - e).abs().max())) for a, g, e in zip(moved, gradients, exact, strict=True)]
    return moved


def assert_same_gradients(model, x, y):
    model.requires_grad_()
    (loss, ours), (expected_loss, theirs) = by_kernel(model, x, y), by_autograd(model, x, y)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert torch.allclose(loss.double(), expected_loss, rtol=1e-5, atol=1e-6)
    moved = by_roundings(model, x, y)
    for own, expected, parameter, by_rounding in zip(ours, theirs, model.parameters(), moved, strict=True):
        assert own.shape == parameter.shape
        assert own.is_contiguous()
        scale = max(1e-3, float(expected.abs().max()))
        assert float((own.double() - expected).abs().max()) <= max(2e-5 * scale, 8 * by_rounding)
