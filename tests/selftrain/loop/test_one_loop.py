"""A whole loop: what its records say adds up, and a second call changes nothing."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from pathlib import Path

import pytest

from data_process.io import load_problems, read_jsonl
from data_process.judging import judge
from data_process.sources import minigeo
from selftrain.cli.run import EXIT_STOPPED, run_main
from selftrain.config import ConfigError, load_config
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs.metrics import Metrics
from selftrain.sampling.engine_factory import open_engine
from selftrain.stages import evaluating
from tests.selftrain.whole_loops import QUIET, REHEARSAL, artefacts, settings

STRATEGIES = ("greedy", "mean", "majority", "select", "pass")


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
