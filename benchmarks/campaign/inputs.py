"""One bad thing at a time: in the files of a run folder, of a reference and of the expected results, and in words.

The command must end by itself, without a traceback, with one line and exit code 2, or with the damaged trial as a row.
What softadv did not write must be as it was.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.bits import contents
from benchmarks.campaign.commands import GRID, SOFT, command
from softadv.experiments.expected import expected_folder

TIME_LIMIT = 600  # seconds of one command: some words are not bad, and train
GOOD_ENDS = {"one line", "a row or a verdict", "taken"}

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


def input_campaign(
    work: Path, *, count: int, share: tuple[int, int], alone: int, rng: random.Random, verbose: bool
) -> dict[str, Counter[str]]:
    """Returns, for each kind of input, how the commands ended.

    share: (k, n): of the inputs the k-th, the (k + n)-th and so on. alone: every so manieth of the inputs is met in a
    process of its own, where a word can be given to one (none holds a zero byte); 0: none.
    """
    whole = work / "inputs"
    here = Path.cwd()
    _make_whole(whole)
    ends: dict[str, Counter[str]] = {}
    first, shares = share
    for number, (kind, damage) in list(enumerate(_mixed(whole, rng)[:count]))[first - 1 :: shares]:
        place = work / f"input-{number}"
        shutil.copytree(whole, place)
        os.chdir(place)
        words = damage(place)
        before = contents(place)
        is_alone = alone and number % alone == 0 and not any("\0" in word for word in words)
        code, err = _command_alone(*words) if is_alone else _command_in_time(*words)
        end = _end(code, err)
        if code == 2 and contents(place) != before:
            end = "one line, but something was written"
        ends.setdefault(f"{kind}, in a process of its own" if is_alone else kind, Counter())[end] += 1
        if verbose and end not in GOOD_ENDS:
            print(f"{end}: {' '.join(words)[:200]}\n{err[-1500:]}", file=sys.stderr)
        os.chdir(here)
        shutil.rmtree(place)
    return ends


def _make_whole(whole: Path) -> None:
    """Make a folder with all that is damaged, and go there."""
    whole.mkdir()
    (whole / "campaign.toml").write_text(GRID, encoding="utf-8")
    (whole / "notes.txt").write_text("not softadv's", encoding="utf-8")
    (whole / "expected").mkdir()
    shutil.copy(expected_folder() / "paper.toml", whole / "expected")
    os.chdir(whole)
    for words in (
        ["reproduce", "campaign.toml", "--out", "runs", "--device", "cpu"],
        ["keep", "runs", "--reference", "expected/reference", "--allow-dirty"],
    ):
        code, err = command(*words)
        if code not in (0, 1):
            raise SystemExit(f"{' '.join(words)}: {err}")
    shutil.rmtree("runs/report")


def _mixed(whole: Path, rng: random.Random) -> list[Case]:
    """All inputs in a random order, from every kind as many as long as it has any: most are fields."""
    cases = [*file_cases(whole), *word_cases()]
    rng.shuffle(cases)
    place_in_kind: Counter[str] = Counter()
    ranked = []
    for case in cases:
        place_in_kind[case[0]] += 1
        ranked.append((place_in_kind[case[0]], case))
    return [case for _, case in sorted(ranked, key=lambda place_and_case: place_and_case[0])]


def _command_in_time(*words: str) -> tuple[int, str]:
    """Run a command in this process; where it takes too long, a TimeoutError ends it as a traceback."""
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(TIME_LIMIT)
    try:
        return command(*words)
    finally:
        signal.alarm(0)


def _too_slow(*_: object) -> None:
    raise TimeoutError


def _command_alone(*words: str) -> tuple[int, str]:
    """The same in a process of its own, started as a user starts it."""
    started = [sys.executable, "-c", "from softadv.cli.app import main; main()", *words]
    try:
        ended = subprocess.run(started, check=False, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return -1, "TimeoutError"
    return -1 if "Traceback (most recent call last)" in ended.stderr else ended.returncode, ended.stderr


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
