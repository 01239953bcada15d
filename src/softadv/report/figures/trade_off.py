"""The plane of natural against robust accuracy: a panel per setting, each method's mean, interval and line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from softadv.claims.stats import interval
from softadv.experiments.spec_text import Series, by_method, by_setting
from softadv.report.dominance import RULE, AccuracyPair, Plane, plane
from softadv.report.figures.colors import fill, stroke
from softadv.report.figures.labels import Box, Crowd
from softadv.report.figures.page_figure import (
    ACCURACY_COLUMNS,
    RUN_COLUMNS,
    FigureInput,
    PageFigure,
    accuracy_cells,
    csv_text,
    has_seeds,
    of_settings,
    page_figure,
    run_cells,
    with_variations,
)
from softadv.report.figures.svg import (
    LINE,
    MARKERS,
    AxisScale,
    Panel,
    around,
    hit,
    marker,
    path,
    shortened,
    tag,
    text,
    within_percent,
)
from softadv.report.words import family_label, method_family, method_label, setting_words, settings_label

_OWN = {"natural": "circle", "adversarial": "square", "soft": "diamond"}
_FAR = 0.4  # a method is beyond the frame where the others would have less than this share of it
_ROOM = 0.5  # of the seeds' span: by so much, to each side, intervals may widen the frame; two seeds have wide ones
_DIRECT = 6  # so many methods have names and seeds beside their marks; of more, the names stand below
_KEY_COLUMNS = 2
_SEED = 'class="seed '
_GOES_ON = "goes-on"  # the class of an arrow at the end of an interval
_ARROWS = (("left", "right"), ("down", "up"))
_INWARDS = {"left": (1.15, 0.0), "right": (-1.15, 0.0), "down": (0.0, -1.15), "up": (0.0, 1.15)}  # tips touch the frame


@dataclass(frozen=True, kw_only=True)
class _Spot:
    """One method on the plane, in %."""

    method: str
    label: str
    family: str  # the label without the method's settings
    color: str
    seeds: tuple[AccuracyPair, ...]

    @property
    def mean(self) -> AccuracyPair:
        return fmean(x for x, _ in self.seeds), fmean(y for _, y in self.seeds)

    def ends(self, axis: int) -> AccuracyPair | None:
        """The 95% interval of the mean of an axis."""
        return interval([pair[axis] for pair in self.seeds])


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """One figure for all settings as the paper has them, then one for each that varies its assumptions."""
    runs = source.finished
    bases = of_settings(runs, [family.base.trial.setting for family in source.families])
    if bases:
        yield _figure("trade-off", bases, source.words)
    for family, its_runs in with_variations(runs, source.families):
        yield _figure(f"trade-off-variations-{family.base.trial.setting}", its_runs, source.words, variation=True)


def _figure(
    stem: str, runs: Sequence[Series], words: Mapping[str, str], *, variation: bool = False
) -> PageFigure:  # fmt: skip
    panels = draw(runs, words, alike=variation)
    spread = "Marks: means with 95% intervals." if has_seeds(runs) else "One seed of each method."
    if any(_SEED in part for panel in panels for part in panel.parts):
        spread = "Large marks: means with 95% intervals; small ones: seeds."
    lines = " A line joins the settings of one method." if _has_lines(runs) else ""
    beyond = any(_GOES_ON in part for panel in panels for part in panel.parts)
    arrows = " An arrow: the interval goes on." if beyond else ""
    return page_figure(
        "trade-off", stem, panels, runs,
        caption=f"After the last epoch; further right and up is better. {spread}{lines}{arrows}",
        csv=_csv(runs), title="Natural against robust accuracy", variation=variation, notes=_notes(runs, words),
    )  # fmt: skip


def draw(runs: Sequence[Series], words: Mapping[str, str] | None = None, *, alike: bool = False) -> list[Panel]:
    """Natural against robust accuracy after the last epoch: a panel per setting.

    Robust is under AutoAttack where every run of the setting has it on as many images.
    words: what the settings are called. alike: whether the panels share their scales.
    """
    called = setting_words(runs) if words is None else words
    marks = _marks(list(by_method(runs)))
    planes = {
        setting: (its_runs, found, _spots(its_runs, found))
        for setting, its_runs in by_setting(runs).items()
        if (found := plane(its_runs)) is not None
    }
    framed: dict[str, list[_Spot]] = {}  # by what they are robust under
    for _, found, spots in planes.values() if alike else ():
        framed.setdefault(found.under, []).extend(_inside(spots))
    return [
        _panel(its_runs, found, spots, title=called.get(setting, setting), marks=marks,
               framed=framed.get(found.under, ()))
        for setting, (its_runs, found, spots) in planes.items()
    ]  # fmt: skip


def _spots(runs: Sequence[Series], found: Plane) -> list[_Spot]:
    names = {run.trial.method: run.names for run in runs}
    return [
        _Spot(method=method, label=shortened(method_label(method, names[method]), 180),
              family=family_label(method, names[method]), color=names[method].method_color, seeds=tuple(its.values()))
        for method, its in found.points.items()
    ]  # fmt: skip


def _panel(
    runs: Sequence[Series],
    found: Plane,
    spots: Sequence[_Spot],
    *,
    title: str,
    marks: Mapping[str, str],
    framed: Sequence[_Spot],
) -> Panel:
    """framed: whose seeds the frame has to hold; default: those of the methods that are not far away."""
    said = "; ".join(f"{spot.label} {spot.mean[0]:.1f} and {spot.mean[1]:.1f}" for spot in spots)
    panel = Panel(f"{title}: natural accuracy and accuracy under {found.under}, in %: {said}", height=280, left=36)
    inside = _inside(spots)
    key = _key(inside) if len(spots) > _DIRECT else []
    beyond = [spot for spot in spots if spot not in inside]
    below = [(spot, shortened(spot.family, panel.width / _KEY_COLUMNS - 20), *divmod(place, _KEY_COLUMNS))
             for place, spot in enumerate(key)]  # fmt: skip
    rows = math.ceil(len(key) / _KEY_COLUMNS) + len(beyond)
    below += [(spot, f"{spot.label}, beyond: {spot.mean[0]:.1f}, {spot.mean[1]:.1f}", rows - place, 0)
              for place, spot in enumerate(beyond, start=1)]  # fmt: skip
    panel.height += LINE * rows + (40 if key else 0)
    panel.bottom += LINE * rows
    x, y = (
        scale(*within_percent(around(_reach(framed or inside, axis), room=0.14, least=2)))
        for axis, scale in ((0, panel.across), (1, panel.upward))
    )
    panel.title(title)
    panel.axes(x, y, x_name="Natural accuracy (%)", y_name=f"Accuracy under {found.under} (%)")
    for members in _lines(inside, runs[0].trial.eps):
        at = [(x(spot.mean[0]), y(spot.mean[1])) for spot in members]
        panel.add(tag("path", d=path(at), class_=f"link {stroke(members[0].color)}", stroke_dasharray="4 3"))
    for spot in inside:
        _draw(panel, spot, x, y, mark=marks[spot.method], crowded=bool(key))
    for spot in inside:  # no bar covers a mean
        panel.add(marker(marks[spot.method], x(spot.mean[0]), y(spot.mean[1]), 5, class_=f"point {fill(spot.color)}"))
    crowd = Crowd(panel, marks=[_around(x(spot.mean[0]), y(spot.mean[1]), 7) for spot in inside])
    crowd.drawn += [_around(x(a), y(b), 3) for spot in inside for a, b in spot.seeds if not key]
    for spot in inside:
        (left, right), (low, high) = (spot.ends(axis) or (spot.mean[axis],) * 2 for axis in (0, 1))
        at_x, at_y = x(spot.mean[0]), y(spot.mean[1])
        crowd.drawn += [(x(left), at_y - 1, x(right), at_y + 1), (at_x - 1, y(high), at_x + 1, y(low))]
    for spot in spots:
        mean = x(spot.mean[0]), y(spot.mean[1])
        said = settings_label(spot.method) if key else spot.label
        if spot in beyond:
            panel.add(marker(marks[spot.method], *mean, 5, class_=f"point {fill(spot.color)}"))
        elif said:
            crowd.label(said, *mean)
    for spot, said, row, column in below:
        at_x = 8 + column * panel.width / _KEY_COLUMNS
        at_y = panel.height - LINE * (rows - row) + LINE / 2
        panel.add(marker(marks[spot.method], at_x, at_y, 5, class_=f"point {fill(spot.color)}"))
        panel.add(text(said, at_x + 11, at_y + 4))
    for spot in spots:
        at_x, at_y = x(spot.mean[0]), y(spot.mean[1])
        panel.add(hit(_values(spot, found.under), at_x - 9, at_y - 9, 18, 18))
    return panel


def _key(spots: Sequence[_Spot]) -> list[_Spot]:
    """One of each family, whose members have a mark, and as a rule a colour, in common."""
    found: dict[str, _Spot] = {}
    for spot in spots:
        found.setdefault(spot.family, spot)
    return list(found.values())


def _inside(spots: Sequence[_Spot]) -> list[_Spot]:
    """The methods that the frame is for: without natural training where it would press the others into a corner."""
    rest = [spot for spot in spots if spot.method != "natural"]
    if len(rest) < 2 or len(rest) == len(spots):
        return list(spots)
    for axis in (0, 1):
        alone, whole = (_span(_reach(group, axis)) for group in (rest, spots))
        if alone < _FAR * whole:
            return rest
    return list(spots)


def _reach(spots: Sequence[_Spot], axis: int) -> list[float]:
    """What a frame has to hold of these: every seed, and of the intervals what leaves the seeds room."""
    seeds = [pair[axis] for spot in spots for pair in spot.seeds]
    room = _ROOM * _span(seeds)
    low, high = min(seeds) - room, max(seeds) + room
    return seeds + [min(max(end, low), high) for spot in spots for end in spot.ends(axis) or ()]


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _draw(panel: Panel, spot: _Spot, x: AxisScale, y: AxisScale, *, mark: str, crowded: bool) -> None:
    """The intervals of a method, and its seeds. crowded: thin intervals, without the seeds."""
    bars = "link" if crowded else "line"
    if len(spot.seeds) > 1 and not crowded:
        panel.add(*(marker(mark, x(a), y(b), 2.4, class_=f"seed {stroke(spot.color)}") for a, b in spot.seeds))
    at_x, at_y = x(spot.mean[0]), y(spot.mean[1])
    for axis, scale in enumerate((x, y)):
        ends = spot.ends(axis)
        if ends is None:
            continue
        at = [(scale(end), at_y) if axis == 0 else (at_x, scale(end)) for end in ends]
        panel.add(tag("path", d=path(at), class_=f"{bars} {stroke(spot.color)}"))
        for end, (tip_x, tip_y), shape in zip(ends, at, _ARROWS[axis], strict=True):
            if _goes_on(end, scale):
                (dx, dy), size = _INWARDS[shape], 4
                panel.add(marker(shape, tip_x + size * dx, tip_y + size * dy, size,
                                 class_=f"{_GOES_ON} {fill(spot.color)}"))  # fmt: skip


def _goes_on(end: float, scale: AxisScale) -> bool:
    """Whether an interval goes on beyond the frame."""
    return (end < scale.low and scale.low > 0) or (end > scale.high and scale.high < 100)


def _around(x: float, y: float, size: float) -> Box:
    return x - size, y - size, x + size, y + size


def _values(spot: _Spot, under: str) -> str:
    shown = []
    for axis, what in ((0, "natural"), (1, f"under {under}")):
        ends = spot.ends(axis)
        span = "" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f})"
        shown.append(f"{what} {spot.mean[axis]:.2f}%{span}")
    count = len(spot.seeds)
    return f"{spot.label}: {', '.join(shown)}; {count} seed{'s' * (count != 1)}"


def _marks(methods: Sequence[str]) -> dict[str, str]:
    """A mark for each method, of one family the same: beside the colour, so that they can be told apart in grey."""
    families = list(dict.fromkeys(method_family(method)[0] for method in methods))
    others = [family for family in families if family not in _OWN]
    rest = [mark for mark in MARKERS if mark not in _OWN.values()]
    marks = _OWN | {family: rest[index % len(rest)] for index, family in enumerate(others)}
    return {method: marks[method_family(method)[0]] for method in methods}


def _lines(spots: Sequence[_Spot], eps: float) -> list[list[_Spot]]:
    """Methods that differ in one setting alone, such as TRADES by its weight, in the order of that setting."""
    families: dict[tuple[str, tuple[str, ...]], list[tuple[float, _Spot]]] = {}
    for spot in spots:
        family, settings = method_family(spot.method)
        if family == "adversarial" and not settings:
            settings = {"train_eps": eps}  # the end of the line of smaller radii
        if len(settings) == 1:
            families.setdefault((family, tuple(settings)), []).append((next(iter(settings.values())), spot))
    return [[spot for _, spot in sorted(its, key=lambda p: p[0])] for its in families.values() if len(its) > 1]


def _has_lines(runs: Sequence[Series]) -> bool:
    methods = [method_family(method) for method in by_method(runs)]
    return any(one[0] == other[0] for one, other in pairwise(sorted(methods, key=lambda method: method[0])))


def _notes(runs: Sequence[Series], words: Mapping[str, str]) -> list[str]:
    """Which methods are dominated, setting by setting, and what that means."""
    notes = []
    for setting, its_runs in by_setting(runs).items():
        found = plane(its_runs)
        if found is None or not found.compares:
            continue
        labels = {run.trial.method: method_label(run.trial.method, run.names) for run in its_runs}
        dominated = [
            f"{labels[method]} is dominated by {_some([labels[other] for other in others])}"
            for method, others in found.dominated().items()
        ]
        notes.append(f"{words.get(setting, setting)}: {'; '.join(dominated) or 'no method is dominated'}.")
    return [*notes, RULE] if notes else []


def _some(names: Sequence[str]) -> str:
    """Up to three names, or two and how many more."""
    shown = list(names) if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _csv(runs: Sequence[Series]) -> str:
    """Accuracies on the test images after the last epoch, in %."""
    rows = [(*run_cells(run), run.trial.epochs, *accuracy_cells(run)) for run in runs if run.accuracies is not None]
    return csv_text((*RUN_COLUMNS, "epochs", *ACCURACY_COLUMNS), rows)
