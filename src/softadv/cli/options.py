"""Options that several commands share, and the values they stand for."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import torch
import typer
from torch import nn

from softadv._ranges import MOST_IMAGES, MOST_SEED, MOST_STEPS, check_radius, number, shown
from softadv.attacks import AtRadius, load_attack, settings_taken
from softadv.certify import Domain
from softadv.certify.domains import CERTIFIER_DOMAINS, Certifier
from softadv.certify.onnx import check_against_onnxruntime
from softadv.cli.ending import Detail
from softadv.data import Dataset, load_dataset
from softadv.errors import SoftadvError
from softadv.experiments.environment import pick_device
from softadv.experiments.expected import expected_folder
from softadv.experiments.load_model import Saved, find_saved, known_or_loaded
from softadv.training.evaluation import AttackAtRadius

_ATTACK = "pgd"  # of weights whose trial nothing says


def _path(text: str) -> Path:
    # Path("") is the working directory: an unset variable in a script would turn that into the run folder.
    if not text:
        raise typer.BadParameter("a path is needed, this is empty")
    if "\0" in text:
        raise typer.BadParameter("the path holds a zero byte")
    try:
        text.encode()  # it goes into records, which are UTF-8
    except UnicodeEncodeError:
        raise typer.BadParameter("the path is not valid UTF-8") from None
    return Path(text)


def path_argument(text: str) -> Any:
    """A required path argument. text: its help."""
    return typer.Argument(help=text, show_default=False, parser=_path)


def path_option(name: str, text: str, *, hidden: bool = False) -> Any:
    """An option that names a path. text: its help."""
    return typer.Option(name, help=text, parser=_path, metavar="PATH", hidden=hidden)


Model = Annotated[Path, path_argument("A run folder, or a .safetensors or .onnx file.")]
GridName = Annotated[
    str,
    typer.Argument(help="A grid (softadv list grids), or a TOML file.", envvar="SOFTADV_GRID", show_envvar=False),
]
GridFolder = Annotated[Path, path_argument("The folder of a grid's runs, such as runs/smoke.")]
FinishedFolder = Annotated[Path, path_argument("A grid's runs, such as runs/smoke, or its reference.")]
OtherFolder = Annotated[
    Path | None,
    typer.Argument(help="Another such folder, to compare with the first.", show_default=False, parser=_path),
]

# An option's help is one line of an 80-column screen. Those that are rarely needed are hidden: a command's help names
# them in its last line, and docs/commands.md explains all.
GridOut = Annotated[Path | None, path_option("--out", "Folder for the runs; else runs/GRID.")]
Seeds = Annotated[int | None, typer.Option("--seeds", metavar="N", help="Run seeds 0 to N-1 instead of the grid's.")]
Epochs = Annotated[
    int | None, typer.Option("--epochs", metavar="N", help="Train N epochs instead of the grid's number.")
]
Methods = Annotated[str | None, typer.Option("--methods", metavar="NAMES", help="Only these, such as natural,soft.")]
GridCertifier = Annotated[
    Certifier | None,
    typer.Option(
        "--certifier",
        metavar="NAME",
        help="Who certifies: native (softadv itself), gpupoly, eran-deeppoly or eran-deepzono.",
        envvar="SOFTADV_CERTIFIER",
        hidden=True,
    ),
]
FromWeights = Annotated[bool, typer.Option("--from-weights", help="Train nothing: evaluate the reference's weights.")]
AskAutoattack = Annotated[
    bool,
    typer.Option(
        "--autoattack", help="With --from-weights: also AutoAttack, which takes long without a GPU.", hidden=True
    ),
]
OtherImages = Annotated[
    bool,
    typer.Option(
        "--other-images", help="With --from-weights: also on images that are not the reference's.", hidden=True
    ),
]
PageOut = Annotated[Path | None, path_option("--out", "Folder for the report; else report/ in the runs' own.")]
ReferenceFolder = Annotated[
    Path | None, path_option("--reference", "Folder of reference results; else the checkout's own.")
]
DataRoot = Annotated[Path | None, path_option("--data", "Data folder; else SOFTADV_DATA, ./data, a download.")]
DeviceName = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="The data set, if the weights do not say.")
]
EpsText = Annotated[str | None, typer.Option("--eps", metavar="X", help="Radius, such as 0.1 or 2/255.")]
RadiiText = Annotated[
    str | None, typer.Option("--eps", metavar="X", help="Radius, or several, such as 0,1/255: a curve.")
]
AlphaText = Annotated[str | None, typer.Option("--alpha", metavar="X", help="Step size of the attack, such as 0.01.")]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Steps of the attack.", min=1, max=MOST_STEPS)]
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The network, if the weights do not say."),
]
AttackName = Annotated[
    str | None, typer.Option("--attack", metavar="NAME", help="pgd, or torchattacks:NAME (softadv list attacks).")
]
DomainName = Annotated[
    Domain | None,
    typer.Option("--domain", metavar="NAME", help="box, deepzono or deeppoly; else the run's, deeppoly."),
]
CertifierName = Annotated[
    Certifier | None,
    typer.Option(
        "--certifier",
        metavar="NAME",
        help="Who certifies: native (softadv itself), gpupoly, eran-deeppoly or eran-deepzono; else the run's own.",
        hidden=True,
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="Only the first N images.", min=1, max=MOST_IMAGES)
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the attack's start.", min=0, max=MOST_SEED)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete what is there instead of resuming.")]
Redo = Annotated[
    list[str] | None,
    typer.Option(
        "--redo",
        metavar="TRIAL",
        help="Delete what is there of this trial alone, and run it again; may be repeated.",
        hidden=True,
    ),
]
AllowDirty = Annotated[bool, typer.Option("--allow-dirty", help="Also trials of uncommitted code.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only the answer, what fails, and the report's path.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say of every claim why it was decided so.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object with verdicts and paths, nothing else.")]
Expected = Annotated[Path | None, path_option("--expected", "Expected results; else softadv's own.", hidden=True)]


Jobs = Annotated[int | None, typer.Option("--jobs", metavar="N", help="Run in N processes side by side.", min=1)]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="CPU threads of each job; else the cores divided by --jobs.",
        min=1,
        hidden=True,
    ),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Run on Ray: local, auto, or a cluster's address.")
]
GpusPerTrial = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-trial",
        metavar="X",
        help="A part of a GPU for each trial, such as 0.5: two on each.",
        hidden=True,
    ),
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Run only the K-th of N parts, into the same folder as the others.",
        hidden=True,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many trials and about how long, and stop.")]


def rarely_needed(command: Callable[..., object]) -> list[str]:
    """The options of a command that its help only names."""
    hints = get_type_hints(command, include_extras=True)
    return [
        f"--{name.replace('_', '-')}"
        for name, hint in hints.items()
        if any(getattr(info, "hidden", False) for info in get_args(hint)[1:])
    ]


def open_saved(path: Path, *, dataset: str | None, **needed: object) -> Saved:
    """The weights named on the command line, with their dataset.

    needed: the command's other required options, such as eps; None for one that was not given.
    Raises SoftadvError for weights that cannot be read; and, naming all at once, for required options that are neither
    given nor recorded in the weights' trial.
    """
    saved = find_saved(path)
    saved = replace(saved, dataset=dataset or saved.dataset)
    options = {"dataset": saved.dataset, **(needed if saved.trial is None else {})}
    missing = [f"--{name}" for name, given in options.items() if given is None]
    if missing:
        listed = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
        verb = "is" if len(missing) == 1 else "are"
        raise SoftadvError(f"{path}: {listed} {verb} needed, since nothing here says what trained these weights")
    return saved


def on_device(saved: Saved, device: str, *, name: str | None = None, data: Path | None = None) -> nn.Module:
    """The model on its device, by its name, or what the weights say. Raises SoftadvError for another's weights."""
    assert saved.dataset is not None
    return saved.model(known_or_loaded(saved.dataset, data), device=pick_device(device), name=name)


def images_for(saved: Saved, data: Path | None) -> Dataset:
    """All images of the dataset, in main memory. May download them, so call it last."""
    assert saved.dataset is not None
    return load_dataset(saved.dataset, data)


def network_and_images(
    saved: Saved, *, name: str | None, data: Path | None, limit: int | None, device: str
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The model, and the first `limit` test images with their labels, all on the device.

    Raises SoftadvError as on_device does, for images that cannot be had, and for an ONNX file that onnxruntime
    evaluates to something else.
    """
    network = on_device(saved, device, name=name, data=data)
    images, where = images_for(saved, data), pick_device(device)
    x, y = images.test_x[:limit].to(where), images.test_y[:limit].to(where)
    check_against_onnxruntime(network, x)
    return network, x, y


def chosen_expected(given: Path | None) -> Path:
    """The given folder of expected results, else softadv's own. Raises SoftadvError where it is no folder."""
    if given is not None and not given.is_dir():
        raise SoftadvError(f"--expected {given}: no such folder")
    return given or expected_folder()


def chosen_detail(*, quiet: bool, verbose: bool, as_json: bool) -> Detail:
    """How much to print. Raises SoftadvError where two of these options are given."""
    if quiet + verbose + as_json > 1:
        raise SoftadvError("--quiet, --verbose and --json: give one of them")
    return "quiet" if quiet else "verbose" if verbose else "json" if as_json else "usual"


def chosen_radius(saved: Saved, given: str | None) -> float:
    """The given radius, else the trial's."""
    if given is None:
        if saved.trial is None:
            raise SoftadvError("--eps is needed")
        return saved.trial.eps
    return check_radius(number(given, key="--eps"), key="--eps")


def chosen_radii(saved: Saved, given: str) -> dict[str, float]:
    """Several radii, given with commas between, by their texts."""
    return {text.strip(): chosen_radius(saved, text) for text in given.split(",")}


def chosen_certifier(saved: Saved, certifier: Certifier | None, domain: Domain | None) -> tuple[Certifier, Domain]:
    """The given certifier and domain, else the trial's. Raises SoftadvError where they do not fit together."""
    own = saved.trial
    asked = certifier or (own.certifier if own is not None else "native")
    computes = CERTIFIER_DOMAINS[asked]
    wanted = domain or (own.domain if own is not None else "deeppoly")
    if domain is None and wanted not in computes:
        wanted = computes[0]
    if wanted not in computes:
        raise SoftadvError(f"--domain {wanted}: {asked} does not compute it")
    return asked, wanted


def chosen_attack(
    saved: Saved, *, attack: str | None, eps: float, alpha: str | None, steps: int | None
) -> tuple[str, AttackAtRadius]:
    """The attack with its radius bound, and its name; settings that are not given are the trial's.

    Raises SoftadvError for a setting that is given and that the attack does not take.
    """
    own = saved.trial
    name = attack or (_ATTACK if own is None else own.attack)
    taken = settings_taken(name)
    for setting, given in (("alpha", alpha), ("steps", steps)):
        if given is not None and setting not in taken:
            raise SoftadvError(f"--{setting} {given}: the attack {shown(name)} has no such setting; leave it out")
    settings: dict[str, Any] = {}
    if own is not None:
        settings = {"alpha": own.alpha, "steps": own.steps, "random_start": own.random_start}
    if alpha is not None:
        settings["alpha"] = check_radius(number(alpha, key="--alpha"), key="--alpha")
    if steps is not None:
        settings["steps"] = steps
    return name, AtRadius(load_attack(name, **settings), eps)


def attack_settings(attack: str | None, *, alpha: str | None, steps: int | None) -> dict[str, object]:
    """Those of the two that weights without a trial need, as open_saved takes them: what their attack can be told."""
    taken = settings_taken(attack or _ATTACK)
    return {name: given for name, given in (("alpha", alpha), ("steps", steps)) if name in taken}


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE with the values of TOML; a bare word is a string."""
    parsed: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise SoftadvError(f"--set: expected KEY=VALUE, got {text!r}")
        try:
            parsed[key] = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):  # a bare word, or a number of thousands of digits
            parsed[key] = value
    return parsed
