"""Settings, methods and signs in words: what the page says where files have names such as "cifar10-eps4"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from softadv.claims.judge import Expectations
from softadv.data import dataset_title
from softadv.errors import SoftadvError
from softadv.experiments.names import Names, short_title
from softadv.experiments.spec_text import DOMAIN_TITLES, Series, choices, fraction
from softadv.training.method_names import parse_method

_SYMBOLS = {"beta": "β", "tau": "τ", "train_eps": "ε", "eps": "ε", "alpha": "α"}


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What tells a setting from others, the most telling first."""

    place: str  # "CIFAR-10, ε 4/255"
    epochs: str
    choices: str


def setting_words(runs: Sequence[Series], expected: Iterable[Expectations] = ()) -> dict[str, str]:
    """For each setting's name, "CIFAR-10, ε 4/255", and as much more as tells it from the others.

    runs: trials of the page. expected: whose claims speak of settings, run or not.
    """
    run = {
        run.trial.setting: _Setting(
            place=f"{run.names.dataset_title}, ε {fraction(run.trial.eps)}",
            epochs=_epochs(run.trial.epochs),
            choices=", ".join(map(in_symbols, choices(run.trial))),
        )
        for run in runs
    }
    words = _told_apart(run)
    places = {it.place for it in run.values()}
    for expectations in expected:
        for name, wanted in expectations.required.items():
            place, epochs = f"{dataset_title(wanted.dataset)}, ε {fraction(wanted.eps)}", _epochs(wanted.epochs)
            # What was run has the short name, and what was not says what it would take.
            words.setdefault(name, f"{place}, {epochs}" if place in places else place)
    return words


def _told_apart(found: Mapping[str, _Setting]) -> dict[str, str]:
    places = Counter(setting.place for setting in found.values())
    epochs = {place: {it.epochs for it in found.values() if it.place == place} for place in places}
    words = {
        name: ", ".join(
            filter(
                None,
                (
                    it.place,
                    it.epochs if len(epochs[it.place]) > 1 else "",
                    it.choices if places[it.place] > 1 else "",
                ),
            )
        )
        for name, it in found.items()
    }
    same = Counter(words.values())
    return {name: text if same[text] == 1 else f"{text} ({name})" for name, text in words.items()}


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"


def in_words(text: str, settings: Mapping[str, str]) -> str:
    """A sentence of a verdict with settings in words, domains by their titles, and true signs."""
    for name in sorted(settings, key=len, reverse=True):  # a name may begin another
        text = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w/-]|\.\d)", settings[name], text)
    for name, title in DOMAIN_TITLES.items():
        text = re.sub(rf"(?<![\w-]){name}(?![\w-])", title, text)
    return in_symbols(text)


def in_symbols(text: str) -> str:
    """ "eps" as ε, and a hyphen that stands for a minus as one."""
    text = re.sub(r"(?<![\w-])(?:train_)?eps(?![\w-])", "ε", text)
    text = re.sub(r"(?<![\w.)\]])-(?=\d)", "\N{MINUS SIGN}", text)
    return text.replace(" - ", " \N{MINUS SIGN} ")


def capital(words: str) -> str:
    """A text with a capital at its beginning."""
    return words[:1].upper() + words[1:]


def sentences(text: str) -> str:
    """A text with a capital at the beginning of every sentence."""
    return re.sub(r"(?:^|(?<=\. ))[a-z]", lambda letter: letter[0].upper(), text)


def method_family(method: str) -> tuple[str, dict[str, float | int]]:
    """A method's name without its settings, and these; a name of another form is all name."""
    if ":" in method:
        return method, {}
    try:
        return parse_method(method)
    except SoftadvError:
        return method, {}


def method_label(method: str, names: Names) -> str:
    """A method in a word or two, such as "Soft" or "TRADES β 6"."""
    return " ".join(filter(None, (family_label(method, names), settings_label(method))))


def family_label(method: str, names: Names) -> str:
    """A method without its settings, such as "Soft" or "TRADES"."""
    family, settings = method_family(method)
    if not settings or family in ("natural", "adversarial", "soft"):
        return short_title(family if settings else method, names)
    return re.split(r"[,(]", names.method_title)[0].strip()  # of "TRADES, β = 6" and "TRADES (beta=6)" alike


def settings_label(method: str) -> str:
    """A method's settings alone, such as "β 6"; "" where it has none."""
    settings = method_family(method)[1].items()
    return ", ".join(f"{_SYMBOLS.get(key, key)} {_value(key, value)}" for key, value in settings)


def method_title(method: str, names: Names) -> str:
    """A method's title above a panel: as it is recorded, but with symbols where it names settings."""
    return method_label(method, names) if method_family(method)[1] else names.method_title


def _value(key: str, value: float) -> str:
    return fraction(value) if key.endswith("eps") else f"{value:g}"
