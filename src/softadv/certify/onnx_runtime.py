"""Import onnxruntime with its telemetry switched off, and open files with it.

Otherwise onnxruntime starts a thread that sends events, and stores them in the temporary and the cache folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from softadv.errors import SoftadvError

_SWITCH = "ORT_DISABLE_TELEMETRY"  # read once, when the library is loaded


def load_onnxruntime() -> Any:
    """The module onnxruntime, with its telemetry switched off, even if it was imported before."""
    if "onnxruntime" not in sys.modules:
        before = os.environ.get(_SWITCH)
        os.environ[_SWITCH] = "1"
        try:
            import onnxruntime  # noqa: F401, PLC0415 (not before the switch is set)
        finally:
            if before is None:
                del os.environ[_SWITCH]
            else:
                os.environ[_SWITCH] = before
    found = sys.modules["onnxruntime"]
    found.disable_telemetry_events()
    return found


def open_session(path: Path) -> Any:
    """A session that computes an ONNX file on the CPU. Raises SoftadvError for a file that onnxruntime refuses."""
    runtime = load_onnxruntime()
    try:
        return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds of error have no base class of their own
        reason = " ".join(str(error).split())[:200]
        raise SoftadvError(f"{path}: onnxruntime does not compute it ({reason})") from error
