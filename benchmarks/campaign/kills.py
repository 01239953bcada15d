"""A grid, and a certification with --out, are killed and given again until they are done.

Kills (SIGKILL) come at random moments and at writes of files. Every file must end with the bits of a run that was never
killed; only seconds may differ.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bits import bits
from benchmarks.campaign.commands import GRID, SOFT, command
from softadv.cli.app import main as softadv_command

Words = Callable[[Path], list[str]]  # of the command that writes into a folder


def kill_campaign(work: Path, *, grids: int, certifications: int, rng: random.Random) -> list[tuple[str, int, int]]:
    """Returns, for each kind, how many kills there were and how many ends differed in a bit."""
    (work / "campaign.toml").write_text(GRID, encoding="utf-8")

    def grid(out: Path) -> list[str]:
        return ["reproduce", str(work / "campaign.toml"), "--out", str(out), "--device", "cpu"]

    def certification(out: Path) -> list[str]:
        out.mkdir(exist_ok=True)
        model, verdicts = str(work / "grids" / SOFT), str(out / "verdicts.csv")
        return ["certify", model, "--out", verdicts, "--split", "train", "--limit", "512", "--device", "cpu"]

    return [
        ("grids", *_killed_and_given_again(grid, whole=work / "grids", kills=grids, rng=rng)),
        ("certifications", *_killed_and_given_again(
            certification, whole=work / "certifications", kills=certifications, rng=rng
        )),
    ]  # fmt: skip


def _killed_and_given_again(words: Words, *, whole: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    """Returns how many kills there were, and how many ends differed from `whole`, which is made without any."""
    started = time.perf_counter()
    if _ended(words(whole)) not in (0, 1):
        raise SystemExit(f"{whole.name}: could not be run without a kill")
    longest = time.perf_counter() - started
    done = differing = folders = 0
    while done < kills:
        out = whole.with_name(f"{whole.name}-{folders}")
        folders += 1
        while done < kills and _killed(words(out), rng=rng, longest=longest):
            done += 1
        _ended(words(out))
        differing += bits(out) != bits(whole)
        shutil.rmtree(out)
    return done, differing


def _ended(words: list[str]) -> int:
    """A command's exit code, in a child as those that are killed: a thread of this process would not be there."""
    child = os.fork()
    if child == 0:
        os._exit(command(*words)[0])
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status)


def _killed(words: list[str], *, rng: random.Random, longest: float) -> bool:
    """Run a command in a child that is killed; False where it had ended before.

    Half of the kills come at a random moment of `longest` seconds, half right before or after a file gets its name.
    """
    at_write = rng.random() < 0.5
    write, before = rng.randrange(1, 40), rng.random() < 0.5
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        if at_write:
            _die_at(write, before=before)
        try:
            softadv_command(words)
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except BaseException:
            os._exit(70)
    if not at_write:
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) > 1:
        raise SystemExit(f"{' '.join(words)}: ended with {os.WEXITSTATUS(status)}")
    return False


def _die_at(write: int, *, before: bool) -> None:
    """Kill this process at its so manieth file: every file of a run gets its name, or its rows, by these calls."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def then(*arguments: Any, **rest: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == write and before:
                os.kill(os.getpid(), signal.SIGKILL)
            done = call(*arguments, **rest)
            if calls == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return then

    os.replace, os.fsync, os.unlink = counted(os.replace), counted(os.fsync), counted(os.unlink)
