"""The short form of `benchmarks.fuzz`: a few hundred mutated files of every kind lead to no fault."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz, fuzz_targets
from benchmarks.fuzz import Target
from data_process.errors import UserError
from selftrain.cli.errors import guarded

SLOW = ("report", "bank")  # a third of a second and more for each input


@pytest.fixture(scope="module")
def targets(tmp_path_factory) -> list[Target]:
    return fuzz_targets.all_targets(tmp_path_factory.mktemp("seeds"))


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9))
def test_no_reader_has_a_fault(targets, seed):
    for target in targets:
        if target.name not in SLOW:
            found = fuzz.fuzz(target, 1, seed)
            assert not found.faults, (target.name, seed, found.faults)


@pytest.mark.parametrize("error", [UserError("no"), ValueError("raw"), None])
def test_faults_are_found(tmp_path, error):
    def read(path: Path) -> None:
        if error is not None:
            raise error

    found = fuzz.fuzz(Target("t", (("a.json", b'{"a": [1, 2]}'),), read), 20, 0)
    assert (found.refused, found.faults.total()) == {UserError: (20, 0), ValueError: (0, 20)}.get(type(error), (0, 0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_it_at_once(number, capsys):
    """Also in a command that catches Ctrl-C itself."""
    calls = []

    def action() -> int:
        calls.append(0)
        os.kill(os.getpid(), number)
        return 0

    with pytest.raises(SystemExit) as ended, fuzz.ended_by_signals():
        fuzz.fuzz(Target("t", (("a", b"text"),), lambda _: guarded(action)), 50, 0)
    assert (ended.value.code, len(calls)) == (128 + number, 1)
    assert f"stopped by {number.name}" in capsys.readouterr().err


def test_a_file_that_is_written_to_is_a_fault():
    found = fuzz.fuzz(Target("t", (("a", b"text"),), lambda path: path.write_bytes(b"other")), 3, 0)
    assert found.faults == {"the file was changed": 3}
