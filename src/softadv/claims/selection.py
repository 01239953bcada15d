"""Selects the finished runs that a claim may rest on, by setting and method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields

from softadv.experiments.names import method_rank
from softadv.experiments.records import Result
from softadv.experiments.runs import NotRun, Run
from softadv.experiments.spec import Trial

# Keys that only affect measurements, not the weights.
_MEASURING = {"evaluate_every", "certified_images", "certified_domains", "autoattack_images"}
# Keys that must be equal in all runs of a setting; otherwise methods would not be comparable over seeds.
_SHARED = [f.name for f in fields(Trial) if f.name not in {"setting", "method", "seed", *_MEASURING}]
# What the paper leaves open, with the defaults. The certifier is not among them: it computes the same domain.
_ASSUMPTIONS = {
    f.name: f.default
    for f in fields(Trial)
    if f.name in {*_SHARED} - {"certifier", "train_images", "test_images"} and f.default is not MISSING
}


@dataclass(frozen=True, kw_only=True)
class Required:
    """The keys that a trial must have to count as a setting of a claim.

    All other keys are assumptions, which may differ from their defaults if they do so in every run of the claim.
    """

    dataset: str
    eps: float
    alpha: float
    steps: int
    epochs: int
    domain: str = "deeppoly"
    attack: str = "pgd"
    natural_epochs: int = 0  # others would leave fewer of the epochs to the method

    def shortfall(self, trial: Trial) -> str | None:
        """Why a trial does not count, or None when it does."""
        for key, wanted in vars(self).items():
            found = getattr(trial, key)
            if found != wanted:
                return f"{key} {_short(found)} instead of {_short(wanted)}"
        if trial.train_images is not None or trial.test_images is not None:
            return f"a part of the {trial.dataset} images"
        return None


@dataclass(frozen=True)
class Evidence:
    """Finished runs, and the requirements of the settings in claims."""

    runs: Sequence[Run]
    required: Mapping[str, Required]

    def of(self, setting: str, method: str) -> dict[int, Run]:
        """The runs of a method in a setting, by seed.

        Raises NotRun when there are none, or when the setting's runs are not what is required, not alike, or not of the
        same images.
        """
        there = [run for run in self.runs if run.result.trial.setting == setting]
        found = [run for run in there if run.result.trial.method == method]
        if not found:
            raise NotRun(f"no finished {method} run of {setting}")
        if setting in self.required:
            for run in found:
                shortfall = self.required[setting].shortfall(run.result.trial)
                if shortfall is not None:
                    raise NotRun(f"{setting} was run with {shortfall}")
        if (reason := mixed([run.result for run in there])) is not None:
            raise NotRun(f"{setting}: not one comparison, {reason}")
        return {run.result.trial.seed: run for run in found}

    def of_any_method(self, setting: str) -> list[Run]:
        """The runs of a setting, whatever their method. Raises NotRun as `of` does."""
        found = {run.result.trial.method for run in self.runs if run.result.trial.setting == setting}
        if not found:
            raise NotRun(f"no finished run of {setting}")
        return [run for method in sorted(found, key=method_rank) for run in self.of(setting, method).values()]

    def pairs(self, setting: str, first: str, second: str) -> list[tuple[Run, Run]]:
        """The runs of two methods in a setting, seed by seed. Raises NotRun when no seed has both."""
        pairs = _by_seed(self.of(setting, first), self.of(setting, second))
        if not pairs:
            raise NotRun(f"no seed of {setting} was run with both {first} and {second}")
        return pairs

    def steps(self, earlier: str, later: str, method: str) -> list[tuple[Run, Run]]:
        """The runs of a method in two settings, seed by seed. Raises NotRun when no seed has both, and as `of` does."""
        pairs = _by_seed(self.of(earlier, method), self.of(later, method))
        if not pairs:
            raise NotRun(f"no seed of {method} training was run in both {earlier} and {later}")
        if (reason := other_images([run.result for pair in pairs for run in pair])) is not None:
            raise NotRun(f"{earlier}, {later}: not one comparison, {reason}")
        return pairs

    def assumptions(self, settings: Sequence[str]) -> str:
        """How these settings' runs differ from the defaults of what the paper leaves open; "" if they do not.

        Raises NotRun unless all differ in the same way: a difference between them would have two causes.
        """
        there = [run.result for run in self.runs if run.result.trial.setting in settings]
        if (reason := _differing(there, _ASSUMPTIONS)) is not None:
            raise NotRun(f"{', '.join(settings)}: not one comparison, {reason}")
        found = [
            f"{key} {_short(getattr(result.trial, key))} instead of {_short(default)}"
            for key, default in _ASSUMPTIONS.items()
            for result in there[:1]
            if getattr(result.trial, key) != default
        ]
        return f"run with {', '.join(found)}" if found else ""


def _by_seed(first: Mapping[int, Run], second: Mapping[int, Run]) -> list[tuple[Run, Run]]:
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def mixed(results: Sequence[Result]) -> str | None:
    """Why the results of a setting are no comparison, such as "run with epochs 2 and 6"; None where they are one.

    All must have been trained and measured alike, whatever their methods and seeds, and on the same images.
    """
    return _differing(results, _SHARED) or other_images(results)


def other_images(results: Sequence[Result]) -> str | None:
    """Why results are not of the same images, such as on two machines; None where they are, or of other data sets."""
    counts = sorted({result.test_images for result in results})
    if len(counts) > 1:
        return f"run on {' and '.join(f'{count:,}' for count in counts)} test images"
    prints: dict[tuple[str, int | None, int | None], str] = {}
    for result in results:
        trial = result.trial
        part = (trial.dataset, trial.train_images, trial.test_images)
        if prints.setdefault(part, result.data_fingerprint) != result.data_fingerprint:
            return f"run on different {trial.dataset} images"
    return None


def _differing(results: Sequence[Result], keys: Iterable[str]) -> str | None:
    for key in keys:
        values = sorted({_short(getattr(result.trial, key)) for result in results})
        if len(values) > 1:
            return f"run with {key} {' and '.join(values)}"
    return None


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
