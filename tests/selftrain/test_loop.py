"""Whole loops with the scripted engine: consistent, resumable from any stop, and clear about what they cannot use."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_process.images.store import ImageStore
from data_process.io import load_problems, read_examples, read_jsonl, write_jsonl
from data_process.judging import judge
from data_process.prompts import prompt_set
from data_process.schema import DataError
from data_process.sources import minigeo
from selftrain import loop
from selftrain.cli.run import EXIT_STOPPED, run_main
from selftrain.config import Config, ConfigError, load_config
from selftrain.engines.base import EngineError, Request
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs import splits
from selftrain.runs.metrics import Metrics
from selftrain.runs.run_dir import folder_digests
from selftrain.runs.splits import generate_data, load_splits
from selftrain.runs.timing import timing
from selftrain.sampling.engine_factory import open_engine
from selftrain.stages import evaluating

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
QUIET = Progress(quiet=True)
STRATEGIES = ("greedy", "mean", "majority", "select", "pass")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 60, "dev": 24, "test": 24}, seed=0)
    return folder


@pytest.fixture(scope="session")
def banks(tmp_path_factory) -> Path:
    """One folder for all banks: the pictures of all runs lie beside it, so that training rows name the same files."""
    return tmp_path_factory.mktemp("banks")


def settings(data: Path, run: Path, bank: Path, *more: str) -> list[str]:
    """Overrides of the rehearsal, with the published mixture (test_rethinking.py has the other parts).

    48 rows a unit, so that a stage has several units to be killed between.
    """
    parts = ("select_format=answer", "build.parts={qa: 0, cot: 1, refine: 0.5, select: 0.5, reflect: 0}")
    fixed = ("data.leakage=ignore", "engine.batch_size=48", *parts)
    return [f"data.folder={data}", f"output={run}", f"bank={bank}", *fixed, *more]


@pytest.fixture
def config(data, banks, tmp_path):
    def make(*more: str, name: str = "run", data_folder: Path = data) -> Config:
        bank = banks / f"{tmp_path.name}-{name}.sqlite"
        return load_config(REHEARSAL, settings(data_folder, tmp_path / name, bank, *more))

    return make


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes most of a rehearsal's second, and most tests do not look at it."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


@pytest.fixture(scope="session")
def finished(data, banks, tmp_path_factory) -> Path:
    """Three iterations, left alone."""
    run = tmp_path_factory.mktemp("finished") / "run"
    run_loop(load_config(REHEARSAL, settings(data, run, banks / "finished.sqlite", "iters=3")), QUIET)
    return run


def artefacts(run: Path) -> dict[str, Any]:
    """Everything a run leaves that does not depend on the clock."""
    stages = {str(f.parent.relative_to(run)): folder_digests(f.parent) for f in sorted(run.glob("iter*/*/stage.json"))}
    return {"stages": stages, **{name: (run / name).read_bytes() for name in ("metrics.json", "data.json")}}


# ---- a second test split -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hard_split_is_read_once_like_test(data, banks, tmp_path):
    """It is measured for the base and the accepted iteration, chooses nothing, and is bound to the run."""
    folder = tmp_path / "with_hard"
    shutil.copytree(data, folder)
    minigeo.write(tmp_path / "other", {"hard": 12}, seed=0)
    shutil.copy(tmp_path / "other/hard.jsonl", folder)
    shutil.copytree(tmp_path / "other/images", folder / "images", dirs_exist_ok=True)
    made = {}
    for name, source, more in (("hard", folder, []), ("plain", folder, ["data.hard=null"]), ("absent", data, [])):
        config = load_config(REHEARSAL, settings(source, tmp_path / name, banks / f"hard-{name}.sqlite", *more))
        run_loop(config, QUIET)
        made[name] = Metrics.read(config.output / "metrics.json")
    accepted = made["hard"].accepted
    for row in made["hard"].iterations:
        assert ("hard" in row.evaluation) == ("test" in row.evaluation) == (row.iteration in {0, accepted})
        assert row.evaluation.get("hard", row.evaluation["dev"]).n in {12, 24}
    assert {"dev", "test", *(["hard"] if accepted else [])} == {c.split for c in made["hard"].comparisons}
    assert "### Hard" in (tmp_path / "hard/report.md").read_text()
    for name in ("plain", "absent"):
        assert made[name].accepted == accepted
        assert all("hard" not in row.evaluation for row in made[name].iterations)
    assert set(read_json(tmp_path / "hard/identity.json")["inputs"]) - {"hard"} == set(
        read_json(tmp_path / "plain/identity.json")["inputs"]
    )


# ---- one whole loop -----------------------------------------------------------------------------------------------


def test_the_stages_of_a_loop(finished):
    stages = set(artefacts(finished)["stages"])
    accepted = read_json(finished / "metrics.json")["accepted"]
    expected = {"iter0/dev", "iter0/test", f"iter{accepted}/test"}
    expected |= {
        f"iter{k}/{stage}" for k in (1, 2, 3) for stage in ("sample", "judge", "build", "dynamics", "train", "dev")
    }
    assert stages == expected  # test is measured for the base and for the accepted iteration, and for nothing else
    assert not list(finished.rglob("*.partial"))
    assert {p.name for p in finished.iterdir() if p.is_file()} == {
        *("config.json", "curve.pdf", "curve.png", "curve.svg", "data.json", "identity.json", "lock", "metrics.json"),
        *("report.html", "report.md", "sessions.json", "test_readings.jsonl"),
    }


@pytest.mark.slow
def test_a_first_look_before_dev_draws_nothing_twice(config, monkeypatch, no_report):
    """A part of dev is measured first; the evaluation of dev asks the engine for the other problems only."""
    monkeypatch.setattr(evaluating, "FIRST_LOOK", 10)
    asked = []

    def spying(*args):
        engine = open_engine(*args)
        generate = engine.generate
        if args[2] == 0:  # the base model
            engine.generate = lambda requests, params: asked.append((requests, params)) or generate(requests, params)
        return engine

    out = io.StringIO()
    run_loop(config("iters=1", "evaluation.test=none"), Progress(out), open_engine=spying)
    first = read_jsonl(config().output / "iter0/dev/rows.jsonl")
    greedy = [(r.id, r.prompt) for requests, params in asked if params.temperature == 0 for r in requests]
    assert len(asked[0][0]) == 10
    assert len(set(greedy)) == len(greedy)
    looked_at = {request.id for request in asked[0][0]}
    correct = sum(row["strategies"]["greedy"]["credit"] == 1 for row in first if row["id"] in looked_at)
    line = f"  base model, greedy, on 10 of 24 dev problems: {10 * correct}.0% ["
    said = out.getvalue()
    assert line in said
    assert said.index(line) < said.index("iteration 0: evaluating on dev")
    # a run that is resumed after dev has been measured does not look again
    again = io.StringIO()
    run_loop(config("iters=2", "evaluation.test=none"), Progress(again), open_engine=spying)
    assert "first look" not in again.getvalue()


def test_evaluations_add_up_from_the_samples(finished, data):
    """Recounted here from the texts alone: judged again, voted again, added again."""
    metrics = read_json(finished / "metrics.json")
    for entry in metrics["iterations"]:
        for split, totals in entry["eval"].items():
            problems = {p.id: p for p in load_problems(data / f"{split}.jsonl", data)}
            rows = read_jsonl(finished / f"iter{entry['iteration']}/{split}/rows.jsonl")
            assert [row["id"] for row in rows] == list(problems)
            credit: Counter[str] = Counter()
            unread: dict[str, float] = Counter()
            for row in rows:
                problem = problems[row["id"]]
                texts = {name: row["strategies"][name]["texts"][0]["text"] for name in ("greedy", "select")}
                greedy, select = (judge(texts[name], problem) for name in ("greedy", "select"))
                samples = [judge(sample["text"], problem) for sample in row["samples"]]
                assert len(samples) == 3
                letters = Counter(v.extracted for v in samples if v.extracted)
                first = [letter for letter, n in letters.items() if n == max(letters.values())]
                credit["greedy"] += greedy.extracted == problem.answer
                credit["select"] += select.extracted == problem.answer
                credit["mean"] += sum(v.extracted == problem.answer for v in samples) / 3
                credit["majority"] += (problem.answer in first) / max(len(first), 1)
                credit["pass"] += problem.answer in letters
                unread["greedy"] += greedy.extracted is None
                unread["select"] += select.extracted is None
                unread["mean"] += sum(v.extracted is None for v in samples) / 3
                unread["majority"] += not letters
                unread["pass"] += not letters
            assert totals["n"] == len(rows) == 24
            for name in STRATEGIES:
                score = totals["strategies"][name]
                assert score["correct"] == pytest.approx(credit[name])
                assert score["accuracy"] == pytest.approx(credit[name] / 24)
                assert score["abstain"] == pytest.approx(unread[name])


def test_training_counts_add_up_from_the_candidates(finished, data):
    gold = {p.id: p for p in load_problems(data / "train.jsonl", data)}
    pool = []
    for entry in read_json(finished / "metrics.json")["iterations"][1:]:
        k, train = entry["iteration"], entry["train"]
        candidates = read_jsonl(finished / f"iter{k}/sample/candidates.jsonl")
        assert [(c["problem_id"], c["sample"]) for c in candidates] == [(i, n) for i in gold for n in range(3)]
        assert {c["iteration"] for c in candidates} == {k - 1}  # written by the weights of the iteration before
        judged = read_jsonl(finished / f"iter{k}/judge/judged.jsonl")
        assert [item["candidate"] for item in judged] == candidates
        status = Counter(judge(c["text"], gold[c["problem_id"]]).status for c in candidates)
        assert {name: train[name] for name in ("correct", "wrong", "abstain")} == {
            name: status[name] for name in ("correct", "wrong", "abstain")
        }
        assert train["candidates"] == status.total() == 180
        assert train["sampled_problems"] == 60
        pool += judged
        statuses = {i: {j["verdict"]["status"] for j in pool if j["candidate"]["problem_id"] == i} for i in gold}
        assert train["pool"]["mixed"] == sum("correct" in s and len(s) > 1 for s in statuses.values())
        assert sum(train["pool"].values()) == 60
        examples = read_jsonl(finished / f"iter{k}/build/examples.jsonl")
        assert Counter(example["kind"] for example in examples) == train["examples"]
        known = {f"{c['problem_id']}/{c['iteration']}/{c['sample']}" for c in (j["candidate"] for j in pool)}
        assert {source for example in examples for source in example["sources"]} <= known
        rows = read_jsonl(finished / f"iter{k}/train/work/data/selftrain.jsonl")
        assert len(rows) == len(examples) == read_json(finished / f"iter{k}/train/result.json")["rows"]
        assert all(Path(image).is_file() for row in rows for image in row["images"])


def test_accepted_is_the_best_on_dev(finished):
    metrics = read_json(finished / "metrics.json")
    greedy = [entry["eval"]["dev"]["strategies"]["greedy"]["accuracy"] for entry in metrics["iterations"]]
    assert len(greedy) == 4
    assert metrics["accepted"] == greedy.index(max(greedy))
    assert [entry["accepted"] for entry in metrics["iterations"]] == [k == metrics["accepted"] for k in range(4)]
    assert metrics["accepted"] > 0, "choose script settings under which something is learned, or less is tested"
    assert metrics["stopped"] is None
    for honest in (False, True):  # MiniGeo can tell which answers are derived rightly
        dev = [
            (c["a"], c["b"]) for c in metrics["comparisons"] if c["split"] == "dev" and c.get("honest", False) is honest
        ]
        assert sorted(dev) == [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)]
    assert {(c["a"], c["b"]) for c in metrics["comparisons"] if c["split"] == "test"} == {(0, metrics["accepted"])}


def test_running_again_changes_nothing(finished, data, banks, no_report):
    before = artefacts(finished)

    def no_engine(*args):
        pytest.fail("an engine was opened")

    same = load_config(REHEARSAL, settings(data, finished, banks / "finished.sqlite", "iters=3"))
    run_loop(same, QUIET, open_engine=no_engine)
    assert artefacts(finished) == before


@pytest.mark.slow
def test_more_iterations_go_on_from_where_it_was(config, finished, no_report):
    run = run_loop(config("iters=2"), QUIET) and config().output
    two = artefacts(run)["stages"]
    times = {name: (run / name / "stage.json").stat().st_mtime_ns for name in two}
    run_loop(config("iters=3"), QUIET)
    three, alone = artefacts(run)["stages"], artefacts(finished)["stages"]
    assert {name: (run / name / "stage.json").stat().st_mtime_ns for name in two} == times
    assert {name: three[name] for name in alone} == alone


@pytest.mark.slow
@pytest.mark.parametrize("test", ["all", "none"])
def test_which_iterations_are_tested(config, no_report, test):
    metrics = run_loop(config("iters=1", f"evaluation.test={test}"), QUIET).metrics
    assert ["test" in entry.evaluation for entry in metrics.iterations] == [test == "all"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("training.restart=previous",),
        ("sampling.problems=20", "build.max_rows=7"),
        ("sampling.n=1", "evaluation.n=1"),
        ("build.parts={qa: 1, cot: 1, refine: 0, select: 0}", "build.rule=a-q2"),
        ("prompts=r3v-qwen2vl", "evaluation.n=4"),
    ],
)
def test_other_settings(config, no_report, more):
    metrics = run_loop(config("iters=2", *more), QUIET).metrics
    assert len(metrics.iterations) == 3
    if "build.max_rows=7" in more:
        assert [sum(e.train.examples.values()) for e in metrics.iterations[1:]] == [7, 7]
        assert [e.train.sampled_problems for e in metrics.iterations[1:]] == [20, 20]


@pytest.mark.slow
def test_the_strategies_are_settings(config, no_report):
    """The loop measures what it is told to, `metrics.json` is the record that the loop returns, and both compare."""
    strategies = ("greedy", "majority", "refine", "permuted")
    outcome = run_loop(config("iters=2", f"evaluation.strategies=[{', '.join(strategies)}]"), QUIET)
    assert Metrics.read(config().output / "metrics.json") == outcome.metrics
    for _, split in (*outcome.metrics.splits("dev"), *outcome.metrics.splits("test")):
        assert {*split.strategies} == {*strategies}
    for honest in (False, True):
        tested = [c.strategy for c in outcome.metrics.comparisons if c.split == "test" and c.honest is honest]
        assert tested == ([*strategies] if outcome.metrics.accepted else [])
    row = read_jsonl(config().output / "iter0/dev/rows.jsonl")[0]["strategies"]
    assert [len(row[name]["texts"]) for name in ("greedy", "majority", "refine")] == [1, 0, 3]
    assert config().digest() != config("evaluation.n=3", f"evaluation.strategies=[{', '.join(strategies)}]").digest()


def test_an_unknown_strategy_is_refused_before_anything_is_sampled(config):
    opened = lambda *args: pytest.fail("an engine was opened")  # noqa: E731
    with pytest.raises(ConfigError, match="no strategy 'elect'; known: greedy"):
        run_loop(config("evaluation.strategies=[greedy, elect]"), QUIET, open_engine=opened)


# ---- stopped and continued ----------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from selftrain import loop
from selftrain.stages import building, evaluating, sampling
from selftrain.training import fake_trainer
from selftrain.sampling.bank import Bank
from selftrain.config import load_config
from selftrain.progress import Progress

where, config, *overrides = sys.argv[1:]


def killed_after(function, call, wanted=lambda *args: True):
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        result = function(*args, **kwargs)
        if wanted(*args):
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if where == "sample":  # the evaluation of the base commits four units
    Bank.write = killed_after(Bank.write, 6)
elif where == "judge":
    sampling.judge = killed_after(sampling.judge, 77)
elif where == "build":  # the rows are there, their counts are not; in the second iteration
    building.write_jsonl = killed_after(building.write_jsonl, 2, lambda path, rows: path.name == "examples.jsonl")
elif where == "train":
    fake_trainer.rehearse = killed_after(fake_trainer.rehearse, 1)
elif where == "dev":  # of iteration 1
    evaluating.write_jsonl = killed_after(evaluating.write_jsonl, 2, lambda path, rows: path.name == "rows.jsonl")
elif where == "test":  # of the base, after the last iteration
    evaluating.write_jsonl = killed_after(evaluating.write_jsonl, 5, lambda path, rows: path.name == "rows.jsonl")
elif where == "metrics":
    loop.write_json = killed_after(loop.write_json, 1, lambda path, value: path.name == "metrics.json")
loop.run_loop(load_config(Path(config), overrides), Progress(quiet=True))
"""

STOPS = {
    "sample": "iter1/sample.partial",
    "judge": "iter1/judge.partial",
    "build": "iter2/build.partial",
    "train": "iter1/train.partial",
    "dev": "iter1/dev.partial",
    "test": "iter0/test.partial",
    "metrics": "metrics.json",
}


SLOW = ("test", "metrics")


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", [pytest.param(stop, marks=pytest.mark.slow) if stop in SLOW else stop for stop in STOPS]
)
def test_killed_and_continued_is_as_if_left_alone(data, banks, tmp_path, finished, no_report, where):
    """Another folder and another bank: every artefact is the same, byte for byte."""
    overrides = settings(data, tmp_path / "run", banks / f"killed-{where}.sqlite", "iters=3")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, where, REHEARSAL, *overrides], cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "run" / STOPS[where]).exists(), "it was killed somewhere else"
    drawn = []

    def counted(config, *args):
        engine = open_engine(config, *args)
        engine.on_batch = drawn.append
        return engine

    run_loop(load_config(REHEARSAL, overrides), QUIET, open_engine=counted)
    assert artefacts(tmp_path / "run") == artefacts(finished)
    assert not list((tmp_path / "run").rglob("*.partial"))
    if where == "sample":
        whole = 24 * 5 * 4 + 24 * 5 * 2 + 180 * 3  # dev four times, test twice, three samplings
        assert sum(drawn) == whole - 24 * 5 - 48 * 2  # what two units of the first sampling gave was not drawn again


class Interrupted(BaseException):
    """Stands for Ctrl-C at a given call."""


@pytest.mark.slow
@pytest.mark.parametrize("request_number", [1, 100, 400])
def test_an_engine_that_fails_and_is_tried_again(config, finished, no_report, request_number):
    """EngineError at the k-th request of all: the same command goes on, with the same result."""
    left = [request_number]

    def failing(config, *args):
        engine = open_engine(config, *args)
        generate = engine.generate

        def counted(requests, params):
            left[0] -= len(requests)
            if 0 >= left[0] > -len(requests):
                raise EngineError("out of memory")
            return generate(requests, params)

        engine.generate = counted
        return engine

    with pytest.raises(EngineError):
        run_loop(config("iters=3"), QUIET, open_engine=failing)
    run_loop(config("iters=3"), QUIET, open_engine=failing)
    assert artefacts(config().output) == artefacts(finished)


@pytest.mark.parametrize("call", [1, 7, 29, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 12, 20, 37))])
def test_a_full_disk_at_any_moment(config, finished, no_report, monkeypatch, capsys, call):
    """ENOSPC from the k-th flush on: one clear message, status 2, and the same command goes on once there is room."""
    chosen = config("iters=3")
    left, flush = [call], os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:  # and it stays full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    argv = ["--quiet", "--config", str(REHEARSAL), "--iters", "3"]
    for override in settings(chosen.data.folder, chosen.output, chosen.bank):
        argv += ["--set", override]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run_main(argv) == 2
    message = capsys.readouterr().err.lower()
    assert "no space left" in message
    assert "run the same command again" in message
    run_loop(chosen, QUIET)
    assert artefacts(chosen.output) == artefacts(finished)


@pytest.mark.slow
@pytest.mark.parametrize("step", [-86400, 86400])
def test_a_clock_that_is_set_while_a_run_works(config, finished, no_report, monkeypatch, step):
    """Back or ahead by a day with every look, interrupted and resumed: the same artefacts, and times of this test."""
    real, looks = time.time, [0]

    def jumping() -> float:
        looks[0] += 1
        return real() + step * looks[0]

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    started = time.monotonic()
    for iters in (1, 3):
        run_loop(config(f"iters={iters}"), QUIET)
    assert looks[0] > 10
    assert artefacts(config().output)["stages"].items() >= artefacts(finished)["stages"].items()
    assert 0 < timing(config().output).wall_seconds < time.monotonic() - started + 1


@pytest.mark.slow
def test_the_bank_or_folder_of_another_run(config, finished, no_report, tmp_path):
    """A second run with the same settings and bank draws nothing."""
    run_loop(config("iters=1"), QUIET)
    again = load_config(REHEARSAL, [*settings(config().data.folder, tmp_path / "b", config().bank), "iters=1"])
    run_loop(again, QUIET, open_engine=lambda *args: pytest.fail("an engine was opened"))
    assert artefacts(again.output) == artefacts(config().output)


# ---- nothing to learn ---------------------------------------------------------------------------------------------

ENDS = {
    "right": ("engine.script_accuracy=1", "engine.script_abstain=0", "all 180 samples are right"),
    "wrong": ("engine.script_accuracy=0", "engine.script_abstain=0", "none of 180 samples is right"),
    "unreadable": ("engine.script_accuracy=0", "engine.script_abstain=1", "none of 180 samples could be read"),
}


@pytest.mark.slow
def test_nothing_to_learn(data, banks, tmp_path, capsys):
    """All right, all wrong, all unreadable: status 3, the reason, a report. One bank: no script answers for another."""
    for name, (accuracy, abstain, reason) in ENDS.items():
        overrides = settings(data, tmp_path / name, banks / "ends.sqlite", accuracy, abstain, "engine.script_gain=0")
        argv = ["--config", str(REHEARSAL), "--quiet"]
        for override in overrides:
            argv += ["--set", override]
        for _ in range(2 if name == "wrong" else 1):  # asked again it says the same again
            assert run_main(argv) == EXIT_STOPPED
            assert f"The loop stopped early: {reason}" in capsys.readouterr().err
        metrics = read_json(tmp_path / name / "metrics.json")
        assert metrics["stopped"].startswith(reason)
        assert metrics["accepted"] == 0
        [entry] = metrics["iterations"]
        assert set(entry["eval"]) == {"dev", "test"}
        for split in entry["eval"].values():
            assert {s["accuracy"] for s in split["strategies"].values()} == {float(name == "right")}
            assert split["strategies"]["mean"]["abstain"] == (24 if name == "unreadable" else 0)
        assert (tmp_path / name / "report.md").is_file()
        assert (tmp_path / name / "report.html").is_file()


# ---- what changed since -------------------------------------------------------------------------------------------


@pytest.fixture
def own(data, tmp_path) -> Path:
    """A copy of the data that a test may spoil."""
    return shutil.copytree(data, tmp_path / "own")


def change_question(folder: Path) -> None:
    rows = read_jsonl(folder / "dev.jsonl")
    rows[3]["question"] += " Really."
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_order(folder: Path) -> None:
    lines = (folder / "dev.jsonl").read_text().splitlines(keepends=True)
    (folder / "dev.jsonl").write_text("".join(reversed(lines)))


def change_pixels(folder: Path) -> None:
    row = read_jsonl(folder / "dev.jsonl")[5]
    other = read_jsonl(folder / "dev.jsonl")[6]
    shutil.copyfile(folder / other["image"], folder / row["image"])


@pytest.mark.slow
@pytest.mark.parametrize("change", [change_question, change_order, change_pixels])
def test_changed_data_are_refused(config, own, no_report, change):
    chosen = config("iters=1", data_folder=own)
    run_loop(chosen, QUIET)
    before = artefacts(chosen.output)
    change(own)
    with pytest.raises(RunError, match=r"(?s)other settings or data:\s+inputs\.dev: '\w+' -> '\w+'"):
        run_loop(chosen, QUIET)
    assert artefacts(chosen.output) == before


@pytest.mark.slow
def test_changed_settings_are_refused(config, no_report):
    run_loop(config("iters=1"), QUIET)
    with pytest.raises(RunError, match=r"config\.sampling\.n: 3 -> 4"):
        run_loop(config("iters=1", "sampling.n=4"), QUIET)


@pytest.mark.slow
def test_a_changed_model_is_refused(config, tmp_path, no_report):
    """A folder is bound to the digest of the weights."""
    model = shutil.copytree(ROOT / "models/tiny-qwen2vl", tmp_path / "model")
    more = ("iters=1", "engine={kind: hf, device: cpu}", f"model.path={model}")

    def no_engine(*args):
        raise EngineError("stopped before anything is sampled")

    for _ in range(2):
        with pytest.raises(EngineError, match="stopped before"):
            run_loop(config(*more), QUIET, open_engine=no_engine)
    weights = model / "model.safetensors"
    *content, last = weights.read_bytes()
    weights.write_bytes(bytes([*content, last ^ 1]))
    with pytest.raises(RunError, match=r"other settings or data:\s+inputs\.model: '\w+' -> '\w+'"):
        run_loop(config(*more), QUIET, open_engine=no_engine)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("JUDGE_VERSION", "next"), ("prompt_set", None)])
def test_a_changed_judge_or_wording_is_refused(config, no_report, monkeypatch, name, value):
    run_loop(config("iters=1"), QUIET)
    reworded = dataclasses.replace(prompt_set("short"), cot="{body}\nThink!")
    monkeypatch.setattr(splits, name, value or (lambda _: reworded))
    with pytest.raises(RunError, match=r"inputs\.(judge|prompts): "):
        run_loop(config("iters=1"), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost", ["iter1/train/adapter/adapter_model.rehearsal", "iter1/judge/judged.jsonl", "iter0/dev/rows.jsonl"]
)
def test_a_lost_artefact_is_not_papered_over(config, no_report, lost):
    run_loop(config("iters=1"), QUIET)
    (config().output / lost).unlink()
    with pytest.raises(RunError, match=f"{Path(lost).name} is not what this stage wrote; restore it, or delete"):
        run_loop(config("iters=2"), QUIET)
    before = artefacts(config().output)["metrics.json"]
    shutil.rmtree(config().output / Path(*Path(lost).parts[:2]))
    run_loop(config("iters=1"), QUIET)  # the advice works
    assert artefacts(config().output)["metrics.json"] == before


# ---- data that cannot be used -------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


SPOIL = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "corrupt": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "too_large": lambda path: path.write_bytes(png_header(50_000, 50_000)),
}


def splits_of(config: Config):
    store = ImageStore(
        config.bank.parent / "images", config.data.folder,
        min_pixels=config.model.min_pixels, max_pixels=config.model.max_pixels,
    )  # fmt: skip
    return load_splits(config, store, QUIET)


def test_other_prompts_than_the_data_card_names_are_noted(config, own, capsys):
    card = json.loads((own / "card.json").read_text()) if (own / "card.json").is_file() else {}
    chosen = config("data.source=jsonl", "prompts=short", data_folder=own)
    store = ImageStore(chosen.bank.parent / "images", own, min_pixels=1, max_pixels=99999)
    for prompts, noted in (("chartqa", True), ("short", False), ("r3v-qwen2vl", False), (None, False)):
        named = {} if prompts is None else {"prompts": prompts}
        (own / "card.json").write_text(json.dumps({**card, **named}))
        load_splits(chosen, store, Progress())
        said = capsys.readouterr()
        assert ("to change that, set prompts=chartqa" in said.out + said.err) is noted


@pytest.mark.parametrize("reason", SPOIL)
def test_unusable_pictures_are_counted_or_too_many(config, own, reason):
    """One of 20 is 5 %, which is allowed and listed; two are an error that names the reason and the first problem."""
    chosen = config("data.dev_limit=20", "data.train_limit=20", data_folder=own)
    rows = read_jsonl(own / "dev.jsonl")
    SPOIL[reason](own / rows[3]["image"])
    splits, card = splits_of(chosen)
    assert card["dev"] == {"offered": 20, "usable": 19, "left_out": [[rows[3]["id"], reason]]}
    assert rows[3]["id"] not in {problem.id for problem in splits["dev"]}
    assert card["train"] == {"offered": 20, "usable": 20, "left_out": []}
    SPOIL[reason](own / rows[22]["image"])  # beyond the limit: nobody looks
    splits_of(chosen)
    SPOIL[reason](own / rows[4]["image"])
    with pytest.raises(DataError, match=rf"2 of 20 images of dev .*{reason} 2; first: problem '{rows[3]['id']}'"):
        splits_of(chosen)


@pytest.mark.slow
def test_a_left_out_problem_is_reported_with_the_run(config, own, no_report):
    chosen = config("iters=1", "data.max_dropped_share=0.1", data_folder=own)
    [*_, last] = read_jsonl(own / "train.jsonl")
    (own / last["image"]).unlink()
    metrics = run_loop(chosen, QUIET).metrics
    assert read_json(chosen.output / "data.json")["train"]["left_out"] == [[last["id"], "missing"]]
    assert metrics.iterations[1].train.sampled_problems == 59


def edit(row: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**row, **changes}).encode()


BAD_LINES = {
    "outside": (lambda row: edit(row, image="../../etc/passwd"), r"line 3.*inside the image folder"),
    "absolute": (lambda row: edit(row, image="/etc/passwd"), r"line 3.*inside the image folder"),
    "link outside": (lambda row: edit(row, image="images/link.png"), r"line 3.*leads out of the image folder"),
    "torn": (lambda row: edit(row)[:40], r"line 3: not complete JSON"),
    "not UTF-8": (lambda row: edit(row).replace(b"minigeo", b"\xff\xfe", 1), r"line 3: not UTF-8"),
    "gold beyond": (lambda row: edit(row, answer="E"), r"line 3.*answer 'E' is neither one of the letters ABCD"),
    "gold is no choice": (lambda row: edit(row, answer="many"), r"line 3.*answer 'many' is neither"),
    "one choice": (lambda row: edit(row, choices=["1"], answer="A"), r"line 3.*1 choices; there must be 2"),
    "no choice": (lambda row: edit(row, choices=[], answer="A"), r"line 3.*a choice problem needs 'choices'"),
    "half a character": (lambda row: edit(row, question="x \ud800"), r"line 3.*'question' holds half of a character"),
    "half a choice": (lambda row: edit(row, choices=["\udfff", "b"], answer="A"), r"line 3.*'choices' holds half"),
    "id twice": (lambda row: edit(row, id="minigeo-dev-00000"), r"line 3: id 'minigeo-dev-00000' was already used"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(config, own, name, capsys):
    spoil, message = BAD_LINES[name]
    (own / "images/link.png").symlink_to("/etc/passwd")
    lines = (own / "dev.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = spoil(json.loads(lines[2])) + b"\n"
    (own / "dev.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=rf"dev\.jsonl, {message}"):
        splits_of(config("data.dev_limit=10", data_folder=own))


def test_one_id_in_two_splits(config, own):
    rows = read_jsonl(own / "test.jsonl")
    rows[5]["id"] = "minigeo-train-00002"
    (own / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="problem 'minigeo-train-00002' is in train and in test"):
        splits_of(config(data_folder=own))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "holds no usable problem"), (b"\n\n", "holds no usable")]
)
def test_no_problems(config, own, content, message):
    (own / "dev.jsonl").unlink()
    if content is not None:
        (own / "dev.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=rf"dev\.jsonl:? {message}"):
        splits_of(config(data_folder=own))


# ---- generated data -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_minigeo(monkeypatch):
    write, written = minigeo.write, []

    def small(out: Path, *, seed: int, **rest: Any) -> dict:
        written.append(out)
        return write(out, {"train": 4, "dev": 2, "test": 2}, seed=seed, **rest)

    monkeypatch.setattr(minigeo, "write", small)
    return written


def test_missing_data_are_generated_whole_or_not_at_all(config, tmp_path, small_minigeo, monkeypatch):
    chosen = config(data_folder=tmp_path / "fresh/minigeo")
    with monkeypatch.context() as patch:
        patch.setattr(minigeo, "text_only_accuracy", None)
        patch.setattr(json, "dumps", lambda *args, **kwargs: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            generate_data(chosen, QUIET)
    assert list((tmp_path / "fresh").iterdir()) == []
    generate_data(chosen, QUIET)
    assert sorted(p.name for p in chosen.data.folder.iterdir()) == [
        *("card.json", "dev.jsonl", "images", "test.jsonl", "train.jsonl")
    ]
    generate_data(chosen, QUIET)
    assert len(small_minigeo) == 2
    assert list((tmp_path / "fresh").iterdir()) == [chosen.data.folder]


@pytest.mark.slow
def test_data_of_another_seed_are_not_taken_for_these(config, tmp_path, small_minigeo):
    generate_data(config("data.seed=1", data_folder=tmp_path / "m"), QUIET)
    with pytest.raises(DataError, match=r"seed 1, not 0; set data\.seed=1"):
        generate_data(config(data_folder=tmp_path / "m"), QUIET)


def test_data_of_another_version_are_not_taken_for_these(config, tmp_path, small_minigeo, monkeypatch):
    generate_data(config(data_folder=tmp_path / "m"), QUIET)
    monkeypatch.setattr(minigeo, "VERSION", minigeo.VERSION + 1)
    with pytest.raises(DataError, match=r"delete the folder to have it generated again"):
        generate_data(config(data_folder=tmp_path / "m"), QUIET)
    assert len(splits_of(config("data.source=jsonl", data_folder=tmp_path / "m"))[0]["train"]) == 4


def test_own_problems_are_never_written_over(config, tmp_path, small_minigeo):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files, but no train"):
        generate_data(config(data_folder=folder), QUIET)
    (folder / "train.jsonl").write_text("mine")
    with contextlib.suppress(DataError):
        splits_of(config(data_folder=folder))
    assert (folder / "train.jsonl").read_text() == "mine"
    assert small_minigeo == []


@pytest.mark.parametrize("other_run_was_first", [True, False])
def test_a_rename_that_fails_is_told_unless_another_run_was_first(
    config, tmp_path, small_minigeo, monkeypatch, other_run_was_first
):
    chosen = config(data_folder=tmp_path / "minigeo")
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target != chosen.data.folder:
            return replace(self, target)
        if other_run_was_first:
            target.mkdir()
            (target / "card.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    if other_run_was_first:
        generate_data(chosen, QUIET)
    else:
        with pytest.raises(OSError, match="No space left"):
            generate_data(chosen, QUIET)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


# ---- the leakage guard ----------------------------------------------------------------------------------------------


@pytest.fixture
def leaking(data, tmp_path) -> Path:
    """Data whose first three test questions stand in train too, under other ids and other picture names."""
    folder = tmp_path / "leaking"
    shutil.copytree(data, folder)
    copies = []
    for row in read_jsonl(folder / "test.jsonl")[:3]:
        picture = f"images/copy-{Path(row['image']).name}"
        shutil.copy(folder / row["image"], folder / picture)
        copies.append({**row, "id": f"copy-{row['id']}", "image": picture})
    write_jsonl(folder / "train.jsonl", [*read_jsonl(folder / "train.jsonl"), *copies])
    return folder


@pytest.mark.slow
def test_test_questions_in_train_are_refused(config, leaking, no_report):
    with pytest.raises(DataError, match=r"(?s)3 .*data\.leakage=drop"):
        run_loop(config("data.leakage=error", data_folder=leaking), QUIET)


@pytest.mark.slow
def test_test_questions_in_train_can_be_left_out(config, leaking, no_report):
    chosen = config("data.leakage=drop", "iters=1", data_folder=leaking)
    run_loop(chosen, QUIET)
    sampled = {row["problem_id"] for row in read_jsonl(chosen.output / "iter1/sample/candidates.jsonl")}
    assert not any(name.startswith("copy-") for name in sampled)
    assert len(sampled) == 60
    report = (chosen.output / "leakage/report.json").read_bytes()
    run_loop(chosen, QUIET)
    assert (chosen.output / "leakage/report.json").read_bytes() == report


@pytest.mark.slow
def test_data_sets_that_contain_each_other_are_refused_and_can_be_accepted(config, data, tmp_path, no_report):
    """The rows name their data sets, so a run needs no setting to know."""
    folder = tmp_path / "overlapping"
    shutil.copytree(data, folder)
    for split, origin in (("train", "GeoQA"), ("dev", "GeoQA"), ("test", ["UniGeo", "MathVista"])):
        file = folder / f"{split}.jsonl"
        write_jsonl(file, [{**row, "origin": origin} for row in read_jsonl(file)])
    with pytest.raises(DataError, match=r"(?s)LEAK source: 60 .*24 problems of test are from UniGeo.*allow_sources"):
        run_loop(config("data.leakage=error", data_folder=folder), QUIET)
    chosen = config("data.leakage=error", "data.allow_sources=[GeoQA]", "iters=1", data_folder=folder, name="allowed")
    run_loop(chosen, QUIET)
    assert read_json(chosen.output / "leakage/report.json")["sources"][0]["blocking"] is False


@pytest.mark.slow
def test_the_guard_can_be_switched_off(config, leaking, no_report):
    chosen = config("data.leakage=ignore", "iters=1", data_folder=leaking)
    run_loop(chosen, QUIET)
    assert len({row["problem_id"] for row in read_jsonl(chosen.output / "iter1/sample/candidates.jsonl")}) == 63


# ---- several images -----------------------------------------------------------------------------------------------


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
