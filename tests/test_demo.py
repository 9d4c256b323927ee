"""The true stack on the tiny model: transformers, LLaMA-Factory, the bank and the report, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_process.io import read_jsonl
from selftrain.files import read_json
from selftrain.runs.run_dir import folder_digests

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def command(folder: Path, data: Path, *more: str) -> list[str]:
    """The smoke run, with its own bank, so that nothing is shared between two runs but the problems."""
    settings = [f"bank={folder / 'bank.sqlite'}", f"data.folder={data}"]
    sets = [part for setting in settings for part in ("--set", setting)]
    return [
        sys.executable, "run.py", "--config", "configs/smoke.yaml", "--output", str(folder / "run"), *sets, *more,
    ]  # fmt: skip


def artefacts(run: Path) -> dict[str, dict[str, str]]:
    """Digests of every finished stage and of the metrics."""
    stages = {str(f.parent.relative_to(run)): folder_digests(f.parent) for f in sorted(run.glob("iter*/*/stage.json"))}
    return {**stages, "metrics": {"metrics.json": (run / "metrics.json").read_text()}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smoke") / "alone"
    data = folder.parent / "minigeo"
    result = subprocess.run(command(folder, data), cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


def test_smoke_run_learns_from_its_own_samples(finished: Path) -> None:
    run = finished / "run"
    metrics = read_json(run / "metrics.json")
    assert [entry["iteration"] for entry in metrics["iterations"]] == [0, 1, 2]
    for entry in metrics["iterations"][1:]:
        train = entry["train"]
        assert train["correct"] + train["wrong"] + train["abstain"] == train["candidates"] == 600
        assert train["steps"] == 10
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "curve.png").stat().st_size > 5_000


def test_every_number_can_be_traced_to_its_samples(finished: Path) -> None:
    run = finished / "run"
    for entry in read_json(run / "metrics.json")["iterations"]:
        for split, totals in entry["eval"].items():
            rows = read_jsonl(run / f"iter{entry['iteration']}/{split}/rows.jsonl")
            texts = [row["strategies"]["greedy"]["texts"][0] for row in rows]
            right = sum(text["verdict"]["status"] == "correct" for text in texts)
            assert totals["strategies"]["greedy"]["correct"] == right
            assert totals["n"] == len(rows)


def test_base_model_is_a_base(finished: Path) -> None:
    base = read_json(finished / "run/metrics.json")["iterations"][0]["eval"]["dev"]["strategies"]
    assert base["greedy"]["abstain"] <= 6  # of 60
    assert 0.2 < base["greedy"]["accuracy"] < 0.8


def test_running_again_changes_nothing_and_needs_no_engine(finished: Path) -> None:
    before = artefacts(finished / "run")
    started = time.monotonic()
    result = subprocess.run(
        command(finished, finished.parent / "minigeo"), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert artefacts(finished / "run") == before
    assert "sampling" not in result.stderr
    assert time.monotonic() - started < 300


def test_killed_while_training_ends_as_if_left_alone(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    data = finished.parent / "minigeo"
    child = subprocess.Popen(
        command(folder, data), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    log = folder / "run/iter1/train.partial/work/train.log"
    deadline = time.monotonic() + 600
    while not (log.exists() and "Running training" in log.read_text(errors="replace")):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 300
    while _mentions(str(folder)):  # LLaMA-Factory must not outlive the run
        assert time.monotonic() < deadline, "training went on without its run"
        time.sleep(0.5)
    result = subprocess.run(command(folder, data), cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    assert artefacts(folder / "run") == artefacts(finished / "run")


def _mentions(text: str) -> list[int]:
    """Processes whose command line or working directory names `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if text in line or text in where:
                found.append(int(entry.name))
    return found


def test_manifest_describes_the_shipped_model() -> None:
    manifest = json.loads((ROOT / "models/tiny-qwen2vl/manifest.json").read_text())
    assert manifest["command"].startswith("python scripts/make_tiny_base.py")
    assert 1_000_000 <= manifest["parameters"] <= 6_000_000
    assert sum(f.stat().st_size for f in (ROOT / "models/tiny-qwen2vl").iterdir()) < 12_000_000
