"""Test images, their attacks and the differences, with predictions and verdicts: one figure, of one run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from softadv._io import read_tensors
from softadv.errors import SoftadvError
from softadv.experiments.names import Names, method_rank
from softadv.experiments.run_folder import EXAMPLES
from softadv.experiments.runs import all_series
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import DOMAIN_TITLES, fraction
from softadv.report.figures.page_figure import FigureInput, PageFigure, csv_text, page_figure
from softadv.report.figures.style import GRID, INK, PARTITION_COLOURS, literal, new_figure

_TIMES = "\N{MULTIPLICATION SIGN}"
_LETTERS = 12  # of a class's name that its column has room for


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """The examples of the first soft trial that has them, else of the last method that does."""
    candidates = [(run, entry) for entry in source.entries for run in all_series([entry]) if run.result]
    methods = sorted({run.trial.method for run, _ in candidates}, key=method_rank)
    # Stable: settings keep their order.
    candidates.sort(key=lambda found: (found[0].trial.method != "soft", -methods.index(found[0].trial.method)))
    for run, entry in candidates:
        trial = run.trial
        try:
            tensors, about = read_tensors(entry.folder.path / EXAMPLES)
            figure = draw(trial, tensors, class_names=_class_names(run.names, about))
            csv = _csv(tensors)
        except (SoftadvError, KeyError):
            continue  # another trial's will do, and a page without examples is still a report
        caption = (
            f"The first {len(tensors['image'])} test images, by {entry.name}. Under each image the model's prediction "
            f"(✓ right, ✗ wrong); at the foot, the verdict of {DOMAIN_TITLES[trial.domain]} at ε = "
            f"{fraction(trial.eps)}. The difference attacked minus original is amplified "
            f"{difference_gain(trial)} times around mid-grey."
        )
        yield page_figure("examples", "examples", figure, [run], caption=caption, csv=csv)
        return


def difference_gain(trial: Trial) -> int:
    """By how much the figure amplifies the difference of pixels: a difference of eps becomes full black or white."""
    return max(int(0.5 / trial.eps + 1e-6), 1) if trial.eps else 1


def draw(trial: Trial, examples: Mapping[str, Tensor], *, class_names: Sequence[str]) -> Figure:
    """Test images, their attacks and the differences, with predictions and verdicts.

    examples: what examples.safetensors holds. class_names: a class without a name there is shown by its number.
    """
    image, attacked = examples["image"], examples["attacked"]
    gain, count = difference_gain(trial), len(image)
    shown = (image, attacked, (0.5 + gain * (attacked - image)).clamp(0, 1))
    figure = new_figure(width=1.2 * count + 0.7, height=4.7)
    panels = figure.subplots(3, count, squeeze=False)
    for row, (name, images) in enumerate(
        zip(("Original", "Attacked", f"Difference {_TIMES} {gain}"), shown, strict=True)
    ):
        for axes, pixels in zip(panels[row], images, strict=True):
            drawn = pixels if len(pixels) == 3 else pixels.mean(0, keepdim=True)  # other channels than RGB: as grey
            axes.imshow(drawn.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(GRID)
        panels[row][0].set_ylabel(name, fontsize=10, color=INK)
    names = dict(enumerate(class_names))
    for column in range(count):
        _label_example(list(panels[:, column]), {key: value[column] for key, value in examples.items()}, names)
    return figure


def _label_example(panels: Sequence[Axes], example: Mapping[str, Tensor], names: Mapping[int, str]) -> None:
    label, verdict = int(example["label"]), "unverified"
    if int(example["predicted"]) != label:
        verdict = "misclassified"
    elif bool(example["verified"]):
        verdict = "verified"
    panels[0].set_title(f"label {_short(names, label)}", fontsize=9, color=INK)
    for axes, key in zip(panels, ("predicted", "predicted_attacked"), strict=False):
        right = int(example[key]) == label
        text = f"{_short(names, int(example[key]))} {'✓' if right else '✗'}"
        axes.set_xlabel(text, fontsize=9.5, color=INK, fontweight="normal" if right else "bold")
    panels[2].set_xlabel(
        verdict,
        fontsize=8.5,
        color=INK,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": PARTITION_COLOURS[verdict], "alpha": 0.45, "lw": 0},
    )


def _short(names: Mapping[int, str], label: int) -> str:
    name = names.get(label, str(label))
    return literal(name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…")


def _class_names(names: Names, about: Mapping[str, str]) -> Sequence[str]:
    """What the data set called its classes when the examples were made; files of old do not say it."""
    try:
        found = json.loads(about["class_names"])
    except (KeyError, ValueError, RecursionError):
        return names.class_names
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else names.class_names


def _csv(examples: Mapping[str, Tensor]) -> str:
    """What the examples show in words: classes by number, and the margin by which an image is verified or not."""
    keys = ("label", "predicted", "predicted_attacked", "verified", "margin")
    rows = [(index, *(_plain(examples[key][index].item()) for key in keys)) for index in range(len(examples["image"]))]
    return csv_text(("test_image", *keys), rows)


def _plain(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}"
