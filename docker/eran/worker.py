"""Asks ERAN or GPUPoly whether every point of a box is classified as it should be.

    PYTHON worker.py [ENGINE ...]

softadv starts it as a child process, in the Python that ERAN's own packages are installed for (3.8 or
newer), in which `onnx`, `eran` (ERAN's folder tf_verify), `gpupoly` and `onnx2gpupoly` (ELINA's folder
python_interface) can be imported. ENGINE: eran-deeppoly, eran-deepzono or gpupoly; without any, all of
them are loaded. It ends as soon as its standard input does.

Protocol 1
==========
Lines of UTF-8, each one JSON object. What the engines print goes to standard error.

The worker says hello once, when the engines are loaded. `missing` says why the others are not there, with
"NoDevice: ..." of gpupoly where no CUDA device answers; `version` has the commits that were built, as far as
the environment names them; `soundness` says under which arithmetic a verdict holds, where the request asks
for a sound one and where it does not:

    {"protocol": 1, "engines": {"gpupoly": {"version": "ELINA 0123abc",
        "soundness": {"sound": "...", "none": "..."}}}, "missing": {"eran-deeppoly": "ImportError: ..."}}

A request names an ONNX file (a literal batch of 1; float32; no leading Sub, Div or Reshape), a folder and
rows of the arrays in it, in the order in which they are to be answered:

    {"request": 7, "engine": "gpupoly", "sound": true, "model": "/tmp/m.onnx", "boxes": "/tmp/boxes",
        "images": [0, 4, 5]}
    lower.npy, upper.npy: float64 (N, C, H, W), or (N, F) where the model takes a vector; labels.npy: int64 (N,)

Once the files are read the worker answers the first of these lines, or the second if they cannot be;
after the first come as many of the third as there are images, each as soon as it is known:

    {"request": 7, "ready": true}
    {"request": 7, "error": "NotImplementedError: Unknown layer: Tanh"}
    {"request": 7, "index": 4, "verdict": "verified", "seconds": 0.013}

verdict: verified, unverified or failed, then with "error". "margin", where an engine has one, is a lower
bound of the least difference between the label's output and another.
"""

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import time

import numpy as np

PROTOCOL = 1

# Seconds that the refined domains may spend in a solver: these domains have none, but the argument is asked for.
_SOLVER_SECONDS = 1
_PR_SET_PDEATHSIG = 1


class Eran:
    """DeepPoly or DeepZono, as ERAN computes them."""

    soundness = dict.fromkeys(("sound", "none"), "floating point, as ERAN documents it")

    def __init__(self, domain):
        import onnx  # noqa: PLC0415 (each engine brings its own, and may be missing)
        from eran import ERAN  # noqa: PLC0415

        self._read, self._make, self._domain = onnx.load, ERAN, domain
        self._network = None
        self.version = f"ERAN {_commit('ERAN')}, ELINA {_commit('ELINA')}"

    def load(self, path):
        """Read an ONNX file."""
        self._network = self._make(self._read(path), is_onnx=True)

    def verify(self, lower, upper, label, sound):
        """Whether a box is proven to be classified as a label, and by what margin (None: not known)."""
        if lower.ndim == 3:  # ERAN keeps images channels-last, and takes them so
            lower, upper = lower.transpose(1, 2, 0), upper.transpose(1, 2, 0)
        found = self._network.analyze_box(
            lower.flatten(), upper.flatten(), self._domain, _SOLVER_SECONDS, _SOLVER_SECONDS, True, label=label
        )
        return int(found[0]) == label, None


class NoDevice(Exception):
    """No CUDA device answers. GPUPoly can be loaded all the same, and dies of it when it is asked."""


class GpuPoly:
    """DeepPoly on a GPU."""

    def __init__(self):
        _need_cuda_device()
        import onnx  # noqa: PLC0415
        from onnx2gpupoly import onnx2gpupoly  # noqa: PLC0415

        self._read, self._make = onnx.load, onnx2gpupoly
        self._network = None
        self.version = f"ELINA {_commit('ELINA')}"
        # Without that option it also answers yes where it proves as much for exact arithmetic alone.
        strong = os.environ.get("SOFTADV_GPUPOLY_STRONG") == "1"
        level = "single precision, sums in any order (level 4)" if strong else "exact arithmetic at least (level 2)"
        self.soundness = {"sound": level, "none": "none (level 1)"}

    def load(self, path):
        """Read an ONNX file."""
        if self._network is not None:
            self._network.clean()  # there is room for one network at a time
            self._network = None
        self._network = self._make(self._read(path).graph)

    def verify(self, lower, upper, label, sound):
        """Whether a box is proven to be classified as a label, and by what margin (None: not known)."""
        # The type of the box is the precision that the verdict is for: the model's.
        return bool(self._network.test(_single(lower, -1), _single(upper, 1), label, sound)), None


ENGINES = {
    "eran-deeppoly": lambda: Eran("deeppoly"),
    "eran-deepzono": lambda: Eran("deepzono"),
    "gpupoly": GpuPoly,
}


def serve(engines, requests, answers):
    """Say hello, then answer requests until there are no more.

    engines: name to a function that makes an engine, an object like those above. requests: lines.
    answers: a text stream.
    """

    def say(**line):
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    made, missing = {}, {}
    for name, make in engines.items():
        try:
            made[name] = make()
        except (Exception, SystemExit) as error:
            missing[name] = _one_line(error)
    offers = {name: {"version": engine.version, "soundness": engine.soundness} for name, engine in made.items()}
    say(protocol=PROTOCOL, engines=offers, missing=missing)
    loaded = {}
    for line in requests:
        request = json.loads(line)
        number, name, path = request["request"], request["engine"], request["model"]
        engine = made[name]
        try:
            if loaded.get(name) != path:
                loaded.pop(name, None)
                engine.load(path)
                loaded[name] = path
            folder = request["boxes"]
            boxes = [np.load(os.path.join(folder, part + ".npy")) for part in ("lower", "upper", "labels")]
        except Exception as error:
            say(request=number, error=_one_line(error))
            continue
        say(request=number, ready=True)
        for index in request["images"]:
            say(request=number, index=index, **_verdict(engine, *(part[index] for part in boxes), request["sound"]))


def _verdict(engine, lower, upper, label, sound):
    began = time.perf_counter()
    try:
        verified, margin = engine.verify(lower, upper, int(label), sound)
        found = {"verdict": "verified" if verified else "unverified"}
        if margin is not None and np.isfinite(margin):
            found["margin"] = float(margin)
    except Exception as error:
        found = {"verdict": "failed", "error": _one_line(error)}
    return dict(found, seconds=time.perf_counter() - began)


def claim_stdout():
    """A stream to what was standard output; what anyone prints from now on, C code too, goes to standard error."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "w", encoding="utf-8")


def lines_until_hangup():
    """The lines of standard input. At its end, so when softadv has ended, this process ends, whatever it is at."""
    own = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    lines = queue.Queue()

    def read():
        for line in own:
            lines.put(line)
        if os.getsid(0) == os.getpid():  # as softadv starts it: with whatever it has started in its turn
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)


def die_with_parent():
    """Have Linux kill this process when the thread that started it ends.

    Engines that hang in C code may keep the interpreter's lock, and then nobody notices the end of standard input.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _need_cuda_device():
    """Raise NoDevice where there is no CUDA device, by asking the driver, which is all that GPUPoly cannot bring."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise NoDevice("CUDA's driver (libcuda.so.1) is not here") from None
    count = ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error or count.value < 1:
        raise NoDevice(f"CUDA's driver finds no device (error {error})")


def _single(values, direction):
    """Bounds as float32, rounded outwards. direction: -1 for lower bounds, 1 for upper ones."""
    rounded = values.astype(np.float32)
    inside = (rounded - values) * direction < 0
    return np.where(inside, np.nextafter(rounded, np.float32(direction * np.inf)), rounded)


def _commit(name):
    return os.environ.get(f"SOFTADV_{name}_COMMIT", "of unknown version")[:40]


def _one_line(error):
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def main(names):
    """Serve the engines of these names, or all."""
    answers = claim_stdout()
    die_with_parent()
    chosen = {name: make for name, make in ENGINES.items() if name in names or not names}
    serve(chosen, lines_until_hangup(), answers)


if __name__ == "__main__":
    main(sys.argv[1:])
