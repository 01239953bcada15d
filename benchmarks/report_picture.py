"""docs/report.png: the top of the report on a grid of the stored reference, as Debian's Chromium shows it.

python -m benchmarks.report_picture [GRID]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from softadv.cli.finish import verdicts_on, write_grid_page
from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE
from softadv.experiments.runs import read_entries

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
_WIDTH, _HEIGHT = 1280, 800  # in CSS pixels: the first screen


def main(grid: str = "paper-short") -> None:
    """Make the page and take its picture."""
    browser = shutil.which("chromium")
    if browser is None:
        raise SoftadvError("chromium is not there: apt-get install chromium")
    expected = expected_folder()
    folder = expected / REFERENCE / grid
    entries = read_entries(folder)
    with TemporaryDirectory() as place:
        verdicts = verdicts_on(folder, entries, expected=expected)
        page = write_grid_page(folder, entries, verdicts, expected=expected, out=Path(place))
        options = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={place}/browser",
        )
        taken = [f"--screenshot={PICTURE}", f"--window-size={_WIDTH},{_HEIGHT}", page.as_uri()]
        subprocess.run([browser, *options, *taken], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
