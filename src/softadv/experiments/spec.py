"""The spec of a trial and of a grid, read from TOML and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from softadv._io import parse_toml, read_text
from softadv._ranges import (
    MOST_EPOCHS,
    MOST_IMAGES,
    MOST_SEEDS,
    MOST_STEPS,
    check_count,
    check_radius,
    number,
    shown,
)
from softadv._typed import check_types
from softadv.certify.domains import CERTIFIER_DOMAINS, Certifier, Domain
from softadv.data import KNOWN
from softadv.errors import SoftadvError
from softadv.training import config as training
from softadv.training.config import check_settings
from softadv.training.method_names import parse_method
from softadv.training.methods.soft import SplitName, check_split

METHODS: tuple[str, ...] = ("natural", "adversarial", "soft")  # the paper's, in its order


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run: a setting of the paper, one method, one seed.

    eps and alpha are in the units of [0, 1] pixels. Fields with a default are what the paper leaves
    open; docs/assumptions.md lists them.
    """

    setting: str  # the name that all methods and seeds of one comparison share
    dataset: str  # a name that softadv.load_dataset takes
    method: str  # a name that softadv.train takes, maybe with settings: "trades(beta=6)"
    seed: int
    eps: float
    alpha: float
    steps: int
    epochs: int

    model: str = "conv_small"  # a name that softadv.load_model takes
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "steps"] = "constant"  # of the learning rate
    schedule_epochs: tuple[int, ...] = ()  # of the schedule "steps": after these epochs the rate falls
    schedule_factor: float = 0.1  # to so much of itself
    eps_warmup_epochs: int = 0  # over so many epochs the radius of the training grows to eps
    clip_gradients: float | None = None  # the largest L2 norm of an update's gradient; None is any
    batch_size: int = 128
    natural_epochs: int = 0  # the first so many of the epochs are natural, whatever the method
    split_every: int = 1  # epochs between two certifications of the training set
    split: SplitName = "full"  # "rolling": after the first epoch only a share of the images is certified before each
    split_share: float = 0.1  # how large a share: that whose verdicts are oldest
    update: Literal["mixed", "two-pass"] = "mixed"
    attack: str = "pgd"  # or "torchattacks:NAME"
    attack_norm: Literal["linf", "any"] = "linf"  # "any": the attack may have another norm than the certifier's ball
    random_start: bool = True
    normalize: bool = False
    augment: Literal["none", "crop-flip"] = "none"
    domain: Domain = "deeppoly"
    certifier: Certifier = "native"  # who computes it
    tf32: bool = False  # whether a GPU may round the factors of float32 products to 10 bits, in training

    validation_images: int = 0  # the last so many training images are evaluated after each epoch, and not trained on
    patience: int | None = None  # stop after so many epochs without a better one on the validation images
    evaluate_every: int = 1  # epochs from one evaluation to the next; the last epoch always has one
    train_images: int | None = None  # the first so many; None is all
    test_images: int | None = None
    certified_images: int | None = None  # test images certified at the end
    certified_domains: tuple[Domain, ...] = ("deeppoly",)
    autoattack_images: int = 0  # test images attacked by AutoAttack at the end

    def __post_init__(self) -> None:
        check_types(self)
        check_name(self.setting, key="setting")
        for key, least, most in _OWN_COUNTS:
            value = getattr(self, key)
            if value is not None:
                check_count(value, key=key, least=least, most=most)
        for key in ("eps", "alpha"):
            check_radius(getattr(self, key), key=key)
        check_split(self)
        check_settings(self, split_every=self.split_every, split=self.split)
        parse_method(self.method)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.augment != "none" and self.dataset in KNOWN and not KNOWN[self.dataset].mirror_keeps_class:
            raise SoftadvError(f"augment: {self.augment!r} is not for {self.dataset}, a flipped digit is another digit")
        if self.patience is not None and not self.validation_images:
            raise SoftadvError("patience: stopping early needs validation_images")
        if self.domain not in CERTIFIER_DOMAINS[self.certifier]:
            raise SoftadvError(f"certifier: {self.certifier} does not compute the domain {self.domain}")
        for domain in self.certified_domains:
            if domain not in get_args(Domain):
                raise SoftadvError(f"certified_domains: unknown domain {domain!r}")

    @property
    def name(self) -> str:
        """The name of the trial's folder, unique within a grid."""
        method = re.sub(r"[^A-Za-z0-9._-]+", "-", self.method.replace("/", "of").replace("=", "")).strip("-")
        return f"{self.setting}-{method}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Trials that belong together: the name of their run folder and of their expectations."""

    name: str
    description: str
    trials: tuple[Trial, ...]

    def select(
        self,
        *,
        methods: Sequence[str] | None = None,
        seeds: int | None = None,
        epochs: int | None = None,
        certifier: Certifier | None = None,
    ) -> Grid:
        """The grid with only some methods, with seeds 0..seeds-1, with other epochs, with another certifier of
        the domain it computes. None changes nothing."""
        trials = list(self.trials)
        if methods is not None:
            there = list(dict.fromkeys(trial.method for trial in trials))
            for method in methods:
                if method not in there and method not in METHODS:
                    raise SoftadvError(f"methods: unknown method {method!r}, expected one of {', '.join(there)}")
            trials = [trial for trial in trials if trial.method in methods]
            if not trials:
                raise SoftadvError(f"methods: grid {self.name} has no trial of {', '.join(methods) or 'no method'}")
        if seeds is not None:
            check_count(seeds, key="seeds", least=1, most=MOST_SEEDS)
            once: dict[tuple[str, str], Trial] = {}
            for trial in trials:  # whatever seeds of its own a setting has
                once.setdefault((trial.setting, trial.method), trial)
            trials = [replace(trial, seed=seed) for seed in range(seeds) for trial in once.values()]
        if epochs is not None:
            trials = [replace(trial, epochs=epochs) for trial in trials]
        if certifier is not None:
            trials = [_certified_with(trial, certifier) for trial in trials]
        return replace(self, trials=tuple(trials))


def _certified_with(trial: Trial, certifier: Certifier) -> Trial:
    computes = CERTIFIER_DOMAINS[certifier]
    domain = trial.domain if trial.domain in computes else computes[0]
    domains = trial.certified_domains if domain in trial.certified_domains else (*trial.certified_domains, domain)
    return replace(trial, certifier=certifier, domain=domain, certified_domains=domains)


def packaged_grids() -> list[str]:
    """The names of the grids that come with softadv."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in resources.files("softadv.experiments.grids").iterdir()
        if file.name.endswith(".toml")
    )


def load_grid(name: str) -> Grid:
    """Read a packaged grid by name, or a TOML file by path.

    Raises SoftadvError naming the file and the key for whatever is missing, unknown or out of range.
    """
    if name in packaged_grids():
        text = (resources.files("softadv.experiments.grids") / f"{name}.toml").read_text(encoding="utf-8")
        return parse_grid(text, source=f"grid {name}")
    path = Path(name)
    if path.suffix != ".toml":
        raise SoftadvError(
            f"grid: no grid is named {name!r}; there are {', '.join(packaged_grids())}, or name a .toml file"
        )
    return parse_grid(read_text(path), source=str(path))


def parse_grid(text: str, *, source: str) -> Grid:
    """Read a grid from TOML.

    Either `include`, a list of packaged grids whose trials it joins, or `methods`, `seeds`, `[defaults]`
    and one `[[setting]]` or more, whose keys win over the defaults, and which may name methods and seeds of their own;
    `name` and `description` in both.
    Trials come in the order settings, seeds, methods, so that an interrupted grid has whole
    comparisons first.
    """
    table = parse_toml(text, where=source)
    refuse_unknown(table, {"name", "description", "include", "methods", "seeds", "defaults", "setting"}, where=source)
    name = _take(table, "name", str, where=source)
    check_name(name, key=f"{source}: name")
    description = _take({"description": "", **table}, "description", str, where=source)
    trials = _included(table, source=source) if "include" in table else _trials(table, source=source)
    if not trials:
        raise SoftadvError(f"{source}: no trials: needs at least one method, one seed and one setting")
    names = [trial.name for trial in trials]
    for trial_name in names:
        if names.count(trial_name) > 1:
            raise SoftadvError(f"{source}: two trials are named {trial_name}")
    return Grid(name=name, description=description, trials=tuple(trials))


def _included(table: Mapping[str, Any], *, source: str) -> list[Trial]:
    refuse_unknown(table, {"name", "description", "include"}, where=f"{source}: a grid with include")
    trials: list[Trial] = []
    for other in _take(table, "include", list, where=source):
        if other not in packaged_grids():
            raise SoftadvError(f"{source}: include: no packaged grid is named {shown(other)}")
        trials += load_grid(other).trials
    return trials


def _trials(table: Mapping[str, Any], *, source: str) -> list[Trial]:
    methods = _take(table, "methods", list, where=source)
    seeds = _take(table, "seeds", list, where=source)
    defaults = _take({"defaults": {}, **table}, "defaults", dict, where=source)
    _refuse_without_effect(defaults, where=f"{source}: defaults")
    trials = []
    settings = _take(table, "setting", list, where=source)
    for index, setting in enumerate(settings):
        if not isinstance(setting, dict):
            raise SoftadvError(f"{source}: setting {index} must be a table, got {shown(setting)}")
        where = f"{source}: setting {shown(setting.get('setting', index))}"
        _refuse_without_effect(setting, where=where)
        its_methods = _take({"methods": methods, **setting}, "methods", list, where=where)
        its_seeds = _take({"seeds": seeds, **setting}, "seeds", list, where=where)
        keys = {key: value for key, value in setting.items() if key not in ("methods", "seeds")}
        table_of_setting = {**defaults, **keys}
        for seed in its_seeds:
            for method in its_methods:
                trials.append(trial_from_table({**table_of_setting, "seed": seed, "method": method}, where=where))
        own = [trial for trial in trials if trial.setting == setting.get("setting")]
        _refuse_unused(setting, own, where=where)
    for key in defaults:
        if settings and all(key in setting for setting in settings):
            raise SoftadvError(f"{source}: defaults: {key}: has no effect, every setting has its own")
    _refuse_unused(defaults, trials, where=f"{source}: defaults")
    return trials


def trial_from_table(table: Mapping[str, Any], *, where: str) -> Trial:
    """A Trial from the keys of TOML or JSON; eps and alpha may be fractions such as "8/255"."""
    refuse_unknown(table, {field.name for field in fields(Trial)}, where=where)
    values = dict(table)
    for key in ("eps", "alpha"):
        if key in values:
            values[key] = number(values[key], key=f"{where}: {key}")
    for key in ("certified_domains", "schedule_epochs"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    for key in ("lr", "momentum", "weight_decay", "schedule_factor", "clip_gradients", "split_share"):
        if type(values.get(key)) is int:
            values[key] = number(values[key], key=f"{where}: {key}")
    missing = [f.name for f in fields(Trial) if f.name not in values and f.name in _REQUIRED]
    if missing:
        raise SoftadvError(f"{where}: {missing[0]} is missing")
    try:
        return Trial(**values)
    except SoftadvError as error:
        raise SoftadvError(f"{where}: {error}") from error


def trial_to_table(trial: Trial) -> dict[str, Any]:
    """The keys of a trial as JSON takes them; trial_from_table reads them back."""
    lists = {key: list(getattr(trial, key)) for key in ("certified_domains", "schedule_epochs")}
    return asdict(trial) | lists


def check_name(text: str, *, key: str) -> None:
    """Raise SoftadvError for what cannot name a folder everywhere: `..`, a separator, more than 100 characters."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text) is None:
        raise SoftadvError(f"{key}: {shown(text)} is not a name of at most 100 letters, digits, '.', '_' and '-'")


def _refuse_without_effect(table: Mapping[str, Any], *, where: str) -> None:
    for key, instead in (("seed", "seeds"), ("method", "methods")):
        if key in table:
            raise SoftadvError(f"{where}: {key}: has no effect here; name {instead} above the settings")


# For keys without an effect on every trial: what they need, and a test of it.
_NEEDS: dict[str, tuple[str, Callable[[Trial], bool]]] = {
    "momentum": ('optimizer = "sgd"', lambda trial: trial.optimizer == "sgd"),
    "schedule_factor": ('schedule = "steps"', lambda trial: trial.schedule == "steps"),
    "split_share": ('split = "rolling"', lambda trial: trial.split == "rolling"),
}


def _refuse_unused(table: Mapping[str, Any], trials: Sequence[Trial], *, where: str) -> None:
    """Raise SoftadvError for a key that has no effect on any of the given trials."""
    for key, (needed, has) in _NEEDS.items():
        if key in table and trials and not any(map(has, trials)):
            raise SoftadvError(f"{where}: {key}: has no effect without {needed}")


# Of the keys that count, beside those that the training loop is told: the least and the most.
_OWN_COUNTS = (
    ("steps", 1, MOST_STEPS),
    ("split_every", 1, MOST_EPOCHS),
    ("validation_images", 0, MOST_IMAGES),
    ("train_images", 1, MOST_IMAGES),
    ("test_images", 1, MOST_IMAGES),
    ("certified_images", 1, MOST_IMAGES),
    ("autoattack_images", 0, MOST_IMAGES),
)
COUNTS = (*training.COUNTS, *_OWN_COUNTS)

_REQUIRED = {"setting", "dataset", "method", "seed", "eps", "alpha", "steps", "epochs"}


def refuse_unknown(table: Mapping[str, Any], known: set[str], *, where: str) -> None:
    """Raise SoftadvError for the first key of a table that is not a known one."""
    for key in table:
        if key not in known:
            raise SoftadvError(f"{where}: unknown key {shown(key)}; known are {', '.join(sorted(known))}")


def _take(table: Mapping[str, Any], key: str, kind: type, *, where: str) -> Any:
    if key not in table:
        raise SoftadvError(f"{where}: {key} is missing")
    if not isinstance(table[key], kind):
        raise SoftadvError(f"{where}: {key} must be a {kind.__name__}, got {shown(table[key])}")
    return table[key]
