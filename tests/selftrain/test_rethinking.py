"""Loops whose mixture has all parts: reflections and selections with a rationale beside self-CoT and self-refine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from data_process import prompts as wording
from data_process.building.second_thoughts import selection_from_json, trace_from_json
from data_process.building.sharegpt import END_OF_TURN
from data_process.io import load_problems, read_examples, read_jsonl
from data_process.judging import judge
from data_process.prompts import SHORT, ShowLimit
from data_process.schema import Candidate
from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import ConfigError, load_config
from selftrain.engines.base import SamplingParams
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs.run_dir import folder_digests
from selftrain.sampling import second_thoughts
from selftrain.scaling.grid import ScaleConfig, grid
from selftrain.scaling.records import ScaleResult
from selftrain.scaling.report import markdown
from selftrain.scaling.targets import selection_of, untrained_ignores
from selftrain.stages import sampling
from selftrain.test_time.strategy_config import SelectionForm, trained_limit
from selftrain.training import open_turns

ROOT = Path(__file__).parents[2]
QUIET = Progress(quiet=True)
FOUR = (
    *("select_format=rationale", "evaluation.select_max_tokens=128", "rethink.problems=40"),
    *("build.parts={qa: 0, cot: 1, refine: 0.5, select: 1, reflect: 0.5}", "sampling.n=4"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 60, "dev": 12, "test": 12}, seed=0)
    return folder


def settings(data: Path, folder: Path, *more: str):
    own = (f"data.folder={data}", f"output={folder / 'run'}", f"bank={data.parent / folder.name}.sqlite")
    return load_config(ROOT / "configs/rehearsal.yaml", [*own, "data.leakage=ignore", "iters=2", *FOUR, *more])


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run_loop(settings(data, folder), QUIET)
    return folder / "run"


@pytest.mark.slow
def test_the_mixture_has_all_parts(finished):
    for k in (1, 2):
        rows = read_examples(finished / f"iter{k}/build/examples.jsonl")
        counts = read_json(finished / f"iter{k}/build/counts.json")
        kinds = Counter(row.kind for row in rows)
        assert kinds == counts["examples"]
        assert set(kinds) == {"cot", "refine", "select", "reflect"}
        assert min(kinds.values()) > 5
        metrics = read_json(finished / "metrics.json")["iterations"][k]["train"]
        assert metrics["examples"] == kinds


@pytest.mark.slow
def test_rows_are_of_the_runs_own_samples(finished, data):
    """Every text of a row, attempt or target, was sampled; every target is judged right."""
    problems = {p.id: p for p in load_problems(data / "train.jsonl", data)}
    texts, traces, chosen = {}, {}, {}
    for k in (1, 2):
        for row in read_jsonl(finished / f"iter{k}/judge/judged.jsonl"):
            candidate = Candidate(**row["candidate"])
            texts[candidate.id] = candidate.text
        traces |= {t.id: t for t in map(trace_from_json, read_jsonl(finished / f"iter{k}/rethink/traces.jsonl"))}
        chosen |= {
            s.id: s for s in map(selection_from_json, read_jsonl(finished / f"iter{k}/rethink/selections.jsonl"))
        }
    assert len(traces) == len(chosen) == 80
    kept = Counter(len(trace.attempts) for trace in traces.values())
    assert set(kept) == {1, 2, 3, 4}, "1 to 4 attempts in a row"
    for row in read_examples(finished / "iter2/build/examples.jsonl"):
        problem = problems[row.problem_id]
        assert judge(row.target, problem).correct
        assert bool(row.history) is (row.kind == "reflect")
        if row.kind == "reflect":
            trace = traces[row.sources[0]]
            assert row.history == trace.attempts
            before = "".join(a + b for a, b in row.history)
            assert trace.judged.candidate.text.startswith(before)
            assert row.prompt == wording.cot(problem, SHORT)
        elif row.kind == "select":
            *shown, _ = row.sources
            limit = ShowLimit(texts=5)
            assert row.prompt == wording.select(problem, [texts[s] for s in shown], SHORT, "rationale", limit=limit)


@pytest.mark.slow
def test_the_selectors_own_choices_come_back_in_the_next_round(finished):
    """A choice of iteration 1 that differed from the vote is a row of iteration 1 and of 2."""
    past = [selection_from_json(row) for row in read_jsonl(finished / "iter1/rethink/selections.jsonl")]
    differ = {s.judged.candidate.id for s in past if s.judged.verdict.correct != s.vote_right}
    assert differ
    for k in (1, 2):
        rows = read_examples(finished / f"iter{k}/build/examples.jsonl")
        back = {row.id.removeprefix("select/own/") for row in rows if row.id.startswith("select/own/")}
        assert differ & back
        assert back <= differ | {f"{name.rpartition('/')[0].rpartition('/')[0]}/1/0" for name in back}


@pytest.mark.slow
def test_the_data_set_opens_turns(finished):
    """All rows of it, for one template serves all; a plain row ends its turn itself."""
    rows = read_jsonl(finished / "iter1/train/work/data/selftrain.jsonl")
    for row in rows:
        assert row["messages"][-1]["content"].endswith(END_OF_TURN)
    assert {m["role"] for row in rows for m in row["messages"]} == {"user", "assistant", "observation"}


@pytest.mark.slow
def test_selections_are_no_longer_than_trained(finished):
    trained = read_json(finished / "iter1/build/counts.json")["select_characters"]
    assert trained_limit(finished, ShowLimit(5), [1]) == ShowLimit(5, trained)
    assert trained_limit(finished, ShowLimit(5), []) == ShowLimit(5)
    config = load_config(ROOT / "configs/rehearsal.yaml", FOUR)
    longest = max(trained, read_json(finished / "iter2/build/counts.json")["select_characters"])
    assert selection_of(config, None, finished) == SelectionForm("rationale", ShowLimit(5, longest))
    assert selection_of(config, "answer", finished) == SelectionForm("answer", ShowLimit(5))


class Killed(BaseException):
    """Ends a run at a given call."""


def artefacts(run: Path) -> dict:
    return {str(f.parent.relative_to(run)): folder_digests(f.parent) for f in sorted(run.glob("iter*/*/stage.json"))}


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_killed_and_continued_is_as_if_left_alone(data, finished, tmp_path, monkeypatch, call):
    """Between the files of the second thoughts of both iterations."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])
    config = settings(data, tmp_path)
    wanted = ("traces.jsonl", "selections.jsonl")
    write, calls = sampling.write_jsonl, []

    def dying(path: Path, rows) -> None:
        write(path, rows)
        calls.append(path.name)
        if sum(name in wanted for name in calls) == call:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_jsonl", dying)
        with pytest.raises(Killed):
            run_loop(config, QUIET)
    run_loop(config, QUIET)
    assert artefacts(tmp_path / "run") == artefacts(finished)


REFUSED = {
    "short answers": (
        ["evaluation.select_max_tokens=64"],
        "evaluation.select_max_tokens is 64 and evaluation.max_tokens",
    ),
    "arithmetic": (
        ["training.max_length=600"],
        r"5 candidates of up to 110 tokens and an answer of 128 are 678 tokens",
    ),
    "one candidate": (["build.select_shown=1"], "select_shown"),
    "no such form": (["select_format=letter"], "select_format: .*'rationale'"),
    "negative": (["build.parts.reflect=-1"], "reflect"),
    "no attempt": (["rethink.max_ignores=0"], "max_ignores"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_are_refused(name):
    more, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        load_config(ROOT / "configs/rehearsal.yaml", [*FOUR, *more])


def test_an_unknown_budget_is_refused_before_anything_is_sampled(data, tmp_path):
    opened = []
    with pytest.raises(ConfigError, match=r"rethink\.budget: no budget 's2'; known: s1, s1-m, tiny"):
        run_loop(settings(data, tmp_path, "rethink.budget=s2"), QUIET, open_engine=lambda *args: opened.append(args))
    assert not opened


@pytest.mark.slow
def test_a_budget_that_the_model_cannot_keep_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "configs/demo.yaml", [*FOUR, "rethink.budget=s1-m"])
    with pytest.raises(ConfigError, match=r"cannot keep the budget s1-m: max_tokens 256 has no room"):
        second_thoughts.check(config)
    second_thoughts.check(load_config(ROOT / "configs/demo.yaml", FOUR))


def test_settings_that_nothing_uses_leave_the_identity_alone():
    letters = load_config(ROOT / "configs/rehearsal.yaml", ["select_format=answer", "build.parts.reflect=0"])
    same = load_config(
        ROOT / "configs/rehearsal.yaml",
        [*("select_format=answer", "build.parts.reflect=0", "build.select_largest=9"), "rethink.problems=3"],
    )
    assert letters.digest() == same.digest()
    identity = letters.identity()
    assert not {"select_format", "rethink"} & set(identity)
    assert not {"select_largest", "select_shown", "select_per_problem"} & set(identity["build"])
    four = load_config(ROOT / "configs/rehearsal.yaml", FOUR).identity()
    assert four["select_format"] == "rationale"
    assert four["rethink"]["problems"] == 40
    assert four["build"]["parts"]["reflect"] == 0.5


@pytest.mark.slow
def test_ignore_strings_without_rows_are_named(finished):
    plain = SamplingParams(0.9, 110)
    points = grid(ScaleConfig(), plain, plain, SHORT)
    trained = load_config(ROOT / "configs/rehearsal.yaml", FOUR)
    assert untrained_ignores(trained, points) == ()
    assert untrained_ignores(
        load_config(ROOT / "configs/rehearsal.yaml", [*FOUR, "build.parts.reflect=0"]), points
    ) == (" Wait,",)
    other = grid(ScaleConfig(budget="s1", max_tokens=400), plain, plain, SHORT)
    assert untrained_ignores(trained, other) == ("Wait",)


@pytest.mark.parametrize("untrained", [(), (" Wait,",)])
def test_the_first_lines_of_a_report_say_so(untrained):
    result = ScaleResult(
        name="run", questions="some", n_dev=1, n_test=1, judge="0", seed=0, settings=ScaleConfig(), sampling={},
        subjects=(), untrained=untrained, seconds=1.0,
    )  # fmt: skip
    first = markdown(result).splitlines()[2]
    assert first.startswith("No training row of this run holds the ignore strings") is bool(untrained)
    assert ("“Wait,”" in first) is bool(untrained)


@pytest.mark.slow
def test_the_tiny_model_trains_on_all_parts(tmp_path, monkeypatch):
    """One real iteration of the smoke configuration, through LLaMA-Factory with the template of open turns."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])
    small = ("data.train_limit=60", "data.dev_limit=12", "data.test_limit=12", "rethink.problems=40", "iters=1")
    places = (f"data.folder={tmp_path / 'data'}", f"output={tmp_path / 'run'}", f"bank={tmp_path / 'bank.sqlite'}")
    config = load_config(
        ROOT / "configs/smoke.yaml", [*FOUR, *small, *places, "training.overrides.max_steps=3", "data.leakage=ignore"]
    )
    run_loop(config, QUIET)
    train = tmp_path / "run/iter1/train"
    resolved = yaml.safe_load((train / "work/train.yaml").read_text())
    assert (resolved["template"], resolved["mask_history"]) == (open_turns.opened("qwen2_vl"), True)
    result = read_json(train / "result.json")
    assert result["steps"] == 3
    assert result["masked_tokens"] > 0
    rows = read_examples(tmp_path / "run/iter1/build/examples.jsonl")
    assert {row.kind for row in rows} == {"cot", "refine", "select", "reflect"}
    assert (train / "adapter/adapter_model.safetensors").is_file()
    assert read_json(tmp_path / "run/iter1/dev/split.json")["strategies"]["select"]["n"] == 12
