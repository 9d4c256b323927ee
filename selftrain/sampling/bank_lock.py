"""Waits for a bank that another process holds, and says after a few seconds who that is."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE = 3.0  # seconds without a word; transactions of other processes take milliseconds
LONGEST = 15.0  # seconds more, after the note
_BUSY = (5, 6, 15)  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL
_T = TypeVar("_T")


def is_busy(error: BaseException) -> bool:
    """Whether an error of SQLite says that another connection holds the file."""
    return isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def patiently(database: sqlite3.Connection, path: Path, action: Callable[[], _T]) -> _T:
    """What an action returns; if the file is locked for PATIENCE, one line says by whom, and it is tried for longer."""
    try:
        return action()
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
    print(f"note: waiting for {path}, which is locked{holders(path)}", file=sys.stderr, flush=True)
    database.execute(f"PRAGMA busy_timeout={int(1000 * LONGEST)}")
    try:
        return action()
    finally:
        database.execute(f"PRAGMA busy_timeout={int(1000 * PATIENCE)}")


def holders(path: Path) -> str:
    """ " by process 17 (python run.py)" for the other processes of this machine that have the file open, or ""."""
    real = os.path.realpath(path)
    wanted = {real, f"{real}-wal", f"{real}-shm"}
    found = []
    try:
        processes = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    except OSError:  # not Linux
        return ""
    for process in sorted(processes):
        try:
            opened = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{process}/fd")}
            if opened & wanted:
                line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append(f"process {process} ({line.strip()[:100]})")
        except OSError:  # it has ended, or is another user's
            continue
    return f" by {', '.join(found[:3])}" if found else ""
