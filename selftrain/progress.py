"""What a run shows while it works: the stage, how far it is, its rate and the time left."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from data_process.errors import printable

Update = Callable[[int, int], None]  # done, total
PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal
EVENT_EVERY = 1.0  # seconds between progress events for programs


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

    def left(self, done: int, total: int) -> float | None:
        """Seconds to the end of the stage; None while there is no rate."""
        return None if self.rate is None else (total - done) / self.rate


def lasting(seconds: float) -> str:
    """`8 s`, `4 min`, `1 h 20 min`: a time that is an estimate."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class Standing:
    """How far a stage is."""

    done: int
    total: int
    rate: float | None  # units per second, recently
    left: float | None  # seconds of this stage
    run_left: float | None  # seconds of the whole run, this stage included
    in_run: bool  # whether the stage is part of a run, so that `run_left` is wanted
    note: str = ""

    @property
    def pace(self) -> str:
        """Such as "2.5/s, about 3 min left", "1.7 s each, about 8 s left (run: 2 h 05 min)" or "starting"."""
        if self.rate is None or self.left is None:
            return "starting"
        rate = f"{self.rate:.1f}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"
        run = "starting" if self.run_left is None else lasting(self.run_left)
        return f"{rate}, about {lasting(self.left)} left" + (f" (run: {run})" if self.in_run else "")


Show = Callable[[Standing], None]


class Progress:
    """Live bars on a terminal; elsewhere a line every few seconds."""

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False, live: bool = True) -> None:
        """`live`: bars where `out` is a terminal; False where several processes share it."""
        self._out = out or sys.stderr
        self.quiet = quiet
        self._live = live and not quiet and self._out.isatty()
        # Seconds that the stages after the present one will take, None while nobody knows: see runs/forecast.py.
        self.after: Callable[[], float | None] | None = None

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            print(printable(text), file=self._out, flush=True)

    @contextmanager
    def stage(self, title: str, unit: str) -> Iterator[NotedUpdate]:
        """Show a stage; call what it yields with (done, total) in `unit`s, and a note where one unit takes long."""
        started = time.monotonic()
        pace, wanted = Pace(started), None
        later = self.after() if self.after is not None else None
        with self._shown(title, unit, started) as show:

            def update(done: int, total: int, note: str = "") -> None:
                nonlocal wanted
                if wanted is None and unit == "samples" and done:
                    self.say(f"  {title}: {done} of {total} samples are in the bank")
                wanted = total
                pace.update(time.monotonic(), done)
                left = pace.left(done, total)
                whole = None if left is None or later is None else left + later
                show(Standing(done, total, pace.rate, left, whole, self.after is not None, note))

            yield update
        self._ended(title, unit, wanted or 0, time.monotonic() - started)

    def during(self, title: str, unit: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
        """`make` of a run folder's stage, shown while it works: a stage that is done already is not shown."""

        def shown(folder: Path) -> None:
            with self.stage(title, unit):
                make(folder)

        return shown

    def _ended(self, title: str, unit: str, units: int, seconds: float) -> None:
        self.say(f"{title}: {f'{units} {unit}, ' if units else ''}{seconds:.1f} s")

    def _shown(self, title: str, unit: str, started: float) -> AbstractContextManager[Show]:
        return self._bar(title) if self._live else self._lines(title, unit, started)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Show]:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        pace = TextColumn("{task.fields[pace]}", markup=False)
        bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), pace
        )
        task = bars.add_task(printable(title), total=None, pace="starting")
        below = Text(style="dim", no_wrap=True, overflow="ellipsis")

        def show(now: Standing) -> None:
            bars.update(task, completed=now.done, total=now.total, pace=now.pace)
            below.plain = printable(now.note)

        def rendered() -> Group:
            return Group(bars, below) if below.plain else Group(bars)

        with Live(get_renderable=rendered, console=Console(file=self._out), transient=True):
            yield show

    @contextmanager
    def _lines(self, title: str, unit: str, started: float) -> Iterator[Show]:
        reported = started

        def show(now: Standing) -> None:
            nonlocal reported
            if time.monotonic() - reported >= PLAIN_EVERY and (now.done or now.note):
                reported = time.monotonic()
                self.say(f"  {title}: {now.done}/{now.total} {unit}, {now.pace}{now.note and f'; {now.note}'}")

        self.say(f"{title} ...")
        yield show


class Events(Progress):
    """For programs: one JSON object a line, `event` first: what `selftrain run --json` prints."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out, live=False)

    def emit(self, event: str, **fields: Any) -> None:
        row = {"event": event, "time": round(time.time(), 3), **fields}
        print(json.dumps(row, ensure_ascii=False), file=self._out, flush=True)

    def say(self, text: str) -> None:
        self.emit("message", text=text.strip())

    def _ended(self, title: str, unit: str, units: int, seconds: float) -> None:
        self.emit("stage_ended", stage=title, unit=unit, units=units, seconds=round(seconds, 3))

    @contextmanager
    def _shown(self, title: str, unit: str, started: float) -> Iterator[Show]:
        reported = started

        def show(now: Standing) -> None:
            nonlocal reported
            if time.monotonic() - reported >= EVENT_EVERY or now.done == now.total:
                reported = time.monotonic()
                times = {"rate": now.rate, "seconds_left": now.left, "run_seconds_left": now.run_left}
                rounded = {name: None if value is None else round(value, 3) for name, value in times.items()}
                self.emit("progress", stage=title, unit=unit, done=now.done, total=now.total, **rounded, note=now.note)

        self.emit("stage_started", stage=title, unit=unit)
        yield show
