"""What a person sees while a run goes on: the stage, how far it is, its rate and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

Update = Callable[[int, int], None]  # done, total
PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


class NotedUpdate(Protocol):
    """An Update that may also say what is being worked on within the unit that is not done yet."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Progress:
    """Live bars on a terminal, one line now and then elsewhere."""

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False, live: bool = True) -> None:
        """`live`: bars where `out` is a terminal; False where several processes share it."""
        self._out = out or sys.stderr
        self.quiet = quiet
        self._live = live and not quiet and self._out.isatty()

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self.quiet:
            print(text, file=self._out, flush=True)

    @contextmanager
    def stage(self, title: str, unit: str) -> Iterator[NotedUpdate]:
        """A stage being worked on; call what it yields with (done, total) `unit`s, and a note where one takes long."""
        started = time.monotonic()
        last: list[Any] = [0, 0]
        if self._live:
            from rich.console import Console, Group
            from rich.live import Live
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars
            from rich.text import Text

            bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            task = bars.add_task(title, total=None, rate="")
            below = Text(style="dim", no_wrap=True, overflow="ellipsis")

            def update(done: int, total: int, note: str = "") -> None:
                last[:] = done, total
                rate = done / max(time.monotonic() - started, 1e-9)
                bars.update(task, completed=done, total=total, rate=f"{rate:.1f} {unit}/s")
                below.plain = note

            def shown() -> Group:
                return Group(bars, below) if below.plain else Group(bars)

            with Live(get_renderable=shown, console=Console(file=self._out), transient=True):
                yield update
        else:
            told = [started]

            def update(done: int, total: int, note: str = "") -> None:
                last[:] = done, total
                now = time.monotonic()
                if now - told[0] >= PLAIN_EVERY and (done or note):
                    told[0] = now
                    rate = done / (now - started)
                    left = f", {rate:.1f}/s, about {(total - done) / rate:.0f} s left" if done else ""
                    self.say(f"  {title}: {done}/{total} {unit}{left}{note and f'; {note}'}")

            self.say(f"{title} ...")
            yield update
        seconds = time.monotonic() - started
        counts = f"{last[1]} {unit}, " if last[1] else ""
        self.say(f"{title}: {counts}{seconds:.1f} s")
