"""The end of a grid's command: compare its runs with expected results and reference, and write the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from softadv.claims.judge import Verdict, expectations_of, judge
from softadv.claims.needed_grids import needed_grids
from softadv.claims.reference_check import agree
from softadv.cli import output
from softadv.cli.ending import Detail, Ending, show_ending
from softadv.cli.progress_bar import Display
from softadv.errors import SoftadvError
from softadv.experiments.grid import GridRun, grid_command, grid_name
from softadv.experiments.reference import FROM_WEIGHTS, REFERENCE, is_reference, read_reference, read_summary
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.runs import Entry, finished_runs, read_entries, read_entry
from softadv.experiments.shard import Shard
from softadv.report.comparisons import comparisons
from softadv.report.results_table import attack_title, result_groups
from softadv.report.summary import QUESTION, WITHOUT_SOFT, answer


def close(
    folder: Path,
    *,
    expected: Path,
    out: Path | None = None,
    refused: Mapping[str, str] | None = None,
    detail: Detail = "usual",
) -> int:
    """Compare, write the report and print the results. Returns the exit code: 1 when an expectation or a trial failed,
    2 for bad input.

    folder: of a grid's runs, or a grid's reference. expected: the folder of expected results.
    out: where the report goes, else below the folder; without it there is none of a reference.
    refused: trials that were not run because of bad input, or data sets whose trials were not, with the reason in one
    line. detail: how much to print.
    """
    refused = refused or {}
    entries = read_entries(folder)
    verdicts = verdicts_on(folder, entries, expected=expected)
    shown = out is not None or not is_reference(folder)
    silent = detail in ("quiet", "json")
    report = write_grid_page(folder, entries, verdicts, expected=expected, out=out, silent=silent) if shown else None
    lost = [entry for entry in entries if entry.state in ("failed", "unreadable")]
    code = 2 if refused else int(bool(lost) or any(verdict.outcome == "fails" for verdict in verdicts))
    soft = any(entry.trial and entry.trial.method == "soft" for entry in entries)
    missing = [verdict.claim for verdict in verdicts if verdict.outcome == "not run" and verdict.claim.kind == "paper"]
    ending = Ending(
        grid=_name(folder),
        folder=folder,
        answer=answer(comparisons(entries), question=QUESTION if soft else WITHOUT_SOFT),
        groups=result_groups(entries),
        attack=attack_title(entries),
        verdicts=verdicts,
        needed=needed_grids(missing, expectations_of(_grid(folder), _settings(entries), expected)) if missing else (),
        report=report,
        code=code,
    )
    show_ending(ending, detail=detail)
    for entry in lost:
        if entry.name in refused:
            continue
        where = folder if is_reference(folder) else entry.folder.path
        output.complain(f"{entry.name} {entry.state}: {entry.note}; see {where}")
    _complain_of(refused)
    return code


def close_part(folder: Path, part: Shard, ran: GridRun) -> int:
    """Print the outcome of a part of a grid. Returns the exit code, as in close. The page is written later."""
    output.say(f"part {part}: {len(ran.finished)} finished; when all parts are done: softadv compare {folder}")
    for name in ran.failed:
        entry = read_entry(RunFolder(folder / name))
        output.complain(f"{name} failed: {entry.note}; see {entry.folder.path}")
    _complain_of(ran.refused)
    return 2 if ran.refused else int(bool(ran.failed))


def _complain_of(refused: Mapping[str, str]) -> None:
    for name, reason in refused.items():
        output.complain(reason if name in reason else f"{name}: {reason}")


def verdicts_on(folder: Path, entries: Sequence[Entry], *, expected: Path) -> list[Verdict]:
    """The verdicts on a grid's claims, and on its agreement with the reference; decided ones first.

    Raises SoftadvError for bad files.
    """
    grid = _grid(folder)
    runs = finished_runs(entries)
    claims = judge(runs, grid=grid, settings=_settings(entries), expected=expected)
    # A reference is not compared with itself.
    compared = [] if is_reference(folder) else agree(runs, read_reference(expected / REFERENCE, grid=grid))
    return sorted(claims + compared, key=lambda verdict: verdict.outcome == "not run")


def write_grid_page(
    folder: Path,
    entries: Sequence[Entry],
    verdicts: Sequence[Verdict],
    *,
    expected: Path,
    out: Path | None,
    silent: bool = False,
) -> Path:
    """Write the report's page and figures into `out`, else into report/ in the folder; returns the page's path.

    silent: whether nothing is shown meanwhile.

    Raises SoftadvError for a reference without an out, since a reference holds what was measured and nothing else.
    """
    if out is None and is_reference(folder):
        raise SoftadvError(f"{folder}: a report is not written into a reference; name a folder with --out")
    command = read_summary(folder).command if is_reference(folder) else grid_command(folder)
    notice = _notice(folder, entries)
    expectations = expectations_of(_grid(folder), _settings(entries), expected)
    title = _name(folder)
    with Display(output.console(silent=silent), work=None) as display:
        display.advance(title, "drawing figures", 0)
        from softadv.report.page import write_report  # noqa: PLC0415 (brings what most commands do without)

        return write_report(
            folder,
            verdicts=verdicts,
            title=title,
            command=command,
            expected=expectations,
            notice=notice,
            out=out,
            report=display.of(title),
        )


def write_two(first: Path, second: Path, *, out: Path | None) -> Path:
    """Write the page that compares two run folders or references; returns its path.

    They are called by their grids, or, of one grid, by their folders. Raises SoftadvError as write_comparison does.
    """
    from softadv.report.two_runs import write_comparison  # noqa: PLC0415 (brings what most commands do without)

    names = _name(first), _name(second)
    if names[0] == names[1]:
        names = _folder_name(first), _folder_name(second)
    if names[0] == names[1]:
        names = f"{names[0]} (first)", f"{names[1]} (second)"
    return write_comparison(first, second, names=names, out=out)


def _folder_name(folder: Path) -> str:
    return folder.resolve().name


def _grid(folder: Path) -> str:
    """The grid that a folder's trials are of, however they were run."""
    return _name(folder).removesuffix(FROM_WEIGHTS)


def _settings(entries: Sequence[Entry]) -> set[str]:
    return {entry.trial.setting for entry in entries if entry.trial}


def _name(folder: Path) -> str:
    return read_summary(folder).grid if is_reference(folder) else grid_name(folder)


def _notice(folder: Path, entries: Sequence[Entry]) -> str:
    """A notice for the top of the page."""
    if is_reference(folder):
        parts = read_summary(folder).parts
        finished, trials = parts.finished, parts.trials
        part = f"all {trials} trials of the grid" if finished == trials else f"{finished} of the grid's {trials} trials"
        if len(entries) > finished:
            part += f", and {len(entries) - finished} of other seeds"
        return (
            f"Made from the reference results that are stored with softadv: {part}. They hold no pictures of examples."
        )
    if not grid_name(folder).endswith(FROM_WEIGHTS):
        return ""
    notice = (
        "Evaluated from stored weights, those of one seed of each setting and method: nothing was trained here; "
        "the curves are the reference's."
    )
    asked = any(entry.result is not None and entry.result.autoattack is not None for entry in entries)
    return notice if asked else f"{notice} AutoAttack was left out, since it takes long without a GPU."
