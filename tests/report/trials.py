"""Trials with made-up results, and the page about them."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import torch

from softadv._io import write_tensors
from softadv.certify.records import Certified, Parity
from softadv.claims.judge import Claim, Outcome, Verdict
from softadv.experiments.records import Result
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.spec import Trial
from softadv.report.page import write_report
from softadv.training.records import EpochMetrics

IMAGES = 200


def make_trial(method: str = "soft", *, seed: int = 0, eps: float = 0.1, setting: str = "digits-a") -> Trial:
    return Trial(setting=setting, dataset="digits", method=method, seed=seed, eps=eps, alpha=0.01, steps=3, epochs=2)


def make_epoch(trial: Trial, *, epoch: int) -> EpochMetrics:
    soft = trial.method == "soft"
    return EpochMetrics(
        epoch=epoch,
        loss=1.0 / epoch,
        natural_accuracy=0.7 + 0.1 * epoch + 0.02 * trial.seed,
        adversarial_accuracy=0.4 + 0.1 * epoch,
        misclassified=60 if soft else None,
        unverified=90 if soft else None,
        verified=50 if soft else None,
        attack_seconds=0.0 if trial.method == "natural" else 2.0,
        certification_seconds=3.0 if soft else 0.0,
        update_seconds=1.0,
        evaluation_seconds=0.5,
    )


def make_run(folder: Path, trial: Trial, *, epochs: int = 2) -> RunFolder:
    run = RunFolder(folder / trial.name)
    run.begin(trial)
    if epochs:
        run.write_metrics([make_epoch(trial, epoch=epoch) for epoch in range(1, epochs + 1)])
    return run


def finish(run: RunFolder) -> None:
    trial, last = run.trial(), run.metrics()[-1]
    label = torch.arange(3)
    image = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    tensors = {
        "image": image,
        "attacked": (image + trial.eps).clamp(0, 1),
        "label": label,
        "predicted": torch.tensor([0, 1, 7]),
        "predicted_attacked": torch.tensor([0, 5, 7]),
        "verified": torch.tensor([True, False, False]),
        "margin": torch.tensor([1.0, -1.0, -2.0]),
    }
    write_tensors(run.path / "examples.safetensors", tensors)
    run.write_result(
        Result(
            trial=trial,
            natural_accuracy=last.natural_accuracy,
            adversarial_accuracy=last.adversarial_accuracy,
            certified=(
                Certified(domain="box", images=50, verified=0, seconds=0.1),
                Certified(domain="deeppoly", images=50, verified=20, seconds=1.0),
            ),
            parity=Parity(images=50, largest_difference=1e-6, classes_equal=True),
            neurons=3614,
            train_images=IMAGES,
            test_images=100,
            data_fingerprint="f" * 64,
            data_source="scikit-learn",
            weights_sha256="a" * 64,
            environment={"python": "3.11", "device": f"machine <{trial.seed}>"},
        )
    )


def make_verdict(outcome: Outcome, *, reason: str, title: str = "a claim") -> Verdict:
    return Verdict(
        claim=Claim(id=f"id-{outcome}", title=title, source="section 5", kind="paper"), outcome=outcome, reason=reason
    )


def words_of(page: Path) -> str:
    """A page as it is read: a space that no line may break at is a space."""
    return page.read_text().replace("\N{NO-BREAK SPACE}", " ")


def report(folder: Path, verdicts: Sequence[Verdict] = ()) -> str:
    page = write_report(folder, verdicts=verdicts, title="A <grid>", command="softadv reproduce x --out <y>")
    assert page == folder / "report" / "index.html"
    return words_of(page)


class References(HTMLParser):
    """What a page loads (src and the like) and what it links to (href of a)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key == "href" and tag == "a":
                self.links.append(value or "")
            elif key in ("src", "href", "srcset", "data", "poster", "action"):
                self.loaded.append(value or "")


VERDICTS = [
    make_verdict("holds", reason="It is 3 > 2 & <b>so</b>."),
    make_verdict("fails", reason="It is 1 point.", title="Soft > adversarial"),
    make_verdict("not run", reason="No trial of it has finished."),
]
