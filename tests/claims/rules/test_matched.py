"""One of several methods, chosen by its natural accuracy on the validation images, and then compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from softadv.claims.rules.matched import Matched
from softadv.errors import SoftadvError
from softadv.experiments.runs import NotRun, Run
from tests.finished import a_run, decide

SMALL, LARGE = "adversarial(train_eps=4/255)", "adversarial(train_eps=6/255)"
RULE = Matched(setting="s", method="soft", candidates=[SMALL, LARGE], figures=["adversarial_accuracy"], above=-1.0)


def validated(method: str, *, validation: float | None, robust: tuple[float, ...]) -> list[Run]:
    """A run for each robust accuracy. The natural accuracy on the test images points the other way."""
    runs = []
    for seed, accuracy in enumerate(robust):
        test = 0.5 if validation is None else 1 - validation
        run = a_run(method=method, seed=seed, natural=test, adversarial=accuracy, validation_images=10)
        last = replace(run.metrics[-1], validation_natural_accuracy=validation)
        runs.append(Run(run.result, [*run.metrics[:-1], last]))
    return runs


SOFT = validated("soft", validation=0.60, robust=(0.40, 0.42, 0.41))
NEAR = validated(SMALL, validation=0.61, robust=(0.405, 0.425, 0.415))
FAR = validated(LARGE, validation=0.55, robust=(0.10, 0.12, 0.11))


def test_the_nearest_on_the_validation_images_is_compared_and_named() -> None:
    found = decide(RULE, *SOFT, *NEAR, *FAR)
    assert found.outcome == "holds"
    assert f"adversarial accuracy, {SMALL} - soft: s +0.50 points [+0.50, +0.50], 3 seeds" in found.reason
    assert f"chosen on the validation images: {SMALL}, with +1.00 points natural accuracy there" in found.reason


def test_a_nearer_but_weaker_one_is_chosen_all_the_same() -> None:
    nearer = validated(LARGE, validation=0.595, robust=(0.10, 0.12, 0.11))
    found = decide(RULE, *SOFT, *NEAR, *nearer)
    assert found.outcome == "fails"
    assert f"{LARGE} - soft" in found.reason


def test_every_figure_decides() -> None:
    both = replace(RULE, figures=["adversarial_accuracy", "natural_accuracy"])
    assert decide(both, *SOFT, *NEAR, *FAR).outcome == "inconclusive"  # natural: exactly one point less, the end


def test_it_is_not_run_until_every_candidate_is() -> None:
    with pytest.raises(NotRun, match=r"no finished adversarial\(train_eps=6/255\) run of s"):
        decide(RULE, *SOFT, *NEAR)


def test_without_validation_images_nothing_is_chosen() -> None:
    with pytest.raises(NotRun, match="has no validation images to choose by"):
        decide(RULE, *SOFT, *NEAR, *validated(LARGE, validation=None, robust=(0.1, 0.1, 0.1)))


@pytest.mark.parametrize(("keys", "message"), [({"candidates": [SMALL]}, "candidates"), ({"figures": ["x"]}, "figure")])
def test_bad_keys_are_refused(keys: dict[str, list[str]], message: str) -> None:
    with pytest.raises(SoftadvError, match=message):
        replace(RULE, **keys)


def test_where_trainings_stop_early_the_epoch_that_they_end_with_chooses() -> None:
    def stopped(runs: list[Run]) -> list[Run]:
        """With a last epoch that was worse, and whose weights were not kept."""
        found = []
        for run in runs:
            best = replace(run.metrics[-1], epoch=1, validation_adversarial_accuracy=0.5)
            worse = replace(best, epoch=2, validation_adversarial_accuracy=0.4, validation_natural_accuracy=0.55)
            found.append(Run(replace(run.result, trial=replace(run.result.trial, patience=1)), [best, worse]))
        return found

    found = decide(RULE, *(stopped(SOFT)), *stopped(NEAR), *stopped(FAR))
    assert f"chosen on the validation images: {SMALL}, with +1.00 points natural accuracy there" in found.reason
