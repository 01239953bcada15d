"""A certification that jobs share: every row once, in order, and the same one wherever it was computed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from benchmarks.bits import bits
from softadv._io import tensors_sha256, write_tensors
from softadv.certify.per_image import ImageResult, Question
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.certify_jobs import Sharded
from softadv.experiments.executors.images import LoadedHere, Source
from softadv.experiments.executors.in_process import InProcess
from softadv.experiments.executors.jobs import Executor
from softadv.experiments.executors.on_ray import OnRay
from softadv.experiments.executors.processes import Processes
from softadv.experiments.executors.resources import Dealt
from softadv.experiments.load_model import Saved
from tests.cli.command import run
from tests.experiments.executors.scripted import MortalSharded

Verdicts = list[tuple[int, int, int, str, str]]
COUNT = 330  # 21 chunks of 16, the last of which is cut short


def sharded(model: nn.Module, data: Dataset, *, fingerprint: str = "") -> Sharded:
    weights = model.state_dict()
    question = Question(
        weights=tensors_sha256(weights), dataset="digits", data=data.fingerprint, split="test", eps=0.05,
        domain="deeppoly", rounding="sound", certifier="native",
    )  # fmt: skip
    return Sharded(
        saved=Saved(Path("model"), weights, "digits", None), model=None, certifier="native", question=question,
        source=Source("digits", None, None, None, fingerprint or data.fingerprint), count=COUNT, size=16, device="cpu",
    )  # fmt: skip


def verdicts(rows: Iterator[list[ImageResult]]) -> Verdicts:
    """All but the seconds; the margin by its digits, since NaN is not itself."""
    return [(r.index, r.label, r.predicted, r.verdict, str(r.margin)) for some in rows for r in some]


@pytest.fixture(scope="module")
def alone(trained_digits: nn.Sequential, digits: Dataset) -> Verdicts:
    """What one process says, from the first image on."""
    return verdicts(sharded(trained_digits, digits).rows_from(0, executor=InProcess(LoadedHere()), threads=1))


@pytest.fixture(params=["processes", "Ray"])
def executor(request: pytest.FixtureRequest, digits: Dataset) -> Iterator[Executor]:
    if request.param == "Ray":
        pytest.importorskip("ray", reason="needs Ray")
        found: Executor = OnRay("local", threads=1, gpus=0, images=lambda _source: digits)
    else:
        found = Processes(Dealt(2, 1))
    yield found
    found.close()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_of_which_some_are_killed_say_what_one_process_says(
    alone: Verdicts, trained_digits: nn.Sequential, digits: Dataset, executor: Executor, tmp_path: Path
) -> None:
    assert [row[0] for row in alone] == list(range(COUNT))
    assert {row[3] for row in alone} == {"misclassified", "unverified", "verified"}
    after = (112, 320)  # the second chunk of a span, and the last of all
    mortal = MortalSharded(**vars(sharded(trained_digits, digits)), after=after, graves=tmp_path)
    assert verdicts(mortal.rows_from(100, executor=executor, threads=1)) == alone[100:]
    assert {int(grave.name) for grave in tmp_path.iterdir()} == set(after)


def test_the_command_goes_on_on_ray_where_one_process_stopped(trained_digits: nn.Sequential, tmp_path: Path) -> None:
    """Every row once, and the file that one process writes."""
    pytest.importorskip("ray", reason="needs Ray")
    model = tmp_path / "digits.safetensors"
    write_tensors(model, trained_digits.state_dict(), metadata={"dataset": "digits"})
    words = ["certify", str(model), "--eps", "0.05", "--split", "train", "--device", "cpu", "--threads", "1", "--out"]
    (tmp_path / "alone").mkdir()
    (tmp_path / "ray").mkdir()
    assert run(*words, str(tmp_path / "alone" / "v.csv")) == 0
    out = tmp_path / "ray" / "v.csv"
    assert (
        run(*words, str(out), "--limit", "512") == 0
    )  # a chunk: the last bits of a margin depend on what is beside it
    before = out.read_bytes()
    on_ray = [sys.executable, "-m", "softadv", *words, str(out), "--ray", "local"]
    done = subprocess.run(on_ray, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(before)
    assert bits(out.parent) == bits(tmp_path / "alone")


def test_a_job_that_fails_is_one_line(trained_digits: nn.Sequential, digits: Dataset) -> None:
    other = sharded(trained_digits, digits, fingerprint="0" * 64)
    with pytest.raises(SoftadvError, match="images 0 to 63: digits: the images here are not those"):
        list(other.rows_from(0, executor=InProcess(LoadedHere()), threads=1))


def test_nothing_is_left_to_do_where_all_rows_are_there(trained_digits: nn.Sequential, digits: Dataset) -> None:
    executor = InProcess(LoadedHere())
    assert list(sharded(trained_digits, digits).rows_from(COUNT, executor=executor, threads=1)) == []
