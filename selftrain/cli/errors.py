"""From an error to a message and an exit status."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from data_process.errors import FULL, UserError, printable, write_escapes

EXIT_CLOSED = 128 + signal.SIGPIPE  # the reader of the output has left, as `| head` does: what a shell reports then


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; what is open is closed, as after Ctrl-C."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


_stop: Stopped | None = None  # the signal that has been raised since `signals_raised` began


@contextmanager
def signals_raised() -> Iterator[None]:
    """SIGTERM, SIGHUP and Ctrl-C raise Stopped. An ignored signal (nohup) stays ignored.

    A second SIGTERM or SIGHUP ends the process at once, a second Ctrl-C raises KeyboardInterrupt.
    """
    global _stop
    here = os.getpid()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    wanted = [n for n, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    if threading.current_thread() is not threading.main_thread():  # no other thread may set them
        wanted = []

    def stop(number: int, frame: object) -> None:
        global _stop
        signal.signal(number, before[signal.Signals(number)])
        if os.getpid() != here:  # a process that was forked from this one
            os.kill(os.getpid(), number)
        _stop = Stopped(signal.Signals(number))
        raise _stop

    _stop = None
    for number in wanted:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, before[number])
        _stop = None  # its traceback would hold an engine's memory


@contextmanager
def interrupts_unwrapped() -> Iterator[None]:
    """An error that pydantic made of an interrupt becomes the interrupt again.

    A signal may come while pydantic calls a serializer of ours. It turns all that is raised there, interrupts too, into
    an error of its own, which keeps no trace of them in nested records.
    """
    try:
        yield
    except ValueError as error:
        if _stop is None or type(error).__name__ != "PydanticSerializationError":  # importing pydantic takes a while
            raise
        raise _stop from None


def guarded(action: Callable[[], int]) -> int:
    """Run an action. An error that the user can act on becomes one message and an exit status; others are raised."""
    write_escapes()
    try:
        with signals_raised(), interrupts_unwrapped():
            status = action()
        sys.stdout.flush()  # here and not when the interpreter ends, where a closed pipe can no longer be caught
        return status
    except UserError as error:
        print(printable(f"{error.heading}: {error}"), file=sys.stderr)
        if error.advice:
            print(error.advice, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        print(f"\nStopped by {number.name}. Finished work is kept; the same command resumes.", file=sys.stderr)
        return 128 + number
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
        # Stages report this themselves. This is for a full or read-only disk under the bank, the images or the report,
        # and for a path that cannot be: a folder where a file should lie, a name too long.
        if error.filename is None and error.errno not in (*FULL, errno.EROFS):
            raise
        message = printable(str(error))
        print(f"error: {message}; fix this and run the same command again. Finished work is kept.", file=sys.stderr)
        return UserError.exit_status


def _is_closed(stream: TextIO) -> bool:
    """Whether nobody is left to read what is written to a stream."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
