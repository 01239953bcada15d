"""The grid of both campaigns, and a command in this process."""

from __future__ import annotations

import contextlib
import io
import traceback

import softadv.report.page  # noqa: F401 (before the first child, or each loads it anew)
from softadv.cli.app import main as softadv_command

GRID = """
name = "campaign"
methods = ["natural", "adversarial", "soft"]
seeds = [0]

[[setting]]
setting = "digits-campaign"
dataset = "digits"
eps = 0.03
alpha = 0.01
steps = 3
epochs = 3
batch_size = 32
train_images = 256
test_images = 64
"""
SOFT = "digits-campaign-soft-seed0"


def command(*words: str) -> tuple[int, str]:
    """Run a command in this process. Returns its exit code, or -1 for a traceback, and its errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            softadv_command(list(words))
        except SystemExit as ended:
            return int(ended.code or 0), err.getvalue()
        except BaseException:
            return -1, err.getvalue() + traceback.format_exc()
    raise AssertionError("a command ends by an exit")
