"""A GPU's few minutes, in order of value: tests, attack, certification, epochs, the paper's grid.

    python -m benchmarks.gpu --minutes 15 --device cuda --out gpu
    python -m benchmarks.gpu --minutes 2 --device cpu --out rehearsal

Each piece is a process of its own with a share of the time that is left: one that fails, breaks the device or takes too
long is recorded, with its traceback, and the next goes on. What a piece prints goes into the folder as it comes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Of the time that is left when a piece begins: so many parts to it, out of its own and all later pieces' parts.
SHARES = {"tests": 2, "attack": 2, "certification": 2, "epochs": 4, "grid": 6}
MOST_SECONDS = {"tests": 120.0}


def main() -> None:
    """Run the pieces one after another, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="for all pieces together")
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True, help="cpu: a rehearsal with few images")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of what is measured (default: gpu)")
    parser.add_argument("--data", type=Path, help="where the images are, as of softadv")
    parser.add_argument("--only", help=f"only these, such as attack,grid, of {', '.join(SHARES)}")
    parser.add_argument("--piece", choices=list(SHARES), help=argparse.SUPPRESS)  # what a piece's own process is told
    arguments = parser.parse_args()
    if arguments.piece:
        from benchmarks.gpu_pieces import PIECES  # noqa: PLC0415 (what a piece needs may be what is broken)

        PIECES[arguments.piece](arguments.device, arguments.out, arguments.data)
        return
    wanted = arguments.only.split(",") if arguments.only else list(SHARES)
    for name in wanted:
        if name not in SHARES:
            parser.error(f"--only: no piece is named {name!r}; there are {', '.join(SHARES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    run_pieces(
        [name for name in SHARES if name in wanted], seconds=60 * arguments.minutes, device=arguments.device,
        out=arguments.out, data=arguments.data,
    )  # fmt: skip


def run_pieces(names: list[str], *, seconds: float, device: str, out: Path, data: Path | None) -> None:
    """Run pieces in their order within so many seconds; out/pieces.json says how each ended."""
    ends = time.monotonic() + seconds
    record: list[dict[str, object]] = []
    for place, name in enumerate(names):
        left = ends - time.monotonic()
        limit = left * SHARES[name] / sum(SHARES[later] for later in names[place:])
        limit = min(limit, MOST_SECONDS.get(name, limit))
        started = time.monotonic()
        outcome = run_piece(name, seconds=limit, device=device, out=out, data=data) if left > 1 else "no time was left"
        took = time.monotonic() - started
        record.append({"piece": name, "outcome": outcome, "seconds": round(took, 1), "limit": round(limit, 1)})
        (out / "pieces.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: {outcome}, {took:.0f} of {max(limit, 0):.0f} s; {out / f'{name}.txt'}", flush=True)


def run_piece(name: str, *, seconds: float, device: str, out: Path, data: Path | None) -> str:
    """Run a piece in a process group of its own, into out/NAME.txt. Returns how it ended."""
    command = [
        sys.executable, "-m", "benchmarks.gpu", "--piece", name, "--minutes", "0", "--device", device,
        "--out", str(out.resolve()), *(["--data", str(data.resolve())] if data else []),
    ]  # fmt: skip
    source = str(ROOT / "src")
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    with (out / f"{name}.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return "out of time; what it had done is kept"
    return "done" if code == 0 else f"failed (exit status {code}); its traceback is in the file"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a piece and what it started; a grid's trials keep their last finished epoch."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        return


if __name__ == "__main__":
    main()
