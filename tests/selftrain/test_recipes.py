"""Whole loops of the recipes: where training starts, which candidates make rows, how many samples a problem gets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_process.io import read_jsonl
from data_process.schema import DataError
from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import Config, ConfigError, load_config
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.sampling.engine_factory import open_engine
from selftrain.stages.context import share_for
from tests.selftrain.whole_loops import artefacts

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
QUIET = Progress(quiet=True)
RECIPE_NAMES = ("mstar", "rest", "rft", "star")
PUBLISHED = ("select_format=answer", "build.parts={qa: 0, cot: 1, refine: 0.5, select: 0.5, reflect: 0}")
SMALL = ("engine.batch_size=48", "iters=3", *PUBLISHED)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 60, "dev": 12, "test": 12}, seed=0)
    return folder


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


def settings(data: Path, run: Path, bank: Path, *more: str) -> list[str]:
    own = [f"data.folder={data}", f"output={run}", f"bank={bank}", "data.leakage=ignore", "evaluation.test=none"]
    return [*own, *more]


@pytest.fixture
def config(data, tmp_path):
    def make(*more: str, name: str = "run", bank: str = "bank") -> Config:
        return load_config(REHEARSAL, settings(data, tmp_path / name, tmp_path / f"{bank}.sqlite", *SMALL, *more))

    return make


RECIPES = sorted(path.name for path in (ROOT / "configs").glob("*.yaml") if path.name.split("_")[0] in RECIPE_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_rehearses(data, tmp_path, name):
    """One iteration more than has a predecessor, with the scripted engine."""
    more = ("engine.kind=scripted", "sampling.n=4", "data.source=jsonl", "iters=2")
    own = [*settings(data, tmp_path / "run", tmp_path / "bank.sqlite"), *more]
    if load_config(ROOT / "configs" / name).reward.make:
        own.append(f"reward.model={tmp_path / 'reward'}")
    chosen = load_config(ROOT / "configs" / name, own)
    assert chosen.build.pool[0] == "newest"
    outcome = run_loop(chosen, QUIET)
    assert outcome.stopped is None
    assert len(outcome.metrics.iterations) == 3


def no_engine(*_: object) -> None:
    pytest.fail("an engine was opened")


# ---- where training starts ------------------------------------------------------------------------------------------

CONTINUOUS = ("training.restart=continuous", "training.overrides={max_steps: 5}")
STATE = "train/state/optimizer.rehearsal"


@pytest.fixture(scope="module")
def continuous(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("continuous")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run_loop(
            load_config(REHEARSAL, settings(data, folder / "run", folder / "bank.sqlite", *SMALL, *CONTINUOUS)), QUIET
        )
    return folder / "run"


@pytest.mark.slow
def test_each_iteration_inherits_the_state_of_the_one_before(continuous, config):
    """And nothing is left of it at the end but its digest."""
    assert list(continuous.rglob("state")) == []
    recorded = [read_json(continuous / f"iter{k}/train/result.json").get("state") for k in (1, 2, 3)]
    assert [record and [*record] for record in recorded] == [["optimizer.rehearsal"]] * 2 + [None]
    previous = config("training.restart=previous")
    run_loop(previous, QUIET)
    for k, same in ((1, True), (2, False), (3, False)):
        adapter = "train/adapter/adapter_model.rehearsal"
        mine, other = (run / f"iter{k}" / adapter for run in (continuous, previous.output))
        assert (mine.read_text() == other.read_text()) is same
    assert not list(previous.output.rglob("state"))


KILLED = """
import os, signal, sys
from pathlib import Path
from selftrain import loop
from selftrain.config import load_config
from selftrain.progress import Progress
from selftrain.stages import evaluating, sampling, training
from selftrain.training import fake_trainer

where, config, *overrides = sys.argv[1:]


def killed_after(function, call):
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        result = function(*args, **kwargs)
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if where == "trained":  # the rows of iteration 2 are trained on; its stage is not done
    fake_trainer.rehearse = killed_after(fake_trainer.rehearse, 2)
elif where == "before the old state is removed":  # of iteration 1, after the training of iteration 2
    training.discard = killed_after(lambda folder: None, 2)
elif where == "evaluated":  # the base twice (a first look), then iterations 1 and 2
    evaluating.evaluate = killed_after(evaluating.evaluate, 4)
elif where == "sampled":
    sampling.head_tail_samples = killed_after(sampling.head_tail_samples, 2)
elif where == "in the second draw":
    from selftrain.sampling.bank import Bank
    Bank.write = killed_after(Bank.write, int(os.environ["WRITES"]))
loop.write_run_report = lambda path: []
loop.run_loop(load_config(Path(config), overrides), Progress(quiet=True))
"""


def kill(where: str, overrides: list[str], **environment: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", KILLED, where, REHEARSAL, *overrides], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.mark.slow
@pytest.mark.parametrize("where", ["trained", "before the old state is removed", "evaluated"])
def test_a_killed_continuous_run_ends_as_if_left_alone(continuous, data, tmp_path, where):
    overrides = settings(data, tmp_path / "run", continuous.parent / "bank.sqlite", *SMALL, *CONTINUOUS)
    kill(where, overrides)
    assert (tmp_path / "run/iter1" / STATE).exists() == (where != "evaluated")
    run_loop(load_config(REHEARSAL, overrides), QUIET)
    assert artefacts(tmp_path / "run") == artefacts(continuous)
    assert list((tmp_path / "run").rglob("state")) == []


SPOIL = {
    "missing": (lambda path: path.unlink(), "iter1/train/state/optimizer.rehearsal is missing; restore it from a copy"),
    "gone": (lambda path: shutil.rmtree(path.parent), "iter1/train/state/optimizer.rehearsal is missing"),
    "changed": (lambda path: path.write_text("x"), "optimizer.rehearsal is not what the training wrote"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", SPOIL)
def test_a_missing_state_is_an_error_before_anything_is_sampled(config, continuous, tmp_path, how):
    spoil, message = SPOIL[how]
    run = config(*CONTINUOUS)
    shutil.copytree(continuous, run.output)
    for stage in ("iter2", "iter3"):
        shutil.rmtree(run.output / stage)
    state = run.output / "iter1" / STATE
    state.parent.mkdir()
    rows = read_jsonl(run.output / "iter1/build/examples.jsonl")
    assert rows
    adapter = (run.output / "iter1/train/adapter/adapter_model.rehearsal").read_text().strip()
    state.write_text(adapter)  # what the rehearsal keeps of the first interval
    spoil(state)
    with pytest.raises(RunError, match=message):
        run_loop(run, QUIET, open_engine=no_engine)
    assert not (run.output / "iter2").exists()
    state.parent.mkdir(exist_ok=True)
    state.write_text(adapter)
    run_loop(run, QUIET)  # the advice works
    assert artefacts(run.output)["stages"] == artefacts(continuous)["stages"]


@pytest.mark.slow
def test_the_number_of_iterations_binds_a_continuous_run(config, continuous):
    """The schedule ends with the last one; other runs may be prolonged."""
    run = config(*CONTINUOUS, "iters=4")
    shutil.copytree(continuous, run.output)
    with pytest.raises(RunError, match=r"config\.iters: 3 -> 4"):
        run_loop(run, QUIET, open_engine=no_engine)
    assert config("iters=3").identity() == config("iters=4").identity()


# ---- which problems -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "n"), [(12, 3), (12, 12), (13, 4), (5, 9), (100, 7)])
def test_disjoint_shares_cover_everything_once_a_pass(total, n):
    shares = -(-total // n)
    problems = list(range(total))
    passes = [[share_for(problems, n, 0, p * shares + k) for k in range(1, shares + 1)] for p in range(2)]
    for one in passes:
        assert sorted(problem for share in one for problem in share) == problems
        assert max(map(len, one)) <= n
        assert max(map(len, one)) - min(map(len, one)) <= 1
        assert all(share == sorted(share) for share in one)
    assert passes[0] != passes[1] or shares == 1
    assert share_for(problems, n, 0, 1) == passes[0][0]


@pytest.mark.slow
def test_iterations_with_disjoint_problems(config):
    run = config("sampling.problems=20", "sampling.disjoint=true")
    run_loop(run, QUIET)
    sampled = [
        {row["problem_id"] for row in read_jsonl(run.output / f"iter{k}/sample/candidates.jsonl")} for k in (1, 2, 3)
    ]
    assert [len(names) for names in sampled] == [20, 20, 20]
    assert len(set.union(*sampled)) == 60
    with pytest.raises(ConfigError, match="sampling: disjoint needs problems"):
        config("sampling.disjoint=true")


# ---- which candidates -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "oldest"), [("all", [0, 0, 0]), ("newest", [0, 1, 2]), ("window@2", [0, 0, 1])])
def test_rows_come_from_the_iterations_of_the_pool(config, pool, oldest):
    run = config(f"build.pool={pool}", "build.max_cot_per_problem=99")
    run_loop(run, QUIET)
    for k in (1, 2, 3):
        rows = read_jsonl(run.output / f"iter{k}/build/examples.jsonl")
        weights = {int(source.split("/")[-2]) for row in rows for source in row["sources"]}
        assert weights == set(range(oldest[k - 1], k))
        counts = read_json(run.output / f"iter{k}/build/counts.json")
        assert counts["dropped"].get("pool:older", 0) == 180 * oldest[k - 1]


@pytest.mark.slow
def test_a_window_holds_for_second_thoughts_too(config):
    """Selections among candidates that are no longer in the pool make no rows."""
    parts = "build.parts={qa: 0, cot: 1, refine: 0.5, select: 1, reflect: 0.5}"
    rethink = ("select_format=rationale", "evaluation.select_max_tokens=128", "rethink.problems=40", parts)
    run = config("build.pool=newest", *rethink)
    run_loop(run, QUIET)
    rows = read_jsonl(run.output / "iter3/build/examples.jsonl")
    assert {row["kind"] for row in rows} == {"cot", "refine", "select", "reflect"}
    assert {source.split("/")[-2] for row in rows for source in row["sources"]} == {"2"}


@pytest.mark.slow
def test_a_list_of_policies(config):
    run = config("build.pool=[newest, diverse, random@1]", "build.max_cot_per_problem=9")
    run_loop(run, QUIET)
    rows = read_jsonl(run.output / "iter3/build/examples.jsonl")
    assert max(Counter(row["problem_id"] for row in rows if row["kind"] == "cot").values()) == 1
    dropped = read_json(run.output / "iter3/build/counts.json")["dropped"]
    assert dropped["candidate:random"] > 0


def test_rewards_that_nothing_supplies_are_refused_before_anything_is_sampled(config):
    with pytest.raises(DataError, match=r"build\.pool reward@2 .* nothing supplies rewards"):
        run_loop(config("build.pool=[newest, reward@2]"), QUIET, open_engine=no_engine)
    with pytest.raises(ConfigError, match=r"build\.pool: no pool policy 'reward'"):
        config("build.pool=reward")


@pytest.mark.slow
def test_an_empty_pool_says_what_was_left_out(config):
    """Everything is right in the second iteration."""
    run = config("build.pool=newest", "engine.accuracy=0.5", "engine.gain=0.5", "engine.abstain=0")
    outcome = run_loop(run, QUIET)
    assert outcome.stopped.startswith("all 180 samples are right")
    assert outcome.stopped.endswith("(build.pool newest left out 180 older ones)")


# ---- how many samples -----------------------------------------------------------------------------------------------

HEAD_TAIL = ("sampling.allocation=head_tail", "sampling.head_tail.guided=0.5", "sampling.n=4")


def tokens(run: Path, k: int) -> int:
    return sum(row["n_tokens"] for row in read_jsonl(run / f"iter{k}/sample/candidates.jsonl"))


@pytest.fixture(scope="module")
def head_tail(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("head_tail")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run_loop(
            load_config(REHEARSAL, settings(data, folder / "run", folder / "bank.sqlite", *SMALL, *HEAD_TAIL)), QUIET
        )
    return folder / "run"


@pytest.mark.slow
def test_samples_follow_failures_at_equal_tokens(head_tail):
    """Recounted from the verdicts of earlier iterations; a solved problem gets none, a failing one the most."""
    earlier: dict[str, list[bool]] = {}
    for k in (1, 2, 3):
        rows = read_jsonl(head_tail / f"iter{k}/judge/judged.jsonl")
        number = Counter(row["candidate"]["problem_id"] for row in rows)
        report = read_json(head_tail / f"iter{k}/sample/allocation.json")
        assert report["samples"] == len(rows)
        if k == 1:
            assert set(number.values()) == {4}
        else:
            rate = {p: sum(right) / len(right) for p, right in earlier.items()}
            assert {p for p in rate if p not in number} == {p for p in rate if rate[p] == 1}
            solved, failing = (
                [n for p, n in number.items() if rate[p] >= 0.75], [n for p, n in number.items() if rate[p] <= 0.25]
            )  # fmt: skip
            assert max(solved) < min(failing)
            assert 0.99 * report["budget_tokens"] < report["expected_tokens"] <= report["budget_tokens"]
            assert abs(tokens(head_tail, k) / tokens(head_tail, 1) - 1) < 0.05
        for row in rows:
            if "guide" not in row["candidate"]:
                earlier.setdefault(row["candidate"]["problem_id"], []).append(row["verdict"]["status"] == "correct")


@pytest.mark.slow
def test_hard_problems_refine_their_own_attempts(head_tail):
    attempts = {}
    for k in (1, 2, 3):
        rows = read_jsonl(head_tail / f"iter{k}/judge/judged.jsonl")
        guided = [row["candidate"] for row in rows if "guide" in row["candidate"]]
        assert bool(guided) == (k > 1)
        assert read_json(head_tail / f"iter{k}/sample/allocation.json")["guided_samples"] == len(guided)
        assert {attempts[candidate["guide"]] for candidate in guided} <= {"wrong"}
        assert all(c["guide"].startswith(f"{c['problem_id']}/") for c in guided)
        for row in rows:
            c = row["candidate"]
            attempts[f"{c['problem_id']}/{c['iteration']}/{c['sample']}"] = row["verdict"]["status"]
        for problem, group in Counter(row["candidate"]["problem_id"] for row in rows).items():
            of_one = [row["candidate"]["sample"] for row in rows if row["candidate"]["problem_id"] == problem]
            assert sorted(of_one) == list(range(group))
        counted = read_json(head_tail / f"iter{k}/judge/counts.json").get("guided", {})
        assert sum(counted.values()) == len(guided)


@pytest.mark.slow
def test_hard_problems_continue_their_right_solutions(config):
    """Where there are some; the others refine their attempts, and may then continue the refinement."""
    run = config(*HEAD_TAIL, "sampling.head_tail.guide=prefix", "engine.accuracy=0.15", "engine.gain=0.02")
    outcome = run_loop(run, QUIET)
    assert outcome.stopped is None
    before: dict[str, dict] = {}
    kinds = Counter()
    for k in (1, 2, 3):
        rows = read_jsonl(run.output / f"iter{k}/judge/judged.jsonl")
        solved = {row["candidate"]["problem_id"] for row in before.values() if row["verdict"]["status"] == "correct"}
        for row in rows:
            c = row["candidate"]
            if "guide" not in c:
                assert "begun" not in c
                continue
            guide, begun = before[c["guide"]], c.get("begun", 0)
            assert (guide["verdict"]["status"] == "correct") == bool(begun) == (c["problem_id"] in solved)
            assert c["text"][:begun] == guide["candidate"]["text"][:begun]
            kinds["begun" if begun else "refined"] += 1
            kinds["own refinement"] += "guide" in guide["candidate"]
        before |= {f"{c['problem_id']}/{c['iteration']}/{c['sample']}": r for r in rows for c in [r["candidate"]]}
        counts = read_json(run.output / f"iter{k}/judge/counts.json")
        assert sum(counts.get("begun", {}).values()) == sum("begun" in row["candidate"] for row in rows)
    assert min(kinds["begun"], kinds["refined"], kinds["own refinement"]) > 0
    examples = read_jsonl(run.output / "iter3/build/examples.jsonl")
    begun = {name: row["candidate"]["text"] for name, row in before.items() if "begun" in row["candidate"]}
    used = [row for row in examples if row["kind"] == "cot" and row["sources"][0] in begun]
    assert used  # a whole solution, asked for without the beginning
    assert all(row["target"] == begun[row["sources"][0]] for row in used)
    prompts = {row["problem_id"]: row["prompt"] for row in examples if row["kind"] == "cot"}
    assert all(row["prompt"] == prompts[row["problem_id"]] for row in used)


def test_how_a_problem_is_guided_is_part_of_a_run(config):
    refine = config(*HEAD_TAIL).identity()["sampling"]["head_tail"]
    assert refine == {"most": 4, "hard": 0.25, "guided": 0.5}  # as in run folders from before there was a choice
    prefix = config(*HEAD_TAIL, "sampling.head_tail.guide=prefix").identity()["sampling"]["head_tail"]
    assert prefix == refine | {"guide": "prefix", "prefix_share": 0.5}


@pytest.mark.slow
def test_only_missing_samples_are_drawn(config):
    """After a uniform run with the same weights and bank, the first samples of each problem are there already."""
    uniform = config("sampling.n=4", "iters=1", name="uniform")
    run_loop(uniform, QUIET)
    drawn: list[int] = []

    def counted(settings, *args):
        engine = open_engine(settings, *args)
        engine.on_batch = drawn.append
        return engine

    run_loop(config(*HEAD_TAIL, "iters=1"), QUIET, open_engine=counted)
    assert drawn == []
    assert (config().output / "iter1/sample/candidates.jsonl").read_bytes() == (
        uniform.output / "iter1/sample/candidates.jsonl"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("where", "writes"), [("sampled", 0), ("in the second draw", 18)])
def test_a_killed_head_tail_run_ends_as_if_left_alone(head_tail, data, tmp_path, where, writes):
    overrides = settings(data, tmp_path / "run", tmp_path / "bank.sqlite", *SMALL, *HEAD_TAIL)
    kill(where, overrides, WRITES=str(writes))
    assert (tmp_path / "run/iter2/sample.partial").exists()
    run_loop(load_config(REHEARSAL, overrides), QUIET)
    stages = artefacts(tmp_path / "run")["stages"]
    expected = artefacts(head_tail)["stages"]
    assert {name: stages[name] for name in stages if "train" not in name} == {
        name: expected[name] for name in expected if "train" not in name
    }


@pytest.mark.slow
def test_nothing_is_sampled_where_everything_is_solved(config):
    """The first iteration learns from what is wrong; then all is right."""
    run = config(*HEAD_TAIL, "engine.accuracy=1", "engine.gain=0", "engine.abstain=0")
    assert run_loop(run, QUIET).stopped.startswith("all 240 samples are right")
    only = config("sampling.allocation=head_tail", "sampling.head_tail={most: 2}")
    assert only.digest() != config("sampling.allocation=head_tail").digest()
    assert config("sampling.head_tail={most: 2}").digest() == config().digest()  # nothing uses it
