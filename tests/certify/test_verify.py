"""VNN-LIB properties: read as they are written, answered soundly, and damaged ones refused in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import softadv
from softadv._onnx.calls import known_operators
from softadv.certify import certify
from softadv.certify import verify as verify_module
from softadv.certify.verify import verify
from softadv.certify.vnnlib import PropertyError, Variable, read_property
from softadv.cli import app
from softadv.errors import SoftadvError
from tests import peaks
from tests.onnx.graphs import Graph
from tests.onnx.test_unbatched import Whole

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
    return verify(model, read_property(write(path, asserts)), timeout=60, **options)


def sampled(model, count=20_000, seed=0):
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))
    return x, model(x)


def test_a_property_is_read_exactly(tmp_path):
    asserts = UNIT + "(assert (or (< (+ (* 2 Y[0,0]) (- Y[0,1]) 0.1) 1e-3) (and (== Y[0,0] 1) (!= X[0,1] 0.5))))"
    found = read_property(write(tmp_path, asserts))
    assert (found.version, found.type, found.network, found.sizes) == ("2.0", "float32", "N", (3, 2))
    assert len(found.cases) == 2
    first = found.cases[0][-1]
    assert first.strict
    assert first.sum.terms == {Variable(True, 0): 2, Variable(True, 1): -1}
    assert first.sum.constant == Fraction(1, 10) - Fraction(1, 1000)
    assert len(found.cases[1]) == 6 + 3  # an equality is two
    assert found.name(Variable(False, 2)) == "X[0,2]"


def test_version_1_is_read_too(tmp_path):
    asserts = box((0, 1), (0, 1), (0, 1), names="X_{}") + "(assert (or (and (<= Y_0 Y_1)) (and (>= Y_1 3.0))))"
    found = read_property(write(tmp_path, asserts, template=ONE))
    assert (found.version, found.sizes, len(found.cases)) == ("1.0", (3, 2), 2)
    assert found.name(Variable(True, 1)) == "Y_1"


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
        found = verify(model, read_property(path), timeout=60)
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


@settings(max_examples=60, deadline=None)
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
    found = verify(model, read_property(path), timeout=60)
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


# In 600 characters.
EIGHT_THOUSAND = "(and {})".format("(or (<= Y[0,0] 1) (<= Y[0,1] 1))" * 13)


DAMAGED = [
    ("(assert (<= X[0,0] 1)", "cut off"),
    ("(assert (<= X[0,0] 1)))", "not open"),
    ("(" * 300 + ")" * 300, "nests"),
    (UNIT + "(assert (<= (* Y[0,0] Y[0,1]) 1))", "multiplies variables"),
    (UNIT + "(assert (<= Y[0,7] 1))", "Y[0,7]"),
    (UNIT + "(assert (<= Y[0,-1] 1))", "no whole numbers"),
    (UNIT + "(assert (<= Z[0] 1))", "does not declare"),
    (UNIT + "(assert (=> true false))", "not read"),
    (UNIT + "(assert (<= Y[0,0] 1e999999999))", "not declare"),
    (UNIT + "(declare-network M (declare-input A float32 [1]) (declare-output B float32 [1]))", "one network"),
    ("(check-sat)", "check-sat"),
    (UNIT + "(assert (or {}))".format(" ".join(["(<= Y[0,0] 1)"] * 200)) * 3, "cases"),
    (UNIT + f"(assert (or {EIGHT_THOUSAND} {EIGHT_THOUSAND}))", "cases"),
    (UNIT + "(assert (<= Y[0,0] {}))".format("1" * 5_000), "not declare"),
    (UNIT + "(assert (<= Y[0,0] 1e999))", "beyond 10^300"),
    (UNIT + "(assert (<= Y[0,0] (* {} 1)))".format("1e-900 " * 10_000), "too many digits"),
    ("[" * 50_000, "not read"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "named"), DAMAGED)
def test_a_damaged_property_is_one_line_and_exit_code_2(tmp_path, capsys, text, named):
    path = write(tmp_path, text)
    with pytest.raises(PropertyError) as caught:
        read_property(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    net(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"N={tmp_path / 'net.onnx'}"])
    assert ended.value.code == 2
    assert not capsys.readouterr().out


# Bytes, for five million words.
MOST_BESIDE = 2**29


def damaged_commands(folder):
    """What asks about each damaged property, behind one that asks about a harmless one.

    There are five million words, and a file without an end, too. The network is missing, so that the harmless property
    is refused right after it was read.
    """
    harmless, words = UNIT + "(assert (>= Y[0,0] 1000))", "a1 " * 5_000_000
    texts = [harmless, *(text for text, _ in DAMAGED), words]
    files = [folder / f"{at}.vnnlib" for at in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(TWO.format(asserts=text, type="float32"))
    return [["verify", str(file), "--network", "N=missing.onnx"] for file in [*files, "/dev/zero"]]


def test_a_damaged_property_takes_little_more_memory_than_a_harmless_one(tmp_path):
    """The peak of resident memory of the command, beside that of the same command with a harmless file."""
    found = peaks.ended(damaged_commands(tmp_path))
    for one in found:
        assert (one.code, one.out) == (2, ""), one.error
        assert one.peak - found[0].peak < MOST_BESIDE, one.error


@pytest.mark.parametrize("type", ["float16", "bfloat16", "int8", "float8e4m3fn"])
def test_types_that_answers_would_not_be_sound_for_are_an_error(tmp_path, type):
    with pytest.raises(PropertyError, match="not be sound"):
        read_property(write(tmp_path, UNIT, type=type))


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


def test_the_command_says_the_answer_first_and_then_the_assignment(tmp_path, capsys):
    model = net(tmp_path)
    _, outputs = sampled(model)
    path = write(tmp_path, UNIT + f"(assert (>= Y[0,0] {outputs[:, 0].median().item()!r}))")
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"N={tmp_path / 'net.onnx'}", "--timeout", "60"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    first, *rest = said.out.splitlines()
    assert first == "sat"
    assert said.err == f"softadv: bounds by {verify(model, read_property(path)).computed_by}\n"
    values = dict(re.findall(r"\(([XY]\[0,\d\]) ([-\d.e+]+)\)", "\n".join(rest)))
    assert list(values) == ["X[0,0]", "X[0,1]", "X[0,2]", "Y[0,0]", "Y[0,1]"]
    x = torch.tensor([[float(values[f"X[0,{at}]"]) for at in range(3)]], dtype=torch.float64)
    assert torch.equal(x.float().double(), x)
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"M={tmp_path / 'net.onnx'}"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        ("--vnnlib-versions", ["1.0", "2.0"]),
        ("--onnx-opset-versions", ["8", "21"]),
        ("--serialise-assignments", ["true"]),
    ],
)
def test_what_is_supported_is_said_a_line_each(capsys, option, lines):
    with pytest.raises(SystemExit) as ended:
        app.main(["supports", option])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_the_operators_that_are_supported_are_those_that_are_read(capsys):
    with pytest.raises(SystemExit):
        app.main(["supports", "--onnx-operators"])
    said = capsys.readouterr().out.splitlines()
    assert said == known_operators()
    assert {"Constant", "Conv", "Shape", "Unsqueeze"} <= set(said)


def test_the_time_limit_holds_while_a_large_network_is_analysed(tmp_path):
    """One box of this network takes far longer than the limit; the answer does not wait for it."""
    graph = Graph((64, 12, 12), seed=1).conv((64, 12, 12), channels=64, pads=[1, 1, 1, 1]).then("Tanh")
    for _ in range(8):
        graph.conv((64, 12, 12), channels=64, pads=[1, 1, 1, 1]).then("Tanh")
    graph.then("Flatten").gemm(64 * 144, 2).write(tmp_path / "net.onnx")
    count = 64 * 144
    names = "".join(f"(declare-const {n} Real)\n" for n in [*(f"X_{at}" for at in range(count)), "Y_0", "Y_1"])
    path = tmp_path / "p.vnnlib"
    path.write_text(names + box(*[(0, 1)] * count, names="X_{}") + "(assert (<= (- Y_0 Y_1) -1e9))")
    code = (
        "import sys, time; from softadv.cli import app\n"
        "started = time.monotonic()\n"
        "import os; leave = os._exit\n"
        "def told(code): print(time.monotonic() - started, file=sys.stderr, flush=True); leave(code)\n"
        "os._exit = told\n"
        f"arguments = ['verify', {str(path)!r}, '--network', 'N={tmp_path / 'net.onnx'}', '--timeout', '4']\n"
        "try: app.main(arguments)\n"  # it may also end by itself, right after the limit
        "finally: print(time.monotonic() - started, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "timed-out\n"), done.stderr
    assert float(done.stderr.split()[-1]) >= 4


@pytest.mark.parametrize("timeout", ["nan", "-1"])
def test_a_time_limit_that_is_none_is_refused(tmp_path, capsys, timeout):
    net(tmp_path)
    path = write(tmp_path, UNIT)
    with pytest.raises(SystemExit) as ended:
        app.main(["verify", str(path), "--network", f"N={tmp_path / 'net.onnx'}", "--timeout", timeout])
    assert ended.value.code == 2
    assert not capsys.readouterr().out
