"""Kills and bad input: prints the figures as tables.

kills: a grid, and a certification with --out, are killed (SIGKILL) at random moments and at writes of files, and given
again until they are done. Every file must end with the bits of a run that was never killed; only seconds may differ.

inputs: one bad thing at a time in the files of a run folder, of a reference and of the expected results, and in the
words of a command. The command must end by itself, without a traceback, with one line and exit code 2, or with the
damaged trial as a row. What softadv did not write must be as it was.

Exits with 1 where something was lost, written or answered by a traceback.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from benchmarks.campaign.inputs import GOOD_ENDS, input_campaign
from benchmarks.campaign.kills import kill_campaign


def main() -> None:
    """Run what is asked for."""
    asked = _arguments()
    torch.set_num_threads(1)  # or a child, which has no more, sums in another order
    good = True
    with tempfile.TemporaryDirectory() as folder:
        if asked.what != "inputs":
            good = _kills(asked, Path(folder))
        if asked.what != "kills":
            good = _inputs(asked, Path(folder)) and good
    sys.exit(0 if good else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["kills", "inputs", "both"], default="both")
    parser.add_argument("--grids", type=int, default=89, help="kills of a grid")
    parser.add_argument("--certifications", type=int, default=45, help="kills of a certification")
    parser.add_argument("--inputs", type=int, default=1264, help="bad inputs")
    parser.add_argument("--share", type=_share, default=(1, 1), help="of the bad inputs one share: 2/4")
    parser.add_argument("--alone", type=int, default=20, help="every so manieth bad input has a process of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print what did not end as it should")
    return parser.parse_args()


def _share(text: str) -> tuple[int, int]:
    share, _, shares = text.partition("/")
    if not 1 <= int(share) <= int(shares):
        raise ValueError
    return int(share), int(shares)


def _kills(asked: argparse.Namespace, work: Path) -> bool:
    """Print a row for each kind of command. Returns whether all ends were alike."""
    rng = random.Random(asked.seed)
    counts = kill_campaign(work, grids=asked.grids, certifications=asked.certifications, rng=rng)
    print("| killed | kills | ends with another bit |\n| --- | --- | --- |")
    for what, kills, differing in counts:
        print(f"| {what} | {kills} | {differing} |", flush=True)
    return not any(differing for _, _, differing in counts)


def _inputs(asked: argparse.Namespace, work: Path) -> bool:
    """Print a row for each kind of input. Returns whether all ends were good."""
    ends = input_campaign(
        work, count=asked.inputs, share=asked.share, alone=asked.alone, rng=random.Random(asked.seed),
        verbose=asked.verbose,
    )  # fmt: skip
    ends["all"] = sum(ends.values(), Counter())
    columns = sorted(ends["all"])
    print(f"| bad input | number | {' | '.join(columns)} |\n| --- |{' --- |' * (len(columns) + 1)}")
    for kind in [*sorted(ends.keys() - {"all"}), "all"]:
        print(f"| {kind} | {ends[kind].total()} | {' | '.join(str(ends[kind][end]) for end in columns)} |")
    return set(columns) <= GOOD_ENDS


if __name__ == "__main__":
    main()
