"""The rule for a file that an option names: nothing is overwritten that softadv did not write for that purpose.

Tables of certificates, which can be continued, have theirs in certify/results_file.py, pages in
experiments/report_files.py, and run folders in experiments/run_folder.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from softadv.errors import SoftadvError
from softadv.experiments.run_folder import MODEL, SPEC, WEIGHTS, WRITTEN

ATTACKED = ("image", "attacked", "label")  # the tensors that the attack command writes


def check_target(
    option: str, path: Path, *, model: Path, is_own: Callable[[Path], bool], but: Path | None = None
) -> None:
    """Raise SoftadvError, before any work, for a file that cannot or may not be written.

    It may not where it is the model, has the name of a trial's file in a run folder, or is there already and is_own
    does not know it as one of the command's. model: what the command works on. but: a file that may always be written.
    """
    if not path.parent.is_dir():
        raise SoftadvError(f"{option} {path}: {path.parent} is not a folder")
    if path.is_dir():
        raise SoftadvError(f"{option} {path}: is a folder, name a file")
    if but is not None and path.name == but.name and path.parent.samefile(but.parent):
        return
    if path.exists() and model.exists() and path.samefile(model):
        raise SoftadvError(f"{option} {path}: is the model itself, name another file")
    if path.name in WRITTEN and (path.parent / SPEC).exists():
        raise SoftadvError(f"{option} {path}: is a file of the trial in {path.parent}, name another file")
    if os.path.lexists(path) and not is_own(path):
        raise SoftadvError(f"{option} {path}: is there already, and softadv did not write it; name another file")


def onnx_of_run(model: Path) -> Path | None:
    """The ONNX file of the run that a model is, by its folder or its weights; None where it is no run.

    It may be written anew, whatever is there: its name in a run folder is softadv's.
    """
    folder = model if model.is_dir() else model.parent
    own = (model.is_dir() or model.name == WEIGHTS) and (folder / SPEC).exists()
    return folder / MODEL if own else None


def is_attacked(path: Path) -> bool:
    """Whether a file is one that the attack command wrote."""
    try:
        if not path.is_file():
            return False
        with safe_open(path, framework="pt") as file:
            return "softadv" in (file.metadata() or {}) and set(file.keys()) == set(ATTACKED)
    except (SafetensorError, OSError, ValueError, TypeError):
        return False
