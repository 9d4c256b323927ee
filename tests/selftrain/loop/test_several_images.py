"""A loop on problems of two images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_process.io import load_problems, read_examples, read_jsonl, write_jsonl
from data_process.schema import DataError
from selftrain.engines.base import Request
from selftrain.loop import run_loop
from selftrain.sampling.engine_factory import open_engine
from tests.selftrain.whole_loops import QUIET, artefacts


@pytest.fixture
def paired(data, tmp_path) -> Path:
    """The problems with a second image in the question: another problem's, and its place before the first."""
    folder = tmp_path / "paired"
    shutil.copytree(data, folder)
    for split in ("train", "dev", "test"):
        rows = read_jsonl(folder / f"{split}.jsonl")
        shown = [row.pop("image") for row in rows]
        for row, mine, other in zip(rows, shown, shown[1:] + shown[:1], strict=True):
            row |= {"images": [mine, other], "question": f"Not <image 2>, but <image 1>: {row['question']}"}
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


@pytest.mark.slow
def test_a_loop_on_problems_of_two_images(config, paired):
    """Images stand in every prompt where the question has them; a second run draws nothing and changes nothing."""
    asked: list[Request] = []

    def spying(*args):
        engine = open_engine(*args)
        generate = engine.generate
        engine.generate = lambda requests, params: asked.extend(requests) or generate(requests, params)
        return engine

    made = config("iters=1", data_folder=paired)
    run_loop(made, QUIET, open_engine=spying)
    assert all(len(set(request.images)) == request.prompt.count("<image>") == 2 for request in asked)
    assert any("Prediction 2" in request.prompt for request in asked)
    run = made.output
    problems = {p.id: p for split in ("train", "dev", "test") for p in load_problems(paired / f"{split}.jsonl", paired)}
    rows = read_examples(run / "iter1/build/examples.jsonl")
    assert {row.kind for row in rows} == {"cot", "refine", "select"}
    for row in rows:
        assert row.images == problems[row.problem_id].images[::-1]
        assert row.prompt.startswith("Not <image>, but <image>: ")
        assert row.prompt.count("<image>") == 2
    trained = read_jsonl(run / "iter1/train/work/data/selftrain.jsonl")
    assert len(trained) == len(rows)
    for row in trained:
        assert row["messages"][0]["content"].count("<image>") == len(row["images"]) == 2
        assert row["images"][0] != row["images"][1]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('alt="Image of problem') == 2 * page.count('<div class="problem">')
    before, drawn = artefacts(run), len(asked)
    run_loop(made, QUIET, open_engine=spying)
    assert artefacts(run) == before
    assert len(asked) == drawn


def test_a_mark_of_an_image_that_does_not_exist_is_refused(config, paired, no_report):
    rows = read_jsonl(paired / "dev.jsonl")
    rows[2]["question"] = "What is in <image 3>?"
    write_jsonl(paired / "dev.jsonl", rows)
    with pytest.raises(DataError, match=rf"dev\.jsonl, line 3, problem '{rows[2]['id']}': the text marks <image 3>"):
        run_loop(config("iters=1", data_folder=paired), QUIET)
