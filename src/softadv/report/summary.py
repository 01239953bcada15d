"""The answer in one sentence: does soft adversarial training retain natural accuracy? Else what was compared."""

from __future__ import annotations

from collections.abc import Sequence

from softadv._decimals import decimal
from softadv.claims.stats import Estimate
from softadv.report.comparisons import MethodComparison
from softadv.report.intervals import signed

QUESTION = "Does soft adversarial training retain natural accuracy?"
WITHOUT_SOFT = "How do the methods compare?"
_NAMED = 3  # so many comparisons are written out

Compared = tuple[MethodComparison, Estimate, Estimate]


def answer(comparisons: Sequence[MethodComparison], *, question: str = QUESTION) -> str:
    """A sentence from the differences between soft and adversarial training: a word, and the figures it rests on.

    A difference counts as shown where its 95% interval does not contain zero. Where these two were not both run, the
    sentence says what was compared.
    """
    compared = [(c, c.natural, c.adversarial) for c in comparisons if c.natural and c.adversarial]
    asked = [found for found in compared if (found[0].method, found[0].over) == ("soft", "adversarial")]
    if len(asked) == 1:
        return _one(*asked[0])
    if asked:
        return _several(asked)
    if question == QUESTION:
        not_yet = "Not answered yet: no seed has finished both soft and adversarial training, run alike."
        return f"{not_yet} {_others(compared)}" if compared else not_yet
    return _others(compared) if compared else "Nothing is compared yet: no seed has finished two methods of a setting."


def _others(compared: Sequence[Compared]) -> str:
    """What was compared, with the differences where there are few."""
    if len(compared) > _NAMED:
        titles = list(dict.fromkeys(comparison.title for comparison, _, _ in compared))
        named = titles if len(titles) <= _NAMED else [*titles[:_NAMED], f"{len(titles) - _NAMED} more"]
        settings = len({comparison.trial.setting for comparison, _, _ in compared})
        return (
            f"Compared seed by seed: {_listed(named)}, in {settings} setting{'s' * (settings != 1)}. "
            "The differences are below."
        )
    parts = [
        f"{comparison.title} on {comparison.place} is {signed(natural.mean)} points of natural and "
        f"{signed(adversarial.mean)} points of adversarial accuracy"
        for comparison, natural, adversarial in compared
    ]
    return f"Compared seed by seed, {_after([found[0] for found in compared])}{'; '.join(parts)}."


def _one(comparison: MethodComparison, natural: Estimate, adversarial: Estimate) -> str:
    word = {1: "Yes", -1: "No", 0: "Not shown", None: "One seed cannot tell"}[_sign(natural)]
    seeds = "1 seed" if natural.seeds == 1 else f"95% interval {_ends(natural)}, {natural.seeds} seeds"
    price = "" if natural.seeds == 1 else f" ({_ends(adversarial)})"
    return (
        f"{word}: on {comparison.place}, {_after([comparison])}soft adversarial training ends with "
        f"{_more(natural.mean)} natural accuracy {_than(natural.mean)} adversarial training ({seeds}), and with "
        f"{_more(adversarial.mean)} adversarial accuracy{price}."
    )


def _several(compared: Sequence[Compared]) -> str:
    signs = [_sign(natural) for _, natural, _ in compared]
    gains, count = signs.count(1), len(signs)
    after = _after([comparison for comparison, _, _ in compared])
    price = _span([adversarial.mean for _, _, adversarial in compared])
    if signs.count(None) == count:
        change = _span([natural.mean for _, natural, _ in compared])
        return (
            f"One seed cannot tell: {after}in {count} settings, soft adversarial training's natural accuracy differs "
            f"from adversarial training's by {change} points, its adversarial accuracy by {price} points."
        )
    if gains == count or signs.count(-1) == count:
        change = _span([natural.mean for _, natural, _ in compared])
        return (
            f"{'Yes' if gains else 'No'}: {after}in all {count} settings, soft adversarial training ends with "
            f"{'more' if gains else 'less'} natural accuracy than adversarial training ({change} points), and its "
            f"adversarial accuracy differs by {price} points."
        )
    word = f"In {gains} of {count} settings" if gains else "No" if -1 in signs else "Not shown"
    parts: list[str] = []
    for wanted, text in (
        ((1,), "more natural accuracy than adversarial training"),
        ((-1,), "less natural accuracy than adversarial training"),
        ((0, None), "no clear difference"),
    ):
        found = [(c, n) for c, n, _ in compared if _sign(n) in wanted]
        if found:
            parts.append(f"{text} on {_places(found, unit='' if parts else ' points')}")
    said = f"{word}: {after}soft training ends with {'; '.join(parts)}"
    return f"{said}; its adversarial accuracy differs by {price} points."


def _places(found: Sequence[tuple[MethodComparison, Estimate]], *, unit: str) -> str:
    """Settings with their differences, each data set named once: "CIFAR-10 at ε 4/255 (+1.16) and 8/255 (+0.84)"."""
    by_dataset: dict[str, list[str]] = {}
    for comparison, natural in found:
        dataset, at, radius = comparison.place.partition(" at ε ")
        said = f"{radius} ({signed(natural.mean)}{unit})".lstrip()
        by_dataset.setdefault(f"{dataset}{at or ' '}", []).append(said)
        unit = ""
    return _listed([f"{dataset}{_listed(radii)}" for dataset, radii in by_dataset.items()])


def _after(comparisons: Sequence[MethodComparison]) -> str:
    """How long was trained, if everywhere alike: a short run is not to be taken for the paper's."""
    epochs = {comparison.trial.epochs for comparison in comparisons}
    count = epochs.pop()
    return "" if epochs else f"after {count} epoch{'' if count == 1 else 's'}, "


def _sign(estimate: Estimate) -> int | None:
    """1 or -1 where the interval is above or below zero, 0 where it contains zero, None without an interval."""
    if estimate.low is None or estimate.high is None:
        return None
    return 1 if estimate.low > 0 else -1 if estimate.high < 0 else 0


def _more(points: float) -> str:
    size = decimal(abs(points))
    if float(size) == 0:
        return "the same"
    return f"{size} points {'more' if points > 0 else 'less'}"


def _than(points: float) -> str:
    return "as" if float(decimal(points)) == 0 else "than"


def _ends(estimate: Estimate) -> str:
    assert estimate.low is not None
    assert estimate.high is not None
    return f"{signed(estimate.low)} to {signed(estimate.high)}"


def _span(values: Sequence[float]) -> str:
    low, high = signed(min(values)), signed(max(values))
    return low if low == high else f"{low} to {high}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
