"""s1's counts on a made-up pool of its size."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.curation import DIRECT, ROWS, SOURCES, curate_pool, plan, write_pool


def test_the_pool_has_the_sizes_of_the_paper():
    assert ROWS == 59_029
    planned = plan(ROWS)
    assert Counter(row.origin for row in planned) == SOURCES
    fates = Counter(row.fate for row in planned)
    assert ROWS - fates["trace"] == 54_116
    assert 54_116 - fates["malformed"] == 51_581
    assert 51_581 - fates["easy"] == 24_496
    assert fates["direct"] == sum(DIRECT.values()) == 384


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "size", "kept"),
    [
        (590, 10, {"quality": 516, "difficulty": 245, "draw": 10}),
        (ROWS, 1000, {"quality": 51_581, "difficulty": 24_496, "draw": 1000}),
    ],
)
def test_counts(tmp_path, rows, size, kept):
    """59,029 -> 54,116 -> 51,581 -> 24,496 -> 1,000, of which 384 directly; and the same shares of a hundredth."""
    write_pool(tmp_path, rows)
    card = curate_pool(tmp_path, size, tmp_path / "out")
    steps = {step["step"]: step for step in card["curated"]["steps"]}
    assert {name: steps[name]["kept"] for name in kept} == kept
    assert card["splits"]["train"]["items"] == size
    if rows == ROWS:
        assert rows - steps["quality"]["reasons"]["no trace in …"] == 54_116
        assert "384 of them are taken directly, without difficulty and draw" in card["remarks"]
        assert card["curated"]["domains"]["different"] == {"pool": 50, "train": 50}
