"""The command line: parses, calls, prints; no work of its own.

Exit codes: 0 done and every expectation holds; 1 an expectation or a trial failed; 2 bad input;
130 interrupted.
"""

from __future__ import annotations

import io
import shlex
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from softadv import environment, output
from softadv.attacks import Attack, make_attack
from softadv.certify import DOMAINS, Domain
from softadv.claims import Verdict, expected_folder, judge
from softadv.data import ImageData, load_dataset
from softadv.display import Display
from softadv.doctor import examine
from softadv.entries import read_entries
from softadv.errors import SoftadvError
from softadv.evaluation import attack_images, certified_accuracy, natural_accuracy
from softadv.evidence import finished_runs
from softadv.export import check_parity, export_onnx
from softadv.grid import grid_command, grid_name, prepare, run_grid
from softadv.models import IMAGE_SHAPES
from softadv.partition import partition
from softadv.progress import ATTACK_COST, CERTIFICATION_COST, stage
from softadv.runs import MODEL, RunFolder, delete_run, write_tensors
from softadv.saved import Saved, load_saved
from softadv.spec import Trial, load_grid, number, packaged_grids, trial_from_table
from softadv.trial import attack_of, expected_work, run_trial

app = typer.Typer(
    help="Soft adversarial training: certify the training set, attack only what is not verified.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130  # what Typer makes of Ctrl-C

Model = Annotated[Path, typer.Argument(help="A run folder, or a .safetensors file of weights.", show_default=False)]
GridFolder = Annotated[
    Path, typer.Argument(help="The folder of a grid's runs, such as runs/smoke.", show_default=False)
]
DataRoot = Annotated[
    Path | None, typer.Option("--data", help="Folder that holds the datasets; else SOFTADV_DATA, ./data, a download.")
]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="digits, mnist or cifar10, if the weights file does not say.")
]
EpsText = Annotated[str | None, typer.Option("--eps", help="Radius as a number or a fraction, such as 2/255.")]
AlphaText = Annotated[str | None, typer.Option("--alpha", help="Step size of the attack, such as 0.01.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the attack.", min=1)]
AttackName = Annotated[
    str | None, typer.Option("--attack", help="pgd, or torchattacks:NAME such as torchattacks:AutoAttack.")
]
DomainName = Annotated[str | None, typer.Option("--domain", help=f"{', '.join(DOMAINS)}; else the run's own.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first so many test images.", min=1)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the attack's random start.", min=0)]
Expected = Annotated[
    Path | None, typer.Option("--expected", help="Folder of expected results; else the checkout's expected_results.")
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error that the user can mend is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a tick that a terminal cannot show is no reason to stop
    try:
        code = app(arguments, standalone_mode=False)
    except typer.TyperException as error:
        output.complain(f"{' '.join(error.format_message().split())} (see --help)")
        code = 2
    except SoftadvError as error:
        output.complain(str(error))
        code = 2
    if code == _INTERRUPTED:
        output.complain("interrupted; given again, reproduce and train go on from the last finished epoch")
    sys.exit(code or 0)


@app.command()
def reproduce(
    grid: Annotated[
        str, typer.Argument(help=f"A grid's name ({', '.join(packaged_grids())}), or a TOML file.")
    ] = "smoke",
    data: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; else runs/GRID.")] = None,
    device: DeviceName = "auto",
    seeds: Annotated[int | None, typer.Option(help="Run seeds 0 to N-1 instead of the grid's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Train this many epochs instead of the grid's.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these, such as natural,soft.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what is there instead of resuming.")] = False,
    expected: Expected = None,
) -> int:
    """Run a grid, compare it with the expected results, and write the report.

    An interrupted grid goes on where it stopped when the same command is given again.
    """
    wanted = None if methods is None else [method.strip() for method in methods.split(",")]
    chosen = load_grid(grid).select(methods=wanted, seeds=seeds, epochs=epochs)
    folder = out or Path("runs") / chosen.name
    expected = expected or expected_folder()
    judge([], grid=chosen.name, expected=expected)  # a fault in these files is found before hours of work
    options = {"--data": data, "--out": out, "--seeds": seeds, "--epochs": epochs, "--methods": methods}
    given = [str(part) for option, value in options.items() if value is not None for part in (option, value)]
    where = environment.pick_device(device)
    prepared = prepare(
        chosen, folder=folder, data_root=data, device=where, fresh=fresh,
        command=shlex.join(["./reproduce.sh", grid, *given]),
    )  # fmt: skip
    output.say(f"{chosen.name}: {len(chosen.trials)} trials on {environment.device_name(where)}, into {folder}")
    with Display(output.console(), work=prepared.work) as display:
        ran = run_grid(prepared, report=display.advance)
    code = _conclude(folder, expected)
    for message in ran.refused.values():
        output.complain(message)
    return 2 if ran.refused else code


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="The run folder to make.", show_default=False)],
    dataset: Annotated[str, typer.Option(help="digits, mnist or cifar10.")] = "digits",
    method: Annotated[str, typer.Option(help="natural, adversarial or soft.")] = "soft",
    eps: Annotated[str, typer.Option(help="Radius as a number or a fraction, such as 2/255.")] = "0.1",
    alpha: Annotated[str, typer.Option(help="Step size of the attack.")] = "0.01",
    steps: Annotated[int, typer.Option(help="Steps of the attack.")] = 20,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other key of a grid file, such as batch_size=32."),
    ] = None,
    data: DataRoot = None,
    device: DeviceName = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what is there instead of resuming.")] = False,
) -> None:
    """Train one model, resuming an interrupted run."""
    table: dict[str, Any] = {
        "setting": dataset, "dataset": dataset, "method": method, "seed": seed, "eps": eps, "alpha": alpha,
        "steps": steps, "epochs": epochs,
    }  # fmt: skip
    trial = trial_from_table(table | _parse_settings(settings or []), where="train")
    attack_of(trial)  # before anything is written
    where = environment.pick_device(device)
    images = load_dataset(trial.dataset, data).first(train=trial.train_images, test=trial.test_images).to(where)
    if fresh:
        delete_run(out, mark="spec.json")
    with Display(output.console(), work=expected_work(trial, images)) as display:
        result = run_trial(trial, run=RunFolder(out), data=images, report=display.of(trial.name))
    output.show_result(result, out)


@app.command()
def evaluate(
    model: Model,
    data: DataRoot = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    alpha: AlphaText = None,
    steps: Steps = None,
    attack: AttackName = None,
    domain: DomainName = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
) -> None:
    """Natural, adversarial and certified accuracy of a model on test images.

    What is not given is taken from the run folder's spec.
    """
    saved, images = _load(model, dataset=dataset, data=data, limit=limit, device=device)
    radius = _radius(saved, eps)
    name, run_attack = _attack(saved, attack=attack, eps=radius, alpha=alpha, steps=steps)
    x, y = images.test_x, images.test_y
    chosen = _domain(saved, domain)
    cost = CERTIFICATION_COST[chosen]
    with Display(output.console(), work=(ATTACK_COST + cost) * len(x)) as display:
        attacked = attack_images(
            saved.model, x, y, attack=run_attack, generator=torch.Generator(x.device).manual_seed(seed),
            on_progress=stage(display.of(str(model)), "attacking", cost=ATTACK_COST),
        )  # fmt: skip
        certified = certified_accuracy(
            saved.model, x, y, eps=radius, domain=chosen,
            on_progress=stage(display.of(str(model)), "certifying", cost=cost),
        )  # fmt: skip
    rows = {
        "natural accuracy": f"{natural_accuracy(saved.model, x, y):.2%}",
        f"adversarial accuracy ({name})": f"{natural_accuracy(saved.model, attacked, y):.2%}",
        f"certified accuracy ({certified.domain})": f"{certified.accuracy:.2%}",
    }
    output.show_figures(f"{model}: {len(x):,} test images of {saved.dataset}, eps {radius:g}", rows)


@app.command()
def certify(
    model: Model,
    data: DataRoot = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    domain: DomainName = None,
    limit: Limit = None,
    device: DeviceName = "auto",
) -> None:
    """Split test images into misclassified, unverified and verified."""
    saved, images = _load(model, dataset=dataset, data=data, limit=limit, device=device)
    radius, chosen = _radius(saved, eps), _domain(saved, domain)
    x, y = images.test_x, images.test_y
    started = time.perf_counter()
    with Display(output.console(), work=len(x)) as display:
        progress = stage(display.of(str(model)), f"certifying with {chosen}", cost=1)
        split = partition(saved.model, x, y, eps=radius, domain=chosen, on_progress=progress)
    seconds = time.perf_counter() - started
    counts = {part: int(getattr(split, part).sum()) for part in ("misclassified", "unverified", "verified")}
    rows = {part: f"{count:,} ({count / len(x):.2%})" for part, count in counts.items()}
    proven = len(x) - counts["misclassified"]  # the others are not certified at all
    rows["speed"] = f"{proven / seconds:.0f} images/s"
    output.show_figures(f"{model}: {len(x):,} test images of {saved.dataset}, {chosen}, eps {radius:g}", rows)


@app.command()
def attack(
    model: Model,
    data: DataRoot = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    alpha: AlphaText = None,
    steps: Steps = None,
    name: AttackName = None,
    limit: Limit = None,
    seed: Seed = 0,
    save: Annotated[
        Path | None, typer.Option(help="Write images, attacked images and labels here (safetensors).")
    ] = None,
    device: DeviceName = "auto",
) -> None:
    """Attack test images, and keep what was found."""
    if save is not None and not save.parent.is_dir():
        raise SoftadvError(f"--save {save}: {save.parent} is not a folder")
    saved, images = _load(model, dataset=dataset, data=data, limit=limit, device=device)
    radius = _radius(saved, eps)
    chosen, run_attack = _attack(saved, attack=name, eps=radius, alpha=alpha, steps=steps)
    x, y = images.test_x, images.test_y
    with Display(output.console(), work=len(x)) as display:
        attacked = attack_images(
            saved.model, x, y, attack=run_attack, generator=torch.Generator(x.device).manual_seed(seed),
            on_progress=stage(display.of(str(model)), "attacking", cost=1),
        )  # fmt: skip
    if save is not None:
        write_tensors(save, {"image": x, "attacked": attacked, "label": y})
    rows = {
        "natural accuracy": f"{natural_accuracy(saved.model, x, y):.2%}",
        f"adversarial accuracy ({chosen})": f"{natural_accuracy(saved.model, attacked, y):.2%}",
        "largest change of a pixel": f"{float((attacked - x).abs().max()):.6g}",
    }
    if save is not None:
        rows["written to"] = str(save)
    output.show_figures(f"{model}: {len(x):,} test images of {saved.dataset}, eps {radius:g}", rows)


@app.command()
def export(
    model: Model,
    out: Annotated[Path | None, typer.Option(help="The file to write; else model.onnx beside the weights.")] = None,
    data: DataRoot = None,
    dataset: DatasetName = None,
    limit: Limit = 1000,
) -> None:
    """Write a model as ONNX, and compare it with PyTorch in onnxruntime on test images."""
    saved, images = _load(model, dataset=dataset, data=data, limit=limit, device="cpu")
    path = out or (model if model.is_dir() else model.parent) / MODEL
    export_onnx(saved.model, path, image_shape=IMAGE_SHAPES[saved.dataset])
    parity = check_parity(saved.model, path, images.test_x)
    rows = {
        "largest difference of an output": f"{parity.largest_difference:.1e}",
        "classes equal": "yes" if parity.classes_equal else "no",
        "test images": f"{parity.images:,}",
    }
    output.show_figures(str(path), rows)


@app.command()
def compare(folder: GridFolder, expected: Expected = None) -> int:
    """Say claim by claim what holds, from a run folder alone."""
    return _conclude(folder, expected or expected_folder())


@app.command()
def report(folder: GridFolder, expected: Expected = None) -> None:
    """Write the report's page and figures, from a run folder alone."""
    runs = finished_runs(read_entries(folder))
    verdicts = judge(runs, grid=grid_name(folder), expected=expected or expected_folder())
    output.say(f"Report: {_write_report(folder, verdicts)}")


@app.command()
def doctor(data: DataRoot = None) -> None:
    """What this machine has: Python, torch, device, data, ERAN; with advice for each thing missing."""
    output.show_findings(examine(data))


def _conclude(folder: Path, expected: Path) -> int:
    """Compare, report, and print the verdicts; 1 when an expectation or a trial failed."""
    entries = read_entries(folder)
    verdicts = judge(finished_runs(entries), grid=grid_name(folder), expected=expected)
    output.show_verdicts(verdicts, report=_write_report(folder, verdicts))
    lost = [entry for entry in entries if entry.state in ("failed", "unreadable")]
    for entry in lost:
        output.complain(f"{entry.name} {entry.state}: {entry.note}; see {entry.folder.path}")
    return int(bool(lost) or any(verdict.outcome == "fails" for verdict in verdicts))


def _write_report(folder: Path, verdicts: Sequence[Verdict]) -> Path:
    from softadv.report import write_report  # noqa: PLC0415 (brings matplotlib, which most commands do without)

    return write_report(folder, verdicts=verdicts, title=grid_name(folder), command=grid_command(folder))


def _load(
    model: Path, *, dataset: str | None, data: Path | None, limit: int | None, device: str
) -> tuple[Saved, ImageData]:
    where = environment.pick_device(device)
    saved = load_saved(model, dataset=dataset, device=where)
    images = load_dataset(saved.dataset, data)
    return saved, images.first(test=None if limit is None else min(limit, len(images.test_x))).to(where)


def _radius(saved: Saved, given: str | None) -> float:
    if given is not None:
        return number(given, key="--eps")
    return _of_trial(saved, "--eps").eps


def _domain(saved: Saved, given: str | None) -> Domain:
    if given is None:
        return saved.trial.domain if saved.trial is not None else "deeppoly"
    for domain in DOMAINS:
        if domain == given:
            return domain
    raise SoftadvError(f"--domain: unknown name {given!r}, expected one of {', '.join(DOMAINS)}")


def _attack(
    saved: Saved, *, attack: str | None, eps: float, alpha: str | None, steps: int | None
) -> tuple[str, Attack]:
    """The attack that was asked for; what was not given is the trial's."""
    name = attack or (saved.trial.attack if saved.trial is not None else "pgd")
    size = _of_trial(saved, "--alpha").alpha if alpha is None else number(alpha, key="--alpha")
    count = _of_trial(saved, "--steps").steps if steps is None else steps
    start = saved.trial is None or saved.trial.random_start
    return name, make_attack(name, eps=eps, alpha=size, steps=count, random_start=start)


def _of_trial(saved: Saved, option: str) -> Trial:
    if saved.trial is None:
        raise SoftadvError(f"{option} is needed, since a weights file has no spec to take it from")
    return saved.trial


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    """KEY=VALUE with the values of TOML; a bare word is a string."""
    parsed: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise SoftadvError(f"--set: expected KEY=VALUE, got {text!r}")
        try:
            parsed[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed[key] = value
    return parsed
