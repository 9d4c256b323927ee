"""The source that docs/sources.md shows, in a package of a user's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_process.prompts import cot, prompt_set
from data_process.schema import Problem
from tests.data_process.raw_files import load, png, write_json

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/sources.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def block(language: str) -> str:
    return next(text for name, text in BLOCKS if name == language)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the example's module and its raw files."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/kites.py").write_text(block("python"), encoding="utf-8")
    row = json.loads(block("json"))
    write_json(tmp_path / "downloads/kites/test.json", [row, {**row, "key": 18, "pic": "18.gif"}])
    (tmp_path / "downloads/kites/charts").mkdir()
    (tmp_path / "downloads/kites/charts/17.png").write_bytes(png())
    return tmp_path


@pytest.mark.slow
def test_the_example(folder):
    assert block("python").count("\n") <= 35
    words = block("bash").split()[1:]
    done = subprocess.run(
        [sys.executable, "-m", "selftrain", *words, "--skip-bad"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (problem,) = load(folder / "data/kites", "test")
    assert (problem.id, problem.answer, problem.tolerance) == ("17", "12", 0.05)
    assert (problem.context, problem.images) == ("A shop sells kites.", ("images/charts/17.png",))
    assert problem.meta == {"level": 2, "language": "english"}
    card = json.loads((folder / "data/kites/card.json").read_text())
    assert (card["licence"], card["prompts"], card["judge"]) == ("CC BY 4.0", "chartqa", "auto")
    assert "'pic' must name a PNG file, found '18.gif'" in card["left_out"][0]


def test_the_wording_of_the_page(tmp_path):
    (tmp_path / "kites.toml").write_text(block("text"), encoding="utf-8")
    problem = Problem("p", "How many?", "3", answer_type="number", context="A shop.")
    asked = cot(problem, prompt_set(str(tmp_path / "kites.toml")))
    assert asked == "A shop.\n\nHow many?\nThink step by step. End with 'Answer:' and a number."
