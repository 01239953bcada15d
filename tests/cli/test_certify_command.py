"""softadv certify: its rows are the certifier's verdicts, and no interruption changes them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch

from softadv import certify
from softadv._io import tensors_sha256, write_tensors
from softadv._versions import package_version
from softadv.certify import certifiers
from softadv.certify import certify as natively
from softadv.certify import per_image as verdicts
from softadv.certify.certifiers import CertifierSession
from softadv.certify.per_image import certify_rows, summarize
from softadv.certify.results_file import opened
from softadv.errors import SoftadvError
from tests.certify.rows import QUESTION, files, read, rows_of
from tests.cli.command import run

COLUMNS = ["index", "label", "predicted", "verdict", "margin", "seconds"]
EPS = 0.06  # at which DeepPoly verifies some of the images and not others
BOX = ["--domain", "box", "--eps", "0.005"]


@pytest.fixture(scope="module")
def model(trained_digits, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weights file of the trained network."""
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    write_tensors(path, trained_digits.state_dict(), metadata={"dataset": "digits"})
    return str(path)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks for few images."""
    monkeypatch.setattr(verdicts, "_CPU_CHUNK", 16)


def without_seconds(path: Path) -> list[list[str]]:
    return [[cell for name, cell in row.items() if name != "seconds"] for row in read(path)]


@pytest.mark.parametrize(("split", "name"), [("test", "r.csv"), ("train", "r.parquet")])
def test_the_rows_are_the_certifiers_verdicts(request, model, tmp_path, split: str, name: str) -> None:
    network, digits = request.getfixturevalue("trained_digits"), request.getfixturevalue("digits")
    assert (
        run("certify", model, "--eps", str(EPS), "--limit", "40", "--split", split, "--out", str(tmp_path / name)) == 0
    )
    x, y = (digits.test_x, digits.test_y) if split == "test" else (digits.train_x, digits.train_y)
    found = certify(network, x[:40], y[:40], eps=EPS)
    rows = read(tmp_path / name)
    assert list(rows[0]) == COLUMNS
    assert [int(row["index"]) for row in rows] == list(range(40))
    assert [int(row["label"]) for row in rows] == y[:40].tolist()
    assert [int(row["predicted"]) for row in rows] == network(x[:40]).argmax(1).tolist()
    assert [row["verdict"] != "misclassified" for row in rows] == found.correct.tolist()
    assert [row["verdict"] == "verified" for row in rows] == found.verified.tolist()
    assert 0 < int(found.verified.sum()) < int(found.correct.sum())
    assert torch.tensor([float(row["margin"]) for row in rows]).allclose(found.margin, rtol=1e-4, atol=1e-4)
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert files(tmp_path) == [name, f"{name}.json"]


def test_the_summary_says_what_the_rows_add_up_to(trained_digits, digits, model, tmp_path, capsys) -> None:
    out = tmp_path / "r.csv"
    assert run("certify", model, "--eps", str(EPS), "--limit", "40", "--out", str(out)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    margins = [float(row["margin"]) for row in read(out) if row["verdict"] == "verified"]
    count = len(margins)
    certifier = f"native {package_version('softadv')} (any summation order)"
    assert f"40 test images of digits, deeppoly by {certifier}, eps {EPS}" in shown
    assert f"verified {count} ({count / 40:.2%})" in shown
    assert f"certified accuracy {count / 40:.2%}" in shown
    assert f"least {min(margins):.3g}, median {median(margins):.3g}" in shown
    assert f"written to {out}" in shown
    record = json.loads((tmp_path / "r.csv.json").read_text())
    assert record["question"] == {
        "weights": tensors_sha256(trained_digits.state_dict()), "dataset": "digits", "data": digits.fingerprint,
        "split": "test", "eps": EPS, "domain": "deeppoly", "rounding": "sound", "certifier": certifier,
    }  # fmt: skip
    summary = record["summary"]
    assert (summary["images"], summary["verified"], summary["least_margin"]) == (40, count, min(margins))


def test_which_engine_computed_is_said_wherever_rows_are_computed(model, tmp_path, capsys) -> None:
    """In this process, in workers, in both, and not where all rows were there before."""
    arguments = ["certify", model, *BOX, "--out", str(tmp_path / "rows.csv")]
    said = "computed by PyTorch, since box is intervals alone"
    for more in (["--limit", "10"], ["--limit", "40", "--jobs", "2"], ["--limit", "60"]):
        assert run(*arguments, *more) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    assert run(*arguments, "--limit", "60") == 0
    assert "computed by" not in capsys.readouterr().out


@pytest.mark.parametrize("eps", ["0.01", "0.01,0.02"])
def test_which_engine_computed_is_said_of_every_evaluation(model, capsys, eps) -> None:
    numbers = ["--alpha", "0.01", "--steps", "1"] if "," not in eps else []
    asked = ["--dataset", "digits", "--limit", "10", "--domain", "box", "--eps", eps, *numbers]
    assert run("evaluate", model, *asked) == 0
    assert "computed by PyTorch, since box is intervals alone" in " ".join(capsys.readouterr().out.split())


def test_without_a_file_only_the_summary_is_shown(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("certify", model, *BOX, "--rounding", "none", "--limit", "20") == 0
    shown = capsys.readouterr().out
    assert "certified accuracy" in shown
    assert "written to" not in shown
    assert files(tmp_path) == []


def test_a_log_shows_speed_and_counts(model, capsys) -> None:
    assert run("certify", model, *BOX, "--limit", "16") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "100%" in line]
    speed, *counts = line.rstrip(")").split("(")[1].split(", ")[1:]
    assert speed.endswith(" images/s")
    assert [count.split()[1] for count in counts] == ["verified", "unverified", "misclassified"]
    assert sum(int(count.split()[0]) for count in counts) == 16


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_run_cut_off_inside_a_line_ends_like_one_that_was_not(model, tmp_path, suffix: str) -> None:
    arguments = ["certify", model, "--eps", str(EPS), "--limit", "40", "--out"]
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    assert run(*arguments, str(whole)) == 0
    # What such a run leaves: its question, and rows up to somewhere in image 21's, in the middle of a chunk.
    assert run(*arguments, str(tmp_path / "lines.csv")) == 0
    lines = (tmp_path / "lines.csv").read_bytes().splitlines(keepends=True)
    half = b"".join(lines[:22]) + lines[22][:12]
    record = json.loads((tmp_path / "lines.csv.json").read_text())
    (tmp_path / f"{cut.name}.json").write_text(json.dumps({"question": record["question"]}))
    partial = cut if suffix == ".csv" else tmp_path / f"{cut.name}.part"
    partial.write_bytes(half)
    assert run(*arguments, str(cut)) == 0
    assert without_seconds(cut) == without_seconds(whole)
    assert "summary" in json.loads((tmp_path / f"{cut.name}.json").read_text())
    assert partial == cut or not partial.exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_that_another_process_writes_is_refused_in_one_line(model, tmp_path, capsys, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    arguments = ["certify", model, *BOX, "--limit", "20", "--out", str(out)]
    with opened(out, QUESTION, fresh=False):
        for more in ([], ["--fresh"]):
            assert run(*arguments, *more) == 2
            told = capsys.readouterr().err
            assert f"{out}: in use by process {os.getpid()} on " in told
            assert told.count("\n") == 1
        assert not out.exists()
    assert run(*arguments) == 0
    assert len(read(out)) == 20
    assert files(tmp_path) == [out.name, f"{out.name}.json"]


# Certifies images 16 by 16, and kills itself without warning in the third chunk.
DRIVER = """
import os, signal, sys
from softadv.certify import certifiers, per_image as verdicts
from softadv.cli.app import main
verdicts._CPU_CHUNK = 16
calls, certify = 0, certifiers.certify_natively
def fatal(*arguments, **settings):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return certify(*arguments, **settings)
certifiers.certify_natively = fatal
main(sys.argv[1:])
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_killed_run_goes_on_where_it_stopped(model, tmp_path, monkeypatch, suffix: str) -> None:
    out = tmp_path / f"killed{suffix}"
    arguments = ["certify", model, *BOX, "--limit", "60", "--out"]
    command = [sys.executable, "-c", DRIVER, *arguments, str(out)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    partial = out if suffix == ".csv" else tmp_path / f"{out.name}.part"
    assert len(partial.read_bytes().splitlines()) == 1 + 32
    asked = []

    def counted(network, x, y, **settings):
        asked.append(len(x))
        return natively(network, x, y, **settings)

    monkeypatch.setattr(certifiers, "certify_natively", counted)
    assert run(*arguments, str(out)) == 0
    assert asked == [16, 12]
    assert run(*arguments, str(tmp_path / f"whole{suffix}")) == 0
    assert without_seconds(out) == without_seconds(tmp_path / f"whole{suffix}")


def test_an_interrupted_run_keeps_its_rows_and_says_so(model, tmp_path, monkeypatch, capsys) -> None:
    def interrupted(network, x, y, **settings):
        if (tmp_path / "r.csv").exists():
            raise KeyboardInterrupt
        return natively(network, x, y, **settings)

    monkeypatch.setattr(certifiers, "certify_natively", interrupted)
    assert run("certify", model, *BOX, "--limit", "40", "--out", str(tmp_path / "r.csv")) == 130
    assert "certify --out go on where they stopped" in capsys.readouterr().err
    assert len(read(tmp_path / "r.csv")) == 16


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_a_killed_run_left_half_written_is_cleared_and_nothing_else(model, tmp_path, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    arguments = ["certify", model, *BOX, "--limit", "8", "--out", str(out)]
    assert run(*arguments) == 0
    before = {path.name for path in tmp_path.iterdir()}
    for name in (out.name, f"{out.name}.json", "another.csv"):
        (tmp_path / f".{name}.0123456789ab.partial").write_bytes(b"index,")
    assert run(*arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == before | {".another.csv.0123456789ab.partial"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_finished_file_is_extended_by_a_larger_limit_and_left_alone_by_a_smaller_one(
    model, tmp_path, capsys, suffix: str
) -> None:
    out = tmp_path / f"r{suffix}"
    arguments = ["certify", model, *BOX, "--out", str(out), "--limit"]
    assert run(*arguments, "20") == 0
    assert len(read(out)) == 20
    assert run(*arguments, "50") == 0
    whole = tmp_path / f"whole{suffix}"
    assert run("certify", model, *BOX, "--limit", "50", "--out", str(whole)) == 0
    # Images 16 to 19 were computed in a smaller chunk: only their margins' last bits may tell.
    assert [row["verdict"] for row in read(out)] == [row["verdict"] for row in read(whole)]
    assert json.loads((tmp_path / f"{out.name}.json").read_text())["summary"]["images"] == 50
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert run(*arguments, "50") == 0
    assert "50 test images" in capsys.readouterr().out
    assert run(*arguments, "10") == 0
    assert "10 test images" in capsys.readouterr().out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_verdicts_on_another_question_are_refused_and_replaced_by_fresh(model, tmp_path, capsys, suffix: str) -> None:
    out = tmp_path / f"r{suffix}"
    asked = {"--domain": "box", "--eps": "0.005", "--limit": "8", "--out": str(out)}

    def given(**other: str) -> list[str]:
        options = asked | {f"--{name}": value for name, value in other.items()}
        return ["certify", model, *(part for pair in options.items() for part in pair)]

    assert run(*given()) == 0
    before = out.read_bytes()
    for other, message in (
        ({"eps": "1/255"}, "eps 0.005, not 0.00392"),
        ({"domain": "deepzono"}, "domain box, not deepzono"),
        ({"rounding": "none"}, "rounding sound, not none"),
        ({"split": "train", "eps": "0.01"}, "split test, not train, eps 0.005, not 0.01"),
    ):
        assert run(*given(**other)) == 2
        told = capsys.readouterr().err
        assert f"{out}: holds verdicts with {message}" in told
        assert "use --fresh or another file" in told
        assert told.count("\n") == 1
        assert out.read_bytes() == before
    assert run(*given(eps="1/255"), "--fresh") == 0
    assert run(*given(eps="1/255")) == 0
    assert out.read_bytes() != before
    assert files(tmp_path) == [out.name, f"{out.name}.json"]


def test_parquet_without_pyarrow_is_one_line_that_says_how_to_get_it(model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("certify", model, *BOX, "--limit", "4", "--out", str(tmp_path / "r.parquet")) == 2
    told = capsys.readouterr().err
    assert "pip install pyarrow" in told
    assert told.count("\n") == 1
    assert files(tmp_path) == []
    assert run("certify", model, *BOX, "--limit", "4", "--out", str(tmp_path / "r.csv")) == 0


def test_a_refusal_of_the_certifier_leaves_nothing_behind(model, tmp_path, monkeypatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise SoftadvError("not on this machine")

    monkeypatch.setattr(certifiers, "certify_natively", refuse)
    assert run("certify", model, *BOX, "--out", str(tmp_path / "r.csv")) == 2
    assert files(tmp_path) == []


def test_where_no_image_is_verified_there_are_no_margins_to_sum_up() -> None:
    summary = summarize(rows_of(4))
    assert (summary.unverified, summary.certified_accuracy) == (4, 0.0)
    assert (summary.least_margin, summary.median_margin) == (None, None)


def test_nothing_is_computed_where_all_is_there(trained_digits, digits) -> None:
    x, y = digits.test_x[:8], digits.test_y[:8]
    assert (
        list(certify_rows(trained_digits, x, y, question=QUESTION, session=CertifierSession("native"), start=8)) == []
    )
