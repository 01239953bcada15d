"""VNN-LIB properties are answered soundly."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import softadv
from softadv.certify import certify
from softadv.certify import verify as verify_module
from softadv.certify.backsub_cpp import disabled
from softadv.certify.verify import verify
from softadv.certify.vnnlib import PropertyError, read_property
from softadv.errors import SoftadvError
from tests.certify.properties import TWO, UNIT, answered, box, net, sampled, write
from tests.onnx.graphs import Graph
from tests.onnx.test_unbatched import Whole


@pytest.mark.parametrize("act", ["Relu", "Tanh", "LeakyRelu"])
def test_what_cannot_be_reached_is_unsat_and_what_can_is_sat(tmp_path, act):
    model = net(tmp_path, act=act)
    _, outputs = sampled(model)
    top = outputs[:, 0].max().item()
    for limit, expected in ((top - 0.01, "sat"), (top + 0.1, "unsat")):
        found = answered(tmp_path, UNIT + f"(assert (>= Y[0,0] {limit!r}))", model)
        assert found.status == expected
        if expected == "sat":
            session = ort.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
            assert session.run(None, {"x": found.inputs[None]})[0][0, 0] >= limit
            assert ((found.inputs >= 0) & (found.inputs <= 1)).all()


def test_inputs_and_outputs_meet_in_one_comparison(tmp_path):
    model = net(tmp_path)
    x, outputs = sampled(model)
    most = (outputs[:, 0] - 2 * x[:, 1]).max().item()
    asked = UNIT + "(assert (>= (- Y[0,0] (* 2.0 X[0,1])) {!r}))"
    assert answered(tmp_path, asked.format(most + 0.1), model).status == "unsat"
    assert answered(tmp_path, asked.format(most - 0.01), model).status == "sat"


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (3,)])
def test_a_property_is_about_all_of_the_input_also_without_a_batch(tmp_path, shape):
    """Two rows of three numbers each are one input here, not two."""
    graph = Whole(shape).then("Concat", "x", axis=0).then("Gemm" if len(shape) > 1 else "MatMul", "w").then("Relu")
    graph.constants.append(numpy_helper.from_array(np.array([[1, -1], [2, 1], [3, 0.5]], np.float32), "w"))
    if shape == (3,):
        graph.nodes.pop(0)
        graph.nodes[0].input[0] = "x"
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    rows = shape[0] if len(shape) > 1 else 1
    outputs = "[2]" if len(shape) == 1 else f"[{2 * rows},2]"
    last = "Y[0]" if len(shape) == 1 else f"Y[{2 * rows - 1},0]"  # x + 2 y + 3 z of the last row
    places = [f"X[{','.join(map(str, at))}]" for at in np.ndindex(*shape)]
    asserts = "".join(f"(assert (and (>= {place} 0) (<= {place} 1)))" for place in places)
    for limit, status in ((5.5, "sat"), (6.5, "unsat")):
        path = tmp_path / "p.vnnlib"
        path.write_text(
            f"(vnnlib-version <2.0>)(declare-network N (declare-input X float32 [{','.join(map(str, shape))}])"
            f"(declare-output Y float32 {outputs})){asserts}(assert (>= {last} {limit}))"
        )
        found = verify(model, read_property(path), timeout=3600)
        assert (found.status, found.boxes) == (status, 1 if status == "unsat" else 0)


def test_coefficients_that_are_no_floats_are_paid_for(tmp_path):
    """0.1 is no float32: a bound that takes it for one is off by 1e-9 of the output."""
    graph = Graph((3,)).then("Gemm", *[])
    graph.nodes[-1].input.extend([graph.constant(np.zeros((2, 3))), graph.constant([2.0**20, 0.0])])
    graph.nodes[-1].attribute.add(name="transB", i=1, type=2)
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    reached = Fraction(1, 10) * 2**20
    asked = UNIT + "(assert (>= (* 0.1 Y[0,0]) {}))"
    assert answered(tmp_path, asked.format(f"{float(reached):.10f}"[:-2]), model).status == "sat"
    assert answered(tmp_path, asked.format("104860"), model).status == "unsat"


@pytest.mark.parametrize("compiled", [True, False])
def test_a_sum_of_which_no_step_rounds_is_bounded_as_closely_as_any(tmp_path, compiled):
    """64 ones, and 4,032 numbers that float32 loses beside their sum: together they are what is asked for."""
    small, rest = 0.75 * 2.0**-23, 4096 - 64
    graph = Graph((4096,)).then("Relu")
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    ends = "".join(
        f"(assert (and (>= X[0,{at}] {value:.30f}) (<= X[0,{at}] {value:.30f})))"
        for at, value in enumerate([1.0] * 64 + [small] * rest)
    )
    total = " ".join(f"Y[0,{at}]" for at in range(4096))
    path = tmp_path / "sum.vnnlib"
    path.write_text(
        "(vnnlib-version <2.0>)(declare-network N (declare-input X float32 [1,4096])"
        f"(declare-output Y float32 [1,4096])){ends}(assert (>= (+ {total}) 64.0002))"
    )
    assert 64 + rest * small > 64.0003
    with nullcontext() if compiled else disabled():
        assert verify(model, read_property(path), timeout=3600).status == "sat"


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), kind=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_no_instance_with_a_known_counterexample_is_unsat(tmp_path_factory, seed, share, kind):
    strict, real, split = kind
    folder = tmp_path_factory.mktemp("verify")
    model = net(folder, seed=seed)
    x, outputs = sampled(model, 2_000, seed)
    at = int(outputs[:, 0].argsort()[int(share * 1_999)])
    session = ort.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    value = float(session.run(None, {"x": x[at : at + 1].numpy()})[0][0, 0])
    ends = [(float(v) - 0.01 * split, float(v) + 0.1 * split) for v in x[at]]
    operator = ("<" if strict else "<=", np.nextafter(np.float32(value), np.float32(np.inf)) if strict else value)
    asserts = box(*((repr(a), repr(b)) for a, b in ends)) + f"(assert ({operator[0]} Y[0,0] {float(operator[1])!r}))"
    path = write(folder, asserts, type="real" if real else "float32")
    assert verify(model, read_property(path), timeout=2).status != "unsat"


def test_a_proof_that_needs_splitting_is_found_and_time_is_kept(tmp_path):
    model = net(tmp_path, hidden=24, seed=3)
    _, outputs = sampled(model, 200_000)
    asked = UNIT + f"(assert (>= (+ Y[0,0] Y[0,1]) {outputs.sum(1).max().item() + 0.05!r}))"
    found = answered(tmp_path, asked, model)
    assert found.status == "unsat"
    assert found.boxes > 1
    assert verify(model, read_property(write(tmp_path, asked)), timeout=0).status == "timed-out"


def test_a_network_that_fills_the_memory_alone_is_answered_point_by_point_and_box_by_box(tmp_path, monkeypatch):
    model = net(tmp_path, hidden=24, seed=3)
    _, outputs = sampled(model, 200_000)
    top = outputs.sum(1).max().item()
    monkeypatch.setattr(verify_module, "_MOST_TOGETHER", 1)
    boxes, bound = [], verify_module.lower_bounds
    points, rand = [], torch.rand
    monkeypatch.setattr(verify_module, "lower_bounds", lambda *a, **k: boxes.append(len(a[1][0])) or bound(*a, **k))
    monkeypatch.setattr(torch, "rand", lambda *size, **k: points.append(size[0]) or rand(*size, **k))
    for limit, expected in ((top + 0.05, "unsat"), (top - 0.5, "sat")):
        found = answered(tmp_path, UNIT + f"(assert (>= (+ Y[0,0] Y[0,1]) {limit!r}))", model)
        assert found.status == expected
    assert set(boxes) == set(points) == {1}


def test_many_outputs_count_towards_the_memory(tmp_path, monkeypatch):
    """0.1 is no float, so that the magnitudes of all 300 outputs are asked for, of each box."""
    graph = Graph((3,), seed=3).gemm(3, 24).then("Relu").gemm(24, 300)
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    _, outputs = sampled(model)
    asked, bound = [], verify_module.lower_bounds
    monkeypatch.setattr(verify_module, "_MOST_TOGETHER", 2**21)
    monkeypatch.setattr(verify_module, "lower_bounds", lambda *a, **k: asked.append(a[2].shape) or bound(*a, **k))
    limit = 0.1 * outputs[:, :2].sum(1).max().item() + 0.002
    text = f"(assert (>= (+ (* 0.1 Y[0,0]) (* 0.1 Y[0,1])) {limit!r}))"
    found = verify(model, read_property(write(tmp_path, UNIT + text, template=TWO.replace("[1,2]", "[1,300]"))))
    assert found.status == "unsat"
    assert {tuple(shape) for shape in asked} == {(1, 601, 300), (2, 601, 300)}  # two fill it


def test_nothing_is_proven_of_a_file_that_onnxruntime_reads_otherwise(tmp_path):
    """Such as one that another one has replaced since it was read."""
    model = net(tmp_path, seed=0)
    stated = read_property(write(tmp_path, UNIT + "(assert (>= Y[0,0] 1000))"))
    assert verify(model, stated).status == "unsat"
    for other in (lambda: net(tmp_path, seed=1), lambda: Graph((3,)).gemm(3, 1).write(model.path)):
        other()
        with pytest.raises(SoftadvError, match=r"net\.onnx: onnxruntime computes something else"):
            verify(model, stated)


def test_many_inputs_are_not_split(tmp_path):
    graph = Graph((20,), seed=1).gemm(20, 30).then("Relu").gemm(30, 30).then("Relu").gemm(30, 2)
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    names = "".join(f"(declare-const {name} Real)\n" for name in [*(f"X_{at}" for at in range(20)), "Y_0", "Y_1"])
    path = tmp_path / "p.vnnlib"
    lowest = certify(model, torch.full((1, 20), 0.5), torch.tensor([0]), eps=0.5).margin.item()  # of Y_0 - Y_1
    met = (model(torch.rand(20_000, 20)) @ torch.tensor([1.0, -1.0])).min().item()
    asked = f"(assert (<= (- Y_0 Y_1) {(lowest + met) / 2!r}))"  # below what is met, above what is proven
    path.write_text(names + box(*[(0, 1)] * 20, names="X_{}") + asked)
    found = verify(model, read_property(path), timeout=3600)
    assert found.status in ("unknown", "sat")
    assert found.boxes <= 1


@pytest.mark.skipif(not torch.backends.nnpack.is_available(), reason="needs a PyTorch with NNPACK")
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_convolutions_that_may_be_winograds_are_refused_as_certify_refuses_them(tmp_path):
    graph = Graph((1, 3, 1)).conv((1, 3, 1), kernel=3, pads=[1, 1, 1, 1]).then("Flatten").gemm(9, 2)
    model = softadv.load_model(graph.write(tmp_path / "net.onnx"))
    stated = read_property(write(tmp_path, f"{UNIT} (assert (>= Y[0,0] 100))"))
    assert verify(model, stated).status == "unsat"
    with torch.backends.mkldnn.flags(enabled=False), pytest.raises(SoftadvError, match="NNPACK may evaluate"):
        verify(model, stated)


def test_boxes_that_are_empty_are_unsat_and_an_input_alone_may_be_sat(tmp_path):
    model = net(tmp_path)
    assert answered(tmp_path, box((0, 1), (1, 0), (0, 1)), model).status == "unsat"
    assert answered(tmp_path, UNIT, model).status == "sat"
    assert answered(tmp_path, UNIT + "(assert (>= (+ X[0,0] X[0,1]) 2.5))", model).status == "unsat"


def test_a_property_of_another_network_is_named(tmp_path):
    model = net(tmp_path)
    path = tmp_path / "p.vnnlib"
    path.write_text("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))")
    with pytest.raises(PropertyError, match="the network"):
        verify(model, read_property(path))
    with pytest.raises(SoftadvError, match="not bounded"):
        verify(model, read_property(write(tmp_path, "(assert (<= X[0,0] 1))")))
    with pytest.raises(PropertyError, match="float64"):
        verify(model, read_property(write(tmp_path, UNIT, type="float64")))
