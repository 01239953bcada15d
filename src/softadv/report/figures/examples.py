"""Test images, their attacks and the differences, with predictions and verdicts: one figure, of one run."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from softadv._io import read_tensors
from softadv.errors import SoftadvError
from softadv.experiments.names import Names, method_rank
from softadv.experiments.run_folder import EXAMPLES
from softadv.experiments.runs import all_series
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import DOMAIN_TITLES, fraction
from softadv.report.figures.colors import PARTITION, stroke
from softadv.report.figures.page_figure import FigureInput, PageFigure, csv_text, page_figure
from softadv.report.figures.svg import Panel, tag, text

_SIDE = 104.0  # pixels of an image
_LETTERS = 8  # of a class's name that its column has room for


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
            f"The first {len(tensors['image'])} test images, by {entry.name}: as they are, attacked, and the change "
            f"amplified {difference_gain(trial)} times around mid-grey. Below, the model's prediction (✓ right, ✗ "
            f"wrong), and the verdict of {DOMAIN_TITLES[trial.domain]} at ε {fraction(trial.eps)}."
        )
        yield page_figure("examples", "examples", figure, [run], caption=caption, csv=csv)
        return


def difference_gain(trial: Trial) -> int:
    """By how much the figure amplifies the difference of pixels: a difference of eps becomes full black or white."""
    return max(int(0.5 / trial.eps + 1e-6), 1) if trial.eps else 1


def draw(trial: Trial, examples: Mapping[str, Tensor], *, class_names: Sequence[str]) -> list[Panel]:
    """Test images, their attacks and the differences, with predictions and verdicts: a panel an image.

    examples: what examples.safetensors holds. class_names: a class without a name there is shown by its number.
    """
    names = dict(enumerate(class_names))
    return [
        _panel({key: value[place] for key, value in examples.items()}, names, gain=difference_gain(trial))
        for place in range(len(examples["image"]))
    ]


def _panel(example: Mapping[str, Tensor], names: Mapping[int, str], *, gain: int) -> Panel:
    label, verdict = int(example["label"]), "unverified"
    if int(example["predicted"]) != label:
        verdict = "misclassified"
    elif bool(example["verified"]):
        verdict = "verified"
    said = [_predicted(example, key, names) for key in ("predicted", "predicted_attacked")]
    panel = Panel(f"{_short(names, label)}: predicted {said[0]}, attacked {said[1]}; {verdict}", width=_SIDE + 16)
    image, attacked = example["image"], example["attacked"]
    panel.add(text(f"is {_short(names, label)}", 8, 13, class_="title"))
    y = 20.0
    shown = (image, attacked, (0.5 + gain * (attacked - image)).clamp(0, 1))
    for pixels, below in zip(shown, (f"model: {said[0]}", f"attacked: {said[1]}", verdict), strict=True):
        place = {"x": 8, "y": y, "width": _SIDE, "height": _SIDE}
        panel.add(tag("image", href=_uri(pixels), **place), tag("rect", class_="frame", **place))
        panel.add(text(below, 8, y + _SIDE + 13, class_="small"))
        y += _SIDE + 20
    color = PARTITION[verdict]
    panel.add(tag("line", x1=8, x2=8 + _SIDE, y1=y - 2, y2=y - 2, class_=f"line {stroke(color)}"))
    panel.height = y + 4
    return panel


def _predicted(example: Mapping[str, Tensor], key: str, names: Mapping[int, str]) -> str:
    found = int(example[key])
    return f"{_short(names, found)} {'✓' if found == int(example['label']) else '✗'}"


def _uri(pixels: Tensor) -> str:
    """An image, float (C, H, W) in [0, 1], as a PNG in a data: URI; other channels than RGB as grey."""
    drawn = pixels if len(pixels) == 3 else pixels.mean(0, keepdim=True)
    bytes_of = (255 * drawn).round().to(torch.uint8).cpu().permute(1, 2, 0).squeeze(2).numpy()
    png = io.BytesIO()
    Image.fromarray(bytes_of).save(png, format="png")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _short(names: Mapping[int, str], label: int) -> str:
    name = names.get(label, str(label))
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


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
