"""Loops with outside traces: read once, mixed in by weight, trained on before iteration 1; and rationalisation."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from data_process.io import load_problems, read_examples, read_jsonl
from data_process.prompts import SHORT, cot, hinted
from data_process.schema import DataError
from data_process.sources import minigeo
from selftrain import loop
from selftrain.cli.run import run_main
from selftrain.config import ConfigError, load_config
from selftrain.engines.base import EngineError
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs.metrics import Metrics
from selftrain.runs.run_dir import BASE, folder_digests
from selftrain.sampling.engine_factory import open_engine
from selftrain.scaling.targets import models_of
from selftrain.scoring.compare import compare_runs
from selftrain.stages.training import starting_weights

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
QUIET = Progress(quiet=True)
PARTS = ("select_format=answer", "build.parts={qa: 0, cot: 1, refine: 0, select: 0, reflect: 0}")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """MiniGeo, whose problems carry their own solutions, and a file of solutions by name."""
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 40, "dev": 12, "test": 12}, seed=0)
    rows = [{"id": p.id, "response": p.meta["rationale"]} for p in load_problems(folder / "train.jsonl", folder)]
    rows[0]["response"] = "<think>I guess.</think>\nAnswer: (E)"
    (folder / "gpt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    return folder


@pytest.fixture(autouse=True)
def no_report(monkeypatch, request):
    if "report" not in request.node.name:
        monkeypatch.setattr(loop, "write_run_report", lambda path: [])


def settings(data: Path, folder: Path, *more: str):
    own = (f"data.folder={data}", f"output={folder / 'run'}", f"bank={data.parent / 'bank.sqlite'}")
    return [*own, "data.leakage=ignore", "iters=2", *PARTS, *more]


def config_of(data: Path, folder: Path, *more: str):
    return load_config(REHEARSAL, settings(data, folder, *more))


def traces(data: Path, name: str = "gpt.jsonl", **more) -> str:
    return f"traces={json.dumps([{'file': str(data / name), 'kind': 'cot', **more}])}"


@pytest.fixture(scope="module")
def warmed(data, tmp_path_factory) -> Path:
    """A run whose iteration 0 is a warm-up, with its report."""
    folder = tmp_path_factory.mktemp("warmed")
    run_loop(config_of(data, folder, traces(data, weight=0.5), "warmup={qa: 0.25}"), QUIET)
    return folder / "run"


@pytest.mark.slow
def test_the_stages_of_a_warm_up(warmed):
    stages = {str(f.parent.relative_to(warmed)) for f in warmed.rglob("stage.json")}
    accepted = read_json(warmed / "metrics.json")["accepted"]
    expected = {"traces", "base/dev", "base/test", "iter0/build", "iter0/train", "iter0/dev", "iter0/test"}
    expected |= {
        f"iter{k}/{stage}" for k in (1, 2) for stage in ("sample", "judge", "build", "dynamics", "train", "dev")
    }
    assert stages == expected | {f"iter{accepted}/test"}
    assert read_json(warmed / "iter0/train/stage.json")["made_from"].keys() == {"iter0/build"}
    assert read_json(warmed / "iter1/sample/stage.json")["made_from"].keys() == {"iter0/train"}
    counts = read_json(warmed / "traces/counts.json")["gpt"]
    assert (counts["offered"], counts["kept"], counts["dropped"]) == (20, 19, {"unreadable": 1})


@pytest.mark.slow
def test_rows_of_the_warm_up_and_of_iterations(warmed, data):
    rows = {k: read_examples(warmed / f"iter{k}/build/examples.jsonl") for k in range(3)}
    assert Counter(row.id.partition("/")[0] for row in rows[0]) == {"outside": 19, "qa": 10}
    assert read_json(warmed / "iter0/build/counts.json")["examples"] == {"outside": 19, "qa": 10}
    by_id = {problem.id: problem for problem in load_problems(data / "train.jsonl", data)}
    for k in (1, 2):
        outside = [row for row in rows[k] if row.id.startswith("outside/")]
        assert len(outside) == 10  # half of 19, rounded up
        assert all(row.prompt == cot(by_id[row.problem_id], SHORT) for row in outside)
        counts = read_json(warmed / f"iter{k}/build/counts.json")
        assert counts["examples"]["outside"] == 10
        assert counts["dropped"]["outside:weight"] == 9
        assert len(rows[k]) == sum(counts["examples"].values())
    assert {c["iteration"] for c in (row["candidate"] for row in read_jsonl(warmed / "iter1/judge/judged.jsonl"))} == {
        0
    }


@pytest.mark.slow
def test_report_of_a_warm_up(warmed):
    metrics = Metrics.read(warmed / "metrics.json")
    assert [row.iteration for row in metrics.iterations] == [BASE, 0, 1, 2]
    assert metrics.base == BASE
    assert [row.train is not None for row in metrics.iterations] == [False, True, True, True]
    dev = {(c.a, c.b) for c in metrics.comparisons if c.split == "dev"}
    assert dev == {(BASE, 0), (BASE, 1), (0, 1), (BASE, 2), (1, 2)}
    assert {(c.a, c.b) for c in metrics.comparisons if c.split == "test"} >= {(BASE, 0)}
    page = (warmed / "report.md").read_text()
    assert "| base |" in page
    assert "0 (warm-up)" in page
    assert "outside traces" in page
    assert "0 (base)" not in page
    assert "base model" in (warmed / "report.html").read_text()


@pytest.mark.slow
def test_ignore_strings_of_traces_are_trained(data, tmp_path):
    """The headline warns of ignore strings that no row holds; rows of traces count."""
    rows = [json.loads(line) for line in (data / "gpt.jsonl").read_text().splitlines()]
    checked = [{**row, "response": row["response"].replace("</think>", " Wait, yes.</think>")} for row in rows]
    (tmp_path / "checked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in checked))
    for name, folder, untrained in (("gpt", data, (" Wait,",)), ("checked", tmp_path, ())):
        own = ("iters=1", "evaluation.strategies=[greedy, greedy+1]", traces(folder, f"{name}.jsonl"))
        assert run_loop(config_of(data, tmp_path / name, *own), QUIET).metrics.untrained == untrained


@pytest.mark.slow
def test_other_commands_on_a_run_with_a_warm_up(warmed, data, tmp_path):
    assert [(m.name, m.weights is None) for m in models_of(warmed, ["base", "iter0"])] == [
        ("base", True),
        ("iteration 0", False),
    ]
    run_loop(config_of(data, tmp_path), QUIET)
    assert {c.a for c in compare_runs(warmed, tmp_path / "run")} == {read_json(warmed / "metrics.json")["accepted"]}


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [3, 60, 100, 170])  # in base, warm-up, iterations 1 and 2
def test_a_warm_up_resumes(warmed, data, tmp_path, stopped_at):
    """The same bytes, wherever the engine failed before."""
    config = config_of(data, tmp_path, traces(data, weight=0.5), "warmup={qa: 0.25}", f"bank={tmp_path / 'b.sqlite'}")
    engines = []

    def failing(*args):
        engine = open_engine(*args)
        engine.fail_at = max(1, stopped_at - sum(one.n_requests for one in engines))
        engines.append(engine)
        return engine

    with pytest.raises(EngineError, match="scripted failure"):
        run_loop(config, QUIET, open_engine=failing)
    run_loop(config, QUIET)
    for file in warmed.rglob("stage.json"):
        stage = file.parent.relative_to(warmed)
        assert folder_digests(config.output / stage) == folder_digests(file.parent), stage


STARTS = [("base", [BASE, BASE, BASE]), ("warmup", [BASE, 0, 0]), ("previous", [BASE, 0, 1])]


@pytest.mark.parametrize(("restart", "starts"), STARTS)
def test_where_training_starts(data, tmp_path, restart, starts):
    class Run:
        base = BASE
        predecessor = staticmethod(lambda k: k - 1)
        config = config_of(data, tmp_path, traces(data), "warmup=true", f"training.restart={restart}")

    assert [starting_weights(Run, k) for k in range(3)] == starts


def test_what_the_warm_up_trains_with(data, tmp_path):
    more = ("training.overrides={max_steps: 9, weight_decay: 0.1}", "warmup.overrides={max_steps: 4}")
    config = config_of(data, tmp_path, traces(data), *more)
    assert config.for_warmup.training.overrides == {"max_steps": 4, "weight_decay": 0.1}
    assert config.training.overrides["max_steps"] == 9


def test_settings_that_are_off_change_no_identity(data, tmp_path):
    plain = config_of(data, tmp_path)
    assert plain.identity() == config_of(data, tmp_path, "warmup=false", "rationalise=false", "traces=[]").identity()
    for name, value in (("rationalise", "rationalise=true"), ("traces", traces(data)), ("warmup", "warmup.qa=1")):
        assert name in config_of(data, tmp_path, value).identity()


# settings, what the error says
REFUSED = [
    (["warmup=true"], "nothing to train on"),
    (["warmup=true", "traces=[{file: a, kind: cot, warmup_weight: 0}]"], "nothing to train on"),
    (["traces=[{file: a, kind: cot, weight: 0}]"], "used nowhere"),
    (["traces=[{file: x/a.jsonl, kind: cot}, {file: y/a.json, kind: rows}]"], "two files of traces are named 'a'"),
    (["traces=[{file: a, kind: gpt}]"], "traces.0.kind"),
    (["traces=[{file: a, kind: cot, wieght: 2}]"], "did you mean 'traces.0.weight'"),
    (["warmup={overides: {}}"], "did you mean 'warmup.overrides'"),
    (["training.restart=warmup"], "there is no warm-up"),
    (["traces=[{file: a, kind: cot, weight: -1}]"], "traces.0.weight"),
    (["rationalise={n: 0}"], "rationalise.n"),
    (["rationalise=true", "labels.source=vote"], "use one of them"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_settings_that_are_refused(data, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        config_of(data, tmp_path, *more)


def test_files_that_are_refused(data, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        run_loop(config_of(data, tmp_path / "a", traces(data, "missing.jsonl")), QUIET)
    (tmp_path / "torn.jsonl").write_text('{"id": "x", "resp')
    with pytest.raises(DataError, match=r"torn.jsonl, line 1: not complete JSON"):
        run_loop(config_of(data, tmp_path / "b", traces(tmp_path, "torn.jsonl")), QUIET)


def test_another_file_of_traces_is_another_run(data, tmp_path):
    shutil.copy(data / "gpt.jsonl", tmp_path / "gpt.jsonl")
    config = config_of(data, tmp_path, traces(tmp_path), "iters=1")
    run_loop(config, QUIET)
    with (tmp_path / "gpt.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunError, match=r"inputs\.traces\.gpt"):
        run_loop(config, QUIET)


@pytest.mark.slow
def test_traces_of_dev_problems_and_lost_images(data, tmp_path):
    """With data.leakage=error a run does not start; with drop, the rows are left out and counted."""
    rows = [json.loads(line) for line in (data / "dev.jsonl").read_text().splitlines()][:2]
    rows += [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()][:3]
    rows[3]["image"], rows[3]["id"] = "images/lost.png", "a problem of its own"
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = (traces(tmp_path, "mixed.jsonl"), "iters=1")
    with pytest.raises(DataError, match=r"mixed\.jsonl: traces of dev or test problems"):
        run_loop(config_of(data, tmp_path / "a", *more, "data.leakage=error"), QUIET)
    run_loop(config_of(data, tmp_path / "b", *more, "data.leakage=drop"), QUIET)
    counts = read_json(tmp_path / "b/run/traces/counts.json")["mixed"]
    assert (counts["kept"], counts["dropped"]) == (2, {"leak": 2, "image_missing": 1})


# ---- rationalisation ------------------------------------------------------------------------------------------------


def told(request, seed, problem) -> str:
    """A model that solves problems in the first half of the file alone, unless it is given the answer."""
    right = f"The angles are read and added, which gives it.\nAnswer: ({problem.answer})"
    if "The correct answer is" not in request.prompt:
        wrong = next(letter for letter in problem.letters if letter != problem.answer)
        return right if int(problem.id[-2:]) < 20 else right.replace(f"({problem.answer})", f"({wrong})")
    number = int(problem.id[-2:])
    if number < 24:
        return f"Since the given answer is ({problem.answer}), it fits.\nAnswer: ({problem.answer})"
    return f"Answer: ({problem.answer})" if number < 28 else right


@pytest.fixture(scope="module")
def rationalised(data, tmp_path_factory) -> Path:
    from selftrain.engines.scripted import GoldNoise, ScriptedEngine

    folder = tmp_path_factory.mktemp("rationalised")
    config = config_of(data, folder, "rationalise={n: 2}", f"bank={folder / 'bank.sqlite'}")

    def opener(config, adapter, iteration, problems):
        find = GoldNoise(problems, SHORT, 1.0).find
        return ScriptedEngine(lambda request, seed: told(request, seed, find(request)))

    run_loop(config, QUIET, open_engine=opener)
    return config.output


@pytest.mark.slow
def test_rationalised_rows(rationalised, data):
    by_id = {problem.id: problem for problem in load_problems(data / "train.jsonl", data)}
    counts = read_json(rationalised / "iter1/rationalise/counts.json")
    dropped = {"mentions_the_answer": 8, "bare_answer": 8}
    assert counts == {"unsolved": 20, "asked": 20, "samples": 40, "kept": 24, "dropped": dropped}
    for k in (1, 2):  # still unsolved in iteration 2: the newest text, once
        rows = [r for r in read_examples(rationalised / f"iter{k}/build/examples.jsonl") if "rationalised" in r.id]
        assert len(rows) == 12
        assert {row.id.split("/")[2] for row in rows} == {str(k - 1)}
        assert all(row.prompt == cot(by_id[row.problem_id], SHORT) for row in rows)
        assert read_json(rationalised / f"iter{k}/build/counts.json")["examples"] == {"cot": 20, "rationalised": 12}
        judged = read_json(rationalised / f"iter{k}/judge/counts.json")
        assert (judged["candidates"], judged["correct"]) == (120, 60)  # hinted samples are no candidates


@pytest.mark.slow
def test_report_of_rationalisation(rationalised):
    assert "24 of 40 samples on 20 unsolved problems" in (rationalised / "report.md").read_text()


@pytest.mark.slow
def test_a_model_that_solves_nothing_goes_on_with_other_rows(data, tmp_path):
    """Without them the loop stops; traces and rationalised rows are what such a model learns from."""
    for name, more, rows in (("alone", (), None), ("traces", (traces(data),), {"outside": 19})):
        config = config_of(
            data, tmp_path / name, "iters=1", "engine.accuracy=0", f"bank={tmp_path / name}.sqlite", *more
        )
        outcome = run_loop(config, QUIET)
        assert (outcome.stopped is None) == bool(more)
        if rows:
            assert read_json(config.output / "iter1/build/counts.json")["examples"] == rows


def test_the_hint(data):
    problem = load_problems(data / "train.jsonl", data)[0]
    shown = f"The correct answer is ({problem.answer}) {problem.gold_text}."
    assert hinted(problem, SHORT).startswith(f"{cot(problem, SHORT)}\n{shown}")


@pytest.mark.slow
def test_the_wording_for_a_base_model(data, tmp_path):
    """It asks for the first samples alone, and not after a warm-up."""
    for name, more in (("plain", ()), ("warmed", (traces(data), "warmup=true"))):
        config = config_of(
            data, tmp_path / name, "prompts=r3v-qwen2vl-untrained", *more, f"bank={tmp_path / name}.sqlite"
        )
        asked: dict[int, set[bool]] = {}

        def opener(config, adapter, iteration, problems, asked=asked):
            engine = open_engine(config, adapter, iteration, problems)
            generate = engine.generate

            def watched(requests, params):
                if params.temperature:
                    asked.setdefault(iteration, set()).update("as short as possible" in r.prompt for r in requests)
                return generate(requests, params)

            engine.generate = watched
            return engine

        run_loop(config, QUIET, open_engine=opener)
        first = asked.pop(0)
        assert first == ({True, False} if name == "plain" else {False})  # dev is asked as ever
        assert set().union(*asked.values()) == {False}


def test_dry_run_tells_of_the_warm_up(data, tmp_path, capsys):
    more = [part for value in settings(data, tmp_path, traces(data), "warmup=true") for part in ("--set", value)]
    assert run_main(["--config", str(REHEARSAL), "--dry-run", *more]) == 0
    assert "warm-up" in capsys.readouterr().out


@pytest.mark.slow
def test_a_warm_up_teaches_tags_that_the_model_never_wrote(tmp_path):
    """configs/warmup_demo.yaml on few problems: a forced ignore string acts in no sample before, in most after."""
    minigeo.write(tmp_path / "data", {"train": 200, "dev": 40, "test": 8}, seed=0)
    own = [f"data.folder={tmp_path / 'data'}", f"output={tmp_path / 'run'}", f"bank={tmp_path / 'bank.sqlite'}"]
    own += [traces(tmp_path / "data", "traces.jsonl", weight=0), "evaluation.test=none", "sampling.n=1"]
    own += ["data.train_limit=40", "training.overrides={max_steps: 1}", "warmup.overrides={max_steps: 40}"]
    run_loop(load_config(ROOT / "configs/warmup_demo.yaml", own), QUIET)
    splits = {row.iteration: split for row, split in Metrics.read(tmp_path / "run/metrics.json").splits("dev")}
    idle = {k: split.strategies["greedy+1"].idle for k, split in splits.items()}
    assert idle[BASE] > 0.95
    assert idle[0] < 0.1
