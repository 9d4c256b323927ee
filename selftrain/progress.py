"""What a run shows while it works: the stage, how far it is, its rate and the time left."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

Update = Callable[[int, int], None]  # done, total
PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


class NotedUpdate(Protocol):
    """An Update that may also name the part of the next unit that is being worked on."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Pace:
    """The rate of a stage over its recent units.

    The time up to the first unit is start-up (imports, loading a model) and counts for nothing. Units that are reported
    within the first second were there before: a resumed stage finds them.
    """

    FOUND_WITHIN = 1.0  # seconds
    WINDOW = 60.0  # seconds of work that the rate is taken over, or more if MARKS units take longer
    MARKS = 4
    MARK_EVERY = 0.5  # seconds; no rate is taken over less, because several units may be reported together

    def __init__(self, started: float) -> None:
        self._started = started
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque()  # (seconds, units done then); the rate is taken from the first
        self.rate: float | None = None  # units per second; None while there is none

    def update(self, now: float, done: int) -> None:
        if done <= self._done:
            return
        self._done = done
        if not self._marks and now - self._started < self.FOUND_WITHIN:
            return
        if self._marks and now - self._marks[0][0] >= self.MARK_EVERY:
            first, done_then = self._marks[0]
            self.rate = (done - done_then) / (now - first)
        if not self._marks or now - self._marks[-1][0] >= self.MARK_EVERY:
            self._marks.append((now, done))
        while len(self._marks) > self.MARKS and now - self._marks[0][0] > self.WINDOW:
            self._marks.popleft()

    def text(self, done: int, total: int) -> str:
        """Such as "2.5/s, about 140 s left", "1.7 s each, about 190 s left" or "starting"."""
        if self.rate is None:
            return "starting"
        rate = f"{self.rate:.1f}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"
        return f"{rate}, about {(total - done) / self.rate:.0f} s left"


class Progress:
    """Live bars on a terminal; elsewhere a line every few seconds."""

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False, live: bool = True) -> None:
        """`live`: bars where `out` is a terminal; False where several processes share it."""
        self._out = out or sys.stderr
        self.quiet = quiet
        self._live = live and not quiet and self._out.isatty()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            print(text, file=self._out, flush=True)

    @contextmanager
    def stage(self, title: str, unit: str) -> Iterator[NotedUpdate]:
        """Show a stage; call what it yields with (done, total) in `unit`s, and a note where one unit takes long."""
        started = time.monotonic()
        pace, wanted = Pace(started), 0
        show = self._bar(title) if self._live else self._lines(title, unit, started)
        with show as shown:

            def update(done: int, total: int, note: str = "") -> None:
                nonlocal wanted
                wanted = total
                pace.update(time.monotonic(), done)
                shown(done, total, pace.text(done, total), note)

            yield update
        counts = f"{wanted} {unit}, " if wanted else ""
        self.say(f"{title}: {counts}{time.monotonic() - started:.1f} s")

    @contextmanager
    def _bar(self, title: str) -> Iterator[Callable[[int, int, str, str], None]]:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        pace = TextColumn("{task.fields[pace]}")
        bars = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), pace)
        task = bars.add_task(title, total=None, pace="starting")
        below = Text(style="dim", no_wrap=True, overflow="ellipsis")

        def show(done: int, total: int, pace: str, note: str) -> None:
            bars.update(task, completed=done, total=total, pace=pace)
            below.plain = note

        def rendered() -> Group:
            return Group(bars, below) if below.plain else Group(bars)

        with Live(get_renderable=rendered, console=Console(file=self._out), transient=True):
            yield show

    @contextmanager
    def _lines(self, title: str, unit: str, started: float) -> Iterator[Callable[[int, int, str, str], None]]:
        reported = started

        def show(done: int, total: int, pace: str, note: str) -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= PLAIN_EVERY and (done or note):
                reported = now
                self.say(f"  {title}: {done}/{total} {unit}, {pace}{note and f'; {note}'}")

        self.say(f"{title} ...")
        yield show
