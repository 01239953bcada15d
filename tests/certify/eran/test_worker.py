"""The worker by itself: what it may need, its protocol, and what it asks ERAN and GPUPoly (here two that record)."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from softadv.certify.eran.protocol import ENGINES, NO_DEVICE, PROTOCOL
from tests.certify.eran.conftest import STAND_IN, alive, wait_until_gone
from tests.certify.eran.stand_in import FIRST, real_worker

WORKER = Path(__file__).parents[3] / "docker" / "eran" / "worker.py"

# Modules of ERAN's and ELINA's names, which print a lot and say what they were asked, by failing.
FAKES = {
    "onnx.py": "def load(path):\n    if 'bad' in path: raise ValueError('no\\nmodel')\n    return Model(path)\n"
    "class Model:\n    def __init__(self, path): self.graph = 'graph of ' + path\n",
    "eran.py": """
import os
print("importing")
class ERAN:
    def __init__(self, model, session=None, is_onnx=False):
        assert is_onnx
        print("This network has 3 neurons.")
        os.write(1, b"from below Python")
    def analyze_box(self, lower, upper, domain, lp, milp, heuristic, label=-1):
        print("analysing", flush=True)
        if upper[0] > 8:
            raise RuntimeError(f"{domain} {lower.tolist()} {upper.tolist()} {heuristic}")
        return label if upper[0] == 1 else -1, None, [], [], None, None
""",
    "onnx2gpupoly.py": """
class Network:
    def __init__(self, graph): self.graph = graph
    def clean(self): self.graph = None
    def test(self, down, up, label, soundness=True):
        if up.flat[0] > 8:
            raise RuntimeError(f"{self.graph} {down.dtype} {up.dtype} {down.tolist()} {up.tolist()} {soundness}")
        return label == 2
def onnx2gpupoly(graph): return Network(graph)
""",
}


class Child:
    """A worker that is spoken to by hand."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | environment,
            start_new_session=True,
        )

    def hear(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def tell(self, **request) -> None:
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()
        wait_until_gone([self.process.pid])  # by itself: it is not killed here
        self.process.wait()


@pytest.fixture
def fakes(tmp_path):
    """The folder that the fakes are in, and their environment."""
    for name, text in FAKES.items():
        (tmp_path / name).write_text(text)
    return {"PYTHONPATH": str(tmp_path), "SOFTADV_ERAN_COMMIT": "e" * 40, "SOFTADV_ELINA_COMMIT": "a" * 40}


def write(folder: Path, lower: np.ndarray, upper: np.ndarray, labels: list[int]) -> None:
    for name, array in (("lower", lower), ("upper", upper), ("labels", np.array(labels))):
        np.save(folder / f"{name}.npy", array)


def test_it_is_python_3_8_and_needs_nothing_but_numpy_to_start():
    tree = ast.parse(WORKER.read_text(), feature_version=(3, 8))
    imported = {
        name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names | {"numpy"}


def test_both_sides_agree_on_the_protocol_and_the_names():
    worker = real_worker()
    assert worker.PROTOCOL == PROTOCOL
    assert f"Protocol {PROTOCOL}\n" in worker.__doc__
    assert set(worker.ENGINES) == set(ENGINES)
    assert all(f"{engine}" in worker.__doc__ for engine in ENGINES)


def test_eran_is_asked_in_its_own_order_whatever_it_prints(tmp_path, fakes):
    image = np.arange(12.0).reshape(1, 3, 2, 2)
    boxes = np.concatenate([image, image, image])
    boxes[:, 0, 0, 0] = [1, 2, 9]
    write(tmp_path, boxes - 1, boxes, [5, 5, 5])
    with Child(str(WORKER), "eran-deepzono", **fakes) as child:
        hello = child.hear()
        assert hello["protocol"] == 1
        assert hello["missing"] == {}
        offer = hello["engines"]["eran-deepzono"]
        assert offer["version"] == f"ERAN {'e' * 40}, ELINA {'a' * 40}"
        assert offer["soundness"].keys() == {"sound", "none"}
        child.tell(request=1, engine="eran-deepzono", sound=True, model="m", boxes=str(tmp_path), images=[2, 0, 1])
        assert child.hear() == {"request": 1, "ready": True}
        failed, verified, unverified = (child.hear() for _ in range(3))
    assert (verified["index"], verified["verdict"]) == (0, "verified")
    assert (unverified["index"], unverified["verdict"]) == (1, "unverified")
    assert verified["seconds"] >= 0
    assert (failed["request"], failed["index"], failed["verdict"]) == (1, 2, "failed")
    # Channels last.
    upper = [9.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]
    lower = [value - 1 for value in upper]
    assert failed["error"] == f"RuntimeError: deepzono {lower} {upper} True"


def test_gpupoly_is_asked_in_single_precision_rounded_outwards(tmp_path, fakes, driver):
    write(tmp_path, np.array([[0.1, 0.25], [8.9, 0.1]]), np.array([[0.1, 0.25], [9.1, 0.1]]), [2, 3])
    with Child(str(WORKER), "gpupoly", **fakes, **driver(0, 1), SOFTADV_GPUPOLY_STRONG="1") as child:
        assert "level 4" in child.hear()["engines"]["gpupoly"]["soundness"]["sound"]
        child.tell(request=1, engine="gpupoly", sound=True, model="one", boxes=str(tmp_path), images=[0])
        assert [child.hear().get("ready"), child.hear()["verdict"]] == [True, "verified"]
        child.tell(request=2, engine="gpupoly", sound=False, model="two", boxes=str(tmp_path), images=[1])
        assert child.hear()["ready"]
        error = child.hear()["error"]
    down, up = ([float(np.float32(value)) for value in row] for row in ([8.9, 0.1], [9.1, 0.1]))
    down[1] = float(np.nextafter(np.float32(0.1), np.float32(0)))  # float32's 0.1 is above 0.1, as its 9.1 is
    assert down[0] <= 8.9
    assert error == f"RuntimeError: graph of two float32 float32 {down} {up} False"


@pytest.mark.parametrize(("error", "devices"), [(100, 1), (0, 0)])
def test_without_a_cuda_device_gpupoly_is_missing(fakes, driver, error, devices):
    with Child(str(WORKER), "gpupoly", "eran-deeppoly", **fakes, **driver(error, devices)) as child:
        hello = child.hear()
    assert list(hello["engines"]) == ["eran-deeppoly"]
    assert hello["missing"] == {"gpupoly": f"{NO_DEVICE}CUDA's driver finds no device (error {error})"}


def test_without_cudas_driver_gpupoly_is_missing(fakes):
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with Child(str(WORKER), "gpupoly", **fakes) as child:
            assert child.hear()["missing"] == {"gpupoly": f"{NO_DEVICE}CUDA's driver (libcuda.so.1) is not here"}
    else:
        pytest.skip("CUDA's driver is here")


def test_what_cannot_be_read_or_is_not_there_is_said(tmp_path, fakes, driver):
    (tmp_path / "eran.py").write_text("raise SystemExit('no licence')")
    write(tmp_path, np.zeros((1, 2)), np.zeros((1, 2)), [2])
    with Child(str(WORKER), **fakes, **driver(0, 1)) as child:
        hello = child.hear()
        assert list(hello["engines"]) == ["gpupoly"]
        assert hello["missing"] == dict.fromkeys(("eran-deeppoly", "eran-deepzono"), "SystemExit: no licence")
        assert hello["engines"]["gpupoly"]["version"] == f"ELINA {'a' * 40}"
        request = {"engine": "gpupoly", "sound": True, "images": [0]}
        child.tell(request=1, model="bad", boxes=str(tmp_path), **request)
        assert child.hear() == {"request": 1, "error": "ValueError: no model"}
        child.tell(request=2, model="good", boxes="/nowhere", **request)
        assert "/nowhere/lower.npy" in child.hear()["error"]
        child.tell(request=3, model="good", boxes=str(tmp_path), **request)
        assert child.hear()["ready"]
        assert child.hear()["verdict"] == "verified"


@pytest.mark.parametrize(("fault", "processes"), [("none", 1), ("hang", 1), ("hang with a child", 2)])
def test_it_ends_with_its_input_whatever_it_is_at(tmp_path, fault, processes):
    write(tmp_path, np.full((1, 2), FIRST - 0.1), np.full((1, 2), FIRST + 0.1), [0])
    hanging = tmp_path / "once"
    with Child(str(STAND_IN), "--fault", fault, "--once", str(hanging), "gpupoly") as child:
        child.hear()
        child.tell(request=1, engine="gpupoly", sound=True, model="m", boxes=str(tmp_path), images=[0])
        assert child.hear()["ready"]
        while not hanging.exists() or len(alive([child.process.pid])) < processes:
            time.sleep(0.01)
