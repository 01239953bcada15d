"""The memory that damaged ONNX and VNN-LIB files take: python -m benchmarks.hostile

Every file of tests/onnx/hostile.py and tests/certify/test_verify.py is given to `softadv verify`, in a process of its
own. Prints the peak of resident memory beside that of the same command with a harmless file, the largest first.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tests import peaks
from tests.certify import test_verify as properties
from tests.onnx import hostile


def main() -> None:
    """Print a line for each file, and the largest of both kinds."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "files"
        folder.mkdir()
        (folder / "plain.onnx").write_bytes(hostile.plain().SerializeToString())
        (folder / "plain.vnnlib").write_text(hostile.PROPERTY)
        networks = [folder / "plain.onnx", *(hostile.write(spoil, folder) for spoil in hostile.SPOILED)]
        print_peaks(
            "ONNX", [[str(folder / "plain.vnnlib"), str(path)] for path in networks], [p.name for p in networks]
        )
        model = properties.net(folder)
        files = properties.write_damaged(folder)
        print_peaks("VNN-LIB", [[str(file), str(model.path)] for file in files], [file.name for file in files])


def print_peaks(kind: str, pairs: list[list[str]], names: list[str]) -> None:
    """Ask about pairs of a property and a network, the first of which is harmless."""
    ended = peaks.ended([["verify", one, "--network", f"N={other}", "--timeout", "60"] for one, other in pairs])
    more = sorted(((end.peak - ended[0].peak) / 2**20, name, end) for end, name in zip(ended, names, strict=True))
    print(f"{kind}: the harmless file {ended[0].peak / 2**20:.0f} MiB; beside it")
    for size, name, end in reversed(more):
        print(f"  {size:+8.1f} MiB  exit code {end.code}  {name}: {end.error.strip()[:90]}")


if __name__ == "__main__":
    main()
