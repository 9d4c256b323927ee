"""The script that makes the shipped base runs as its manifest says, from any folder."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In place of the manifest's numbers, so that it ends in a minute.
FEW = (
    "--words-steps 2 --words-rows 4 --align-steps 2 --align-batch 4 --images-steps 4 --images-rows 4 --problems 60 "
    "--score-problems 4"
)


@pytest.mark.slow
def test_the_manifests_command_runs(tmp_path):
    manifest = json.loads((ROOT / "models/tiny-qwen2vl/manifest.json").read_text())
    python, script, *arguments = shlex.split(manifest["command"])
    assert python == "python"
    arguments[arguments.index("--out") + 1] = str(tmp_path / "base")
    command = [sys.executable, str(ROOT / script), *arguments, *shlex.split(FEW)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "base/manifest.json").read_text())
    assert made.keys() == manifest.keys()
    assert made["scores"].keys() == manifest["scores"].keys()
    assert {name: stage["steps"] for name, stage in made["stages"].items()} == {"words": 2, "align": 2, "images": 4}
    assert [stage["mixture"] for stage in made["stages"].values() if "mixture" in stage] == [
        stage["mixture"] for stage in manifest["stages"].values() if "mixture" in stage
    ]
    assert (made["seed"], made["parameters"] > 0) == (manifest["seed"], True)
    shipped = {path.name for path in (ROOT / "models/tiny-qwen2vl").iterdir()}
    assert {path.name for path in (tmp_path / "base").iterdir()} == shipped
