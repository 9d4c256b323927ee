"""A module outside the package adds a source, an engine and a strategy; no file of the package knows of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests/plugin_example/addition_plugin.py"
SETTINGS = {
    "plugins": ["addition_plugin"],
    "output": "outputs/run",
    "iters": 1,
    "data": {"source": "jsonl", "folder": "data/additions"},
    "engine": {"kind": "adder", "slips": 0.5},
    "evaluation": {"strategies": ["greedy", "majority", "last"]},
}


def command(folder: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A program in a folder that has the plugin. PYTHONPATH stands for an installation of the package."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the plugin, its settings and its raw data, prepared."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copy(EXAMPLE, folder)
    (folder / "additions.yaml").write_text(yaml.safe_dump(SETTINGS))
    sums = [f"{a}+{b}" for a in range(11, 17) for b in range(21, 29)]
    random.Random(0).shuffle(sums)
    (folder / "raw").mkdir()
    for name, lines in (("train", sums[:24]), ("dev", sums[24:36]), ("test", sums[36:])):
        (folder / "raw" / f"{name}.txt").write_text("\n".join(lines))
    prepare = ("-m", "selftrain", "prepare", "addition_plugin:SOURCE")
    command(folder, *prepare, "--raw", "raw", "--out", "data/additions")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    command(folder, str(ROOT / "run.py"), "--config", "additions.yaml", "--quiet")
    return folder / "outputs/run"


def test_the_source(folder):
    rows = [json.loads(line) for line in (folder / "data/additions/train.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    for row in rows:
        _, _, a, _, b = row["question"].rstrip("?").split()
        assert int(a) + int(b) == int(row["answer"])
    assert json.loads((folder / "data/additions/card.json").read_text())["source"] == "additions"


@pytest.mark.slow
def test_a_bad_row_of_the_source_is_named(folder, tmp_path):
    shutil.copytree(folder / "raw", tmp_path / "raw")
    (tmp_path / "raw/dev.txt").write_text("1+2\n3-4")
    words = ("-m", "selftrain", "prepare", "addition_plugin:SOURCE", "--raw", str(tmp_path / "raw"), "--out")
    said = "dev.txt, line 2: expected one addition such as 3+4, found '3-4'"
    assert said in command(folder, *words, "data/bad", "--bad-share", "0", status=2).stderr
    assert said in command(folder, *words, "data/rest").stdout  # one of 24 rows is left out and shown


@pytest.mark.slow
def test_the_engine_ran_the_loop(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert [entry["iteration"] for entry in metrics["iterations"]] == [0, 1]
    rows = [json.loads(line) for line in (run / "iter0/dev/rows.jsonl").read_text().splitlines()]
    assert "I add " in json.dumps(rows[0])
    trained = metrics["iterations"][1]["train"]
    assert trained["correct"] > 0
    assert trained["wrong"] > 0


@pytest.mark.slow
def test_settings_of_the_engine_are_checked(folder):
    words = (str(ROOT / "run.py"), "--config", "additions.yaml", "--set", "engine.slip=0.1")
    assert "unknown key 'engine.slip'; did you mean 'engine.slips'?" in command(folder, *words, status=2).stderr


@pytest.mark.slow
def test_the_strategy_is_in_the_report_and_in_compare(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert all("last" in entry["eval"]["dev"]["strategies"] for entry in metrics["iterations"])
    for name in ("report.md", "report.html"):
        assert "last" in (run / name).read_text()
    lines = command(run.parents[1], "-m", "selftrain", "compare", str(run), str(run)).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["test, greedy", "test, majority", "test, last"]


@pytest.mark.slow
def test_without_the_plugin_nothing_of_it_is_known(folder):
    (folder / "plain.yaml").write_text(yaml.safe_dump({k: v for k, v in SETTINGS.items() if k != "plugins"}))
    error = command(folder, str(ROOT / "run.py"), "--config", "plain.yaml", status=2).stderr
    assert "adder" in error
    assert "addition_plugin" not in error
