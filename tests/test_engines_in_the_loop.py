"""The whole loop on the tiny model with the engines that run elsewhere: in a process of vLLM's own, in Ray actors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selftrain.files import read_json
from tests.selftrain.engines.contract import VLLM_PYTHON, needs_vllm

ROOT = Path(__file__).parents[1]
SMALL = ("data.train_limit=60", "data.dev_limit=20", "data.test_limit=20", "training.overrides={max_steps: 4}")
KINDS = [
    pytest.param(["engine.kind=vllm", f"engine.interpreter={VLLM_PYTHON}"], marks=needs_vllm, id="vllm"),
    pytest.param(["engine.kind=ray", "engine.ray_actors=2", "engine.ray_cpus=0.5", "engine.batch_size=48"], id="ray"),
]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_two_iterations(tmp_path, kind):
    settings = [*SMALL, *kind, f"bank={tmp_path}/bank.sqlite", f"data.folder={tmp_path}/minigeo"]
    line = [sys.executable, "run.py", "--config", "configs/smoke.yaml", "--output", str(tmp_path / "run")]
    line += [part for setting in settings for part in ("--set", setting)]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    run = tmp_path / "run"
    iterations = read_json(run / "metrics.json")["iterations"]
    assert [entry["iteration"] for entry in iterations] == [0, 1, 2]
    for entry in iterations[1:]:
        train = entry["train"]
        assert train["correct"] + train["wrong"] + train["abstain"] == train["candidates"] == 180
    if "engine.kind=ray" in kind:
        assert not (run / "iter0" / "parity").exists()  # its actors run transformers
        return
    for k in range(3):
        report = read_json(run / f"iter{k}" / "parity" / "parity.json")
        assert report["problems"] == 8
        assert report["same"] + len(report["parted"]) == 8
    log = (run / "vllm.log").read_text()
    assert log.count("Initializing a V1 LLM engine") == 1  # kept over three sets of weights
    assert log.count("Reloading and processing weights took") >= 2
