"""Files of engines: vLLM's run-batch, LLaMA-Factory's predictions, lists of n completions, other names of a text."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_process.predictions.files import AnswerRow, LeftOut, read_answer_rows, read_problem_rows
from data_process.schema import DataError
from selftrain.cli.main import main
from tests.data_process.predictions.test_harness_logs import PROBLEMS, SAID, write_lines

OTHER = [f"Rather {text}" for text in SAID]


def batch(k: int, *texts: str, **changes: Any) -> dict[str, Any]:
    """A line of `vllm run-batch`, its choices in another order than their numbers."""
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for n, text in enumerate(texts)
    ]
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices[::-1], "usage": {}}
    response = {"status_code": 200, "request_id": f"vllm-batch-{k}", "body": body}
    return {"id": f"vllm-{k}", "custom_id": f"geo-{k}", "response": response, "error": None, **changes}


def prompts(k: int) -> str:
    return f"system\nYou are helpful.\nuser\n{PROBLEMS[k]['question']}\nA. 2\nassistant\n"


# name -> how the row of problem k is written, with one response and, where there is such a form, with two
FORMS = {
    "vLLM run-batch": (lambda k, *texts: batch(k, *texts)),
    "a list": (lambda k, *texts: {"id": f"geo-{k}", "response": [*texts]}),
    "a list under another name": (lambda k, *texts: {"pid": f"geo-{k}", "generated_text": [*texts]}),
    "objects": (lambda k, *texts: {"id": f"geo-{k}", "outputs": [{"text": t, "finish_reason": "stop"} for t in texts]}),
    "pipelines": (lambda k, *texts: {"id": f"geo-{k}", "output": [[{"generated_text": text} for text in texts]]}),
    "prompts in order": (lambda k, *texts: {"prompt": prompts(k), "completions": [*texts]}),
    "lmms-eval": (
        lambda k, *texts: {
            "doc_id": k, "target": "", "resps": [[*texts]], "filtered_resps": [*texts], "input": prompts(k)
        }
    ),
}  # fmt: skip
ALONE = {
    "generated_text": lambda k, text: {"id": f"geo-{k}", "generated_text": text},
    "LLaMA-Factory": lambda k, text: {"prompt": prompts(k), "predict": text, "label": PROBLEMS[k]["answer"]},
}


@pytest.fixture
def problems(tmp_path) -> Path:
    return write_lines(tmp_path / "problems.jsonl", PROBLEMS)


def read(problems: Path, rows: list[dict[str, Any]], **options: Any) -> dict[str, AnswerRow]:
    path = write_lines(problems.parent / "answers.jsonl", rows)
    return read_answer_rows(path, read_problem_rows(problems), problems, **options)


@pytest.mark.parametrize("name", [*FORMS, *ALONE])
def test_one_response(problems, name):
    form = (FORMS | ALONE)[name]
    found = read(problems, [form(k, text) for k, text in enumerate(SAID)])
    assert {key: answer.response.text for key, answer in found.items()} == {
        f"geo-{k}": text for k, text in enumerate(SAID)
    }
    assert not any(answer.more for answer in found.values())


@pytest.mark.parametrize("name", FORMS)
def test_several_responses(problems, name):
    rows = [FORMS[name](k, *texts) for k, texts in enumerate(zip(SAID, OTHER, strict=True))]
    found = read(problems, rows)
    for k, answer in enumerate(found.values()):
        assert (answer.id, answer.response.text, [one.text for one in answer.more]) == (f"geo-{k}", SAID[k], [OTHER[k]])
    chosen = read(problems, rows, sample=1)
    assert [(answer.response.text, answer.more) for answer in chosen.values()] == [(text, ()) for text in OTHER]


def test_truncated_at_the_limit(problems):
    cut = batch(0, *SAID[:2])
    cut["response"]["body"]["choices"][0]["finish_reason"] = "length"  # the second of the two
    [answer] = read(problems, [cut]).values()
    assert [answer.response.truncated, *(one.truncated for one in answer.more)] == [False, True]
    [answer] = read(problems, [{"id": "geo-0", "response": SAID[:2], "finish": ["length", "stop"]}]).values()
    assert [answer.response.truncated, *(one.truncated for one in answer.more)] == [True, False]


@pytest.mark.parametrize(
    "failed",
    [
        batch(0, error={"message": "out of memory"}, response=None),
        batch(0, response={"status_code": 400, "body": {"message": "out of memory"}}),
    ],
)
def test_a_request_that_failed_is_left_out(problems, failed):
    left_out = LeftOut()
    many = [{**PROBLEMS[0], "id": f"geo-{k}"} for k in range(40)]
    problems = write_lines(problems, many)
    found = read(problems, [failed, *(batch(k, SAID[0]) for k in range(1, 40))], left_out=left_out)
    assert len(found) == 39
    assert "problem 'geo-0' has no response (the request failed: 'out of memory')" in left_out.messages[0]


WRONG = {
    "an empty list": ([{"id": "geo-0", "response": []}], "an empty list of responses"),
    "a number": ([{"id": "geo-0", "response": [4]}], "a response must be text, found 4"),
    "reasons that do not fit": (
        [{"id": "geo-0", "response": ["a", "b"], "finish": ["stop"]}], "1 finish reasons for 2 responses"
    ),
    "another data set's prompts": (
        [{"prompt": "Who?", "predict": "B", "label": "me"} for _ in PROBLEMS], "cannot be joined to the problems"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(problems, name):
    rows, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        read(problems, rows)


def scored(capsys: pytest.CaptureFixture[str], problems: Path, *words: str) -> dict[str, Any]:
    folder = problems.parent
    given = ["--problems", str(problems), "--per-item", str(folder / "items.jsonl"), "--json", *words]
    assert main(["score", *given]) == 0
    return json.loads(capsys.readouterr().out)


def test_mean_vote_and_pass(problems, capsys):
    """By hand: three responses to each of four problems; an unreadable one has no vote, and a tie shares its credit."""
    texts = [
        ["Answer: A", "Answer: A", "Answer: B"],  # gold A: mean 2/3, vote 1
        ["Answer: A", "Answer: A", "Answer: B"],  # gold B: mean 1/3, vote 0
        ["Answer: C", "I cannot tell", "Answer: A"],  # gold C: mean 1/3, vote 1/2
        ["I cannot tell"] * 3,  # gold A: nothing
    ]
    write_lines(problems, PROBLEMS[:4])
    answers = write_lines(problems.parent / "n.jsonl", [{"id": f"geo-{k}", "response": t} for k, t in enumerate(texts)])
    result = scored(capsys, problems, "--outputs", str(answers))
    samples = result["samples"]
    assert (samples["least"], samples["most"], result["correct"]) == (3, 3, 2)
    got = [samples[name]["accuracy"] for name in ("mean", "vote", "pass")]
    assert got == pytest.approx([(2 + 1 + 1) / 3 / 4, (1 + 0 + 0.5) / 4, 3 / 4])
    items = [json.loads(line) for line in (problems.parent / "items.jsonl").read_text().splitlines()]
    assert [one["verdict"] for one in items[2]["samples"]["verdicts"]] == ["correct", "abstain", "wrong"]
    assert (
        main(["score", "--problems", str(problems), "--outputs", str(answers), "--per-item", str(answers) + "x"]) == 0
    )
    text = capsys.readouterr().out
    for line in ("mean@3 33.33%", "vote@3 37.50%", "pass@3 75.00%", "of the first of 3 responses"):
        assert line in text
    assert "samples" not in scored(capsys, problems, "--outputs", str(answers), "--sample", "2")
    assert main(["score", "--problems", str(problems), "--outputs", str(answers), "--judge", "mathvista"]) == 2
    assert "3 responses to problem 'geo-0', and mathvista scores one" in capsys.readouterr().err


def test_standard_input(problems, capsys, monkeypatch):
    rows = "".join(json.dumps({"id": f"geo-{k}", "response": text}) + "\n" for k, text in enumerate(SAID))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(rows.encode())))
    assert scored(capsys, problems, "--outputs", "-")["accuracy"] == 1
    assert main(["score", "--problems", "-", "--outputs", "-"]) == 2
    assert "only one of --problems and --outputs" in capsys.readouterr().err
