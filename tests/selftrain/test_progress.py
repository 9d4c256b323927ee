"""What a person sees of a stage."""

from __future__ import annotations

import io
import re

import pytest

from selftrain import progress
from selftrain.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ((3, 10), r"  grid: 3/10 settings, \d+\.\d/s, about \d+ s left\n"),
        ((3, 10, "greedy: 5/8 samples"), r"  grid: 3/10 settings, \d+\.\d/s, about \d+ s left; greedy: 5/8 samples\n"),
        ((0, 10, "greedy: 5/8 samples"), r"  grid: 0/10 settings; greedy: 5/8 samples\n"),
        ((0, 10), r""),
    ],
)
def test_lines_where_there_is_no_terminal(monkeypatch, told, line):
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    out = io.StringIO()
    with Progress(out).stage("grid", "settings") as update:
        update(*told)
    assert re.fullmatch(rf"grid \.\.\.\n{line}grid: 10 settings, \d+\.\d s\n", out.getvalue())


def test_a_terminal_shows_the_note_below_the_bar():
    out = Terminal()
    with Progress(out).stage("grid", "settings") as update:
        update(3, 10, "greedy: 5/8 samples")
    shown = out.getvalue()
    assert "3/10" in shown
    assert "greedy: 5/8 samples" in shown
    assert shown.endswith("s\n")


def test_quiet_says_nothing():
    out = Terminal()
    quiet = Progress(out, quiet=True)
    with quiet.stage("grid", "settings") as update:
        update(3, 10, "greedy: 5/8 samples")
    quiet.say("done")
    assert out.getvalue() == ""
