"""Run one command so that it never outlives the program that asked for it. Run as a script; standard library only.

`python supervise.py GRACE COMMAND...` with a pipe as standard input. When the pipe ends (the asking program closed it,
was interrupted or was killed at any point), everything the command started gets SIGTERM and, GRACE seconds later,
SIGKILL. A process group alone is not enough: torchrun puts each worker into a session of its own. On Linux this
process therefore adopts orphans (PR_SET_CHILD_SUBREAPER) and ends whatever is left below it.

Exit status: the command's own, or 128 + signal number when a signal ended it, as a shell says it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents first. Empty where there is no /proc."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended while we looked
            for child in map(int, listing.read_text().split()):
                found += [child, *descendants(child)]
    return found


def send(pid: int, number: int) -> None:
    """Signal `pid`'s process group (it leads one) and everything below us."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
    for below in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(below, number)


def main() -> int:
    grace, command = float(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The asking program decides, by closing the pipe or dying; on a node of a cluster signals reach the whole group.
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=False,  # what the asking program passed on by name; Python's own descriptors are not inheritable
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in signals],  # ignoring is inherited
    )

    def watch() -> None:
        while os.read(0, 4096):
            pass
        send(child.pid, signal.SIGTERM)
        until = time.monotonic() + grace
        while time.monotonic() < until and (child.poll() is None or descendants(os.getpid())):
            time.sleep(0.05)
        send(child.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    send(child.pid, signal.SIGTERM)  # stragglers, such as data loaders of a rank that crashed
    until = time.monotonic() + grace
    while descendants(os.getpid()) and time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.02)
    send(child.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    # Not sys.exit: the watcher may sit in a read, and nothing here needs flushing.
    os._exit(main())
