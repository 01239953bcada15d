"""Which files softadv wrote beside a page, so that it deletes these and no others."""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from softadv._io import delete_file, read_json
from softadv._typed import build
from softadv.errors import SoftadvError

PAGES = ("index.html", "compare.html")  # of a grid's report, and of two grids


@dataclass(frozen=True, kw_only=True)
class PageFiles:
    """What the list beside a page holds: the page's name, and those of its figures and tables."""

    files: tuple[str, ...]


def files_list(page: str) -> str:
    """The name of the list beside a page of this name."""
    return f"{page}.files.json"


def delete_page(folder: Path, page: str, *, but: Set[str] = frozenset()) -> None:
    """Delete a page and the files that were written with it, by the list beside it; without a list, the page alone.

    but: files that stay. Raises SoftadvError where something cannot be deleted.
    """
    listed = folder / files_list(page)
    names = {page}
    if listed.is_file():
        with suppress(SoftadvError):  # a list that cannot be read names nothing
            names |= set(build(PageFiles, read_json(listed), where=str(listed)).files)
    for name in sorted(names - but, key=lambda name: name != page):  # the page first: it may not outlive its figures
        if name == Path(name).name and not (folder / name).is_dir():
            delete_file(folder / name)
    if not but:
        delete_file(listed)
