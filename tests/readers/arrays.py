"""A small data set's pixels and labels."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(12, 3, 8, 9), dtype=np.uint8)
LABELS = np.arange(12) % 4


def parts(**changed) -> dict:
    return {"train_x": PIXELS[:8], "train_y": LABELS[:8], "test_x": PIXELS[8:], "test_y": LABELS[8:]} | changed
