"""What a terminal shows of a run, and what a log file gets in its place."""

import io

import pytest
from rich.console import Console

from lottery_jax.runs import display


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def bars(monkeypatch):
    """(display, its console's file, the clock)."""
    now, out = [100.0], Terminal()
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    console = Console(file=out, width=150, force_terminal=True, color_system=None)
    return display.Display(40, console), out, now


def test_a_level_has_a_bar_with_accuracy_speed_and_time_left(bars):
    bar, out, now = bars
    with bar:
        bar.describe("seed 0,1  level  0", 10)
        for _ in range(3):
            now[0] += 60
            bar.epoch_done("97.10%", 12345.6, 2)
        bar._progress.refresh()
    text = out.getvalue()
    last = [line for line in text.replace("\r", "\n").splitlines() if "12,346" in line][-1]
    # Four epochs in 120 seconds: 30 seconds for each of the four of the level and 34 of the run.
    assert "seed 0,1  level  0" in last and "97.10%  12,346 examples/s 2 min left" in last
    assert "6/10 epochs" in last
    whole = [line for line in text.replace("\r", "\n").splitlines() if "whole run" in line][-1]
    assert "6/40 epochs" in whole and "17 min left" in whole


def test_epochs_before_a_rewind_point_are_none_of_the_whole_run(bars):
    bar, _, now = bars
    bar.describe("seed 0", 2, counted=False)
    for _ in range(2):
        now[0] += 60
        bar.epoch_done("", 1.0)
    level, whole = bar._progress.tasks
    assert level.description == "seed 0, to the rewind point"
    assert (level.completed, level.total) == (2, 2) and (whole.completed, whole.total) == (0, 40)
    bar.describe("seed 0", 4)
    assert (level.description, level.completed, level.total) == ("seed 0", 0, 4)
    now[0] += 60
    bar.epoch_done("", 1.0)
    assert level.fields["left"] == "3 min left" and whole.fields["left"] == "39 min left"


def test_phases_are_named_on_a_terminal_and_go_again(bars):
    _, out, _ = bars
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with display.phase(console, "loading [digits]"):
        pass
    assert "loading [digits]" in out.getvalue()
    log = io.StringIO()
    with display.phase(Console(file=log), "loading digits"):
        pass
    assert log.getvalue() == ""


def test_a_log_file_gets_plain_lines(bars):
    log = io.StringIO()
    with display.Display(4, Console(file=log, width=150)) as bar:
        bar.describe("level 0", 2)
        bar.step_done()
        bar.epoch_done("97.10%", 1.0)
        bar.describe("level 1", 2)
        bar.say("level 0  97.10%")
    assert log.getvalue() == "compiling the training step\nlevel 0  97.10%\n"
