"""The soak's verdict, and its two parts on few samples."""

from __future__ import annotations

import pytest

from benchmarks import soak


def row(rate, resident):
    return {"per_cpu_s": rate, "resident_mb": resident}


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        ([row(1000, 80), row(1050, 90), row(950, 129)], []),
        ([row(1000, 80), row(1000, 85), row(800, 90)], ["a rate is 20% from the median"]),
        ([row(1000, 80), row(1000, 85), row(1000, 131)], ["memory grew by 51 MB"]),
    ],
)
def test_what_is_not_flat(rows, faults):
    assert soak.faults(rows) == faults


def test_the_sampling_part(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "WINDOW", 80)
    rows = soak.sample(tmp_path, 160)
    assert [one["samples"] for one in rows] == [80, 160]
    assert all(0 < one["right"] < 80 for one in rows)
    assert all(one["bytes_per_sample"] > 100 for one in rows)
