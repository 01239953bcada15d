"""The memory that damaged ONNX and VNN-LIB files take: python -m benchmarks.hostile

Each file of tests/onnx/hostile.py and tests/certify/test_verify.py is given to `softadv verify`, in a process of its
own. Prints the peak of resident memory beside that of the same command with a harmless file, the largest first.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tests import peaks
from tests.certify.test_verify import damaged_commands
from tests.onnx.hostile import commands


def main() -> None:
    """Print a line for each file."""
    for kind, made in (("ONNX", commands), ("VNN-LIB", damaged_commands)):
        with TemporaryDirectory() as folder:
            asked = made(Path(folder))
            ended = peaks.ended(asked)
        print(f"{kind}: {len(ended) - 1} files; {ended[0].peak / 2**20:.0f} MiB for a harmless one, and beside that")
        names = [Path(" ".join(words).removesuffix(" --timeout 60")).name for words in asked]
        sizes = [(one.peak - ended[0].peak, name, one) for one, name in zip(ended, names, strict=True)]
        for size, name, one in sorted(sizes, key=lambda row: -row[0]):
            print(f"  {size / 2**20:+8.1f} MiB  exit code {one.code}  {name[:40]}: {one.error.strip()[-90:]}")


if __name__ == "__main__":
    main()
