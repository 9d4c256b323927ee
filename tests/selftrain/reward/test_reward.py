"""A process reward model from labels to a loop that uses it, with the scripted engine; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_process.io import read_jsonl
from data_process.schema import DataError
from data_process.sources import minigeo
from data_process.steps import split_steps
from selftrain import loop
from selftrain.cli.main import main
from selftrain.config import Config, ConfigError, load_config
from selftrain.engines.base import EngineError
from selftrain.engines.scripted import ScriptedEngine
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.reward.labels import StepLabel
from selftrain.reward.model import FILE, load_reward
from selftrain.reward.rows import examples, held_out
from selftrain.reward.train import for_reward, labels_of, make_reward
from selftrain.runs.run_dir import RunDir
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import open_engine
from selftrain.scaling import plots
from selftrain.scaling.grid import ScaleConfig
from selftrain.scaling.run import Target, scale

ROOT = Path(__file__).parents[3]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
QUIET = Progress(quiet=True)
STRATEGIES = "[greedy, majority, best_reward, vote_reward, reward_pass, pass]"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 40, "dev": 12, "test": 12}, seed=0)
    return folder


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


def settings(data: Path, where: Path, *more: str) -> Config:
    return load_config(REHEARSAL, [
        f"data.folder={data}", f"output={where / 'run'}", f"bank={where / 'bank.sqlite'}", "data.leakage=ignore",
        f"reward.model={where / 'reward'}", "reward.problems=10", "iters=1", "select_format=answer",
        "build.parts={qa: 0, cot: 1, refine: 0, select: 0, reflect: 0}", "sampling.n=4", "build.pool=reward@2",
        "build.max_cot_per_problem=2", f"evaluation.strategies={STRATEGIES}", *more,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def made(data, tmp_path_factory) -> Path:
    """A folder with a bank and a reward model, left alone."""
    where = tmp_path_factory.mktemp("made")
    make_reward(for_reward(settings(data, where), None), progress=QUIET)
    return where


@pytest.fixture
def copied(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def no_engine(*_: object) -> None:
    pytest.fail("an engine was opened")


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_labels_add_up_and_are_charged(made):
    labels = [StepLabel(**row) for row in read_jsonl(made / "reward/label/labels.jsonl")]
    counts = read_json(made / "reward/label/counts.json")
    assert counts["problems"] == 10
    assert counts["solutions"] == 20
    assert counts["steps"] == len(labels) == sum(counts["shares"].values())
    assert counts["rollouts"] == 4 * sum(one.rollouts == 4 for one in labels)
    assert {one.rollouts for one in labels} == {1, 4}
    assert len({(one.problem_id, one.steps) for one in labels}) == len(labels)
    assert all(0 <= one.right <= one.rollouts for one in labels)
    for part in counts["tokens"].values():
        assert part["generated"] > 0 < part["prompt"]
    rows = read_jsonl(made / "reward/rows/examples.jsonl")
    assert [row["target"] for row in rows] == ["+" if one.right else "-" for one in labels]
    for row, one in zip(rows, labels, strict=True):
        assert one.steps in row["prompt"]
        assert row["image"]  # the picture is always seen


def test_a_roll_out_goes_on_from_its_step(data, tmp_path):
    """Requests of roll-outs begin with steps of solutions, and what follows decides about them."""
    engines = []

    def opener(config, weights, iteration, problems):
        first = open_engine(config, weights, iteration, problems)
        engines.append(ScriptedEngine(first.respond))
        return engines[-1]

    config = for_reward(settings(data, tmp_path, "reward.problems=3", "reward.rollouts=2"), None)
    make_reward(config, progress=QUIET, opener=opener)
    asked = [request for call in engines[0].calls for request in call.requests]
    begun = [request for request in asked if request.prefix]
    assert begun
    assert {len(request.seeds) for request in begun} == {2}
    assert len({seed for request in begun for seed in request.seeds}) == 2 * len(begun)
    labels = [StepLabel(**row) for row in read_jsonl(tmp_path / "reward/label/labels.jsonl")]
    assert {request.prefix for request in begun} == {one.steps for one in labels if one.rollouts == 2}


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_targets(data, tmp_path, kind):
    """Hard: some roll-out is correct. Soft: with the share as the chance, so the mean of many is the share."""
    config = settings(data, tmp_path, f"reward.labels={kind}")
    problem = next(iter(minigeo.generate("base", 1)))[0]
    labels = [StepLabel(problem.id, k, 0, "A step.", right, 4) for k in range(400) for right in (0, 1, 4)]
    rows = examples(labels, [problem], config)
    assert rows == examples(labels, [problem], config)
    shares = [sum(row.target == "+" for row in rows[place::3]) / 400 for place in range(3)]
    assert shares[0] == 0
    assert shares[1] == (1 if kind == "hard" else pytest.approx(0.25, abs=0.07))
    assert shares[2] == 1


def test_solutions_that_cannot_be_labelled(data, tmp_path):
    config = for_reward(settings(data, tmp_path, "sampling.max_tokens=3"), None)
    with pytest.raises(DataError, match=r"none of 20 solutions of 10 problems .*'truncated': 20"):
        make_reward(config, progress=QUIET)


# ---- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stop_costs_nothing(data, made, tmp_path):
    """An engine that fails on the way: the same command draws what is missing, and leaves the same folder."""
    config = for_reward(settings(data, tmp_path, "engine.batch_size=8"), None)
    drawn = 0

    def failing(config, weights, iteration, problems):
        engine = open_engine(config, weights, iteration, problems)
        engine.fail_at = 30
        return engine

    with pytest.raises(EngineError, match="scripted failure"):
        make_reward(config, progress=QUIET, opener=failing)
    with Bank(config.bank) as bank:
        drawn = bank.count()
    assert drawn > 0
    make_reward(config, progress=QUIET)
    for name in ("label/labels.jsonl", "label/counts.json", "rows/examples.jsonl", "dev/rows.jsonl", "dev/split.json"):
        assert (config.output / name).read_bytes() == (made / "reward" / name).read_bytes()
    make_reward(config, progress=QUIET, opener=no_engine)


# ---- a loop that uses it --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_loop_with_rewards(data, copied):
    config = settings(data, copied)
    outcome = run_loop(config, QUIET)
    run = config.output
    rewards = {row["id"]: row for row in read_jsonl(run / "iter1/reward/rewards.jsonl")}
    judged = read_jsonl(run / "iter1/judge/judged.jsonl")
    right = {f"{c['problem_id']}/0/{c['sample']}": c for c in (
        row["candidate"] for row in judged if row["verdict"]["status"] == "correct")}  # fmt: skip
    assert set(rewards) == set(right)
    for name, row in rewards.items():
        assert row["reward"] == min(row["steps"])
        assert len(row["steps"]) == len(split_steps(right[name]["text"], 12))
    counts = read_json(run / "iter1/reward/counts.json")
    assert counts["steps"] == sum(len(row["steps"]) for row in rewards.values()) == counts["generated_tokens"]
    assert counts["prompt_tokens"] > counts["generated_tokens"]
    kept = [source for row in read_jsonl(run / "iter1/build/examples.jsonl") for source in row["sources"]]
    for name in kept:
        better = [n for n, row in rewards.items() if n.rsplit("/", 2)[0] == name.rsplit("/", 2)[0]
                  and row["reward"] > rewards[name]["reward"]]  # fmt: skip
        assert len(better) < 2
    assert read_json(run / "iter1/build/counts.json")["dropped"]["candidate:reward"] > 0
    for iteration in outcome.metrics.iterations:
        for split in iteration.evaluation.values():
            assert split.calibration is not None
            scores = split.strategies
            assert scores["reward_pass"].accuracy <= scores["pass"].accuracy
            assert scores["best_reward"].tokens_per_problem.prompt > scores["majority"].tokens_per_problem.prompt
    assert read_json(run / "identity.json")["inputs"]["reward"]
    run_loop(config, QUIET, open_engine=no_engine)


@pytest.mark.slow
def test_a_rehearsal_with_a_reward_head(data, made, tmp_path):
    """Pairs in place of rows, judgements of continuations in place of prompts, and a folder that says so."""
    engines = []

    def opener(config, weights, iteration, problems):
        first = open_engine(config, weights, iteration, problems)
        engines.append((weights, ScriptedEngine(first.respond)))
        return engines[-1][1]

    config = settings(data, tmp_path, "reward.make=true", "reward.form=head")
    outcome = run_loop(config, QUIET, open_engine=opener)
    rows = read_jsonl(tmp_path / "reward/rows/examples.jsonl")
    assert rows
    assert all(row["rejected"] and row["target"] for row in rows)
    judges = [engine for weights, engine in engines if weights and weights.is_relative_to(tmp_path / "reward")]
    judged = [request for engine in judges for call in engine.calls for request in call.requests]
    assert judged
    assert all(request.prefix for request in judged)
    said = {request.prompt: set() for request in judged}
    for request in judged:
        said[request.prompt].add(judges[0].respond(request, 0))
    assert {"+", "-"} in said.values(), "steps of one problem are judged apart"
    assert read_json(tmp_path / "reward" / FILE)["head"] is True
    assert "head" not in read_json(made / "reward" / FILE)
    assert "form" not in read_json(made / "reward/identity.json")["config"]["reward"]
    found = outcome.metrics.iterations[-1].evaluation["dev"].calibration
    assert found.auc_within is not None
    assert found.auc_within != found.auc
    labels = labels_of(RunDir(tmp_path / "reward"))
    assert not {row["problem_id"] for row in rows} & held_out(labels, for_reward(config, None))
    with pytest.raises(RunError, match=r"other settings or data:\n  config\.reward\.form"):
        make_reward(for_reward(settings(data, tmp_path), None), progress=QUIET)


@pytest.mark.slow
def test_a_loop_makes_its_reward_model(data, tmp_path):
    config = settings(data, tmp_path, "reward.make=true")
    first = run_loop(config, QUIET)
    with Bank(config.bank) as bank:
        assert load_reward(config, bank) is not None
    assert (config.output / "iter1/reward/rewards.jsonl").is_file()
    assert run_loop(config, QUIET, open_engine=no_engine).metrics.to_json() == first.metrics.to_json()
    with pytest.raises(RunError, match="other settings"):
        run_loop(settings(data, tmp_path, "reward.make=true", "reward.traces=3"), QUIET)
    with pytest.raises(ConfigError, match=r"set reward\.model to the folder"):
        load_config(REHEARSAL, ["reward.make=true"])


@pytest.mark.slow
def test_scale_and_adaptive_temperatures_use_it(data, copied, monkeypatch):
    """Reward-weighted settings in the grid; Reward-Pass@2 as what the temperature maximises."""
    adaptive = "{every: 1, temperatures: [0.5, 1.0], maximise: reward_pass@4/2}"
    config = settings(data, copied, f"sampling.adaptive={adaptive}", "evaluation.test=none")
    run_loop(config, QUIET)
    credits = [row["credits"] for row in read_jsonl(config.output / "iter1/temperature/rows.jsonl")]
    assert {name for row in credits for name in row} == {"0.5", "1"}
    monkeypatch.setattr(plots, "draw", lambda result, folder: [])
    empty = dict.fromkeys(("ignores", "limits", "combine_ignores", "combine_sizes", "conditions", "reject"), ())
    small = ScaleConfig(n=3, sizes=(1, 3), select_sizes=(), audit_size=3, rounds=0, variants=False, **empty)
    found = scale(small, copied / "scale", Target(config.output, ("base",)), progress=QUIET)
    measured = {one.name: one.totals for one in found.subjects[0].settings["dev"]}
    passed = measured["Reward-Pass@2 of 3"].accuracy
    assert measured["highest reward of 3"].accuracy <= passed <= measured["pass@3"].accuracy
    cost = {name: measured[name].tokens_per_problem.prompt for name in ("vote@3", "reward-weighted vote@3")}
    assert cost["reward-weighted vote@3"] > cost["vote@3"]


@pytest.mark.slow
def test_another_reward_model_is_another_run(data, copied):
    config = settings(data, copied)
    run_loop(config, QUIET)
    other = settings(data, copied, "seed=5", f"reward.model={copied / 'other'}", "reward.labels=soft")
    make_reward(for_reward(other, None), progress=QUIET)
    with pytest.raises(RunError, match=r"other settings or data:\n  inputs\.reward"):
        run_loop(settings(data, copied, f"reward.model={copied / 'other'}"), QUIET)


# ---- what is refused ------------------------------------------------------------------------------------------------


def changed(folder: Path, **values: object) -> None:
    manifest = read_json(folder / FILE)
    (folder / FILE).write_text(json.dumps({**manifest, **values}))


REFUSED = {
    "no folder": (lambda f: shutil.rmtree(f), RunError, "no finished reward model .*make it with `selftrain reward`"),
    "unfinished": (lambda f: (f / FILE).unlink(), RunError, r"holds no finished reward model \(reward.json is missing"),
    "torn manifest": (lambda f: (f / FILE).write_text('{"base": '), RunError, "reward.json is damaged"),
    "short manifest": (lambda f: (f / FILE).write_text("{}"), RunError, "base is missing"),
    "other base": (lambda f: changed(f, base="f00d"), ConfigError, r"another base \(digest f00d\)"),
    "other prompts": (lambda f: changed(f, prompts="f00d"), ConfigError, "another prompts"),
    "other steps": (lambda f: changed(f, steps=0), ConfigError, "another rule that splits solutions"),
    "no weights": (lambda f: shutil.rmtree(f / "train/adapter"), RunError, "weights .* cannot be read"),
    "torn weights": (
        lambda f: (f / "train/adapter/adapter_model.rehearsal").write_text("x"),
        RunError,
        "is not what .* was written for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_sampled(data, copied, name):
    damage, error, message = REFUSED[name]
    damage(copied / "reward")
    with pytest.raises(error, match=message):
        run_loop(settings(data, copied), QUIET, open_engine=no_engine)


def test_rewards_without_a_model(data, tmp_path):
    with pytest.raises(DataError, match=r"build\.pool reward@2 .*set reward\.model"):
        run_loop(settings(data, tmp_path, "reward.model=null", "evaluation.strategies=[greedy]"), QUIET)
    with pytest.raises(ConfigError, match=r"best_reward needs a reward; set reward\.model"):
        run_loop(settings(data, tmp_path, "reward.model=null", f"output={tmp_path / 'other'}"), QUIET)
    with pytest.raises(ConfigError, match=r"give --output DIR, or set reward\.model"):
        for_reward(settings(data, tmp_path, "reward.model=null"), None)


def test_log_probabilities_are_needed(data, copied):
    config = settings(data, copied, "engine={kind: vllm, logprobs: false}")
    with Bank(config.bank) as bank, pytest.raises(ConfigError, match=r"engine\.logprobs"):
        load_reward(config, bank)


def test_a_verifier_that_says_something_else(data, copied):
    def mumbling(config, weights, iteration, problems):
        first = open_engine(config, weights, iteration, problems).respond
        return ScriptedEngine(lambda request, seed: text if (text := first(request, seed)) not in "+-" else "hm")

    config = settings(data, copied, "evaluation.n=7")  # with samples that have no judgement yet
    with pytest.raises(EngineError, match=r"neither \+ nor -, for instance 'hm'; train it longer"):
        run_loop(config, QUIET, open_engine=mumbling)


@pytest.mark.slow
def test_the_command(data, tmp_path, capsys):
    more = ["--config", str(REHEARSAL), *(
        word for setting in (f"data.folder={data}", f"bank={tmp_path / 'bank.sqlite'}", "reward.problems=4")
        for word in ("--set", setting))]  # fmt: skip
    assert main(["reward", "--dry-run", "--output", str(tmp_path / "reward"), *more]) == 0
    assert "at most 4 problems of train" in capsys.readouterr().out
    assert not (tmp_path / "reward").exists()
    assert main(["reward", "--quiet", "--output", str(tmp_path / "reward"), *more]) == 0
    told = capsys.readouterr().out
    assert "best_reward" in told
    assert main(["reward", "--json", "--output", str(tmp_path / "reward"), *more]) == 0
    found = json.loads(capsys.readouterr().out)["dev"]["calibration"]
    assert found["n"] > 0
    assert found["auc"] != found["auc_within"]
    assert f"AUC {found['auc']:.3f}, within problems {found['auc_within']:.3f}" in told
    assert main(["reward", "--quiet", "--output", str(tmp_path / "reward"), *more, "--set", "reward.traces=3"]) == 2
    assert "other settings" in capsys.readouterr().err
