"""Settings of all tests."""

from hypothesis import settings

# Timings belong in benchmarks: on a busy machine a deadline of 200 ms fails tests that are right.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
