"""Traces from a stronger model: what is written, what it costs, and that a token budget holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_process import prompts as wording
from data_process.io import load_problems, read_jsonl
from data_process.prompts import SHORT
from data_process.schema import DataError
from data_process.sources import minigeo
from data_process.traces.reader import TraceFile, read_traces
from selftrain.cli.main import main
from selftrain.config import load_config
from selftrain.engines.base import EngineError
from selftrain.progress import Progress
from selftrain.sampling.distill import DistillSettings, distill
from selftrain.sampling.engine_factory import open_engine
from tests.selftrain.engines.chat_server import ChatServer, Reply

QUIET = Progress(quiet=True)
TOKENS = 40  # sampling.max_tokens


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 20, "dev": 4, "test": 4}, seed=0)
    return folder


@pytest.fixture
def config(tmp_path):
    own = (f"bank={tmp_path / 'bank.sqlite'}", f"sampling.max_tokens={TOKENS}", "sampling.n=2", "engine.batch_size=8")
    return load_config(Path(__file__).parents[3] / "configs/rehearsal.yaml", own)


def test_rows_are_read_as_traces(config, data, tmp_path):
    made = distill(config, DistillSettings(data / "train.jsonl", tmp_path / "t.jsonl", limit=10), QUIET)
    rows = read_jsonl(tmp_path / "t.jsonl")
    assert (made.asked, made.offered, made.drawn, made.verdicts.total(), len(rows)) == (10, 10, 20, 20, 20)
    assert [(row["id"], row["sample"]) for row in rows[:3]] == [
        ("minigeo-train-00000", 0), ("minigeo-train-00000", 1), ("minigeo-train-00001", 0),
    ]  # fmt: skip
    assert sum(row["tokens"] for row in rows) == made.generated
    assert sum(row["prompt_tokens"] for row in rows) == made.prompt_tokens
    assert not made.stopped
    right = made.verdicts["correct"]
    train = {problem.id: problem for problem in load_problems(data / "train.jsonl", data)}
    source = TraceFile(tmp_path / "t.jsonl", "cot")
    for known in (train, {}):  # by id, and by the problem in the row
        found = read_traces(source, known, SHORT, data)
        assert len(found.traces) + found.dropped["duplicate"] == right > 0
        assert found.dropped["wrong"] + found.dropped["unreadable"] == 20 - right
        assert all(trace.ours == bool(known) for trace in found.traces)


@pytest.mark.parametrize(("budget", "asked"), [(None, 20), (10**6, 20), (80, 1), (400, None), (801, None)])
def test_a_token_budget_is_never_exceeded(config, data, tmp_path, budget, asked):
    settings = DistillSettings(data / "train.jsonl", tmp_path / "t.jsonl", token_budget=budget)
    made = distill(config, settings, QUIET)
    assert asked in (None, made.asked)
    assert made.stopped == (made.asked < 20)
    if budget is not None:
        assert made.generated <= budget
        assert not made.stopped or budget - made.generated < 2 * TOKENS  # as much as certainly fits was asked


def test_it_resumes_and_a_larger_budget_goes_on(config, data, tmp_path):
    whole = distill(config, DistillSettings(data / "train.jsonl", tmp_path / "whole.jsonl"), QUIET)
    other = config.model_copy(update={"bank": tmp_path / "other.sqlite"})
    settings = DistillSettings(data / "train.jsonl", tmp_path / "t.jsonl")

    def failing(*args):
        engine = open_engine(*args)
        engine.fail_at = 9
        return engine

    with pytest.raises(EngineError, match="scripted failure"):
        distill(other, settings, QUIET, failing)
    assert not settings.out.exists()
    part = distill(other, DistillSettings(settings.problems, settings.out, token_budget=400), QUIET)
    assert part.drawn < part.verdicts.total()  # what was drawn before the failure is in the bank
    assert distill(other, settings, QUIET).verdicts == whole.verdicts
    assert settings.out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert distill(other, settings, QUIET).drawn == 0


def test_the_command_prints_tokens_and_cost(data, tmp_path, capsys):
    command = ["distill", "--problems", str(data / "train.jsonl"), "--out", str(tmp_path / "t.jsonl"), "--quiet"]
    command += ["--config", "rehearsal", "--set", f"bank={tmp_path / 'b.sqlite'}", "--set", "sampling.n=1"]
    assert main([*command, "--price-in", "2", "--price-out", "1000", "--token-budget", "200"]) == 0
    rows = read_jsonl(tmp_path / "t.jsonl")
    tokens, prompts = (sum(row[name] for row in rows) for name in ("tokens", "prompt_tokens"))
    out = capsys.readouterr().out
    assert f"= {(2 * prompts + 1000 * tokens) / 1e6:.4f}" in out
    assert "the token budget of 200 ended it" in out


# ---- a server ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(data, tmp_path, monkeypatch):
    """A server with the teacher, and the command that asks it; `refused` is text of the prompts that it refuses."""
    golds = {wording.cot(p, SHORT): p.answer for p in load_problems(data / "train.jsonl", data)}
    refused: list[str] = []

    def misbehave(call, number):
        content = str(call.body.get("messages"))
        return Reply(400, b"against our policy") if number >= 0 and any(map(content.__contains__, refused)) else None

    def respond(request, seed):
        return f"It can be read off the figure, as sample {seed % 1000} did. Answer: {golds[request.prompt]}"

    def command(url: str, *more: str) -> int:
        settings = {
            "engine.url": url, "engine.model_name": "m", "bank": str(tmp_path / "bank.sqlite"), "sampling.n": 2,
            "sampling.max_tokens": TOKENS, "prompts": "short", "engine.retries": 0, "engine.max_concurrency": 4,
        }  # fmt: skip
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        files = ["--problems", str(data / "train.jsonl"), "--out", str(tmp_path / "t.jsonl"), "--quiet"]
        return main(["distill", "--config", "configs/tabmwp_teacher.yaml", *files, *words, *more])

    monkeypatch.chdir(Path(__file__).parents[3])
    with ChatServer(respond, misbehave=misbehave) as server:
        yield server, command, refused


def test_traces_of_a_server(served, data, tmp_path, capsys):
    """What is asked once is not asked again, the price is of its tokens, and the file is read as outside traces."""
    server, command, _ = served
    assert command(server.url, "--limit", "5", "--price-in", "1", "--price-out", "1000") == 0
    rows = read_jsonl(tmp_path / "t.jsonl")
    assert len(rows) == len(server.calls) == 10
    tokens, prompts = (sum(row[name] for row in rows) for name in ("tokens", "prompt_tokens"))
    said = capsys.readouterr().out
    assert "10 traces of 5 problems, 10 correct, 0 wrong" in said
    assert f"{prompts:,} of prompts x 1 + {tokens:,} generated x 1000 per million" in said
    assert f" = {(prompts + 1000 * tokens) / 1e6:.4f}\n" in said
    assert command(server.url) == 0
    assert len(server.calls) == 40
    assert "30 drawn now, 10 from the bank" in capsys.readouterr().out
    assert command(server.url) == 0
    assert len(server.calls) == 40
    train = {problem.id: problem for problem in load_problems(data / "train.jsonl", data)}
    found = read_traces(TraceFile(tmp_path / "t.jsonl", "cot"), train, SHORT, data)
    assert len(found.traces) + found.dropped["duplicate"] == 40


@pytest.mark.slow
def test_problems_that_a_server_refuses_are_counted_and_asked_again(served, data, tmp_path, capsys):
    server, command, refused = served
    problems = load_problems(data / "train.jsonl", data)
    refused += [problems[3].question, problems[8].question]
    lost = {p.id for p in problems if p.question in refused}
    assert command(server.url) == 0
    said = capsys.readouterr().out
    assert f"not answered: {len(lost)} problems; the same command asks them again. The first, " in said
    assert "against our policy" in said
    assert {row["id"] for row in read_jsonl(tmp_path / "t.jsonl")} == {p.id for p in problems} - lost
    before = len(server.calls)
    assert command(server.url) == 0  # nothing but those is left to ask, and they are refused again
    assert f"not answered: {len(lost)} problems" in capsys.readouterr().out
    refused.clear()
    assert command(server.url) == 0
    assert "not answered" not in capsys.readouterr().out
    assert {row["id"] for row in read_jsonl(tmp_path / "t.jsonl")} == {p.id for p in problems}
    assert before < len(server.calls) <= before + 4 * len(lost)


def test_a_budget_holds_where_a_server_refuses_some(served, data, tmp_path, capsys):
    server, command, refused = served
    refused.append(load_problems(data / "train.jsonl", data)[1].question)
    assert command(server.url, "--token-budget", "400") == 0
    assert sum(row["tokens"] for row in read_jsonl(tmp_path / "t.jsonl")) <= 400
    said = capsys.readouterr().out
    assert "not answered: 1 problems" in said
    assert "the token budget of 400 ended it" in said


def test_a_server_that_answers_nothing_is_an_error(served, tmp_path, capsys):
    server, command, refused = served
    refused.append("")
    assert command(server.url, "--limit", "2") == 4
    assert "against our policy" in capsys.readouterr().err
    assert not (tmp_path / "t.jsonl").exists()


# arguments, what the error says
REFUSED = [
    (["--token-budget", "0"], "is not a number from 1 on"),
    (["--price-in", "-1"], "is not a price"),
    (["--price-out", "dear"], "is not a price"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_arguments_that_are_refused(more, message, capsys):
    with pytest.raises(SystemExit):
        main(["distill", "--problems", "a", "--out", "b", *more])
    assert message in capsys.readouterr().err


def test_nothing_to_ask_is_refused(config, data, tmp_path):
    with pytest.raises(DataError, match="one problem may take 80 tokens"):
        distill(config, DistillSettings(data / "train.jsonl", tmp_path / "t.jsonl", token_budget=79), QUIET)
    with pytest.raises(DataError, match="no such file"):
        distill(config, DistillSettings(data / "none.jsonl", tmp_path / "t.jsonl"), QUIET)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="0 usable problems"):
        distill(config, DistillSettings(tmp_path / "empty.jsonl", tmp_path / "t.jsonl"), QUIET)
