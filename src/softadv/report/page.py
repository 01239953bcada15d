"""A grid's run folder as one self-contained HTML page, with its figures and their numbers as files beside it.

index.html; for each figure NAME.svg and NAME.csv: accuracy-<setting>, verified-<dataset>, partition-<setting>,
trade-off, time, examples; results.csv and results.tex. Everything comes from the run folder, so a report can be made
of any state of a grid. No path of the machine that makes it is on the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import get_args

from softadv._progress import Report, silent
from softadv.claims.judge import Expectations, Verdict
from softadv.experiments.grid_command import portable_command
from softadv.experiments.run_folder import REPORT
from softadv.experiments.runs import Entry, State, all_series, finished_runs, read_entries
from softadv.experiments.spec import Trial, trial_to_table
from softadv.experiments.spec_text import DOMAIN_TITLES, by_setting, spec_value
from softadv.report import commands as rerun
from softadv.report.claims_table import claim_groups
from softadv.report.comparison_plots import comparison_groups
from softadv.report.comparisons import comparisons, mixed_remarks
from softadv.report.costs import cost_groups, own_losses
from softadv.report.figures.gallery import page_figures
from softadv.report.provenance import commit_remarks, source_remarks
from softadv.report.results_files import results_csv, results_tex
from softadv.report.results_table import attack_title, certified_domains, has_autoattack, result_groups
from softadv.report.sensitivity import sensitivities
from softadv.report.summary import QUESTION, WITHOUT_SOFT, answer
from softadv.report.words import in_words, setting_words
from softadv.report.writing import render, write_page


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """How to run one trial again, and what to expect of it."""

    entry: Entry
    command: str
    spec: str


@dataclass(frozen=True, kw_only=True)
class SpecTable:
    """The keys of the specs but method and seed: those that all settings share; a row a setting of the others."""

    shared: tuple[tuple[str, str], ...]
    differing: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def write_report(
    folder: Path,
    *,
    verdicts: Sequence[Verdict],
    title: str,
    command: str,
    expected: Sequence[Expectations] = (),
    notice: str = "",
    out: Path | None = None,
    report: Report = silent,
) -> Path:
    """Write the report of a grid's run folder; returns the page's path.

    verdicts: what was decided about each claim, in the order to show. command: what reruns the grid.
    expected: whose claims the sensitivity table asks of each setting by itself.
    notice: what a reader must know before anything else, such as that nothing was trained.
    out: where the page and its figures go, else report/ in the folder. report: told of each figure that is drawn.
    Raises SoftadvError when the folder holds no trial, or the report cannot be written.
    """
    entries = read_entries(folder)
    words = setting_words(all_series(entries), expected)
    figures = []
    for figure in page_figures(entries, words):
        figures.append(figure)
        report(f"drawing figures: {figure.stem}", 1)
    compared = comparisons(entries)
    question = QUESTION if any(e.trial and e.trial.method == "soft" for e in entries) else WITHOUT_SOFT
    groups, costs = result_groups(entries), cost_groups(entries)
    finished = any(entry.result for entry in entries)
    results = {"results.csv": results_csv(entries), "results.tex": results_tex(groups, entries)} if finished else {}
    page = render(
        "report.html",
        title=title,
        notice=notice,
        question=question,
        answer=answer(compared, question=question),
        claims=claim_groups(verdicts, words),
        comparisons=comparison_groups(compared, words),
        command=portable_command(command),
        entries=entries,
        states={state: sum(e.state == state for e in entries) for state in get_args(State)},
        troubled=[(entry, rerun.without_paths(entry.note)) for entry in entries if entry.note],
        domains=[DOMAIN_TITLES.get(domain, domain) for domain in certified_domains(entries)],
        autoattack=has_autoattack(entries),
        attack_title=attack_title(entries),
        groups=groups,
        results=results,
        remarks=_remarks(entries, words),
        sensitivities=sensitivities(entries, expected, words),
        costs=costs,
        own_losses=own_losses(costs),
        figures=figures,
        reruns=_reruns(entries),
        spec_table=_spec_table(entries, words),
        environment=_environment(entries),
        data=_data(entries),
        sources=_sources(entries),
    )
    files = {name: data for figure in figures for name, data in figure.files.items()}
    files |= {name: text.encode() for name, text in results.items()}
    return write_page(folder / REPORT if out is None else out, "index.html", page, files)


def _remarks(entries: Sequence[Entry], words: Mapping[str, str]) -> list[str]:
    """What a reader of the results must know of the trials and of their code."""
    runs = finished_runs(entries)
    said = (in_words(text, words) for text in (*mixed_remarks(entries), *source_remarks(runs)))
    return [*said, *commit_remarks(runs)]


def _reruns(entries: Sequence[Entry]) -> list[Rerun]:
    return [
        Rerun(
            entry=entry,
            command=rerun.trial_command(entry.trial),
            spec=json.dumps(trial_to_table(entry.trial), indent=2),
        )
        for entry in entries
        if entry.trial
    ]


def _spec_table(entries: Sequence[Entry], words: Mapping[str, str]) -> SpecTable:
    groups = by_setting(all_series(entries))
    keys = [field.name for field in fields(Trial) if field.name not in ("setting", "method", "seed")]
    values = {
        key: [_joined(spec_value(run.trial, key) for run in runs) or "none" for runs in groups.values()] for key in keys
    }
    differing = tuple(key for key in keys if len(set(values[key])) > 1)
    return SpecTable(
        shared=tuple((key, found[0]) for key, found in values.items() if found and key not in differing),
        differing=differing,
        rows=tuple(
            (words.get(setting, setting), tuple(values[key][i] for key in differing))
            for i, setting in enumerate(groups)
        ),
    )


def _environment(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    recorded = [entry.result.environment for entry in entries if entry.result]
    keys = dict.fromkeys(key for table in recorded for key in table)
    return [(key, _joined(table[key] for table in recorded if key in table)) for key in keys]


def _data(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """Dataset, source and fingerprint of the images that finished trials ran on."""
    finished = [(run.names, run.result) for run in all_series(entries) if run.result]
    return list(
        dict.fromkeys((names.dataset_title, _source(r.data_source), r.data_fingerprint) for names, r in finished)
    )


def _sources(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """The code of one's own that finished trials ran: what it was for, its import path, SHA-256 of its source file."""
    finished = [run.names for run in all_series(entries) if run.result]
    return sorted(
        {
            (kind, origin.path, origin.sha256 or "unknown")
            for names in finished
            for kind, origin in names.sources.items()
        }
    )


def _source(text: str) -> str:
    """Where images came from; a folder is its machine's own affair."""
    return "files in a folder" if PurePath(text).is_absolute() else text


def _joined(values: Iterator[str]) -> str:
    return " / ".join(dict.fromkeys(values))
