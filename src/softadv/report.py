"""A grid's run folder as one self-contained HTML page, with its figures as PNG files beside it.

<folder>/report/index.html, accuracy-<setting>.png, partition-<setting>.png, trade-off.png, time.png,
examples.png. Everything comes from the run folder, so a report can be made of any state of a grid.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import jinja2
from matplotlib.figure import Figure

from softadv import figures
from softadv.claims import Verdict
from softadv.errors import SoftadvError
from softadv.figures import DOMAIN_TITLES, METHOD_TITLES, Run, by_method, by_setting
from softadv.runs import (
    EXAMPLES,
    TRACEBACK,
    EpochMetrics,
    Result,
    RunFolder,
    grid_runs,
    read_tensors,
    write_bytes,
    write_text,
)
from softadv.spec import METHODS, Method, Trial, trial_to_table

State = Literal["finished", "unfinished", "failed", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the run folder holds of one trial. trial is None where not even its spec can be read."""

    folder: RunFolder
    state: State
    note: str
    trial: Trial | None = None
    epochs: tuple[EpochMetrics, ...] = ()
    result: Result | None = None

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.folder.path.name


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the page."""

    section: str
    file: str
    title: str
    caption: str
    width: int  # in CSS pixels, so that the text of every figure has the same size
    data: bytes

    @property
    def uri(self) -> str:
        """The PNG as a data: URI."""
        return "data:image/png;base64," + base64.b64encode(self.data).decode()


def write_report(folder: Path, *, verdicts: Sequence[Verdict], title: str, command: str) -> Path:
    """Write the report of a grid's run folder; returns the page's path.

    verdicts: what was decided about each claim, in the order to show. command: what reruns the grid.
    Raises SoftadvError when the folder holds no trial, or the report cannot be written.
    """
    entries = _ordered([read_entry(run) for run in grid_runs(folder)])
    pictures = list(_pictures(entries))
    page = _template().render(
        title=title,
        command=command,
        verdicts=verdicts,
        counts={outcome: sum(v.outcome == outcome for v in verdicts) for outcome in ("holds", "fails", "not run")},
        entries=entries,
        states={state: sum(e.state == state for e in entries) for state in get_args(State)},
        troubled=[entry for entry in entries if entry.note],
        domains=_domains(entries),
        domain_titles=DOMAIN_TITLES,
        method_colours=figures.METHOD_COLOURS,
        groups=_result_groups(entries),
        pictures=pictures,
        specs=[(entry.name, json.dumps(trial_to_table(entry.trial), indent=2)) for entry in entries if entry.trial],
        spec_table=_spec_table(entries),
        environment=_environment(entries),
        data=_data(entries),
    )
    report = folder / "report"
    try:
        report.mkdir(exist_ok=True)
    except OSError as error:
        raise SoftadvError(f"{report}: cannot be made ({error.strerror})") from error
    for picture in pictures:
        write_bytes(report / picture.file, picture.data)
    write_text(report / "index.html", page)
    return report / "index.html"


def read_entry(folder: RunFolder) -> Entry:
    """Read one trial's folder; damaged files make it unreadable, not the whole report."""
    trial = None
    try:
        trial = folder.trial()
        epochs, result = tuple(folder.metrics()), folder.result()
    except SoftadvError as error:
        note = str(error).replace(f"{folder.path}/", "")
        return Entry(folder=folder, state="unreadable", note=note, trial=trial)
    state, note = _state(folder, trial, epochs, result)
    result = result if state == "finished" else None
    return Entry(folder=folder, state=state, note=note, trial=trial, epochs=epochs, result=result)


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    """By setting as in the figures, then method and seed; those without a spec last."""
    settings = list(by_setting([Run(trial=entry.trial, epochs=()) for entry in entries if entry.trial]))

    def key(entry: Entry) -> tuple[int, int, int, str]:
        if entry.trial is None:
            return len(settings), 0, 0, entry.name
        trial = entry.trial
        return settings.index(trial.setting), METHODS.index(trial.method), trial.seed, entry.name

    return sorted(entries, key=key)


def _state(
    folder: RunFolder, trial: Trial, epochs: tuple[EpochMetrics, ...], result: Result | None
) -> tuple[State, str]:
    failure = _last_line(folder.path / TRACEBACK)
    done = f"{len(epochs)} of {trial.epochs} epochs finished"
    if result is not None and len(epochs) < trial.epochs:
        return "unreadable", f"result.json is there, but metrics.json has {done}"
    if result is not None:
        return "finished", f"a later attempt to run it failed: {failure}" if failure else ""
    if failure:
        return "failed", f"{done}; {failure}"
    return "unfinished", done


def _last_line(path: Path) -> str:
    if not path.is_file():
        return ""
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "traceback.txt is empty"


# The results table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method of one setting in the results table; texts are ready to show."""

    method: Method
    title: str
    seeds: str
    accuracies: tuple[str, ...] = ()  # natural, adversarial, then certified by each domain
    verified_share: str = ""
    seconds: tuple[str, ...] = ()  # attack, certification, update


@dataclass(frozen=True, kw_only=True)
class Group:
    """One setting in the results table."""

    title: str
    images: str
    rows: tuple[Row, ...]


def _result_groups(entries: Sequence[Entry]) -> list[Group]:
    known = [Run(trial=entry.trial, epochs=entry.epochs) for entry in entries if entry.trial]
    groups = []
    for setting, runs in by_setting(known).items():
        its_entries = [entry for entry in entries if entry.trial and entry.trial.setting == setting]
        rows = tuple(_row(method, its_entries, _domains(entries)) for method in by_method(runs))
        results = [entry.result for entry in its_entries if entry.result]
        images = _images(results[0]) if results else ""
        groups.append(Group(title=figures.setting_title(runs[0].trial), images=images, rows=rows))
    return groups


def _row(method: Method, entries: Sequence[Entry], domains: Sequence[str]) -> Row:
    asked = [entry for entry in entries if entry.trial and entry.trial.method == method]
    done = [(entry.result, entry.epochs) for entry in asked if entry.result and entry.epochs]
    seeds = str(len(done)) if len(done) == len(asked) else f"{len(done)} of {len(asked)}"
    if not done:
        return Row(method=method, title=method.capitalize(), seeds=seeds)
    results = [result for result, _ in done]
    certified = [[c for result in results if (c := result.certified_by(domain))] for domain in domains]
    shares = [last.verified / result.train_images for result, (*_, last) in done if last.verified is not None]
    return Row(
        method=method,
        title=method.capitalize(),
        seeds=seeds,
        accuracies=(
            _percent([r.natural_accuracy for r in results], images=results[0].test_images),
            _percent([r.adversarial_accuracy for r in results], images=results[0].test_images),
            *(_percent([c.accuracy for c in found], images=found[0].images if found else 0) for found in certified),
        ),
        verified_share=_percent(shares),
        seconds=tuple(
            _seconds([sum(getattr(epoch, f"{part}_seconds") for epoch in epochs) for _, epochs in done])
            for part in ("attack", "certification", "update")
        ),
    )


def _percent(values: Sequence[float], *, images: int = 0) -> str:
    """Mean ± deviation in %, with a second decimal only where so many images carry it."""
    if not values:
        return "\N{EN DASH}"
    decimals = 2 if images >= 10_000 else 1
    mean, deviation = figures.mean_and_deviation([100 * value for value in values])
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def _seconds(values: Sequence[float]) -> str:
    mean, _ = figures.mean_and_deviation(values)
    return f"{mean:,.1f}" if mean < 100 else f"{mean:,.0f}"


def _images(result: Result) -> str:
    text = f"{result.train_images:,} training and {result.test_images:,} test images"
    counts = sorted({c.images for c in result.certified} - {result.test_images})
    return text + (f", certified on the first {counts[0]:,} of these" if counts else "")


def _domains(entries: Sequence[Entry]) -> list[str]:
    used = {c.domain for entry in entries if entry.result for c in entry.result.certified}
    return sorted(used, key=lambda domain: [*DOMAIN_TITLES, domain].index(domain))


# The figures


def _pictures(entries: Sequence[Entry]) -> Iterator[Picture]:
    finished = [Run(trial=e.trial, epochs=e.epochs) for e in entries if e.trial and e.epochs and e.result]
    shown = _shown(entries, finished)
    for setting, runs in by_setting(shown).items():
        yield _picture("accuracy", f"accuracy-{setting}", figures.accuracy_figure(runs), runs, _accuracy_caption(runs))
    for setting, runs in by_setting([r for r in shown if r.epochs[-1].verified is not None]).items():
        figure, caption = figures.partition_figure(runs), _partition_caption(runs)
        yield _picture("partition", f"partition-{setting}", figure, runs, caption)
    if finished:
        caption = "After the last epoch, finished trials only. " + (
            "Small points: seeds. Large points and bars: mean ± standard deviation over them."
            if _has_seeds(finished)
            else "One seed per method, so no spread is shown."
        )
        yield _picture("trade-off", "trade-off", figures.trade_off_figure(finished), finished, caption)
    if shown:
        caption = "Mean over epochs and seeds, wall-clock; comparable between bars that were timed on the same machine."
        yield _picture("time", "time", figures.time_figure(shown), shown, caption)
    yield from _examples(entries)


def _shown(entries: Sequence[Entry], finished: Sequence[Run]) -> list[Run]:
    """The finished runs; for methods of a setting without one, those that have finished an epoch."""
    covered = {(run.trial.setting, run.trial.method) for run in finished}
    begun = [Run(trial=e.trial, epochs=e.epochs) for e in entries if e.trial and e.epochs and not e.result]
    return [*finished, *(run for run in begun if (run.trial.setting, run.trial.method) not in covered)]


def _picture(section: str, stem: str, figure: Figure, runs: Sequence[Run], caption: str) -> Picture:
    short = sorted({METHOD_TITLES[run.trial.method] for run in runs if len(run.epochs) < run.trial.epochs})
    if short:
        caption += f" {' and '.join(short)}: no trial has finished yet, the epochs so far are shown."
    titles = [figures.setting_title(group[0].trial) for group in by_setting(runs).values()]
    return Picture(
        section=section,
        file=f"{stem}.png",
        title="; ".join(titles),
        caption=caption,
        width=round(100 * figure.get_figwidth()),
        data=figures.png(figure),
    )


def _accuracy_caption(runs: Sequence[Run]) -> str:
    parts = []
    for method, same in by_method(runs).items():
        natural, adversarial = (
            figures.per_epoch(same, value)[-1][0]
            for value in (lambda m: 100 * m.natural_accuracy, lambda m: 100 * m.adversarial_accuracy)
        )
        parts.append(f"{METHOD_TITLES[method].lower()} {natural:.1f}% and {adversarial:.1f}%")
    caption = f"Natural and adversarial accuracy after the last epoch: {'; '.join(parts)}."
    if _has_seeds(runs):
        return f"{caption} Lines and bands: mean ± standard deviation over the seeds."
    return f"{caption} One seed."


def _partition_caption(runs: Sequence[Run]) -> str:
    trial = runs[0].trial
    verified = figures.partition_shares(runs)["verified"][-1]
    when = "each epoch" if trial.split_every == 1 else f"every {trial.split_every} epochs"
    certified = (
        f"Certified with {DOMAIN_TITLES[trial.domain]} at the start of {when}; verified at last: {verified:.1f}%."
    )
    return certified + (f" Mean over {len(runs)} seeds." if len(runs) > 1 else " One seed.")


def _has_seeds(runs: Sequence[Run]) -> bool:
    return any(len(same) > 1 for group in by_setting(runs).values() for same in by_method(group).values())


def _examples(entries: Sequence[Entry]) -> Iterator[Picture]:
    """The examples of the first soft trial that has them, else of the last method that does."""
    candidates = [(entry.trial, entry) for entry in entries if entry.trial and entry.result]
    candidates.sort(key=lambda candidate: -METHODS.index(candidate[0].method))  # stable: settings keep their order
    for trial, entry in candidates:
        try:
            tensors, _ = read_tensors(entry.folder.path / EXAMPLES)
            figure = figures.examples_figure(trial, tensors)
        except (SoftadvError, KeyError):
            continue  # another trial's will do, and a page without examples is still a report
        caption = (
            f"The first {len(tensors['image'])} test images, by {entry.name}. Under each image the model's prediction "
            f"(✓ right, ✗ wrong); at the foot, the verdict of {DOMAIN_TITLES[trial.domain]} at ε = "
            f"{figures.fraction(trial.eps)}. The difference attacked minus original is amplified "
            f"{figures.difference_gain(trial)} times around mid-grey."
        )
        yield _picture("examples", "examples", figure, [Run(trial=trial, epochs=entry.epochs)], caption)
        return


# How to rerun


def _spec_table(entries: Sequence[Entry]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The settings, and a row per key of the spec that methods and seeds of a setting share."""
    groups = by_setting([Run(trial=entry.trial, epochs=()) for entry in entries if entry.trial])
    keys = [field.name for field in fields(Trial) if field.name not in ("setting", "method", "seed")]
    rows = [(key, [_joined(_spec_value(run.trial, key) for run in runs) for runs in groups.values()]) for key in keys]
    return list(groups), rows


def _spec_value(trial: Trial, key: str) -> str:
    value = getattr(trial, key)
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value)
    return figures.fraction(value) if key in ("eps", "alpha") else str(value)


def _environment(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    recorded = [entry.result.environment for entry in entries if entry.result]
    keys = dict.fromkeys(key for table in recorded for key in table)
    return [(key, _joined(table[key] for table in recorded if key in table)) for key in keys]


def _data(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """Dataset, source and fingerprint of the images that finished trials ran on."""
    results = [entry.result for entry in entries if entry.result]
    return list(
        dict.fromkeys((figures.DATASET_TITLES[r.trial.dataset], r.data_source, r.data_fingerprint) for r in results)
    )


def _joined(values: Iterator[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("softadv"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
