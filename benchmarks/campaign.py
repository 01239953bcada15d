"""Kills and bad input, in the sizes of the documents: python -m benchmarks.campaign [kills|inputs] [--help]

kills: a grid, and a certification with --out, are killed (SIGKILL) at random moments and at writes of files, and given
again until they are done. Every file must end with the bits of a run that was never killed; only seconds may differ.

inputs: one bad thing at a time in the files of a run folder, of a reference and of the expected results, and in the
words of a command. The command must end by itself, without a traceback, with one line and exit code 2, or with the
damaged trial as a row. What softadv did not write must be as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import softadv.report.page  # noqa: F401 (before the first child, or each loads it anew)
from softadv.cli.app import main as softadv_command
from softadv.experiments.expected import expected_folder

GRID = """
name = "campaign"
methods = ["natural", "adversarial", "soft"]
seeds = [0]

[[setting]]
setting = "digits-campaign"
dataset = "digits"
eps = 0.03
alpha = 0.01
steps = 3
epochs = 3
batch_size = 32
train_images = 256
test_images = 64
"""
SOFT = "digits-campaign-soft-seed0"
TIME_LIMIT = 600  # seconds of one command: some words are not bad, and train


def command(*words: str) -> tuple[int, str, str]:
    """Run a command in this process. Returns its exit code, or -1 for a traceback, its output and its errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            softadv_command(list(words))
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue(), err.getvalue()
        except BaseException:
            return -1, out.getvalue(), err.getvalue() + traceback.format_exc()
    raise AssertionError("a command ends by an exit")


def bits(folder: Path, *, theirs: bool = False) -> dict[str, str]:
    """Every file below a folder by its content; without what differs between two equal runs, unless `theirs`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or (not theirs and (name.startswith("report/") or name == "grid.json")):
            continue
        data = path.read_bytes()
        if not theirs and path.suffix == ".json":
            data = json.dumps(_without_seconds(json.loads(data))).encode()
        if not theirs and path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(data.decode())))
            data = json.dumps(_without_seconds(rows)).encode()
        found[name] = data.hex()
    return found


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        # The digest of metrics.json is of its seconds, too.
        return {k: _without_seconds(v) for k, v in value.items() if "second" not in k and k != "metrics.json"}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value


def killed(words: list[str], *, rng: random.Random, longest: float) -> bool:
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


def kill_campaign(work: Path, *, grids: int, certifications: int, rng: random.Random) -> list[tuple[str, int, int]]:
    """Returns, for each kind, how many kills there were and how many ends differed in a bit."""
    (work / "campaign.toml").write_text(GRID, encoding="utf-8")
    model = work / "whole" / SOFT

    def grid(out: Path) -> list[str]:
        return ["reproduce", str(work / "campaign.toml"), "--out", str(out), "--device", "cpu"]

    def certification(out: Path) -> list[str]:
        out.mkdir(exist_ok=True)
        return [
            "certify",
            str(model),
            "--out",
            str(out / "verdicts.csv"),
            "--split",
            "train",
            "--limit",
            "512",
            "--device",
            "cpu",
        ]

    told = []
    for what, words, wanted in (("grids", grid, grids), ("certifications", certification, certifications)):
        whole = work / ("whole" if what == "grids" else "verdicts")
        started = time.perf_counter()
        # In a child, as the others: a thread of this process would not be there in theirs.
        child = os.fork()
        if child == 0:
            os._exit(command(*words(whole))[0])
        _, status = os.waitpid(child, 0)
        if os.WEXITSTATUS(status) not in (0, 1):
            raise SystemExit(f"{what}: could not be run without a kill")
        longest = time.perf_counter() - started
        kills = differing = folders = 0
        while kills < wanted:
            out = work / f"{what}-{folders}"
            folders += 1
            while killed(words(out), rng=rng, longest=longest):
                kills += 1
                if kills >= wanted:
                    break
            child = os.fork()
            if child == 0:
                os._exit(command(*words(out))[0])
            os.waitpid(child, 0)
            differing += bits(out) != bits(whole)
            shutil.rmtree(out)
        told.append((what, kills, differing))
    return told


BAD_VALUES: list[Any] = [
    None, True, "", "x", "0.5", -1, 0, 2, 2**32, 10**400, 0.5, float("nan"), float("inf"), [], [[]], {}, {"x": 1},
    [None], "\ud800", "../..", "/",
]  # fmt: skip
BAD_FILES: list[bytes] = [
    b"", b"null", b"[]", b"{}", b"3", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000,
    b'{"a": NaN}', b"\x00" * 64, b'{"a": 1, "a": 2}',
]  # fmt: skip
BAD_WORDS = [
    "", "x", "-1", "0", "nan", "inf", "1/0", "1e999999999", "9" * 5_000, "4294967296", "8", "/nowhere", "\x00",
    "../..", "[", "--", "0.1.2",
]  # fmt: skip
OPTIONS = {
    "evaluate": ["--eps", "--alpha", "--steps", "--attack", "--domain", "--certifier", "--limit", "--seed", "--device",
                 "--data", "--dataset"],
    "certify": ["--eps", "--domain", "--certifier", "--rounding", "--limit", "--split", "--out", "--device",
                "--dataset"],
    "attack": ["--eps", "--alpha", "--steps", "--attack", "--limit", "--seed", "--save", "--device"],
    "export": ["--out", "--limit", "--dataset"],
    "train": ["--dataset", "--method", "--eps", "--alpha", "--steps", "--epochs", "--seed", "--set", "--device"],
    "reproduce": ["--seeds", "--epochs", "--methods", "--certifier", "--device", "--expected", "--redo", "--out"],
    "compare": ["--expected"],
    "keep": ["--reference"],
}  # fmt: skip

Case = tuple[str, Callable[[Path], list[str]]]


def places(table: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a table are; of a list the first alone."""
    if at:
        yield at
    if isinstance(table, dict):
        for key, value in table.items():
            yield from places(value, (*at, key))
    elif isinstance(table, list):
        for index, value in enumerate(table[:1]):
            yield from places(value, (*at, index))


def changed(table: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place; without it for Ellipsis."""
    made = copy.deepcopy(table)
    inside = made
    for key in at[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[at[-1]]
    else:
        inside[at[-1]] = value
    return made


def file_cases(whole: Path) -> Iterator[Case]:
    """One bad field, or one bad file, with the command that meets it. whole: a folder with all that is damaged."""
    run, reference = f"runs/{SOFT}", "expected/reference/campaign"
    for name, words in (
        ("runs/grid.json", ["keep", "runs", "--reference", "kept", "--allow-dirty"]),
        (f"{run}/spec.json", ["keep", "runs", "--reference", "kept", "--allow-dirty"]),
        (f"{run}/metrics.json", ["keep", "runs", "--reference", "kept", "--allow-dirty"]),
        (f"{run}/result.json", ["evaluate", run, "--limit", "8", "--steps", "1", "--device", "cpu"]),
        (f"{reference}/{SOFT}.json", ["compare", reference, "--expected", "expected"]),
        (f"{reference}/summary.json", ["compare", reference, "--expected", "expected"]),
    ):
        table = json.loads((whole / name).read_text(encoding="utf-8"))
        for at in places(table):
            for value in (*BAD_VALUES, ...):
                yield "a field", _writing(name, json.dumps(changed(table, at, value)).encode(), words)
        for content in BAD_FILES:
            yield "a file", _writing(name, content, words)
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        words = ["train", run, *_train_words()] if name.startswith("check") else ["evaluate", run, "--device", "cpu"]
        data = (whole / run / name).read_bytes()
        for content in (*BAD_FILES, data[:-1], data[: len(data) // 2], data[:8], data[:-9] + b"x" * 9):
            yield "a file of tensors", _writing(f"{run}/{name}", content, words, unfinished=name.startswith("check"))
        for about in ("[]", "null", "3", "{", "[" * 100_000, '{"sha256": 3}', '{"epoch": "9", "data": "x"}'):
            yield "metadata of tensors", _tensors(f"{run}/{name}", about, words, unfinished=name.startswith("check"))
    for content in BAD_FILES:
        for name in ("expected/paper.toml", "campaign.toml"):
            words = ["compare", reference, "--expected", "expected"]
            bad_grid = ["reproduce", "campaign.toml", "--out", "new", "--device", "cpu"]
            yield "a TOML file", _writing(name, content, bad_grid if name.startswith("camp") else words)


def word_cases() -> Iterator[Case]:
    """One bad word in a command."""
    for name, options in OPTIONS.items():
        for option in options:
            for word in BAD_WORDS:
                first = {"reproduce": "campaign.toml", "keep": "runs", "compare": "runs", "train": "new"}
                given = [name, first.get(name, f"runs/{SOFT}"), option, word]
                small = ["--limit", "8"] if name in ("evaluate", "certify", "attack", "export") else []
                small = [] if option == "--limit" else small
                yield f"a word of {name}", lambda _work, words=[*given, *small]: words


def _train_words() -> list[str]:
    return [
        "--dataset", "digits", "--method", "soft", "--eps", "0.03", "--alpha", "0.01", "--steps", "3", "--epochs", "3",
        "--set", "setting=digits-campaign", "--set", "batch_size=32", "--set", "train_images=256",
        "--set", "test_images=64", "--device", "cpu",
    ]  # fmt: skip


def _writing(name: str, content: bytes, words: list[str], *, unfinished: bool = False) -> Callable[[Path], list[str]]:
    def damage(work: Path) -> list[str]:
        (work / name).write_bytes(content)
        if unfinished:
            (work / name).with_name("result.json").unlink()
        return words

    return damage


def _tensors(name: str, about: str, words: list[str], *, unfinished: bool) -> Callable[[Path], list[str]]:
    def damage(work: Path) -> list[str]:
        save_file({"a": torch.zeros(2)}, work / name, metadata={"softadv": about})
        if unfinished:
            (work / name).with_name("result.json").unlink()
        return words

    return damage


def command_alone(*words: str) -> tuple[int, str, str]:
    """The same in a process of its own, started as a user starts it."""
    started = [sys.executable, "-c", "from softadv.cli.app import main; main()", *words]
    try:
        ended = subprocess.run(started, check=False, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return -1, "", "TimeoutError"
    return -1 if "Traceback (most recent call last)" in ended.stderr else ended.returncode, ended.stdout, ended.stderr


def input_campaign(
    work: Path, *, count: int, share: tuple[int, int], alone: int, rng: random.Random, verbose: bool
) -> dict[str, Counter[str]]:
    """Returns, for each kind of input, how the commands ended.

    share: (k, n): of the inputs the k-th, the (k + n)-th and so on. alone: every so manieth of the inputs is met in a
    process of its own, where a word can be given to one (none holds a zero byte); 0: none.
    """
    whole = work / "inputs"
    whole.mkdir()
    (whole / "campaign.toml").write_text(GRID, encoding="utf-8")
    (whole / "notes.txt").write_text("not softadv's", encoding="utf-8")
    (whole / "expected").mkdir()
    shutil.copy(expected_folder() / "paper.toml", whole / "expected")
    here = Path.cwd()
    os.chdir(whole)
    for words in (
        ["reproduce", "campaign.toml", "--out", "runs", "--device", "cpu"],
        ["keep", "runs", "--reference", "expected/reference", "--allow-dirty"],
    ):
        code, _, err = command(*words)
        if code not in (0, 1):
            raise SystemExit(f"{' '.join(words)}: {err}")
    shutil.rmtree("runs/report")
    cases = [*file_cases(whole), *word_cases()]
    rng.shuffle(cases)
    place_in_kind: Counter[str] = Counter()
    ranked = []
    for kind, damage in cases:
        place_in_kind[kind] += 1
        ranked.append((place_in_kind[kind], kind, damage))
    # From every kind as many, as long as it has any: most cases are fields.
    cases = [(kind, damage) for _, kind, damage in sorted(ranked, key=lambda case: case[0])]
    ends: dict[str, Counter[str]] = {}
    first, shares = share
    for number, (kind, damage) in list(enumerate(cases[:count]))[first - 1 :: shares]:
        place = work / f"input-{number}"
        shutil.copytree(whole, place)
        os.chdir(place)
        words = damage(place)
        before = bits(place, theirs=True)
        if alone and number % alone == 0 and not any("\0" in word for word in words):
            row = f"{kind}, in a process of its own"
            code, _, err = command_alone(*words)
        else:
            row = kind
            signal.signal(signal.SIGALRM, _too_slow)
            signal.alarm(TIME_LIMIT)
            code, _, err = command(*words)
            signal.alarm(0)
        end = _end(code, err)
        if code == 2 and bits(place, theirs=True) != before:
            end = "one line, but something was written"
        ends.setdefault(row, Counter())[end] += 1
        if verbose and end not in ("one line", "a row or a verdict", "taken"):
            print(f"{end}: {' '.join(words)[:200]}\n{err[-1500:]}", file=sys.stderr)
        os.chdir(here)
        shutil.rmtree(place)
    return ends


def _too_slow(*_: object) -> None:
    raise TimeoutError


def _end(code: int, err: str) -> str:
    match code:
        case -1:
            return "too slow" if "TimeoutError" in err else "a traceback"
        case 2:
            return "one line" if err.count("\n") == 1 and len(err) < 2_000 else "several lines"
        case 1:
            return "a row or a verdict"
        case 0:
            return "taken"
    return f"exit code {code}"


def _share(text: str) -> tuple[int, int]:
    share, _, shares = text.partition("/")
    if not 1 <= int(share) <= int(shares):
        raise ValueError
    return int(share), int(shares)


def main() -> None:
    """Print the figures as a table; exit with 1 where something was lost, written or answered by a traceback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["kills", "inputs", "both"], default="both")
    parser.add_argument("--grids", type=int, default=89, help="kills of a grid")
    parser.add_argument("--certifications", type=int, default=45, help="kills of a certification")
    parser.add_argument("--inputs", type=int, default=1264, help="bad inputs")
    parser.add_argument("--share", type=_share, default=(1, 1), help="of the bad inputs one share: 2/4")
    parser.add_argument("--alone", type=int, default=20, help="every so manieth bad input has a process of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print what did not end as it should")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # or a child, which has no more, sums in another order
    good = True
    with tempfile.TemporaryDirectory() as folder:
        if asked.what != "inputs":
            rng = random.Random(asked.seed)
            print("| killed | kills | ends with another bit |\n| --- | --- | --- |")
            for what, kills, differing in kill_campaign(
                Path(folder), grids=asked.grids, certifications=asked.certifications, rng=rng
            ):
                print(f"| {what} | {kills} | {differing} |", flush=True)
                good = good and not differing
        if asked.what != "kills":
            rng = random.Random(asked.seed)
            ends = input_campaign(
                Path(folder), count=asked.inputs, share=asked.share, alone=asked.alone, rng=rng, verbose=asked.verbose
            )
            columns = sorted({end for counts in ends.values() for end in counts})
            print(f"| bad input | number | {' | '.join(columns)} |\n| --- |{' --- |' * (len(columns) + 1)}")
            for kind, counts in sorted(ends.items()):
                row = " | ".join(str(counts[end]) for end in columns)
                print(f"| {kind} | {counts.total()} | {row} |")
            total = sum(ends.values(), Counter())
            print(f"| all | {total.total()} | {' | '.join(str(total[end]) for end in columns)} |")
            good = good and set(columns) <= {"one line", "a row or a verdict", "taken"}
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
