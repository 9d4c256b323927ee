"""From an error to a message and an exit status."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from data_process.errors import UserError

EXIT_CLOSED = 128 + signal.SIGPIPE  # the reader of the output has left, as `| head` does: what a shell reports then


def guarded(action: Callable[[], int]) -> int:
    """Run an action. An error that the user can act on becomes one message and an exit status; others are raised."""
    try:
        status = action()
        sys.stdout.flush()  # here and not when the interpreter ends, where a closed pipe can no longer be caught
        return status
    except UserError as error:
        print(f"{error.heading}: {error}", file=sys.stderr)
        if error.advice:
            print(error.advice, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("\nStopped. Finished work is kept; the same command resumes.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not closed:  # another pipe broke: a bug
            raise
        for stream in closed:  # discard what is still to be written
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return EXIT_CLOSED
    except OSError as error:
        # Stages report this themselves. This is for a full or read-only disk under the bank, the images or the report.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        print(f"error: {error}; fix this and run the same command again. Finished work is kept.", file=sys.stderr)
        return UserError.exit_status


def _is_closed(stream: TextIO) -> bool:
    """Whether nobody is left to read what is written to a stream."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
