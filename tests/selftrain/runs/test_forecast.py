"""How long a run still needs, from what its stages took so far."""

from __future__ import annotations

import pytest

from selftrain.config import load_config
from selftrain.files import write_json
from selftrain.runs.forecast import Forecast
from selftrain.runs.run_dir import RunDir
from tests.selftrain.whole_loops import REHEARSAL

SPLITS = {"train": [None] * 9, "dev": [None] * 10, "test": [None] * 20}
BASE = {"iter0/dev": 10}
FIRST = {**BASE, "iter1/sample": 5, "iter1/judge": 1, "iter1/build": 2, "iter1/dynamics": 1}
WHOLE = {**FIRST, "iter1/train": 30, "iter1/dev": 20}


@pytest.mark.parametrize(
    ("done", "current", "more", "left"),
    [
        ({}, "iter0/dev", (), None),
        (BASE, "iter1/sample", (), None),  # no training has been timed
        (FIRST, "iter1/train", (), None),
        # dev of iteration 1; the stages of iteration 2; test for the base and one more, twice dev's problems
        ({**FIRST, "iter1/train": 30}, "iter1/dev", (), (5 + 1 + 2 + 1 + 30 + 10) + 2 * 2 * 10),
        (WHOLE, "iter2/sample", (), (1 + 2 + 1 + 30 + 20) + 2 * 2 * 20),
        (WHOLE, "iter2/sample", ("evaluation.test=none",), 1 + 2 + 1 + 30 + 20),
        (WHOLE, "iter2/sample", ("evaluation.test=all",), (1 + 2 + 1 + 30 + 20) + 3 * 2 * 20),
        (WHOLE, None, ("iters=1",), 2 * 2 * 20),
        ({**WHOLE, "iter0/test": 7}, "iter1/test", ("iters=1",), 0),
        ({**WHOLE, "iter0/test": 7, "iter1/test": 8}, None, ("iters=1",), 0),
        (WHOLE, "iter2/sample", ("rationalise=true",), None),  # a kind of stage that was never timed
    ],
)
def test_seconds_after_a_stage(tmp_path, done, current, more, left):
    plain = ("select_format=answer", "build.parts={qa: 0, cot: 1, refine: 1, select: 1, reflect: 0}", "iters=2")
    config = load_config(REHEARSAL, [*plain, *more])
    for name, seconds in done.items():
        write_json(tmp_path / name / "timing.json", {"seconds": seconds})
        write_json(tmp_path / name / "stage.json", {})
    folder = RunDir(tmp_path)
    folder.current = current
    assert Forecast(config, folder, SPLITS).after() == left
