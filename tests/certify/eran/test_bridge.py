"""Whatever a worker does, the verdicts are right or the error is clear, and no process is left."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from softadv.certify import certify
from softadv.certify.eran import Bridge, EngineReport, Offer, available, bridge, certify_with
from softadv.errors import SoftadvError
from softadv.models import Normalize
from tests.certify.eran.conftest import COUNT, EPS, wait_until_gone
from tests.networks import seeded, with_head

Question = tuple[nn.Sequential, Tensor, Tensor]

ROOT = Path(__file__).parents[3]

# An image that is verified, neither the first of the request nor the last.
AT = 4
# Longer than a worker on a busy machine ever needs for an image of these.
LIMIT = 1.5


def ask(question: Question, *, seconds_to_start: float = 60.0) -> tuple[list[bool], EngineReport]:
    """The verdicts of the stand-in's Box."""
    model, x, y = question
    with Bridge("eran-deepzono", seconds_per_image=LIMIT, seconds_to_start=seconds_to_start) as bridge:
        certificates, report = bridge.certify(model, x, y, eps=EPS)
    assert torch.equal(certificates.verified, report.verified)
    return report.verified.tolist(), report


@pytest.fixture(scope="module")
def expected(question: Question) -> list[bool]:
    """The verdicts of softadv's Box."""
    model, x, y = question
    verified = certify(model, x, y, eps=EPS, domain="box").verified
    assert verified[AT]
    assert 3 <= int(verified.sum()) <= COUNT - 5
    return verified.tolist()


def test_a_worker_gives_the_verdicts_of_the_certifier_it_is_made_of(question, expected, use):
    use()
    model, x, y = question
    progress: list[int] = []
    certificates, report = certify_with(model, x, y, engine="eran-deepzono", eps=EPS, on_progress=progress.append)
    native = certify(model, x, y, eps=EPS, domain="box")
    assert report.verified.tolist() == expected
    assert torch.equal(certificates.correct, native.correct)
    asked = certificates.correct
    torch.testing.assert_close(certificates.margin[asked], native.margin[asked], atol=1e-4, rtol=0)
    assert certificates.margin.dtype == torch.float32
    # Misclassified images are not asked about.
    assert certificates.margin[~asked].isnan().all()
    assert torch.equal(report.seconds > 0, asked)
    assert progress == list(range(3, COUNT + 1))
    assert (report.engine, report.version, report.soundness) == ("eran-deepzono", "stand-in 1", "as PyTorch")
    assert (report.timeouts, report.failed, report.trouble) == (0, 0, None)


def test_the_certifier_answers_through_the_bridge_as_it_does_itself(use):
    """DeepPoly on a normalised convolutional network, whose first layer is taken off on the way."""
    use()
    body = seeded(1, lambda: with_head((2, 6, 6), nn.Conv2d(2, 3, 3, 2), nn.ReLU())).float()
    # What the stand-in takes: boxes whose sides are equal, before the first layer and after it.
    model = nn.Sequential(Normalize((0.4, 0.5), (0.3, 0.3)), *body)
    x = torch.rand(40, 2, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    y = model(x).argmax(1)
    certificates, report = certify_with(model, x, y, engine="eran-deeppoly", eps=0.06)
    native = certify(model, x, y, eps=0.06)
    assert 5 <= int(native.verified.sum()) <= 35
    assert torch.equal(report.verified, native.verified)
    torch.testing.assert_close(certificates.margin, native.margin, atol=1e-3, rtol=0)


# What goes wrong at an image, how often, and what becomes of the image.
MISHAPS = [
    ("crash", "always", "failed"),
    ("crash", "once", "verified"),
    ("exit", "always", "failed"),
    ("exit", "once", "verified"),
    ("half a line", "always", "failed"),
    ("half a line", "once", "verified"),
    ("fail", "always", "failed"),
    ("hang", "always", "timeout"),
    ("hang with the lock", "always", "timeout"),
    ("hang with a child", "always", "timeout"),
    ("flood", "always", "timeout"),
    ("starve", "always", "verified"),
    ("noise", "always", "verified"),
    ("out of order", "always", "verified"),
]
STARTS = {("crash", "always"): 3, ("exit", "always"): 3, ("half a line", "always"): 3}


@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: f"{mishap[0]} {mishap[1]}")
def test_a_mishap_costs_one_image_at_most(question, expected, use, tmp_path, mishap):
    fault, often, outcome = mishap
    use("--fault", fault, "--at", AT, *(("--once", tmp_path / "once") if often == "once" else ()))
    verified, report = ask(question)
    assert verified == [was and (image != AT or outcome == "verified") for image, was in enumerate(expected)]
    assert (report.timeouts, report.failed) == (outcome == "timeout", outcome == "failed")
    assert (report.trouble is not None) == (outcome == "failed")
    assert (report.seconds[AT] == LIMIT) == (outcome == "timeout")
    assert len(use.started) == STARTS.get((fault, often), 2 if often == "once" or outcome == "timeout" else 1)


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [
        ("crash", "killed by SIGSEGV"),
        ("exit", "exit code 3"),
        ("half a line", "exit code 7"),
        ("fail", "ArithmeticError: a fault of two lines"),
    ],
)
def test_the_report_says_what_happened(question, use, fault, trouble):
    use("--fault", fault, "--at", AT)
    _, report = ask(question)
    assert trouble in str(report.trouble)


NONSENSE = "the worker answered nonsense"
ERRORS = {
    "garbage": f"{NONSENSE}: 'Traceback (most recent call last):'",
    "not an object": f"{NONSENSE}: '[1, 2]'",
    "bytes": f"{NONSENSE}: '\\x00\\x07'",
    "endless line": f"{NONSENSE}: 'xxx",
    "unknown index": f"the worker answered for image 9{AT - 1}, which was not asked about",
    "index that is none": NONSENSE,
    "twice": f"the worker answered for image {AT - 1}, which was not asked about or is answered already",
    "unknown verdict": NONSENSE,
    "no seconds": NONSENSE,
    "other request": NONSENSE,
    "other version": "the worker speaks protocol 2, this softadv speaks 1",
    "no version": NONSENSE,
    "no engine": "not available (OSError: no libzonoml.so)",
    "no hello": f"{NONSENSE}: 'Segmentation fault'",
    "silence": "its worker was not ready after 1 seconds",
    "unloadable": "its worker died twice before it answered anything: it ended with exit code 5, "
    "saying 'no such library'",
    "unreadable": "the engine cannot read this model (NotImplementedError: Unknown layer: Gemm)",
    "misread": "reads another network than this model",
}


@pytest.mark.parametrize("fault", ERRORS)
def test_what_is_no_answer_ends_the_run_with_one_clear_line(question, use, fault):
    use("--fault", fault, "--at", AT)
    with pytest.raises(SoftadvError) as caught:
        ask(question, seconds_to_start=1.0 if fault == "silence" else 60.0)
    message = str(caught.value)
    assert message.startswith("eran-deepzono: ")
    assert ERRORS[fault] in message
    assert "\n" not in message
    assert len(message) < 900


def test_a_worker_that_could_not_be_loaded_once_is_given_a_second_chance(question, expected, use, tmp_path):
    use("--fault", "unloadable", "--once", tmp_path / "once")
    assert ask(question)[0] == expected


def test_an_engine_that_fails_on_every_image_ends_the_run(question, use):
    use("--fault", "fail", "--at", AT)
    model, x, y = question
    many = x[[AT]].repeat(20, 1, 1, 1)
    with pytest.raises(SoftadvError, match=r"failed on 10 images in succession, the last time with: ArithmeticError"):
        certify_with(model, many, y[[AT]].repeat(20), engine="eran-deepzono", eps=EPS)


def test_more_images_than_are_written_at_a_time_keep_their_verdicts(question, expected, use, monkeypatch):
    monkeypatch.setattr(bridge, "_BATCH", 3)
    use("--fault", "crash", "--at", AT)
    verified, report = ask(question)
    assert verified == [was and image != AT for image, was in enumerate(expected)]
    assert report.failed == 1
    assert len(use.started) == 3


def test_a_worker_that_keeps_growing_is_started_anew_and_no_verdict_is_lost(question, expected, use):
    use("--fault", "grow")
    model, x, y = question
    with Bridge("eran-deepzono") as bridge:
        assert bridge.certify(model, x, y, eps=EPS)[1].verified.tolist() == expected
        assert len(use.started) == 1  # gigabytes are allowed
        report = bridge.certify(model, x, y, eps=EPS, memory_limit=1)[1]
    assert report.verified.tolist() == expected
    assert (report.timeouts, report.failed) == (0, 0)
    # A worker may grow by half before it is ended, so none is ended for what it needs from the start.
    assert 3 <= len(use.started) <= 1 + COUNT


def test_an_engine_without_margins_has_none(question, use):
    use()
    model, x, y = question
    certificates, report = certify_with(model, x, y, engine="gpupoly", eps=EPS, rounding="none")
    assert torch.equal(report.verified, certificates.correct)
    assert certificates.margin.isnan().all()
    assert report.soundness == "none"


def test_a_bridge_asks_about_one_model_after_another_without_starting_anew(question, expected, use):
    use()
    model, x, y = question
    other = seeded(5, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4))).float()
    with Bridge("eran-deepzono") as bridge:
        for asked, labels in ((model, y), (other, other(x).argmax(1)), (model, y)):
            verified = bridge.certify(asked, x, labels, eps=EPS)[1].verified
            assert torch.equal(verified, certify(asked, x, labels, eps=EPS, domain="box").verified)
    assert len(use.started) == 1
    assert verified.tolist() == expected


def test_no_images_at_all(question, use):
    use()
    model, x, y = question
    certificates, report = certify_with(model, x[:0], y[:0], engine="eran-deepzono", eps=EPS)
    assert len(certificates.correct) == len(certificates.margin) == len(report.verified) == 0
    assert report.version == "stand-in 1"


def test_after_an_interruption_the_worker_is_gone_or_asked_anew(question, expected, use):
    use()
    model, x, y = question

    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    with Bridge("eran-deepzono") as bridge:
        with pytest.raises(KeyboardInterrupt):
            bridge.certify(model, x, y, eps=EPS, on_progress=interrupt)
        assert bridge.certify(model, x, y, eps=EPS)[1].verified.tolist() == expected
    with pytest.raises(KeyboardInterrupt):
        certify_with(model, x, y, engine="eran-deepzono", eps=EPS, on_progress=interrupt)
    wait_until_gone(use.started)


def test_each_engine_says_what_it_is_or_why_it_is_not_there(use):
    use("--fault", "no engine")
    found = available()
    assert found["eran-deepzono"] == "eran-deepzono: not available (OSError: no libzonoml.so)"
    assert found["gpupoly"] == "gpupoly: not available (the worker does not know it)"
    use()
    assert available()["gpupoly"] == Offer("stand-in 1", {"sound": "as PyTorch", "none": "none"})


def test_what_certify_would_refuse_is_refused(question, use):
    use()
    model, x, y = question
    for message, changed in {
        "eps: must be 0 or more": {"eps": -0.1},
        "did you mean 8/255?": {"eps": 8},
        "x: pixels lie in": {"clip": (0.3, 1.0)},
        "rounding: unknown name": {"rounding": "odd"},
        "engine: unknown name 'eran'": {"engine": "eran"},
        "engine: time limits must be positive": {"seconds_per_image": 0.0},
        "y: labels lie in": {"y": y + 9},
        "memory_limit: expected a positive number of bytes, got 0": {"memory_limit": 0},
        "engine: the model is in float64": {"model": copy.deepcopy(model).double()},
    }.items():
        given = {"model": model, "x": x, "y": y, "engine": "gpupoly", "eps": EPS} | changed
        with pytest.raises(SoftadvError, match=re.escape(message)):
            certify_with(given.pop("model"), given.pop("x"), given.pop("y"), **given)
    assert not use.started
