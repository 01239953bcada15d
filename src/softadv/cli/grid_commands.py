"""The commands on trials and grids: train, reproduce, compare, report and keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from softadv.claims.judge import judge
from softadv.cli import output
from softadv.cli.finish import close, close_part, verdicts_on, write_grid_page, write_two
from softadv.cli.options import (
    AllowDirty,
    AsJson,
    AskAutoattack,
    DataRoot,
    DeviceName,
    DryRun,
    Epochs,
    Expected,
    FinishedFolder,
    Fresh,
    FromWeights,
    GpusPerTrial,
    GridCertifier,
    GridFolder,
    GridName,
    GridOut,
    Jobs,
    Methods,
    OtherFolder,
    OtherImages,
    PageOut,
    Quiet,
    RayAddress,
    Redo,
    ReferenceFolder,
    Seeds,
    ShardOf,
    Threads,
    Verbose,
    chosen_detail,
    chosen_expected,
    parse_settings,
    path_argument,
)
from softadv.cli.progress_bar import Display
from softadv.cli.running import ended_by_sigterm, say_estimate
from softadv.data import load_dataset
from softadv.errors import SoftadvError
from softadv.experiments import environment
from softadv.experiments.estimate import estimate_time
from softadv.experiments.executors.choose import Chosen
from softadv.experiments.expected import checkout_expected
from softadv.experiments.from_weights import stored_trials
from softadv.experiments.grid import check_redo, prepare
from softadv.experiments.grid_command import given_command
from softadv.experiments.reference import REFERENCE, read_reference
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import run_grid
from softadv.experiments.runs import read_entries
from softadv.experiments.shard import parse_shard
from softadv.experiments.spec import load_grid, trial_from_table
from softadv.experiments.store_reference import keep as keep_runs
from softadv.experiments.train_config import train_config
from softadv.experiments.trial import expected_work, run_trial
from softadv.models import load_model


def reproduce(
    grid: GridName = "smoke",
    data: DataRoot = None,
    out: GridOut = None,
    device: DeviceName = "auto",
    seeds: Seeds = None,
    epochs: Epochs = None,
    methods: Methods = None,
    certifier: GridCertifier = None,
    from_weights: FromWeights = False,
    autoattack: AskAutoattack = False,
    other_images: OtherImages = False,
    fresh: Fresh = False,
    redo: Redo = None,
    expected: Expected = None,
    jobs: Jobs = None,
    threads: Threads = None,
    gpus_per_trial: GpusPerTrial = None,
    ray: RayAddress = None,
    shard: ShardOf = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Run a grid, compare it with what is expected, and report.

    Stopped at any moment, the same command goes on.
    """
    if (autoattack or other_images) and not from_weights:
        raise SoftadvError("--autoattack, --other-images: only with --from-weights; in training the grid decides")
    running = Chosen(jobs=jobs, threads=threads, gpus_per_trial=gpus_per_trial, ray=ray)
    part = None if shard is None else parse_shard(shard)
    if from_weights and (part is not None or dry_run):
        raise SoftadvError("--shard and --dry-run are for training, not for --from-weights")
    detail = chosen_detail(quiet=quiet, verbose=verbose, as_json=as_json)
    if as_json and (dry_run or part is not None):
        raise SoftadvError("--json: prints the verdicts on a whole grid; --dry-run and --shard have none")
    screen = output.console(silent=detail in ("quiet", "json"))
    wanted = None if methods is None else [method.strip() for method in methods.split(",")]
    chosen = load_grid(grid).select(methods=wanted, seeds=seeds, epochs=epochs, certifier=certifier)
    expected = chosen_expected(expected)
    settings = {trial.setting for trial in chosen.trials}
    judge([], grid=chosen.name, settings=settings, expected=expected)  # a fault in these files costs no hours of work
    records = read_reference(expected / REFERENCE, grid=chosen.name)
    options = {
        "--data": data, "--out": out, "--seeds": seeds, "--epochs": epochs, "--methods": methods,
        "--certifier": certifier, "--from-weights": from_weights, "--autoattack": autoattack,
        "--other-images": other_images, "--jobs": jobs, "--threads": threads, "--gpus-per-trial": gpus_per_trial,
        "--ray": ray,
    }  # fmt: skip
    here, elsewhere = running.place(device)
    where = torch.device(elsewhere or here)
    stored = None
    if from_weights:
        stored = stored_trials(chosen, records, data_root=data, autoattack=autoattack, other_images=other_images)
        chosen = stored.grid
    folder = out or Path("runs") / chosen.name
    check_redo(chosen, redo or ())
    if dry_run:
        trials = chosen.trials if part is None else part.of(chosen.trials)
        anew = {trial.name for trial in trials} if fresh else set(redo or ())
        say_estimate(estimate_time(trials, folder=folder, records=records, anew=anew), running=running, device=where)
        return 0
    prepared = prepare(
        chosen, folder=folder, data_root=data, device=here,
        fresh=fresh, redo=redo or (), command=given_command(_program(), grid, options), shard=part,
        elsewhere=elsewhere,
    )  # fmt: skip
    count = f"{len(prepared.trials)} trial{'' if len(prepared.trials) == 1 else 's'}"
    output.say(f"{chosen.name}: {count} on {_machine(running, where)}, into {folder}", on=screen)
    _say_left(prepared.left, on=screen)
    for line in stored.remarks if stored else ():
        output.say(line, on=screen)
    if stored is None:
        say_estimate(
            estimate_time(prepared.trials, folder=folder, records=records), running=running, device=where, on=screen
        )
    work = stored.work(prepared) if stored else prepared.work
    each = {} if stored else prepared.work_of_each
    with (
        Display(screen, work=work, trials=[trial.name for trial in chosen.trials], each=each) as display,
        ended_by_sigterm(),
        running.opened(elsewhere, prepared.images) as (executor, threads_each),
    ):
        ran = run_grid(prepared, report=display.advance, task=stored, executor=executor, threads=threads_each)
    if part is not None:
        return close_part(folder, part, ran)
    refused = ran.refused | (stored.refused if stored else {})
    return close(folder, expected=expected, refused=refused, detail=detail)


def train(
    out: Annotated[Path, path_argument("The run folder to make.")],
    dataset: Annotated[str, typer.Option(metavar="NAME", help="A data set (softadv list datasets).")] = "digits",
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A network (softadv list models).")] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="A method (softadv list methods).")] = "soft",
    eps: Annotated[str, typer.Option(metavar="X", help="Radius, such as 0.1 or 2/255.")] = "0.1",
    alpha: Annotated[str, typer.Option(metavar="X", help="Step size of the attack.")] = "0.01",
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of the attack.")] = 20,
    epochs: Annotated[int, typer.Option(metavar="N", help="Epochs of training.")] = 6,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another key of a grid file: batch_size=32."),
    ] = None,
    data: DataRoot = None,
    device: DeviceName = "auto",
    fresh: Fresh = False,
) -> None:
    """Train one model, resuming an interrupted run."""
    table: dict[str, Any] = {
        "setting": re.sub(r"[^A-Za-z0-9._-]+", "-", dataset).strip("-"),
        "dataset": dataset, "method": method, "seed": seed, "eps": eps, "alpha": alpha,
        "steps": steps, "epochs": epochs,
    } | ({} if model is None else {"model": model})  # fmt: skip
    others = parse_settings(settings or [])
    for key in others.keys() & (table.keys() - {"setting"}):
        raise SoftadvError(f"--set {key}: has an option of its own, --{key}")
    trial = trial_from_table(table | others, where="train")
    train_config(trial)  # before anything is written, as all that may be refused
    where = environment.pick_device(device)
    images = load_dataset(trial.dataset, data).first(train=trial.train_images, test=trial.test_images).to(where)
    load_model(trial.model, images, seed=0)
    run = RunFolder(out)
    if fresh:
        _say_left(run.renew(trial))
    with Display(output.console(), work=expected_work(trial, images)) as display:
        result = run_trial(trial, run=run, data=images, report=display.of(trial.name))
    output.show_result(result, out)


def compare(
    folder: FinishedFolder,
    out: PageOut = None,
    expected: Expected = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Say claim by claim what holds.

    And whether the reference is met; from a run folder alone.
    """
    detail = chosen_detail(quiet=quiet, verbose=verbose, as_json=as_json)
    return close(folder, expected=chosen_expected(expected), out=out, detail=detail)


def report(folder: FinishedFolder, other: OtherFolder = None, out: PageOut = None, expected: Expected = None) -> None:
    """Write the report's page and figures, or, given two folders, a page that compares them.

    From run folders or references alone.
    """
    if other is not None:
        if expected is not None:
            raise SoftadvError(f"--expected {expected}: two folders are compared with each other alone; leave it out")
        output.say(f"Report: {write_two(folder, other, out=out)}")
        return
    entries = read_entries(folder)
    expected = chosen_expected(expected)
    verdicts = verdicts_on(folder, entries, expected=expected)
    output.say(f"Report: {write_grid_page(folder, entries, verdicts, expected=expected, out=out)}")


def keep(folder: GridFolder, reference: ReferenceFolder = None, allow_dirty: AllowDirty = False) -> None:
    """Store a run folder's finished trials as reference results.

    With the weights of the first seed.
    """
    if reference is None:
        own = checkout_expected()
        if own is None:
            raise SoftadvError("--reference is needed where softadv does not run from a checkout")
        reference = own / REFERENCE
    output.show_kept(keep_runs(folder, reference=reference, allow_dirty=allow_dirty))


def _machine(running: Chosen, where: torch.device) -> str:
    return environment.device_name(where) if running.ray is None else f"Ray ({running.ray})"


def _program() -> tuple[str, ...]:
    """The words that reproduce begins with here."""
    return ("softadv", "reproduce") if checkout_expected() is None else ("./reproduce.sh",)


def _say_left(paths: Sequence[Path], *, on: Console | None = None) -> None:
    for path in paths:
        output.say(f"{path}: left as it is, since softadv did not write it", on=on)
