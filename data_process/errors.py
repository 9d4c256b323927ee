"""Errors that a user can act on. The command line prints their message and exits with their status."""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Something that the user can fix. The message says what is wrong, where, and what to do next."""

    exit_status: ClassVar[int] = 2  # 2: the input cannot be used; 4: an engine or a training failed
    heading: ClassVar[str] = "error"  # printed before the message
    advice: ClassVar[str] = ""  # printed on a line of its own after the message


class FailedError(UserError):
    """Work failed that was started on good input. The same command resumes it."""

    exit_status = 4
