"""Titles and colours of a trial's method and data set, recorded so that a page needs no user code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Literal

from softadv._ranges import shown
from softadv.data import KNOWN, dataset_title
from softadv.errors import SoftadvError
from softadv.experiments.spec import METHODS, Trial
from softadv.registry import Origin
from softadv.training.methods import methods as registered

SourceKind = Literal["dataset", "model", "method", "attack"]

# Colours for methods that have none of their own. Beside those of the paper's methods they can be told apart by
# the colour-blind, and they stand out on white and on a dark page.
PALETTE = ("#CC79A7", "#E69F00", "#56B4E9", "#B2182B", "#999933", "#5D3A9B")


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a trial's method and data set are shown, recorded when the trial ends.

    method_color: "#RRGGBB". sources: the user code that the trial ran, by kind.
    Raises SoftadvError for a title that is empty or not one line of text, and for another kind of colour.
    """

    method_title: str
    method_color: str
    dataset_title: str
    class_names: tuple[str, ...] = ()
    sources: dict[SourceKind, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("method_title", "dataset_title"):
            text = getattr(self, key)
            if not text.strip() or not text.isprintable():
                raise SoftadvError(f"{key}: expected one line of text, got {shown(text)}")
        if re.fullmatch(r"#[0-9A-Fa-f]{6}", self.method_color) is None:
            raise SoftadvError(f"method_color: expected a colour such as #CC79A7, got {shown(self.method_color)}")


def names_of(trial: Trial, recorded: Names | None = None) -> Names:
    """The recorded names of a trial; without a record, names from its spec.

    These are softadv's titles for the paper's methods and data sets, else the names in the spec.
    """
    if recorded is not None:
        return recorded
    title, color = trial.method, PALETTE[0]
    if trial.method in METHODS:
        kind = registered.get(trial.method)
        title, color = kind.title, kind.color
    classes = KNOWN[trial.dataset].class_names if trial.dataset in KNOWN else ()
    return Names(
        method_title=title, method_color=color, dataset_title=dataset_title(trial.dataset), class_names=classes
    )


def names_together(found: Sequence[tuple[Trial, Names | None]]) -> list[Names]:
    """The names of trials that are shown on one page, from the recorded names of each, in the same order.

    A method has one title and one colour, also where only some of its trials have finished. Methods with the same
    title are told apart by their names, and no two have the same colour as long as the palette lasts.
    """
    methods: dict[str, Names] = {}
    datasets: dict[str, str] = {}
    for trial, recorded in sorted(found, key=lambda item: item[1] is None):  # a record, where there is one
        names = names_of(trial, recorded)
        methods.setdefault(trial.method, names)
        datasets.setdefault(trial.dataset, names.dataset_title)
    chosen = {trial.method for trial, recorded in found if recorded is not None or trial.method in METHODS}
    titles, colors = _titles(methods), _colors(methods, chosen=chosen)
    return [
        replace(
            names_of(trial, recorded),
            method_title=titles[trial.method],
            method_color=colors[trial.method],
            dataset_title=datasets[trial.dataset],
        )
        for trial, recorded in found
    ]


def method_rank(method: str) -> tuple[int, str]:
    """Orders methods: the paper's as it does, then the others by name."""
    return METHODS.index(method) if method in METHODS else len(METHODS), method


def short_title(method: str, names: Names) -> str:
    """A method in a table's cell: "Soft" for soft adversarial training, else its title."""
    return method.capitalize() if method in METHODS else names.method_title


def within_sentence(title: str) -> str:
    """A title as it stands within a sentence: "natural training", but "TRADES"."""
    return title if title[1:2].isupper() else title[0].lower() + title[1:]


def _titles(methods: Mapping[str, Names]) -> dict[str, str]:
    """A title for each method. "TRADES" of two methods becomes "TRADES (beta=1)" and "TRADES (beta=6)"."""
    count = Counter(names.method_title for names in methods.values())
    return {
        method: names.method_title if count[names.method_title] == 1 else f"{names.method_title} ({_settings(method)})"
        for method, names in methods.items()
    }


def _settings(method: str) -> str:
    found = re.fullmatch(r"[^()]+\((.+)\)", method)
    return found[1] if found else method


def _colors(methods: Mapping[str, Names], *, chosen: AbstractSet[str]) -> dict[str, str]:
    """A colour for each method; explicitly chosen colours are assigned first."""
    taken: dict[str, str] = {}
    for method in sorted(methods, key=lambda method: (method not in chosen, method_rank(method))):
        wanted = methods[method].method_color.upper()
        free = [color for color in (wanted, *PALETTE) if color not in taken.values()]
        taken[method] = free[0] if free else wanted
    return taken
