"""What all figures share: palettes, axes, legends, and figures as PNG and SVG files.

One colour per class of the partition and per part of an epoch, the same in every figure; they can be told apart by
the colour-blind and, by order or lightness, in grey. A method's colour is among its names.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from softadv.experiments.spec_text import Series

# Okabe and Ito's palette; the parts of an epoch are a ramp of one hue, so that they are no method's.
PARTITION_COLOURS = {"verified": "#56B4E9", "unverified": "#E69F00", "misclassified": "#CC79A7"}
PART_COLOURS = {"attack": "#26364D", "certification": "#6F87A8", "update": "#B4C2D6", "evaluation": "#E4E9F0"}

INK, SOFT_INK, GRID = "#1F2430", "#5B6372", "#E3E6EB"
_DPI = 200
_POINTS_AN_INCH = 72
_LEGEND = 9.5  # points
_LETTER = 0.52  # the width of a letter of the figures' font, on average, in font sizes


def new_figure(*, width: float, height: float) -> Figure:
    """An empty white figure; width and height in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def png(figure: Figure) -> bytes:
    """The figure as a PNG file on white, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file, the same bytes for the same figure; letters are outlines and need no font."""
    buffer = io.BytesIO()
    # Else the ids within the file are random.
    with matplotlib.rc_context({"svg.hashsalt": "softadv", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=_DPI, metadata={"Date": None, "Creator": "softadv"})
    return buffer.getvalue()


def within_percent(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis of percentages, without the margin below 0 and above 100."""
    return max(limits[0], -3), min(limits[1], 103)


def style(axes: Axes) -> None:
    """The look of every panel."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT_INK)
    axes.tick_params(colors=SOFT_INK, labelcolor=INK, labelsize=9)
    axes.grid(visible=True, color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=INK, fontsize=10)
    axes.yaxis.label.set(color=INK, fontsize=10)
    axes.title.set_color(INK)


def epoch_axis(axes: Axes, runs: Sequence[Series]) -> None:
    """Epochs along x, from 1 to the last of any run."""
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    longest = max(len(run.epochs) for run in runs)
    axes.set_xlim(*((1, longest) if longest > 1 else (0.5, 1.5)))


def suptitle(figure: Figure, text: str) -> None:
    """The figure's title, broken into lines that fit its width."""
    size = 10.5
    figure.suptitle(wrapped(text, inches=figure.get_figwidth(), size=size), fontsize=size, color=INK)


def wrapped(text: str, *, inches: float, size: float) -> str:
    """A text broken at its spaces, so that in a font of so many points its lines are at most so wide."""
    room = max(int(inches * _POINTS_AN_INCH / (_LETTER * size)), 20)
    # A part such as "Steps: 20" stays on one line, and parts stay three spaces apart.
    parts = text.replace("   ", "\N{FIGURE SPACE} ").replace(": ", ":\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(literal(parts), room, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line.replace("\N{FIGURE SPACE} ", "   ").strip("\N{FIGURE SPACE} ") for line in lines)


def literal(text: str) -> str:
    """A text that Matplotlib shows as it is: between two dollars it would look for a formula."""
    return text.replace("$", r"\$")


def legend(figure: Figure, handles: Sequence[Line2D], *, columns: int = 4) -> None:
    """A legend below the panels, in as many columns as the figure has room for, at most `columns`."""
    for handle in handles:
        handle.set_label(literal(str(handle.get_label())))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=_columns(handles, width=figure.get_figwidth(), most=columns),
        frameon=False,
        fontsize=_LEGEND,
        labelcolor=INK,
        handletextpad=0.5,
        columnspacing=1.8,
    )


def legend_rows(handles: Sequence[Line2D], *, width: float) -> int:
    """In how many rows a legend stands below a figure of so many inches."""
    return -(-len(handles) // _columns(handles, width=width, most=4))


def _columns(handles: Sequence[Line2D], *, width: float, most: int) -> int:
    for columns in range(min(most, len(handles)), 1, -1):
        rows = -(-len(handles) // columns)
        longest = [max(len(str(h.get_label())) for h in handles[i : i + rows]) for i in range(0, len(handles), rows)]
        # Beside its letters, a column takes the room of its handle and the gap to the next.
        if sum(_LETTER * letters + 4.3 for letters in longest) * _LEGEND / _POINTS_AN_INCH <= width:
            return columns
    return 1


def swatch(label: str, colour: str, *, marker: str | None = None) -> Line2D:
    """A square of a colour, or a method's marker, for a legend."""
    if marker is not None:
        return Line2D([], [], ls="", marker=marker, ms=7, color=colour, label=label)
    return Line2D([], [], ls="", marker="s", ms=10, color=colour, mec=SOFT_INK, mew=0.5, label=label)
