"""The peak memory of commands: each runs in a copy of one process that has loaded everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """code: the exit code. out, error: what it printed. peak: of its resident memory, in bytes."""

    code: int
    out: str
    error: str
    peak: int


def ended(commands: Sequence[Sequence[str]]) -> list[Ended]:
    """Run commands of softadv's, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "commands.json"
        asked.write_text(json.dumps(list(map(list, commands))))
        arguments = [sys.executable, "-W", "ignore", "-m", "tests.peaks", folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(arguments, check=True, env=environment)
        return [
            Ended(code, *((Path(folder) / f"{at}.{kind}").read_text() for kind in ("out", "error")), peak)
            for at, (code, peak) in enumerate(json.loads((Path(folder) / "ended.json").read_text()))
        ]


def _main(folder: Path) -> None:
    # What a command loads when it needs it is loaded before.
    import onnx  # noqa: F401

    from softadv._onnx import read_onnx  # noqa: F401
    from softadv.certify import onnx_runtime, verify  # noqa: F401
    from softadv.cli import app

    onnx_runtime.load_onnxruntime()
    found = []
    for at, command in enumerate(json.loads((folder / "commands.json").read_text())):
        child = os.fork()
        if not child:
            for stream, kind in ((1, "out"), (2, "error")):
                os.dup2(os.open(folder / f"{at}.{kind}", os.O_WRONLY | os.O_CREAT), stream)
            try:
                app.main(command)
            except SystemExit as exit_:
                sys.stdout.flush()
                os._exit(exit_.code)  # type: ignore[arg-type]
            finally:
                os._exit(70)
        _, status, usage = os.wait4(child, 0)
        unit = 1 if sys.platform == "darwin" else 1024
        found.append((os.waitstatus_to_exitcode(status), usage.ru_maxrss * unit))
    (folder / "ended.json").write_text(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
