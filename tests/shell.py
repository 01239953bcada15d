"""Shell scripts, run as a user runs them."""

import subprocess
from pathlib import Path


def run(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    """A command with its exit code, output and messages, whatever the code."""
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)
