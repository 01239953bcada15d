"""The command line: parses, calls, prints; no work of its own.

Exit codes: 0 done and every expectation holds; 1 an expectation or a trial failed; 2 bad input;
130 interrupted.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from softadv import environment, output
from softadv._io import tensors_sha256, write_tensors
from softadv.arguments import (
    AlphaText,
    AskAutoattack,
    AttackName,
    CertifierName,
    DataRoot,
    DatasetName,
    DeviceName,
    DomainName,
    Epochs,
    EpsText,
    Expected,
    FinishedFolder,
    Fresh,
    FromWeights,
    GridCertifier,
    GridFolder,
    GridName,
    GridOut,
    Limit,
    Methods,
    Model,
    OtherImages,
    PageOut,
    ReferenceFolder,
    Seed,
    Seeds,
    Steps,
    chosen_attack,
    chosen_certifier,
    chosen_radius,
    given_command,
    load,
    load_for_test,
    parse_settings,
)
from softadv.certifiers import Asked
from softadv.certify import Rounding
from softadv.claims import expected_folder, judge
from softadv.closing import close, verdicts_on, write_page
from softadv.data import load_dataset
from softadv.display import Display
from softadv.doctor import examine
from softadv.entries import read_entries
from softadv.eran import ENGINES
from softadv.errors import SoftadvError
from softadv.evaluation import attack_images, certified_accuracy, natural_accuracy
from softadv.export import check_parity, export_onnx
from softadv.from_weights import evaluate_grid, stored_trials
from softadv.grid import prepare, run_grid
from softadv.keeping import keep as keep_runs
from softadv.models import IMAGE_SHAPES
from softadv.parity import compare_engines, parity_tables
from softadv.progress import ATTACK_COST, CERTIFICATION_COST, stage
from softadv.reference import REFERENCE, read_reference
from softadv.run_folder import MODEL, RunFolder, delete_run
from softadv.spec import load_grid, trial_from_table
from softadv.training import attack_of
from softadv.trial import expected_work, run_trial
from softadv.verdict_file import answer, check_name, opened
from softadv.verdicts import Question, Split, summarize

app = typer.Typer(
    help="Soft adversarial training: certify the training set, attack only what is not verified.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130  # what Typer makes of Ctrl-C


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
        output.complain("interrupted; given again, reproduce, train and certify --out go on where they stopped")
    sys.exit(code or 0)


@app.command()
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
    expected: Expected = None,
) -> int:
    """Run a grid, compare it with the expected results and the reference, and write the report.

    An interrupted grid goes on where it stopped when the same command is given again.
    """
    if (autoattack or other_images) and not from_weights:
        raise SoftadvError(
            "--autoattack and --other-images are for --from-weights; where a grid trains, it says it all"
        )
    wanted = None if methods is None else [method.strip() for method in methods.split(",")]
    chosen = load_grid(grid).select(methods=wanted, seeds=seeds, epochs=epochs, certifier=certifier)
    expected = expected or expected_folder()
    judge([], grid=chosen.name, expected=expected)  # a fault in these files is found before hours of work
    records = read_reference(expected / REFERENCE, grid=chosen.name)
    options = {
        "--data": data, "--out": out, "--seeds": seeds, "--epochs": epochs, "--methods": methods,
        "--certifier": certifier, "--from-weights": from_weights, "--autoattack": autoattack,
        "--other-images": other_images,
    }  # fmt: skip
    where = environment.pick_device(device)
    stored = None
    if from_weights:
        stored = stored_trials(chosen, records, data_root=data, autoattack=autoattack, other_images=other_images)
        chosen = stored.grid
    folder = out or Path("runs") / chosen.name
    prepared = prepare(
        chosen, folder=folder, data_root=data, device=where, fresh=fresh,
        command=given_command("./reproduce.sh", grid, options),
    )  # fmt: skip
    count = f"{len(chosen.trials)} trial{'' if len(chosen.trials) == 1 else 's'}"
    output.say(f"{chosen.name}: {count} on {environment.device_name(where)}, into {folder}")
    for line in stored.remarks if stored else ():
        output.say(line)
    with Display(output.console(), work=stored.work(prepared) if stored else prepared.work) as display:
        report = display.advance
        ran = evaluate_grid(prepared, stored, report=report) if stored else run_grid(prepared, report=report)
    refused = [*ran.refused.values(), *(stored.refused if stored else ())]
    return close(folder, expected=expected, refused=refused)


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
    fresh: Fresh = False,
) -> None:
    """Train one model, resuming an interrupted run."""
    table: dict[str, Any] = {
        "setting": dataset, "dataset": dataset, "method": method, "seed": seed, "eps": eps, "alpha": alpha,
        "steps": steps, "epochs": epochs,
    }  # fmt: skip
    trial = trial_from_table(table | parse_settings(settings or []), where="train")
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
    certifier: CertifierName = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
) -> None:
    """Natural, adversarial and certified accuracy of a model on test images.

    What is not given is taken from the run folder's spec.
    """
    saved, images = load_for_test(model, dataset=dataset, data=data, limit=limit, device=device)
    radius = chosen_radius(saved, eps)
    name, run_attack = chosen_attack(saved, attack=attack, eps=radius, alpha=alpha, steps=steps)
    x, y = images.test_x, images.test_y
    asked, chosen = chosen_certifier(saved, certifier, domain)
    cost = CERTIFICATION_COST[chosen]
    with Display(output.console(), work=(ATTACK_COST + cost) * len(x)) as display:
        attacked = attack_images(
            saved.model, x, y, attack=run_attack, generator=torch.Generator(x.device).manual_seed(seed),
            on_progress=stage(display.of(str(model)), "attacking", cost=ATTACK_COST),
        )  # fmt: skip
        certified = certified_accuracy(
            saved.model, x, y, eps=radius, domain=chosen, engine=asked,
            on_progress=stage(display.of(str(model)), "certifying", cost=cost),
        )  # fmt: skip
    rows = {
        "natural accuracy": f"{natural_accuracy(saved.model, x, y):.2%}",
        f"adversarial accuracy ({name})": f"{natural_accuracy(saved.model, attacked, y):.2%}",
        f"certified accuracy ({certified.domain})": f"{certified.accuracy:.2%}",
        "certified by": certified.certifier,
    }
    output.show_figures(f"{model}: {len(x):,} test images of {saved.dataset}, eps {radius:g}", rows)


@app.command()
def certify(
    model: Model,
    data: DataRoot = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    domain: DomainName = None,
    certifier: CertifierName = None,
    rounding: Annotated[
        Rounding, typer.Option(help="sound: verdicts hold in floating point; none: faster, without that guarantee.")
    ] = "sound",
    limit: Limit = None,
    split: Annotated[Split, typer.Option(help="The images to certify.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Write a row an image here (.csv or .parquet).")] = None,
    fresh: Fresh = False,
    device: DeviceName = "auto",
) -> None:
    """Split images into misclassified, unverified and verified.

    With --out, an interrupted run goes on where it stopped when the same command is given again.
    """
    if out is not None:
        check_name(out)
    saved, images = load(model, dataset=dataset, data=data, device=device)
    chosen, computed = chosen_certifier(saved, certifier, domain)
    radius = chosen_radius(saved, eps)
    x, y = (images.test_x, images.test_y) if split == "test" else (images.train_x, images.train_y)
    x, y = (part[:limit].to(environment.pick_device(device)) for part in (x, y))
    with Asked(chosen) as asked:
        question = Question(
            weights=tensors_sha256(saved.model.state_dict()), dataset=images.name, data=images.fingerprint,
            split=split, eps=radius, domain=computed, rounding=rounding,
            certifier=str(asked.provenance(rounding=rounding)),
        )  # fmt: skip
        file = nullcontext() if out is None else opened(out, question, fresh=fresh)
        with file as there, Display(output.console(), work=len(x)) as display:
            report = display.of(str(model))
            rows = answer(saved.model, x, y, question=question, asked=asked, file=there, report=report)
    about = f"{len(rows):,} {split} images of {images.name}, {computed} by {question.certifier}, eps {radius:g}"
    output.show_certification(f"{model}: {about}", summarize(rows), out=out)


@app.command()
def parity(
    model: Model,
    data: DataRoot = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    images: Annotated[int, typer.Option(help="The first so many test images.", min=1)] = 100,
    seed: Seed = 0,
    device: DeviceName = "auto",
) -> int:
    """Certify the same images by softadv, GPUPoly and ERAN, and attack what any of them verified.

    Fails if a verified image has a counterexample.
    """
    saved, found = load_for_test(model, dataset=dataset, data=data, limit=images, device=device)
    x, y = found.test_x, found.test_y
    with Display(output.console(), work=(len(ENGINES) + 2) * len(x)) as display:
        stages: dict[str, Callable[[int], None]] = {}

        def progress(who: str, done: int) -> None:
            stages.setdefault(who, stage(display.of(str(model)), who, cost=1))(done)

        compared = compare_engines(
            saved.model, x, y, eps=chosen_radius(saved, eps), generator=torch.Generator(x.device).manual_seed(seed),
            on_progress=progress,
        )  # fmt: skip
    for title, rows in parity_tables(compared):
        output.show_figures(title, rows)
    return 0 if compared.passed else 1


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
    saved, images = load_for_test(model, dataset=dataset, data=data, limit=limit, device=device)
    radius = chosen_radius(saved, eps)
    chosen, run_attack = chosen_attack(saved, attack=name, eps=radius, alpha=alpha, steps=steps)
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
    saved, images = load_for_test(model, dataset=dataset, data=data, limit=limit, device="cpu")
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
def compare(folder: FinishedFolder, out: PageOut = None, expected: Expected = None) -> int:
    """Say claim by claim what holds, and whether the reference is met, from a run folder alone."""
    return close(folder, expected=expected or expected_folder(), out=out)


@app.command()
def report(folder: FinishedFolder, out: PageOut = None, expected: Expected = None) -> None:
    """Write the report's page and figures, from a run folder or a reference alone."""
    entries = read_entries(folder)
    expected = expected or expected_folder()
    verdicts = verdicts_on(folder, entries, expected=expected)
    output.say(f"Report: {write_page(folder, entries, verdicts, expected=expected, out=out)}")


@app.command()
def keep(folder: GridFolder, reference: ReferenceFolder = None) -> None:
    """Store a run folder's finished trials as reference results, with the weights of the first seed."""
    output.show_kept(keep_runs(folder, reference=reference or expected_folder() / REFERENCE))


@app.command()
def doctor(data: DataRoot = None) -> None:
    """What this machine has: Python, torch, device, data, ERAN; with advice for each thing missing."""
    output.show_findings(examine(data))
