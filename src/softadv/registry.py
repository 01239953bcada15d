"""Registries: data sets, models, methods and attacks are all found by name in the same way.

A name is registered ("mnist"), or it is "package.module:attribute", with the current folder on the import path. A
registered name may take a text after a colon ("folder:PATH").
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from softadv.errors import SoftadvError

T = TypeVar("T")
R = TypeVar("R")


class Registry(Generic[T]):
    """The named objects of one kind. T is their type, such as a function that builds a model."""

    def __init__(
        self, kind: str, *, accepts: Callable[[object], bool] = callable, expected: str = "a function"
    ) -> None:
        """kind: the word for messages, such as "dataset".

        accepts: whether a user's object is of this kind; expected: what it should be, for messages.
        """
        self.kind = kind
        self._accepts, self._expected = accepts, expected
        self._found: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers an object under a name.

        "NAME:WORD" takes a text behind the colon: get("folder:x") is then the function registered as
        "folder:PATH", with "x" as its first argument. Raises SoftadvError for a name that is taken.
        """

        def add(found: T) -> T:
            if _head(name) in (_head(other) for other in self._found):
                raise SoftadvError(f"{self.kind}: the name {_head(name)!r} is taken")
            self._found[name] = found
            return found

        return add

    def names(self) -> tuple[str, ...]:
        """The registered names, in the order of registration."""
        return tuple(self._found)

    def described(self) -> dict[str, str]:
        """The registered names, each with the first line of its docstring."""
        return {name: (inspect.getdoc(found) or "").partition("\n")[0] for name, found in self._found.items()}

    def get(self, what: str | T) -> T:
        """The object of a name; an argument that is not a string is checked and returned.

        Raises SoftadvError (one line) for an unknown name, a module that cannot be imported, a missing attribute, and
        an object of another kind.
        """
        if not isinstance(what, str):
            return self._checked(what, where=f"{self.kind} {what!r}")
        head, colon, rest = what.partition(":")
        for name, found in self._found.items():
            if head == _head(name) and bool(colon) == (":" in name):
                if not colon:
                    return found
                if not rest:
                    raise SoftadvError(f"{self.kind} {what!r}: nothing stands behind the colon, expected {name}")
                return cast(T, functools.partial(cast(Callable[..., Any], found), rest))
        if colon:
            return self._checked(import_object(what, kind=self.kind), where=f"{self.kind} {what}")
        close = get_close_matches(what, self._found, n=1)
        hint = f", did you mean {close[0]}?" if close else ";"
        known = ", ".join((*self._found, "package.module:attribute"))
        raise SoftadvError(f"{self.kind}: unknown name {what!r}{hint} expected one of {known}")

    def is_registered(self, what: object) -> bool:
        """Whether a name is registered, so that softadv's version identifies its code."""
        return isinstance(what, str) and any(
            what.partition(":")[0] == _head(name) and (":" in what) == (":" in name) for name in self._found
        )

    def _checked(self, found: object, *, where: str) -> T:
        if not self._accepts(found):
            raise SoftadvError(f"{where}: expected {self._expected}, got a {type(found).__name__}")
        return cast(T, found)


def _head(name: str) -> str:
    return name.partition(":")[0]


def import_object(path: str, *, kind: str) -> object:
    """The object that "package.module:attribute" names; the current folder is on the path during the import.

    kind: the expected kind, for messages. Raises SoftadvError (one line) naming what is missing, or why the module
    cannot be imported, with file and line.
    """
    where = f"{kind} {path!r}"
    name, _, attribute = path.partition(":")
    if name.endswith(".py"):
        raise SoftadvError(f"{where}: name the module and not its file, such as {Path(name).stem}:{attribute}")
    if not all(re.fullmatch(r"\w+(\.\w+)*", part) for part in (name, attribute)):
        raise SoftadvError(f"{where}: expected package.module:attribute")
    module = _import(name, where=where)
    found: object = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            file = getattr(module, "__file__", None)
            close = get_close_matches(part, [other for other in dir(found) if not other.startswith("_")], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SoftadvError(f"{where}: module {name}{f' ({file})' if file else ''} has no {part!r}{hint}") from None
    return found


def _import(name: str, *, where: str) -> ModuleType:
    with _current_folder_on_path():
        importlib.invalidate_caches()  # a file may have been written since the folder was last looked at
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                raise SoftadvError(
                    f"{where}: there is no module {error.name} in the current folder ({Path.cwd()}) or installed"
                ) from None
            raise SoftadvError(f"{where}: module {name} cannot be imported ({reason(error)})") from error
        except (Exception, SystemExit) as error:
            raise SoftadvError(f"{where}: module {name} cannot be imported ({reason(error)})") from error


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the module may have changed the path itself
            sys.path.remove(folder)


def call(where: str, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call a user's function; any exception becomes a SoftadvError of one line, with the original as its cause.

    where: the function's name, for the message.
    """
    try:
        return function(*args, **kwargs)
    except SoftadvError:
        raise
    except (Exception, SystemExit) as error:
        raise SoftadvError(f"{where}: raised {reason(error)}") from error


def reason(error: BaseException) -> str:
    """An error in one line, with the file and line it comes from."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError):  # its text ends with file and line
        return said
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    # Show the line in the user's own code, not in a library that it calls.
    frames = [frame for frame in frames if _is_own(Path(frame.filename))] or frames
    return f"{said}; {frames[-1].filename}, line {frames[-1].lineno}" if frames else said


def _is_own(file: Path) -> bool:
    installed = (Path(sysconfig.get_path("stdlib")), Path(__file__).parent)
    return "site-packages" not in file.parts and not any(file.is_relative_to(folder) for folder in installed)


@dataclass(frozen=True)
class Origin:
    """Where a user's object is defined.

    path: "package.module:attribute". sha256: of its source file, in hexadecimal; None where there is no file, as in an
    interactive session. Of an object of a class from another file: of both, one after the other. Other files that it
    imports are not covered.
    """

    path: str
    sha256: str | None


def origin(found: object, *, name: str | None = None) -> Origin:
    """Import path and SHA-256 of the source file of a function, a class, or an object's class.

    name: the "package.module:attribute" that was imported. Where that is an object or a partial, whose settings are in
    the module, or softadv's own class or function under another name, the module's file counts, and this is the path.
    """
    named: Any = found
    while isinstance(named, functools.partial):
        named = named.func
    named = inspect.unwrap(named) if callable(named) else named
    if not isinstance(named, type) and not inspect.isroutine(named):
        named = type(named)
    path = f"{named.__module__}:{named.__qualname__}"
    defined: list[Any] = [named]
    if name is not None and (named is not found or is_softadvs(path)):
        module = sys.modules[name.partition(":")[0]]
        path, defined = name, [module] if is_softadvs(path) else [module, named]
    try:
        files = dict.fromkeys(inspect.getfile(one) for one in defined)
        return Origin(path, hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest())
    except (TypeError, OSError):
        return Origin(path, None)


def is_softadvs(path: str) -> bool:
    """Whether an import path leads to softadv's own code, which its version identifies."""
    return path.startswith("softadv.")


def check_unchanged(kind: str, *, recorded: Origin, now: Origin) -> None:
    """Raise SoftadvError if a user's object, or its source file, differs from the recorded one."""
    if recorded.path != now.path:
        raise SoftadvError(f"{kind} {recorded.path}: is {now.path} now; go on with the one that the run began with")
    if recorded.sha256 != now.sha256:
        then, today = (sha256[:12] if sha256 else "unknown" for sha256 in (recorded.sha256, now.sha256))
        raise SoftadvError(
            f"{kind} {recorded.path}: its source file changed since the run began (SHA-256 {then}, now {today}); "
            "bring it back, or begin another run"
        )
