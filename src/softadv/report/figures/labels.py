"""Labels beside the marks of a panel, where they cover the least of what is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from softadv.report.figures.svg import LETTER, LINE, Panel, path, tag, text

_NEAR = 12.0  # pixels from a mark within which its label needs no line to it

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass
class Crowd:
    """What stands on a panel already. marks: what no label may cover. drawn: what a label had better not."""

    panel: Panel
    marks: list[Box] = field(default_factory=list)
    drawn: list[Box] = field(default_factory=list)

    def label(self, said: str, x: float, y: float) -> None:
        """Write a label near (x, y), within the panel; from now on no other label covers it."""
        width, best, chosen = LETTER * len(said), float("inf"), (x, y, "start")
        for place in _places(x, y):
            box = _box(*place, width)
            cost = 100 * self._outside(box) + 10 * _covered(box, self.marks) + _covered(box, self.drawn)
            if cost < best:
                best, chosen = cost, place
        self.marks.append(_box(*chosen, width))
        left, top, right, bottom = _box(*chosen, width)
        nearest = min(max(x, left), right), min(max(y, top), bottom)
        if math.dist((x, y), nearest) > _NEAR:
            self.panel.add(tag("path", d=path([(x, y), nearest]), class_="axis"))
        self.panel.add(text(said, chosen[0], chosen[1], anchor=chosen[2]))

    def _outside(self, box: Box) -> bool:
        panel = self.panel
        foot = panel.height - panel.bottom - 1
        return box[0] < 2 or box[1] < panel.top - 4 or box[2] > panel.width - 1 or box[3] > foot


def _places(x: float, y: float) -> list[tuple[float, float, str]]:
    return [
        (x + dx, y + dy, anchor)
        for dy in (-9.0, 16.0, 4.0, -22.0, 30.0, -36.0, 44.0)
        for dx, anchor in ((9.0, "start"), (-9.0, "end"), (0.0, "middle"))
    ]


def _box(x: float, y: float, anchor: str, width: float) -> Box:
    left = {"start": x, "end": x - width, "middle": x - width / 2}[anchor]
    return left, y - LINE + 4, left + width, y + 3


def _covered(box: Box, others: list[Box]) -> int:
    return sum(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in others)
