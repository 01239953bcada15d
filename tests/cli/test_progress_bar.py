"""What a log shows of a run, and what a terminal does."""

import io
import itertools

import pytest
from rich.console import Console

from softadv._progress import stage
from softadv.cli.progress_bar import Display, Pace


class Clock:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def shown(*, terminal: bool) -> str:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=terminal, width=120, highlight=False)
    with Display(console, work=140, clock=clock) as display:
        done = stage(display.of("trial-a"), "epoch 1/2: training", cost=2)
        done(10)
        clock.now += 12
        done(20)
        stage(display.of("trial-a"), "epoch 1/2: evaluating", cost=1)(10)
        stage(display.of("trial-a"), "epoch 2/2: training", cost=1)(50)
    return stream.getvalue()


def test_a_log_has_one_line_an_epoch_with_the_share_done() -> None:
    assert shown(terminal=False).splitlines() == [
        "trial-a  epoch 1/2  (14%)",
        "trial-a  epoch 2/2  (71%, about 5 s left)",
    ]


def test_a_terminal_shows_the_stage_the_share_and_the_time_left() -> None:
    screen = shown(terminal=True)
    assert "epoch 2/2: training" in screen
    assert "71%" in screen
    assert "about 5 s left" in screen  # 40 to go, after 80 in 12 s


def test_the_time_left_is_that_of_the_trial_and_that_of_all() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=False, width=120, highlight=False)
    with Display(console, work=1000, trials=["a", "b"], each={"a": 200, "b": 800}, clock=clock) as display:
        display.advance("a", "epoch 1/3", 100, before=True)  # by an earlier run
        display.advance("a", "epoch 2/3", 10)
        clock.now += 20
        display.advance("a", "epoch 3/3", 50)  # 40 of it left, and 840 of all, at 2.5 a second
    assert stream.getvalue().splitlines()[-1] == (
        "trial 1 of 2, a  epoch 3/3  (7%, about 15 s left of the trial, 6 min of all)"
    )


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


def log_of(*, work: float | None, trials: list[str]) -> tuple[Display, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, width=120, highlight=False)
    return Display(console, work=work, trials=trials, clock=clock), stream, clock


def test_a_trial_is_shown_with_its_number() -> None:
    display, log, _ = log_of(work=10, trials=["a", "b"])
    with display:
        display.advance("b", "epoch 1/2: training", 1)
    assert log.getvalue() == "trial 2 of 2, b  epoch 1/2  (10%)\n"


def test_an_epoch_is_one_line_however_long_it_takes_and_whoever_trains_beside_it() -> None:
    display, log, clock = log_of(work=None, trials=["a", "b"])
    with display:
        for trial, what in itertools.product(["a", "b"] * 5, ["epoch 1/2: certifying", "epoch 1/2: training"]):
            clock.now += 100
            display.advance(trial, what, 1)
    assert log.getvalue().splitlines() == ["trial 1 of 2, a  epoch 1/2", "trial 2 of 2, b  epoch 1/2"]


def test_what_is_no_epoch_says_every_minute_that_it_goes_on() -> None:
    display, log, clock = log_of(work=None, trials=[])
    with display:
        for _ in range(13):
            display.advance("a", "AutoAttack", 1)
            clock.now += 10
    assert log.getvalue().splitlines() == ["a  AutoAttack"] * 3


def test_the_time_left_does_not_count_what_came_before_the_work() -> None:
    display, log, clock = log_of(work=60, trials=[])
    with display:
        clock.now += 60  # kernels are compiled, data are read
        for epoch in range(1, 61):
            display.advance("a", f"epoch {epoch}/60: training", 1)
            clock.now += 1
    told = [line.partition("about ")[2] for line in log.getvalue().splitlines()]
    assert not any(told[:5])  # too early to tell
    assert told[10] == "50 s left)"
    assert told[-2:] == ["1 s left)", ""]


def test_the_time_left_is_smooth_but_follows_a_change_of_pace() -> None:
    clock = Clock()
    pace = Pace(clock)
    for epoch in range(1, 1001):
        pace.add(4)
        clock.now += 1 + 4 * (epoch % 2)  # three seconds an epoch, in turns long and short
        left = pace.left(4000 - 4 * epoch, share=epoch / 1000)
        assert (left is None) == (epoch < 20 or epoch == 1000)
        assert left is None or abs(left - 3 * (1000 - epoch)) <= 0.1 * 3 * (1000 - epoch) + 5
    slower = Pace(clock)
    for epoch in range(1000):
        clock.now += 1 if epoch < 500 else 3
        slower.add(1)
    left = slower.left(1000, share=0.5)
    assert left is not None
    assert 2700 < left < 3000  # the last five minutes count, not the mean of all, which would say 2000


def test_a_name_of_control_characters_moves_no_cursor() -> None:
    display, log, _ = log_of(work=None, trials=[])
    with display:
        display.advance("\x1b[2J\nmodel", "certifying", 1)
    assert log.getvalue() == "\\x1b[2J\\nmodel  certifying\n"


def test_a_terminal_shows_all_that_run_side_by_side_with_their_rates() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=120, highlight=False)
    with Display(console, work=100, trials=["trial-a", "trial-b"], clock=clock) as display:
        display.advance("trial-a", "epoch 1/9: training", 10)
        display.advance("trial-b", "epoch 1/9: training", 10)
        clock.now += 20
        display.advance("trial-a", "epoch 2/9: certifying", 10)
        display.advance("trial-b", "epoch 1/9: evaluating", 1)
        both = list(display._bar.lines)
        display.advance("trial-b", "finished", 0)
        assert display._bar.lines == ()
    assert both == [
        "  trial 1 of 2, trial-a  epoch 2/9: certifying, 20 s an epoch",
        "  trial 2 of 2, trial-b  epoch 1/9: evaluating",
    ]
