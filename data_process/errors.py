"""Errors that a user can act on. The command line prints their message and exits with their status."""

from __future__ import annotations

import errno
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in a quota, under a limit on file sizes
# Control characters but line ends and tabs, marks that turn the direction of writing, and halves of surrogate pairs.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST_LINE = 4000  # characters of a message's line
LONGEST = 40_000  # characters of a message


class UserError(Exception):
    """Something that the user can fix. The message says what is wrong, where, and what to do next."""

    exit_status: ClassVar[int] = 2  # 2: the input cannot be used; 4: an engine or a training failed
    heading: ClassVar[str] = "error"  # printed before the message
    advice: ClassVar[str] = ""  # printed on a line of its own after the message


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put a file's path into the error of a full disk: a write to an open file says only that there is no space."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise


def write_escapes() -> None:
    """What standard output cannot encode, such as half of a surrogate pair, is written as an escape from now on."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # and not a stand-in without an encoding
        sys.stdout.reconfigure(errors="backslashreplace")


class FailedError(UserError):
    """Work failed that was started on good input. The same command resumes it."""

    exit_status = 4


def printable(text: str) -> str:
    """A message as a terminal may show it, whatever names and values it repeats.

    Escape sequences, control characters and direction marks are written as escapes; very long lines are cut.
    """
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n... ({len(text):,} characters)"
    lines = (line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..." for line in text.split("\n"))
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], "\n".join(lines))
