"""The results beside the page: results.csv, a row for each number of each trial, and results.tex, the page's table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from softadv.experiments.runs import Entry, all_series
from softadv.experiments.spec_text import DOMAIN_TITLES, Series
from softadv.report.figures.page_figure import csv_text
from softadv.report.results_table import Group, attack_title, certified_domains, has_autoattack

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    letter: f"\\{letter}" for letter in "&%$#_{}"
}
_SIGNS = {"±": r"$\pm$", "–": "--", "−": "$-$"} | {
    letter: f"$\\{name}$" for letter, name in {"ε": "varepsilon", "α": "alpha", "β": "beta", "τ": "tau"}.items()
}


def results_csv(entries: Sequence[Entry]) -> str:
    """Every number of every finished trial, a row each; accuracies and shares are fractions, times are in seconds."""
    rows = (
        (run.trial.setting, run.trial.method, run.trial.seed, metric, round(value, 9))
        for run in all_series(entries)
        for metric, value in _metrics(run)
    )
    return csv_text(("setting", "method", "seed", "metric", "value"), rows)


def _metrics(run: Series) -> Iterator[tuple[str, float]]:
    result = run.result
    if result is None:
        return
    yield "natural_accuracy", result.natural_accuracy
    yield "adversarial_accuracy", result.adversarial_accuracy
    if result.autoattack is not None:
        yield "autoattack_accuracy", result.autoattack.accuracy
        yield "autoattack_images", result.autoattack.images
    for certified in result.certified:
        yield f"certified_accuracy_{certified.domain}", certified.accuracy
        yield f"certified_images_{certified.domain}", certified.images
    if run.epochs and run.epochs[-1].verified is not None:
        yield "verified_share", run.epochs[-1].verified / result.trained_images
    yield "epochs", len(run.epochs)
    yield "seconds", sum(epoch.seconds for epoch in run.epochs)


def results_tex(groups: Sequence[Group], entries: Sequence[Entry]) -> str:
    """The results table for LaTeX, with booktabs; means and sample deviations over the seeds, in %."""
    domains, autoattack = certified_domains(entries), has_autoattack(entries)
    plain = ["Training", "Seeds", "Natural", attack_title(entries), *(["AutoAttack"] if autoattack else [])]
    columns = len(plain) + len(domains) + 1
    lines = [
        "% Means and sample standard deviations over the seeds, in %. Needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{@{{}}l{'r' * (columns - 1)}@{{}}}}",
        r"\toprule",
    ]
    if domains:  # one heading above them, since a heading for each is wider than its numbers
        first, last = len(plain) + 1, len(plain) + len(domains)
        lines += [
            f"{'& ' * len(plain)}\\multicolumn{{{len(domains)}}}{{c}}{{Certified}} & \\\\",
            f"\\cmidrule(lr){{{first}-{last}}}",
        ]
    lines.append(_line([*plain, *(DOMAIN_TITLES.get(domain, domain) for domain in domains), "Verified"]))
    for group in groups:
        title = ", ".join(" ".join(part.split()) for part in group.title.split("  ") if part.strip())
        lines += [r"\midrule", rf"\multicolumn{{{columns}}}{{l}}{{{_tex(title)}}} \\"]
        for row in group.rows:
            cells = [*row.accuracies, *([row.autoattack] if autoattack else []), *row.certified, row.verified_share]
            blank = ["–"] * (columns - 2)
            lines.append(_line([row.title, row.seeds, *(cells if row.accuracies else blank)]))
    return "\n".join((*lines, r"\bottomrule", r"\end{tabular}", ""))


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_tex, cells))} \\\\"


def _tex(text: str) -> str:
    return "".join(_SIGNS.get(letter, _SPECIAL.get(letter, letter)) for letter in text)
