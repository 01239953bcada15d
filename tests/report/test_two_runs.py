"""The page that compares two run folders."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.records import Autoattacked
from softadv.experiments.reference import REFERENCE
from softadv.experiments.run_folder import GRID, RunFolder
from softadv.experiments.spec import METHODS, Trial
from softadv.report.two_runs import write_comparison
from tests.cli.command import run
from tests.report.trials import finish, make_run, make_trial, words_of


def complete(folder: Path, trial: Trial, *, natural: float, weights: str = "a") -> None:
    made = make_run(folder, trial)
    finish(made)
    result = made.result()
    assert result is not None
    made.write_result(replace(result, natural_accuracy=natural, weights_sha256=weights * 64))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The second is a point better at natural accuracy, and a half more for seed 1; random is in the first alone."""
    for method in METHODS:
        for seed in (0, 1):
            complete(tmp_path / "a", make_trial(method, seed=seed), natural=0.8 + 0.1 * seed)
            complete(tmp_path / "b", make_trial(method, seed=seed), natural=0.81 + 0.105 * seed, weights="b")
    complete(tmp_path / "a", make_trial("random"), natural=0.7)
    return tmp_path / "a", tmp_path / "b"


def rows(page: Path) -> list[list[str]]:
    table = page.read_text().partition('<section id="numbers">')[2].partition("</table>")[0]
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
    return [row for row in found if "Method" not in row]


def test_differences_are_by_seed(two: tuple[Path, Path]) -> None:
    page = write_comparison(*two, names=("first", "second"))
    assert page == two[0] / "report" / "compare.html"
    soft = [row for row in rows(page) if row[0] == "Soft"]
    half = 12.7062 * 0.25  # t for one degree of freedom, times the standard error
    ends = f"−{half - 1.25:.2f} to +{half + 1.25:.2f}"
    assert soft[0] == ["Soft", "natural accuracy", "85.00", "86.25", "+1.25", ends, "2"]
    assert {row[1] for row in soft} == {
        "natural accuracy", "adversarial accuracy", "certified accuracy", "verified share",
    }  # fmt: skip
    text = words_of(page)
    assert "0 of 2 shared seeds end with the same weights" in text
    assert "Only in first: Digits, ε 0.1 (random)." in text
    assert "<h1>How does second differ from first?</h1>" in text
    assert str(two[0].parent) not in text
    assert (page.parent / "compare.svg").exists()


def test_the_same_runs_do_not_differ(two: tuple[Path, Path]) -> None:
    text = write_comparison(two[0], two[0], names=("a", "b")).read_text()
    assert "Every mean is the same" in text
    assert "2 of 2 shared seeds end with the same weights" in text


def test_other_seeds_are_compared_by_welch(tmp_path: Path) -> None:
    for name, seeds, natural in (("a", (0, 1), 0.8), ("b", (2, 3, 4), 0.9)):
        for seed in seeds:
            complete(tmp_path / name, make_trial(seed=seed), natural=natural + 0.01 * seed)
    page = write_comparison(tmp_path / "a", tmp_path / "b", names=("a", "b"))
    assert "other seeds, 2 against 3; the interval is Welch's" in unescape(page.read_text())
    # scipy.stats.ttest_ind([92, 93, 94], [80, 81], equal_var=False): the interval is 12.5 ± 2.4876
    assert rows(page)[0] == ["Soft", "natural accuracy", "80.50", "93.00", "+12.50", "+10.01 to +14.99", "2"]


def test_other_training_is_said(tmp_path: Path) -> None:
    complete(tmp_path / "a", make_trial(), natural=0.8)
    complete(tmp_path / "b", replace(make_trial(), lr=0.5), natural=0.9)
    text = write_comparison(tmp_path / "a", tmp_path / "b", names=("a", "b")).read_text()
    assert "Soft: not trained alike, with lr 0.5 instead of 0.001." in text


def test_nothing_in_common_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    complete(tmp_path / "c", make_trial(setting="other"), natural=0.8)
    with pytest.raises(SoftadvError, match="no setting and method has finished in both"):
        write_comparison(two[0], tmp_path / "c", names=("a", "c"))
    assert not (two[0] / "report").exists()


def test_the_command_takes_two_folders(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in two:
        (folder / GRID).write_text('{"name": "mine", "command": "x"}')
    assert run("report", *map(str, two), "--out", str(tmp_path / "page")) == 0
    assert "compare.html" in capsys.readouterr().out
    assert "<title>softadv · a and b</title>" in (tmp_path / "page" / "compare.html").read_text()
    reference = expected_folder() / REFERENCE / "mnist"
    assert run("report", str(reference), str(two[1])) == 2
    assert "a report is not written into a reference" in capsys.readouterr().err


def test_what_is_not_of_the_same_images_is_said_and_not_subtracted(tmp_path: Path) -> None:
    for name in "ab":
        complete(tmp_path / name, make_trial(), natural=0.8)
    second = RunFolder(tmp_path / "b" / make_trial().name)
    result = second.result()
    assert result is not None
    fewer = tuple(replace(found, images=25) for found in result.certified)
    second.write_result(replace(result, certified=fewer, data_fingerprint="0" * 64))
    page = write_comparison(tmp_path / "a", tmp_path / "b", names=("a", "b"))
    text = words_of(page)
    assert "Soft: run on different images." in text
    assert "Soft: certified accuracy is not compared, on 25 and 50 images." in text
    assert "certified accuracy" not in {row[1] for row in rows(page)}


def test_runs_with_no_figure_in_common_are_named_and_not_compared(tmp_path: Path) -> None:
    for name, images in (("a", 50), ("b", 25)):
        complete(tmp_path / name, make_trial("adversarial"), natural=0.8)
        folder = RunFolder(tmp_path / name / make_trial("adversarial").name)
        result = folder.result()
        assert result is not None
        folder.write_result(replace(result, certified=(), test_images=images))
    page = write_comparison(tmp_path / "a", tmp_path / "b", names=("a", "b"))
    text = words_of(page)
    assert "Nothing is compared: no figure of the two is a share of equally many images." in text
    assert "Adversarial: natural accuracy is not compared, on 25 and 50 images." in text
    assert not rows(page)


def attacked(folder: Path, seed: int, images: int | None) -> None:
    """A finished trial, attacked by AutoAttack on so many images, of which a fifth stay correct."""
    made = make_run(folder, make_trial(seed=seed))
    finish(made)
    result = made.result()
    assert result is not None
    found = None if images is None else Autoattacked(images=images, correct=images // 5, seconds=1.0)
    made.write_result(replace(result, autoattack=found))


@pytest.mark.parametrize(
    ("first", "second", "under"),
    [(40, 40, "AutoAttack"), (40, 10, "PGD"), (40, None, "PGD"), (None, 40, "PGD"), (None, None, "PGD")],
)
def test_a_line_joins_accuracies_under_one_attack_on_equally_many_images(
    tmp_path: Path, first: int | None, second: int | None, under: str
) -> None:
    for name, images in (("a", first), ("b", second)):
        for seed in (0, 1):
            attacked(tmp_path / name, seed, images)
    text = unescape(words_of(write_comparison(tmp_path / "a", tmp_path / "b", names=("a", "b"))))
    assert set(re.findall(r"accuracy under (.+?), in %", text)) == {under}
    adversarial = "20.0" if under == "AutoAttack" else "60.0"
    assert re.findall(r"from [\d.]+ and ([\d.]+) to [\d.]+ and ([\d.]+)", text) == [(adversarial, adversarial)]
    csv = next((tmp_path / "a" / "report").glob("compare.csv")).read_text().splitlines()
    assert csv[0].endswith("adversarial_accuracy_percent,autoattack_accuracy_percent")
    assert csv[1].endswith(",20" if first else ",")


@pytest.mark.parametrize(
    ("others", "over"),
    [
        ({"soft": (0, 1), "natural": (0,)}, "over the seeds that both have."),
        ({"soft": (2, 3)}, "each over its own seeds, none of which the other has."),
        (
            {"soft": (1, 2), "natural": (5,)},
            "over the seeds that both have, or each over its own where they share none.",
        ),
    ],
)
def test_the_caption_says_which_seeds_the_means_are_over(
    tmp_path: Path, others: dict[str, tuple[int, ...]], over: str
) -> None:
    for method in ("natural", "soft", "adversarial"):
        for seed in (0, 1):
            finish(make_run(tmp_path / "a", make_trial(method, seed=seed)))
    for method, seeds in others.items():
        for seed in seeds:
            finish(make_run(tmp_path / "b", make_trial(method, seed=seed)))
    text = words_of(write_comparison(tmp_path / "a", tmp_path / "b", names=("a", "b")))
    assert f"Means after the last epoch, {over} Hollow: a; filled: b." in text


def test_other_counts_of_test_images_are_not_joined(tmp_path: Path) -> None:
    for name, images in (("a", 100), ("b", 50)):
        finish(made := make_run(tmp_path / name, make_trial()))
        result = made.result()
        assert result is not None
        made.write_result(replace(result, test_images=images))
    page = write_comparison(tmp_path / "a", tmp_path / "b", names=("a", "b"))
    assert not (page.parent / "compare.svg").exists()
