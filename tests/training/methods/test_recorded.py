"""Steps that are recorded once and replayed, as on a GPU, are the plain ones for every method and setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from softadv.data import Dataset
from softadv.kernels.cuda_graphs import Replays
from softadv.models import conv_small
from softadv.training.loop import train_epoch
from softadv.training.methods import Fat, Inverted, Method, Random, Soft, Survivors, Trades
from softadv.training.state import TrainState, new_state
from tests.kernels.test_cuda_graphs import Repeater
from tests.training.methods.runs import CONFIG, equal, quiet

CHANGES: dict[str, Any] = {"schedule": "cosine", "natural_epochs": 1, "eps_warmup_epochs": 1, "clip_gradients": 1.0}


@pytest.mark.parametrize("settings", [{}, CHANGES], ids=["plain settings", "changing"])
@pytest.mark.parametrize(
    "method", [Trades(), Fat(tau=1), Soft(), Inverted(), Survivors(), Random(share=0.5)], ids=lambda m: type(m).__name__
)
def test_replayed_steps_are_plain_ones(digits: Dataset, method: Method, settings: dict[str, Any]) -> None:
    config = replace(CONFIG, method=method, eps=0.02, **settings)
    recorder = Repeater()

    def trained(replays: Replays) -> TrainState:
        state = replace(new_state(conv_small("digits", seed=0), config), replays=replays)
        for epoch in range(1, config.epochs + 1):
            train_epoch(
                state, digits.train_x[:160], digits.train_y[:160], config=config, epoch=epoch, on_progress=quiet
            )
        return state

    assert equal(trained(Replays(recorder)), trained(Replays(None)))
    assert recorder.repeated > 0
