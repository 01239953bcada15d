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
from typing import get_args

import jinja2
from matplotlib.figure import Figure

from softadv import figures
from softadv.claims import Verdict
from softadv.entries import Entry, State, read_entries
from softadv.errors import SoftadvError
from softadv.results_table import certified_domains, result_groups
from softadv.runs import EXAMPLES, make_folder, read_tensors, write_bytes, write_text
from softadv.series import (
    DATASET_TITLES,
    DOMAIN_TITLES,
    METHOD_TITLES,
    Series,
    by_method,
    by_setting,
    fraction,
    per_epoch,
    setting_title,
)
from softadv.spec import METHODS, Trial, trial_to_table


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
    entries = read_entries(folder)
    pictures = list(_pictures(entries))
    page = _template().render(
        title=title,
        command=command,
        verdicts=verdicts,
        counts={outcome: sum(v.outcome == outcome for v in verdicts) for outcome in ("holds", "fails", "not run")},
        entries=entries,
        states={state: sum(e.state == state for e in entries) for state in get_args(State)},
        troubled=[entry for entry in entries if entry.note],
        domains=certified_domains(entries),
        domain_titles=DOMAIN_TITLES,
        method_colours=figures.METHOD_COLOURS,
        groups=result_groups(entries),
        pictures=pictures,
        specs=[(entry.name, json.dumps(trial_to_table(entry.trial), indent=2)) for entry in entries if entry.trial],
        spec_table=_spec_table(entries),
        environment=_environment(entries),
        data=_data(entries),
    )
    report = folder / "report"
    make_folder(report)
    for picture in pictures:
        write_bytes(report / picture.file, picture.data)
    write_text(report / "index.html", page)
    return report / "index.html"


def _pictures(entries: Sequence[Entry]) -> Iterator[Picture]:
    finished = [Series(trial=e.trial, epochs=e.epochs) for e in entries if e.trial and e.epochs and e.result]
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


def _shown(entries: Sequence[Entry], finished: Sequence[Series]) -> list[Series]:
    """The finished runs; for methods of a setting without one, those that have finished an epoch."""
    covered = {(run.trial.setting, run.trial.method) for run in finished}
    begun = [Series(trial=e.trial, epochs=e.epochs) for e in entries if e.trial and e.epochs and not e.result]
    return [*finished, *(run for run in begun if (run.trial.setting, run.trial.method) not in covered)]


def _picture(section: str, stem: str, figure: Figure, runs: Sequence[Series], caption: str) -> Picture:
    short = sorted({METHOD_TITLES[run.trial.method] for run in runs if len(run.epochs) < run.trial.epochs})
    if short:
        caption += f" {' and '.join(short)}: no trial has finished yet, the epochs so far are shown."
    titles = [setting_title(group[0].trial) for group in by_setting(runs).values()]
    return Picture(
        section=section,
        file=f"{stem}.png",
        title="; ".join(titles),
        caption=caption,
        width=round(100 * figure.get_figwidth()),
        data=figures.png(figure),
    )


def _accuracy_caption(runs: Sequence[Series]) -> str:
    parts = []
    for method, same in by_method(runs).items():
        natural, adversarial = (
            per_epoch(same, value)[-1][0]
            for value in (lambda m: 100 * m.natural_accuracy, lambda m: 100 * m.adversarial_accuracy)
        )
        parts.append(f"{METHOD_TITLES[method].lower()} {natural:.1f}% and {adversarial:.1f}%")
    caption = f"Natural and adversarial accuracy after the last epoch: {'; '.join(parts)}."
    if _has_seeds(runs):
        return f"{caption} Lines and bands: mean ± standard deviation over the seeds."
    return f"{caption} One seed."


def _partition_caption(runs: Sequence[Series]) -> str:
    trial = runs[0].trial
    verified = figures.partition_shares(runs)["verified"][-1]
    when = "each epoch" if trial.split_every == 1 else f"every {trial.split_every} epochs"
    certified = (
        f"Certified with {DOMAIN_TITLES[trial.domain]} at the start of {when}; verified at last: {verified:.1f}%."
    )
    return certified + (f" Mean over {len(runs)} seeds." if len(runs) > 1 else " One seed.")


def _has_seeds(runs: Sequence[Series]) -> bool:
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
            f"{fraction(trial.eps)}. The difference attacked minus original is amplified "
            f"{figures.difference_gain(trial)} times around mid-grey."
        )
        yield _picture("examples", "examples", figure, [Series(trial=trial, epochs=entry.epochs)], caption)
        return


def _spec_table(entries: Sequence[Entry]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The settings, and a row per key of the spec that methods and seeds of a setting share."""
    groups = by_setting([Series(trial=entry.trial, epochs=()) for entry in entries if entry.trial])
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
    return fraction(value) if key in ("eps", "alpha") else str(value)


def _environment(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    recorded = [entry.result.environment for entry in entries if entry.result]
    keys = dict.fromkeys(key for table in recorded for key in table)
    return [(key, _joined(table[key] for table in recorded if key in table)) for key in keys]


def _data(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """Dataset, source and fingerprint of the images that finished trials ran on."""
    results = [entry.result for entry in entries if entry.result]
    return list(dict.fromkeys((DATASET_TITLES[r.trial.dataset], r.data_source, r.data_fingerprint) for r in results))


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
