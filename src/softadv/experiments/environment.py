"""This machine's environment: versions, devices, the commit, and the certifiers that are available."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from softadv._versions import package_version
from softadv.errors import SoftadvError

# The files that determine what a run computes.
_SOURCES = ("src", "pyproject.toml", "requirements.lock")

CHANGED = "+changes"  # ends a commit on top of which the sources have changes
PACKAGES = ("torch", "torchvision", "torchattacks", "onnx", "onnxruntime", "numpy")


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one. Raises SoftadvError for "cuda" without a GPU.

    On a GPU this turns TF32 off for the process: results are float32's, and certificates hold for them.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise SoftadvError(f"device: unknown name {name!r}, expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise SoftadvError("device: cuda was asked for, but PyTorch sees no GPU; see softadv doctor")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def describe(device: torch.device) -> dict[str, str]:
    """The environment that a result records."""
    return {
        "softadv": package_version("softadv"),
        "commit": commit(),
        "python": platform.python_version(),
        **{package: package_version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


@cache
def commit() -> str:
    """The commit of softadv's checkout, with "+changes" if its sources have uncommitted changes; or "unknown".

    The first call's answer is kept: the process keeps the code that it has loaded, whatever is checked out later.
    """
    root = Path(__file__).parents[3]
    if not os.path.exists(root / ".git"):  # nor where it may not be read, which Path.exists raises
        return os.environ.get("SOFTADV_COMMIT", "unknown")
    try:
        head = _git(root, "rev-parse", "HEAD")
        return f"{head}{CHANGED}" if _git(root, "status", "--porcelain", "--untracked-files=no", *_SOURCES) else head
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout.strip()


def python_version() -> str:
    """Of the interpreter that runs softadv."""
    return f"{platform.python_version()} ({sys.executable})"
