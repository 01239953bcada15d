"""The commands on one model: evaluate, certify, parity, attack and export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import torch
import typer

from softadv._decimals import percent
from softadv._io import tensors_sha256, write_tensors
from softadv._progress import ATTACK_COST, CERTIFICATION_COST, stage
from softadv._ranges import MOST_IMAGES
from softadv.certify import Domain, Rounding
from softadv.certify.certifiers import CertifierSession, check_certifier
from softadv.certify.domains import Certifier
from softadv.certify.eran import ENGINES
from softadv.certify.onnx import check_against_onnxruntime, check_parity, export_onnx, is_exported
from softadv.certify.per_image import ImageResult, Question, Split, certify_rows, chunk_size, summarize
from softadv.certify.results_file import check_file_name, complete_rows, opened
from softadv.cli import output
from softadv.cli.options import (
    AlphaText,
    AttackName,
    CertifierName,
    DataRoot,
    DatasetName,
    DeviceName,
    DomainName,
    EpsText,
    Fresh,
    Jobs,
    Limit,
    Model,
    ModelName,
    RadiiText,
    RayAddress,
    Seed,
    Steps,
    Threads,
    attack_settings,
    chosen_attack,
    chosen_certifier,
    chosen_radii,
    chosen_radius,
    images_for,
    network_and_images,
    open_saved,
    path_option,
)
from softadv.cli.progress_bar import Display
from softadv.cli.running import ended_by_sigterm
from softadv.cli.targets import ATTACKED, check_target, is_attacked, onnx_of_run
from softadv.errors import SoftadvError
from softadv.experiments.certify_jobs import Sharded
from softadv.experiments.compare_certifiers import compare_engines, parity_tables
from softadv.experiments.executors.choose import Chosen
from softadv.experiments.executors.images import Source
from softadv.experiments.executors.jobs import pinned_threads
from softadv.experiments.load_model import ONNX, known_or_loaded
from softadv.experiments.run_folder import MODEL
from softadv.training.evaluate import certified_curve
from softadv.training.evaluation import attack_images, certified_accuracy, natural_accuracy


def evaluate(
    model: Model,
    data: DataRoot = None,
    network_name: ModelName = None,
    dataset: DatasetName = None,
    eps: RadiiText = None,
    alpha: AlphaText = None,
    steps: Steps = None,
    attack: AttackName = None,
    domain: DomainName = None,
    certifier: CertifierName = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
) -> None:
    """Natural, adversarial and certified accuracy on test images.

    What is not given is the spec's of its trial. Several radii give a curve, without an attack.
    """
    if eps is not None and "," in eps:
        for option, given in (("--attack", attack), ("--alpha", alpha), ("--steps", steps)):
            if given is not None:
                raise SoftadvError(f"{option}: needs one radius; several, --eps {eps}, give a curve without an attack")
        _evaluate_curve(
            model, eps, data=data, name=network_name, dataset=dataset, domain=domain, certifier=certifier, limit=limit,
            device=device,
        )  # fmt: skip
        return
    saved = open_saved(model, dataset=dataset, eps=eps, **attack_settings(attack, alpha=alpha, steps=steps))
    radius = chosen_radius(saved, eps)
    name, run_attack = chosen_attack(saved, attack=attack, eps=radius, alpha=alpha, steps=steps)
    asked, chosen = chosen_certifier(saved, certifier, domain)
    check_certifier(asked)
    network, x, y = network_and_images(saved, name=network_name, data=data, limit=limit, device=device)
    cost = CERTIFICATION_COST[chosen]
    engines: set[str] = set()
    with Display(output.console(), work=(ATTACK_COST + cost) * len(x)) as display:
        attacked = attack_images(
            network, x, y, attack=run_attack, generator=torch.Generator(x.device).manual_seed(seed),
            on_progress=stage(display.of(str(model)), "attacking", cost=ATTACK_COST),
        )  # fmt: skip
        certified = certified_accuracy(
            network, x, y, eps=radius, domain=chosen, engine=asked, on_engine=engines.add,
            on_progress=stage(display.of(str(model)), "certifying", cost=cost),
        )  # fmt: skip
    rows = {
        "natural accuracy": percent(natural_accuracy(network, x, y)),
        f"adversarial accuracy ({name})": percent(natural_accuracy(network, attacked, y)),
        f"certified accuracy ({certified.domain})": percent(certified.accuracy),
        "certified by": certified.certifier,
        **output.computed_by(engines),
    }
    output.show_figures(f"{model}: {len(x):,} test images of {saved.dataset}, eps {radius:g}", rows)


def _evaluate_curve(
    model: Path,
    eps: str,
    *,
    data: Path | None,
    name: str | None,
    dataset: str | None,
    domain: Domain | None,
    certifier: Certifier | None,
    limit: int | None,
    device: str,
) -> None:
    """Print natural accuracy, and certified accuracy at each of several radii."""
    saved = open_saved(model, dataset=dataset)
    radii = chosen_radii(saved, eps)
    asked, chosen = chosen_certifier(saved, certifier, domain)
    check_certifier(asked)
    network, x, y = network_and_images(saved, name=name, data=data, limit=limit, device=device)
    engines: set[str] = set()
    with Display(output.console(), work=None) as display:
        report = display.of(str(model))
        curve = certified_curve(
            network, x, y, eps=list(radii.values()), domain=chosen, engine=asked,
            on_progress=lambda what, done: report(f"certifying at {what}", 0, note=f"{done:,} images"),
            on_engine=engines.add,
        )  # fmt: skip
    rows = {"natural accuracy": percent(natural_accuracy(network, x, y))}
    rows |= {f"certified accuracy ({chosen}), eps {text}": str(curve[radius]) for text, radius in radii.items()}
    rows |= {"certified by": asked, **output.computed_by(engines)}
    output.show_figures(f"{model}: {len(x):,} test images of {saved.dataset}", rows)


def certify(
    model: Model,
    data: DataRoot = None,
    network_name: ModelName = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    domain: DomainName = None,
    certifier: CertifierName = None,
    rounding: Annotated[
        Rounding, typer.Option(metavar="NAME", help="sound, also in floating point, or none.")
    ] = "sound",
    limit: Limit = None,
    split: Annotated[Split, typer.Option(metavar="NAME", help="Which images: train or test.")] = "test",
    out: Annotated[Path | None, path_option("--out", "A row for each image: a .csv or .parquet file.")] = None,
    fresh: Fresh = False,
    device: DeviceName = "auto",
    jobs: Jobs = None,
    threads: Threads = None,
    ray: RayAddress = None,
) -> None:
    """Split images into misclassified, unverified and verified.

    With --out, a stopped run goes on when it is given again.
    """
    if out is not None:
        check_file_name(out)
    elif fresh:
        raise SoftadvError("--fresh: needs --out, whose rows it replaces")
    saved = open_saved(model, dataset=dataset, eps=eps)
    chosen, computed = chosen_certifier(saved, certifier, domain)
    radius = chosen_radius(saved, eps)
    check_certifier(chosen)
    running = Chosen(jobs=jobs, threads=threads, ray=ray)
    here, elsewhere = running.place(device)
    network = saved.model(known_or_loaded(saved.dataset or "", data), device=here, name=network_name)
    images = images_for(saved, data)
    x, y = (images.test_x, images.test_y) if split == "test" else (images.train_x, images.train_y)
    x, y = (part[:limit].to(here) for part in (x, y))
    check_against_onnxruntime(network, x)
    with CertifierSession(chosen) as session:
        question = Question(
            weights=tensors_sha256(network.state_dict()), dataset=images.name, data=images.fingerprint,
            split=split, eps=radius, domain=computed, rounding=rounding,
            certifier=str(session.provenance(rounding=rounding)),
        )  # fmt: skip
        sharded = Sharded(
            saved=saved, model=network_name, certifier=chosen, question=question, count=len(x), device=elsewhere or "",
            source=Source(saved.dataset or "", data, None, None, images.fingerprint),
            size=chunk_size(torch.device(elsewhere or here), session),
        )  # fmt: skip
        file = nullcontext() if out is None else opened(out, question, fresh=fresh)
        with (
            file as there,
            Display(output.console(), work=len(x)) as display,
            ended_by_sigterm(),
            running.opened(elsewhere, lambda _source: images) as (executor, each),
        ):
            report = display.of(str(model))
            engines: set[str] = set()

            def rows_from(start: int) -> Iterator[list[ImageResult]]:
                if executor is not None:
                    return sharded.rows_from(
                        start, executor=executor, threads=each, report=report, on_engine=engines.add
                    )
                return certify_rows(
                    network, x, y, question=question, session=session, start=start, on_engine=engines.add
                )

            with pinned_threads(None if elsewhere else each):
                rows = complete_rows(len(x), rows_from, domain=computed, file=there, report=report)
    about = f"{len(rows):,} {split} images of {images.name}, {computed} by {question.certifier}, eps {radius:g}"
    output.show_certification(f"{model}: {about}", summarize(rows), out=out, engines=engines)


def parity(
    model: Model,
    data: DataRoot = None,
    network_name: ModelName = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    images: Annotated[int, typer.Option(metavar="N", help="The first N test images.", min=1, max=MOST_IMAGES)] = 100,
    seed: Seed = 0,
    device: DeviceName = "auto",
) -> int:
    """Certify the same images by softadv, GPUPoly and ERAN.

    What any of them verified is attacked; fails if a verified image has a counterexample.
    """
    saved = open_saved(model, dataset=dataset, eps=eps)
    radius = chosen_radius(saved, eps)
    network, x, y = network_and_images(saved, name=network_name, data=data, limit=images, device=device)
    with Display(output.console(), work=(len(ENGINES) + 2) * len(x)) as display:
        stages: dict[str, Callable[[int], None]] = {}

        def progress(who: str, done: int) -> None:
            stages.setdefault(who, stage(display.of(str(model)), who, cost=1))(done)

        compared = compare_engines(
            network, x, y, eps=radius, generator=torch.Generator(x.device).manual_seed(seed),
            on_progress=progress,
        )  # fmt: skip
    for title, rows in parity_tables(compared):
        output.show_figures(title, rows)
    return 0 if compared.passed else 1


def attack(
    model: Model,
    data: DataRoot = None,
    network_name: ModelName = None,
    dataset: DatasetName = None,
    eps: EpsText = None,
    alpha: AlphaText = None,
    steps: Steps = None,
    name: AttackName = None,
    limit: Limit = None,
    seed: Seed = 0,
    save: Annotated[Path | None, path_option("--save", "Images, attacked images, labels, as safetensors.")] = None,
    device: DeviceName = "auto",
) -> None:
    """Attack test images, and keep what was found."""
    if save is not None:
        check_target("--save", save, model=model, is_own=is_attacked)
    saved = open_saved(model, dataset=dataset, eps=eps, **attack_settings(name, alpha=alpha, steps=steps))
    radius = chosen_radius(saved, eps)
    chosen, run_attack = chosen_attack(saved, attack=name, eps=radius, alpha=alpha, steps=steps)
    network, x, y = network_and_images(saved, name=network_name, data=data, limit=limit, device=device)
    with Display(output.console(), work=len(x)) as display:
        attacked = attack_images(
            network, x, y, attack=run_attack, generator=torch.Generator(x.device).manual_seed(seed),
            on_progress=stage(display.of(str(model)), "attacking", cost=1),
        )  # fmt: skip
    rows = {
        "natural accuracy": percent(natural_accuracy(network, x, y)),
        f"adversarial accuracy ({chosen})": percent(natural_accuracy(network, attacked, y)),
        "largest change of a pixel": f"{float((attacked - x).abs().max()):.6g}",
    }
    if save is not None:
        write_tensors(save, dict(zip(ATTACKED, (x, attacked, y), strict=True)))
        rows["written to"] = str(save)
    output.show_figures(f"{model}: {len(x):,} test images of {saved.dataset}, eps {radius:g}", rows)


def export(
    model: Model,
    out: Annotated[Path | None, path_option("--out", "The file; else model.onnx beside the weights.")] = None,
    data: DataRoot = None,
    network_name: ModelName = None,
    dataset: DatasetName = None,
    limit: Limit = 1000,
) -> None:
    """Write a model as ONNX, and check it against PyTorch.

    onnxruntime and PyTorch are given the same test images.
    """
    if out is None and model.suffix == ONNX and not model.is_dir():
        raise SoftadvError(f"{model}: --out is needed, since this is an ONNX file already")
    path = out or (model if model.is_dir() else model.parent) / MODEL
    check_target("--out", path, model=model, is_own=is_exported, but=onnx_of_run(model))
    saved = open_saved(model, dataset=dataset)
    network, x, y = network_and_images(saved, name=network_name, data=data, limit=limit, device="cpu")
    natural_accuracy(network, x, y)  # refuses a model whose scores are not finite, before a file is written
    export_onnx(network, path, image_shape=(x.shape[1], x.shape[2], x.shape[3]))
    parity = check_parity(network, path, x)
    rows = {
        "largest difference of an output": f"{parity.largest_difference:.1e}",
        "classes equal": "yes" if parity.classes_equal else "no",
        "test images": f"{parity.images:,}",
    }
    output.show_figures(str(path), rows)
