"""Settings of all tests."""

import os
import signal

from hypothesis import settings

# `make test` hands these to its children, and a `make` that a test starts would behave as a part of it.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

# Several tests run at a time, and their threads would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Timings belong in benchmarks: on a busy machine a deadline of 200 ms fails tests that are right.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell starts background jobs with SIGINT ignored, and `nohup` all with SIGHUP ignored. Children inherit that: tests
# of these signals would wait for ever.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
