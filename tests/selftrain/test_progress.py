"""What a person sees of a stage."""

from __future__ import annotations

import io
import json

import pytest

from selftrain import progress
from selftrain.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize(
    ("calls", "lines"),
    [
        ([(20, (3, 10))], ["3/10 settings, starting"]),
        ([(20, (3, 10, "greedy: 5/8 samples"))], ["3/10 settings, starting; greedy: 5/8 samples"]),
        ([(20, (0, 10, "greedy: 5/8 samples"))], ["0/10 settings, starting; greedy: 5/8 samples"]),
        ([(20, (0, 10))], []),
        ([(9, (1, 10))], []),
        (
            [(20, (1, 10)), (10, (6, 10)), (1, (7, 10))],
            ["1/10 settings, starting", "6/10 settings, 2.0 s each, about 8 s left"],
        ),
        (
            [(20, (1, 10)), (1000, (2, 10))],
            ["1/10 settings, starting", "2/10 settings, 1000.0 s each, about 2 h 13 min left"],
        ),
        ([(20, (1, 99)), (10, (51, 99))], ["1/99 settings, starting", "51/99 settings, 5.0/s, about 10 s left"]),
    ],
)
def test_lines_where_there_is_no_terminal(clock, calls, lines):
    out = io.StringIO()
    with Progress(out).stage("grid", "settings") as update:
        for seconds, call in calls:
            clock.now += seconds
            update(*call)
    total = sum(seconds for seconds, _ in calls)
    shown = "".join(f"  grid: {line}\n" for line in lines)
    assert out.getvalue() == f"grid ...\n{shown}grid: {calls[-1][1][1]} settings, {total:.1f} s\n"


@pytest.mark.parametrize(
    ("reports", "rate"),
    [
        ([], None),
        ([(12, 1)], None),  # start-up and the first step cannot be told apart
        ([(12, 1), (14, 2)], 0.5),
        ([(12, 1), (12.01, 2)], None),  # reported together
        ([(12, 1), (12.01, 2), (14.01, 3)], 2 / 2.01),
        ([(0.1, 60), (12, 61), (14, 62)], 0.5),  # a resumed stage found 60
        ([(0.1, 60), (0.2, 120)], None),
        ([(12, 1), (14, 2), (20, 2)], 0.5),  # nothing new
        ([(10 * k, k) for k in range(1, 11)] + [(100 + k, 10 + k) for k in range(1, 90)], 1.0),  # the recent minute
        ([(100 * k, k) for k in range(1, 9)], 0.01),  # a unit that takes longer than that
    ],
)
def test_rate_leaves_out_the_start_up(reports, rate):
    pace = progress.Pace(started=0.0)
    for now, done in reports:
        pace.update(now, done)
    assert pace.rate == (rate if rate is None else pytest.approx(rate))


def test_time_left_of_a_training_whose_start_up_took_long():
    """200 steps of a second after 10 s of imports: 190 s are left after 10 steps, not 2,000."""
    pace = progress.Pace(started=0.0)
    for step in range(1, 11):
        pace.update(10.0 + step, step)
    assert pace.left(10, 200) == pytest.approx(190)


def test_a_terminal_shows_the_note_below_the_bar():
    out = Terminal()
    with Progress(out).stage("grid", "settings") as update:
        update(3, 10, "greedy: 5/8 samples")
    shown = out.getvalue()
    assert "3/10" in shown
    assert "greedy: 5/8 samples" in shown
    assert shown.endswith("s\n")


@pytest.mark.parametrize(("later", "shown"), [(None, "starting"), (0.0, "8 s"), (5000.0, "1 h 23 min")])
def test_the_time_that_a_run_has_left(clock, later, shown):
    """The stage's own and that of the stages after it, which is known from the start of the stage."""
    out = io.StringIO()
    progress = Progress(out)
    progress.after = lambda: later
    with progress.stage("grid", "settings") as update:
        for seconds, done in ((20, 1), (10, 6)):
            clock.now += seconds
            update(done, 10)
    assert f"  grid: 6/10 settings, 2.0 s each, about 8 s left (run: {shown})\n" in out.getvalue()


def test_samples_that_were_there_are_told_once(clock):
    out = io.StringIO()
    with Progress(out).stage("sampling", "samples") as update:
        for done, total in ((40, 100), (50, 100), (10, 20)):
            update(done, total)
    assert out.getvalue().splitlines()[1:-1] == ["  sampling: 40 of 100 samples are in the bank"]


def test_events_for_programs(clock):
    out = io.StringIO()
    events = progress.Events(out)
    events.say("  a line")
    with events.stage("grid", "settings") as update:
        for seconds, done in ((20, 1), (0.5, 2), (10, 6), (0.1, 10)):
            clock.now += seconds
            update(done, 10, "note")
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["event"] for row in rows] == ["message", "stage_started", *["progress"] * 3, "stage_ended"]
    assert rows[0]["text"] == "a line"
    assert [row["done"] for row in rows[2:5]] == [1, 6, 10], "one a second, and the last"
    assert rows[3]["rate"] == pytest.approx(5 / 10.5, abs=1e-3)
    assert rows[3]["seconds_left"] == pytest.approx(4 * 10.5 / 5, abs=1e-3)
    assert rows[5] | {"units": 10, "seconds": 30.6, "stage": "grid"} == rows[5]


def test_quiet_says_nothing():
    out = Terminal()
    quiet = Progress(out, quiet=True)
    with quiet.stage("grid", "settings") as update:
        update(3, 10, "greedy: 5/8 samples")
    quiet.say("done")
    assert out.getvalue() == ""
