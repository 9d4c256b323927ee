"""Whole loops in which an iteration gets worse: the next one goes on from the accepted weights, also after any stop."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from data_process.io import read_jsonl
from data_process.prompts import prompt_set
from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import Config, load_config
from selftrain.engines.scripted import GoldNoise, ScriptedEngine
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.report.write import write_run_report
from selftrain.runs import run_dir
from selftrain.runs.metrics import Metrics
from selftrain.stages import keeping
from tests.selftrain.whole_loops import Interrupted, artefacts

ROOT = Path(__file__).parents[2]
QUIET = Progress(quiet=True)
ACCURACY = (0.35, 0.85, 0.2, 0.85, 0.8)  # of each iteration's weights: the second is worse than the first
ROLLBACK = ("acceptance.rule=interval", "acceptance.rollback=true")
CONTINUOUS = ("training.restart=continuous", "training.overrides={max_steps: 5}")
PARTS = ("select_format=answer", "build.parts={qa: 0, cot: 1, refine: 0.5, select: 0.5, reflect: 0}")
STATE = "optimizer.rehearsal"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 30, "dev": 60, "test": 6}, seed=0)
    return folder


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


def settings(data: Path, run: Path, *more: str) -> Config:
    own = [f"data.folder={data}", f"output={run}", f"bank={run.parent}/bank.sqlite", "data.leakage=ignore"]
    fixed = ["iters=4", "engine.batch_size=48", "evaluation.test=none", *PARTS]
    return load_config(ROOT / "configs/rehearsal.yaml", [*own, *fixed, *more])


def opener(config, weights, iteration, problems) -> ScriptedEngine:
    accuracy, name = ACCURACY[iteration], f"iteration-{iteration}"
    return ScriptedEngine(GoldNoise(problems, prompt_set(config.prompts), accuracy, 0.02, config.seed, weights=name))


def run(config: Config, progress: Progress = QUIET) -> Metrics:
    return run_loop(config, progress, open_engine=opener).metrics


@pytest.fixture(scope="module", params=["previous", "continuous"])
def finished(request, data, tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    """Four iterations, left alone."""
    start = CONTINUOUS if request.param == "continuous" else ("training.restart=previous",)
    folder = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run(settings(data, folder, *ROLLBACK, *start))
    return folder, start


only_continuous = pytest.mark.parametrize("finished", ["continuous"], indirect=True)


@pytest.mark.slow
def test_a_worse_iteration_is_rolled_back(finished):
    """Iteration 3 samples and trains from iteration 1, new samples; the records say so."""
    folder, _ = finished
    metrics = Metrics.read(folder / "metrics.json")
    found = {one.iteration: (one.status, one.evidence.a, one.goes_on_from) for one in metrics.decisions}
    assert found == {1: ("accepted", 0, 1), 2: ("worse", 1, 1), 3: ("equal", 1, 3), 4: ("equal", 1, 4)}
    assert metrics.accepted == 1
    assert read_json(folder / "iter2/accept/decision.json")["goes_on_from"] == 1
    made_from = {name: read_json(folder / f"iter{name}/stage.json")["made_from"] for name in ("3/sample", "3/train")}
    assert {*made_from["3/sample"]} == {"iter1/train", "iter2/accept"}
    assert {*made_from["3/train"]} == {"iter1/train", "iter3/build"}
    compared = [(c.a, c.b) for c in metrics.comparisons if not c.honest]
    assert compared == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (3, 4)]
    rows = {k: read_jsonl(folder / f"iter{k}/judge/judged.jsonl") for k in (2, 3)}
    right = {k: sum(row["verdict"]["status"] == "correct" for row in of_one) for k, of_one in rows.items()}
    assert min(right.values()) > 0.7 * 90  # both were written by iteration 1, and not by 2
    assert {row["candidate"]["iteration"] for row in rows[3]} == {2}
    texts = {k: [row["candidate"]["text"] for row in of_one] for k, of_one in rows.items()}
    assert texts[2] != texts[3]


@pytest.mark.slow
@only_continuous
def test_nothing_is_left_of_the_states(finished):
    folder, _ = finished
    assert list(folder.rglob("state")) == []
    recorded = [read_json(folder / f"iter{k}/train/result.json").get("state") for k in (1, 2, 3, 4)]
    assert [bool(state) for state in recorded] == [True, True, True, False]


@pytest.mark.slow
def test_stopped_at_every_stage_it_ends_as_if_left_alone(finished, data, tmp_path, monkeypatch):
    """One run that is interrupted before each of its stages is done, and before each removal of an optimizer state."""
    folder, start = finished
    seen: set[Path] = set()

    def stop_once(path: Path) -> None:
        if path not in seen:
            seen.add(path)
            raise Interrupted

    write, discard = run_dir.write_json, keeping.discard

    def write_or_stop(path, value):
        if path.name == "stage.json" and path.parent.name != "leakage.partial":
            stop_once(path.parent)
        write(path, value)

    def discard_or_stop(path):
        if path.exists():
            stop_once(path)
        discard(path)

    monkeypatch.setattr(run_dir, "write_json", write_or_stop)
    monkeypatch.setattr(keeping, "discard", discard_or_stop)
    config = settings(data, tmp_path / "run", *ROLLBACK, *start)
    shutil.copy(folder.parent / "bank.sqlite", config.bank)  # its samples are not what is tested here
    stops = 0
    while True:
        try:
            run(config)
        except Interrupted:
            stops += 1
            assert stops < 60
        else:
            break
    names = {str(path.relative_to(config.output)) for path in seen}
    assert {f"iter{k}/accept.partial" for k in (1, 2, 3, 4)} <= names
    assert stops == len(seen) == 1 + 4 * 7 + 3 * (start is CONTINUOUS)
    assert artefacts(config.output) == artefacts(folder)
    assert list(config.output.rglob("state")) == []


@pytest.mark.slow
@only_continuous
def test_a_missing_state_of_the_accepted_iteration(finished, data, tmp_path):
    """It is said before anything is sampled."""
    folder, start = finished
    config = settings(data, tmp_path / "run", *ROLLBACK, *start)
    shutil.copytree(folder, config.output)
    shutil.copy(folder.parent / "bank.sqlite", config.bank)
    for k in (3, 4):
        shutil.rmtree(config.output / f"iter{k}")
    with pytest.raises(RunError, match=rf"iter1/train/state/{STATE} is missing; restore it from a copy"):
        run(config)
    assert not (config.output / "iter3").exists()


@pytest.mark.slow
@only_continuous
def test_the_report_says_so(finished):
    folder, _ = finished
    write_run_report(folder)
    text = (folder / "report.md").read_text()
    assert "## Decisions on dev" in text
    assert "| 2 | worse, rolled back | 1 | " in text
    assert "worse, rolled back" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_without_rollback_the_worse_weights_go_on(data, tmp_path):
    said = io.StringIO()
    config = settings(data, tmp_path / "run", "acceptance.rule=interval", "training.restart=previous", "iters=3")
    metrics = run(config, Progress(said))
    assert [(one.status, one.goes_on_from) for one in metrics.decisions] == [
        ("accepted", 1),
        ("worse", 2),
        ("equal", 3),
    ]
    assert not (config.output / "iter2/accept").exists()
    assert {*read_json(config.output / "iter3/sample/stage.json")["made_from"]} == {"iter2/train"}
    assert "iteration 2 is worse: greedy on dev -" in said.getvalue()
    assert "rolled back" not in said.getvalue()


@pytest.mark.slow
def test_rolled_back_to_the_base_model(data, tmp_path, monkeypatch):
    """No iteration was accepted yet: training starts anew, also where it is continuous."""
    monkeypatch.setitem(globals(), "ACCURACY", (0.8, 0.2, 0.75))
    said = io.StringIO()
    config = settings(data, tmp_path / "run", *ROLLBACK, *CONTINUOUS, "iters=2")
    metrics = run(config, Progress(said))
    assert [(one.status, one.goes_on_from) for one in metrics.decisions] == [("worse", 0), ("equal", 2)]
    assert "it is rolled back, and the next one goes on from iteration 0" in said.getvalue()
    assert {*read_json(config.output / "iter2/sample/stage.json")["made_from"]} == {"iter1/accept"}
    assert list(config.output.rglob("state")) == []


@pytest.mark.slow
def test_a_warm_up_is_rolled_back(data, tmp_path, monkeypatch):
    """The base model, iteration -1, samples and is trained on in the place of the warm-up, iteration 0."""
    monkeypatch.setitem(globals(), "ACCURACY", {-1: 0.8, 0: 0.2, 1: 0.75})
    config = settings(data, tmp_path / "run", *ROLLBACK, "training.restart=previous", "warmup={qa: 1}", "iters=1")
    metrics = run(config)
    assert [(one.iteration, one.status, one.goes_on_from) for one in metrics.decisions] == [
        (0, "worse", -1),
        (1, "equal", 1),
    ]
    assert metrics.accepted == -1
    made_from = {
        name: read_json(config.output / f"iter1/{name}/stage.json")["made_from"] for name in ("sample", "train")
    }
    assert {*made_from["sample"]} == {"iter0/accept"}
    assert {*made_from["train"]} == {"iter1/build"}


@pytest.mark.slow
@pytest.mark.parametrize("stops", [False, True])
def test_a_collapse_that_was_rolled_back_stops_nothing(data, tmp_path, monkeypatch, stops):
    monkeypatch.setitem(globals(), "ACCURACY", (0.8, 0.1, 0.8))
    rules = ("acceptance.rule=interval", "acceptance.max_pass_drop=0.1", f"acceptance.rollback={not stops}")
    config = settings(data, tmp_path / "run", *rules, "evaluation.n=2", "iters=2")
    outcome = run_loop(config, QUIET, open_engine=opener)
    assert (outcome.stopped or "").startswith("pass@N on dev fell") is stops
