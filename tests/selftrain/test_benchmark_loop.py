"""A whole loop with the scripted engine on a benchmark with its own wordings: choices and free answers side by side."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from data_process.io import read_jsonl
from data_process.judging import judge
from data_process.prompts import prompt_set
from data_process.schema import Kind
from selftrain import loop
from selftrain.config import load_config
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from tests.data_process.raw_files import load, png, prepared, write_json

REHEARSAL = Path(__file__).parents[2] / "configs/rehearsal.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """TabMWP's form: half of the problems have choices."""
    for split, start, count in (("train", 0, 40), ("dev", 40, 16), ("test", 60, 16)):
        rows = {}
        for n in range(start, start + count):
            choices = None if n % 2 else [f"{n} of them", f"{n + 1} of them", "none of them"]
            rows[str(n)] = {
                "question": f"The table shows {n} kites in town {n * 7}. How many are there?", "choices": choices,
                "answer": str(n) if choices is None else f"{n} of them", "unit": "kites" if n % 4 == 1 else None,
            }  # fmt: skip
            image = tmp_path / f"raw/tables/{n}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(png(f"#{n * 40503 % 0xFFFFFF:06x}", (28 + n, 28)))
        write_json(tmp_path / f"raw/problems_{split}.json", rows)
    prepared("tabmwp", tmp_path / "raw", tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["answer", "rationale"])
@pytest.mark.parametrize("name", ["tabmwp", "chartqa"])
def test_a_loop_with_the_benchmarks_wording(folder, tmp_path, monkeypatch, name, form):
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])  # drawing takes most of the time
    settings = [
        f"data.folder={folder}", "data.source=jsonl", "data.leakage=ignore", f"output={tmp_path / 'run'}",
        f"bank={tmp_path / 'bank.sqlite'}", f"prompts={name}", "iters=1", "build.parts.qa=1",
        f"select_format={form}",
    ]  # fmt: skip
    run_loop(load_config(REHEARSAL, settings), Progress(quiet=True))
    counts = read_json(tmp_path / "run/iter1/judge/counts.json")
    assert counts["correct"] > counts["abstain"]
    problems = {problem.id: problem for problem in load(folder, "train")}
    wording = prompt_set(name)
    kinds = set()
    for row in read_jsonl(tmp_path / "run/iter1/build/examples.jsonl"):
        problem = problems[row["problem_id"]]
        cue = {"qa": wording.of(problem).qa}.get(row["kind"], wording.of(problem).cot).removeprefix("{body}")
        assert cue in row["prompt"]
        assert judge(row["target"], problem).correct
        kinds.add((row["kind"], bool(problem.choices)))
    assert kinds == {(kind, choices) for kind in get_args(Kind) for choices in (True, False)}
