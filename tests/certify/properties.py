"""VNN-LIB properties, and small networks that they are about."""

from __future__ import annotations

import torch

import softadv
from softadv.certify.verify import verify
from softadv.certify.vnnlib import read_property
from tests.onnx.graphs import Graph

TWO = """(vnnlib-version <2.0>) ; a comment
(declare-network N (declare-input X {type} [1,3]) (declare-output Y {type} [1,2]))
{asserts}
"""
ONE = """(declare-const X_0 Real) (declare-const X_1 Real) (declare-const X_2 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
{asserts}
"""


def box(*ends, names="X[0,{}]"):
    lines = []
    for at, (low, high) in enumerate(ends):
        name = names.format(at)
        lines.append(f"(assert (and (>= {name} {low}) (<= {name} {high})))")
    return "\n".join(lines)


UNIT = box((0, 1), (0, 1), (0, 1))


def write(path, asserts, *, template=TWO, type="float32"):
    path = path / "property.vnnlib"
    path.write_text(template.format(asserts=asserts, type=type))
    return path


def net(path, *, seed=0, hidden=6, act="Relu"):
    """A network of three inputs and two outputs."""
    graph = Graph((3,), seed=seed).gemm(3, hidden).then(act).gemm(hidden, 2)
    return softadv.load_model(graph.write(path / "net.onnx"))


def answered(path, asserts, model, **options):
    return verify(model, read_property(write(path, asserts)), timeout=3600, **options)


def sampled(model, count=20_000, seed=0):
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))
    return x, model(x)
