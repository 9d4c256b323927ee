"""MiniGeo's own solutions: right, half of them checked, and refused for other problems."""

from __future__ import annotations

import pytest

from data_process.io import read_jsonl, write_jsonl
from data_process.judging import judge
from data_process.schema import DataError, Problem, to_json
from data_process.sources import minigeo
from data_process.sources.minigeo.derivation import fault
from data_process.sources.minigeo.traces import WAIT, in_small_steps, main, solution
from data_process.traces.tags import thinking_fault


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return [problem for problem, _ in minigeo.generate("train", 60)]


@pytest.mark.parametrize("checked", [False, True])
def test_solutions_are_right(problems, checked):
    for problem in problems:
        text = solution(problem, checked)
        verdict = judge(text, problem)
        assert verdict.correct
        assert thinking_fault(text) is None
        assert text.count(WAIT) == checked
        for thought in text.removeprefix("<think>").partition("</think>")[0].split(f"{WAIT} "):
            assert fault(f"<think>{thought}</think>\nAnswer: ({problem.answer})", verdict, problem) is None


def test_the_command_writes_rows(problems, tmp_path, capsys):
    write_jsonl(tmp_path / "train.jsonl", map(to_json, problems))
    main(["--problems", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "traces.jsonl"), "--n", "10"])
    rows = read_jsonl(tmp_path / "traces.jsonl")
    assert [row["id"] for row in rows] == [problem.id for problem in problems[:10]]
    assert [WAIT in row["response"] for row in rows] == [False, True] * 5
    assert "10 solutions" in capsys.readouterr().out


def test_what_is_refused():
    with pytest.raises(DataError, match="no derivation of MiniGeo"):
        solution(Problem("p", "Why?", "A", ("1", "2")), checked=False)
    with pytest.raises(ValueError, match="not a step"):
        in_small_steps("80 and 38")
