"""Rendering pages from templates, and writing them with their files."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path

import jinja2

from softadv._io import make_folder, write_all, write_json
from softadv.claims.stats import Estimate
from softadv.experiments.report_files import delete_page, files_list, refuse_foreign_page
from softadv.report.figures.colors import stylesheet, variables
from softadv.report.intervals import amount_text, ends_text, signed

_TYPES = {"csv": "text/csv", "svg": "image/svg+xml", "tex": "text/x-tex"}
# As in "ε 4/255" and "Epochs: 6".
_SYMBOL_AND_VALUE = re.compile(r"((?<=[εατβ])|(?<=[εα]:)|(?<=Epochs:)|(?<=Steps:)) (?=\d)")


def render(template: str, **content: object) -> str:
    """A page from a template of this package. Figures' SVG is put in as it is, all other text is escaped.

    A symbol and its value stay on one line.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("softadv.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": _mean, "ends": _ends, "amount": amount_text, "data_uri": data_uri}
    page = environment.get_template(template).render(content, variables=variables())
    # The rules of the colours that the page turned out to use.
    return _SYMBOL_AND_VALUE.sub("\N{NO-BREAK SPACE}", page.replace("/* figures */", stylesheet([page]), 1))


def write_page(folder: Path, name: str, page: str, files: Mapping[str, bytes]) -> Path:
    """Write a page with the files beside it, and delete those that the page of this name had before.

    Returns the page's path. Raises SoftadvError where the folder cannot be written, and where it holds a file of one
    of these names that is not softadv's.
    """
    make_folder(folder)
    refuse_foreign_page(folder, name, files.keys())
    delete_page(folder, name, but={name, *files})
    # First, so that a page that is cut off is known, too.
    write_json(folder / files_list(name), {"files": sorted({name, *files})})
    write_all({folder / file: data for file, data in {**files, name: page.encode()}.items()})
    return folder / name


def data_uri(text: str, name: str) -> str:
    """A file within a page: the page keeps it when it is passed on by itself. name: of the file, with its suffix."""
    kind = _TYPES[name.rpartition(".")[2]]
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _mean(estimate: Estimate | None) -> str:
    return "\N{EN DASH}" if estimate is None else signed(estimate.mean)


def _ends(estimate: Estimate | None) -> str:
    return "\N{EN DASH}" if estimate is None else ends_text(estimate) or "one seed"
