"""The list of files written with a page, so that softadv deletes these and no others."""

from __future__ import annotations

import os
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


def refuse_foreign_page(folder: Path, page: str, files: Set[str]) -> None:
    """Raise SoftadvError naming a file that a page would overwrite, where softadv did not write it.

    files: the names of those that come with the page. softadv wrote what the list beside the page names. A page without
    a list, as before there were any, is softadv's if it names softadv in its head; then so are the figures beside it.
    """
    ours = files_of(folder, page)
    if not ours and _is_page(folder / page):
        return
    for name in sorted({page, *files} - ours):
        if os.path.lexists(folder / name):  # a link to what is not there is somebody's, too
            raise SoftadvError(f"{folder / name}: is there already, and softadv did not write it; name another folder")


def _is_page(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b"softadv" in file.read(4096)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SoftadvError(f"{path}: cannot be read ({error.strerror})") from error


def files_of(folder: Path, page: str) -> frozenset[str]:
    """The names in the list beside a page; none without one, or where it cannot be read."""
    listed = folder / files_list(page)
    if listed.is_file():
        with suppress(SoftadvError):
            return frozenset(build(PageFiles, read_json(listed), where=str(listed)).files)
    return frozenset()


def delete_page(folder: Path, page: str, *, but: Set[str] = frozenset()) -> None:
    """Delete a page and the files that were written with it, by the list beside it; without a list, the page alone.

    but: files that stay. Raises SoftadvError where something cannot be deleted.
    """
    names = {page, *files_of(folder, page)}
    for name in sorted(names - but, key=lambda name: name != page):  # the page first: it may not outlive its figures
        if name == Path(name).name and not (folder / name).is_dir():
            delete_file(folder / name)
    if not but:
        delete_file(folder / files_list(page))
