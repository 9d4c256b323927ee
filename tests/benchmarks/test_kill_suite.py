"""The suite of kills in its short form, and that it sees what it looks for."""

from __future__ import annotations

import sqlite3

import pytest

from benchmarks import kill_suite
from benchmarks.kill_suite import Chain, Different, Place, samples, suite


@pytest.mark.slow
def test_killed_runs_end_as_one_that_was_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(kill_suite, "SIZES", {"train": 12, "dev": 6, "test": 6})
    few = {"kills": 2, "paths": 2, "signals": 1, "full_at": ("bank", "adapter_model")}
    rows = suite(tmp_path, **few, seed=1, iters=1, report=False)
    assert [row["kills"] for row in rows][2:] == [2, 2]
    assert rows[0]["kills"] >= 2
    assert rows[1]["kills"] >= 1
    assert rows[0]["samples"] > 100


def bank(path, *rows):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE IF NOT EXISTS samples (key TEXT, idx INTEGER, text TEXT, created REAL)")
        db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?)", rows)
    db.close()
    return path


def test_the_suite_sees_lost_changed_and_doubled_samples(tmp_path):
    path = bank(tmp_path / "bank.sqlite", ("a", 0, "x", 1.0), ("a", 1, "y", 2.0))
    chain = Chain(Place(tmp_path, tmp_path, 1), {}, {}, kept=samples(path))
    chain.after_a_kill()
    for change in ("DELETE FROM samples WHERE idx = 1", "UPDATE samples SET text = 'z' WHERE idx = 0"):
        with sqlite3.connect(path) as db:
            db.execute(change)
        db.close()
        with pytest.raises(Different, match="1 samples were lost or changed by kill 2"):
            chain.after_a_kill()
        chain.kept = samples(path)
    bank(path, ("a", 0, "again", 3.0))
    with pytest.raises(Different, match="1 samples are there twice"):
        samples(path)
    with pytest.raises(Different, match="others were expected"):
        Chain(Place(tmp_path, tmp_path / "none", 1), {}, {("a", 0): "digest"}).at_the_end()
