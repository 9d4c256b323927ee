"""Start a program, watch it and end it. It never outlives this process, however that ends: see `supervise.py`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from selftrain.processes import supervise

LOG_LINES = 40  # of a log that an error shows


class Child:
    """A running program whose output goes to a log. Close it, or use it as a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        grace: float,
        env: Mapping[str, str],
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        append: bool = False,
    ) -> None:
        """`grace`: seconds between SIGTERM and SIGKILL for it and all it started. `append`: keep what the log holds."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("ab" if append else "wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervise.__file__, str(grace), *command],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                pass_fds=pass_fds,
                start_new_session=True,  # a SIGKILL for our whole group must leave it, to end what it started
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status as a shell gives it (128 + number for a signal); None if it still runs after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> int:
        """End it if it still runs, with everything it started; returns the exit status. May be called twice."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # the supervisor takes it as the order to stop
        return self._process.wait()


def ending(status: int) -> str:
    """How a program ended, after a verb: "with status 3", "by signal 9"."""
    return f"by signal {status - 128}" if status > 128 else f"with status {status}"


def log_end(log: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log, headed by its path."""
    try:
        found = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError as error:
        return f"the log cannot be read: {error}"
    return "\n".join([f"end of {log}:", *found] if found else [f"{log} is empty: it said nothing"])
