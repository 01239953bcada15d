"""What a log shows of a run, and what a terminal does."""

import io

import pytest
from rich.console import Console

from softadv.display import Display
from softadv.progress import stage


def shown(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, highlight=False)
    with Display(console, work=100) as display:
        done = stage(display.of("trial-a"), "epoch 1/2: training", cost=2)
        done(10)
        done(20)
        stage(display.of("trial-a"), "epoch 1/2: evaluating", cost=1)(10)
        stage(display.of("trial-a"), "epoch 2/2: training", cost=1)(50)
    return stream.getvalue()


def test_a_log_has_one_line_an_epoch_with_the_share_done() -> None:
    assert shown(terminal=False).splitlines() == ["trial-a  epoch 1/2  (20%)", "trial-a  epoch 2/2  (100%)"]


def test_a_terminal_shows_the_stage_the_share_and_the_time_left() -> None:
    screen = shown(terminal=True)
    assert "epoch 2/2: training" in screen
    assert "100%" in screen
    assert "left" in screen


@pytest.mark.parametrize("terminal", [False, True])
def test_a_note_is_shown_beside_the_work(terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, highlight=False)
    with Display(console, work=10) as display:
        display.advance("model", "certifying", 4, note="12 images/s, 3 [verified]")
    assert "12 images/s, 3 [verified]" in stream.getvalue()
    if not terminal:
        assert stream.getvalue() == "model  certifying  (40%, 12 images/s, 3 [verified])\n"


def test_a_stage_reports_the_work_since_the_last_call() -> None:
    reported: list[tuple[str, float]] = []
    done = stage(lambda what, work: reported.append((what, work)), "certifying", cost=3)
    done(2)
    done(5)
    assert reported == [("certifying", 6), ("certifying", 9)]
