"""The temperature of samples on train, chosen on dev every few iterations."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.policies import compute
from data_process.io import read_jsonl
from data_process.prompts import prompt_set
from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import Config, ConfigError, load_config
from selftrain.engines.scripted import GoldNoise, ScriptedEngine
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.report.write import write_run_report
from selftrain.runs import run_dir
from selftrain.runs.metrics import Metrics
from selftrain.runs.temperature import choose, decision_iteration
from selftrain.test_time.results import EvaluatedProblem, Score, SplitResult, StrategyResult, Tokens
from tests.selftrain.whole_loops import Interrupted, artefacts

ROOT = Path(__file__).parents[2]
QUIET = Progress(quiet=True)
ADAPTIVE = "sampling.adaptive={every: 2, temperatures: [0.5, 0.9, 1.3], maximise: pass@4}"
PARTS = ("select_format=answer", "build.parts={qa: 0, cot: 1, refine: 0.5, select: 0.5, reflect: 0}")
# By iteration and temperature. Cold first, then hot: the weights have become too sure of themselves.
ACCURACY = {0: {0.5: 0.5, 0.9: 0.3, 1.3: 0.1}, 1: {0.5: 0.5}, 2: {0.5: 0.2, 0.9: 0.3, 1.3: 0.6}}


class Heated(ScriptedEngine):
    """As good as the table says."""

    def __init__(self, config, iteration, problems, asked) -> None:
        super().__init__({})
        self.responders = {
            t: GoldNoise(problems, prompt_set(config.prompts), accuracy, 0.02, config.seed, weights=f"{iteration}")
            for t, accuracy in ACCURACY[min(iteration, 2)].items()
        }
        self.asked = asked

    def generate(self, requests, params):
        self.respond = self.responders.get(params.temperature, next(iter(self.responders.values())))
        self.asked.update({params.temperature: sum(len(request.seeds) for request in requests)})
        return super().generate(requests, params)


def opener(asked: Counter[float]):
    return lambda config, weights, iteration, problems: Heated(config, iteration, problems, asked)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 24, "dev": 30, "test": 6}, seed=0)
    return folder


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


def settings(data: Path, run: Path, *more: str) -> Config:
    own = [f"data.folder={data}", f"output={run}", f"bank={run.parent}/bank.sqlite", "data.leakage=ignore"]
    fixed = ["iters=3", "engine.batch_size=48", "evaluation.test=none", *PARTS, *(more or [ADAPTIVE])]
    return load_config(ROOT / "configs/rehearsal.yaml", [*own, *fixed])


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run_loop(settings(data, folder), QUIET, open_engine=opener(Counter()))
    return folder


# ---- whole loops ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_temperature_is_chosen_every_second_iteration(finished):
    metrics = Metrics.read(finished / "metrics.json")
    assert [(c.iteration, c.weights, c.used, c.chosen) for c in metrics.temperatures] == [
        (1, 0, 0.9, 0.5),
        (3, 2, 0.5, 1.3),
    ]
    assert not (finished / "iter2/temperature").exists()
    for choice in metrics.temperatures:  # recounted from the rows of the problems
        rows = read_jsonl(finished / f"iter{choice.iteration}/temperature/rows.jsonl")
        assert len(rows) == choice.problems == 30
        for one in choice.grid:
            assert one.accuracy == pytest.approx(sum(row["credits"][f"{one.temperature:g}"] for row in rows) / 30)
        assert choice.change is not None
        assert choice.change.low <= choice.change.difference <= choice.change.high
        assert choice.change.difference > 0
    made_from = [read_json(finished / f"iter{k}/sample/stage.json")["made_from"] for k in (1, 2, 3)]
    assert [sorted(made) for made in made_from] == [
        ["iter1/temperature"], ["iter1/temperature", "iter1/train"], ["iter2/train", "iter3/temperature"]
    ]  # fmt: skip


@pytest.mark.slow
def test_samples_are_drawn_at_the_chosen_temperature(finished):
    texts: dict[str, set[float]] = {}
    with sqlite3.connect(finished.parent / "bank.sqlite") as bank:
        query = "SELECT text, params FROM samples JOIN prompts USING (key)"
        for text, params in bank.execute(query):
            texts.setdefault(text, set()).add(json.loads(params)["temperature"])
    rates = {}
    for k in (1, 2, 3):
        rows = read_jsonl(finished / f"iter{k}/judge/judged.jsonl")
        assert all((0.5, 0.5, 1.3)[k - 1] in texts[row["candidate"]["text"]] for row in rows)
        rates[k] = sum(row["verdict"]["status"] == "correct" for row in rows) / len(rows)
    assert rates[3] > 0.45  # at 0.5 it would be 0.2


@pytest.mark.slow
def test_tokens_of_a_choice_are_charged(finished):
    """All that were looked at, the bank's included, and in the cost at which recipes are compared."""
    metrics = Metrics.read(finished / "metrics.json")
    assert all(one.tokens > 30 * 4 for choice in metrics.temperatures for one in choice.grid)
    rows = [row for k in (1, 2, 3) for row in read_jsonl(finished / f"iter{k}/sample/candidates.jsonl")]
    charged = round(sum(choice.tokens for choice in metrics.temperatures))
    assert compute(finished, 3)[0] == sum(row["n_tokens"] for row in rows) + charged


@pytest.mark.slow
def test_samples_come_from_the_bank_first(data, tmp_path, monkeypatch):
    """The evaluation of dev has drawn three of the four at its own temperature."""
    asked: Counter[float] = Counter()
    seen: dict[str, Counter[float]] = {}
    original = loop.temperature.temperature_stage

    def watched(run, iteration):
        before = Counter(asked)
        original(run, iteration)
        seen[str(iteration)] = asked - before

    monkeypatch.setattr(loop.temperature, "temperature_stage", watched)
    run_loop(settings(data, tmp_path / "run", ADAPTIVE, "iters=1"), QUIET, open_engine=opener(asked))
    assert seen["1"] == {0.5: 30 * 4, 0.9: 30, 1.3: 30 * 4}
    again: Counter[float] = Counter()
    run_loop(settings(data, tmp_path / "again", ADAPTIVE, "iters=1"), QUIET, open_engine=opener(again))
    assert not again
    assert artefacts(tmp_path / "again") == artefacts(tmp_path / "run")


@pytest.mark.slow
def test_stopped_in_a_choice_it_ends_as_if_left_alone(finished, data, tmp_path, monkeypatch):
    write, left = run_dir.write_json, ["iter1", "iter3"]

    def write_or_stop(path, value):
        if path.name == "stage.json" and path.parent.name == "temperature.partial" and left[0] in path.parts:
            left.append(left.pop(0))
            raise Interrupted
        write(path, value)

    config = settings(data, tmp_path / "run")
    for _ in range(2):
        monkeypatch.setattr(run_dir, "write_json", write_or_stop)
        with pytest.raises(Interrupted):
            run_loop(config, QUIET, open_engine=opener(Counter()))
    monkeypatch.setattr(run_dir, "write_json", write)
    run_loop(config, QUIET, open_engine=opener(Counter()))
    assert artefacts(config.output) == artefacts(finished)


@pytest.mark.slow
def test_the_report_shows_the_evidence(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    write_run_report(run)
    text = (run / "report.md").read_text()
    assert "## Temperature of samples" in text
    assert "| Iteration | Strategy | Before | Chosen | At 0.5 | At 0.9 | At 1.3 | Change (points) | Tokens |" in text
    assert re.search(r"\| 3 \| [^|]*@4[^|]* \| 0\.5 \| 1\.3 \| ", text)
    assert "Temperature of samples" in (run / "report.html").read_text()


# ---- the choice -----------------------------------------------------------------------------------------------------


def measured(accuracies: dict[float, float], n: int = 20):
    found = {}
    for t, accuracy in accuracies.items():
        right = round(accuracy * n)
        score = Score(n=n, accuracy=accuracy, low=0, high=1, tokens_per_problem=Tokens(generated=10))
        rows = [
            EvaluatedProblem(
                id=str(k), gold="A", iteration=0, samples=(),
                strategies={"pass@4": StrategyResult(credit=float(k < right), abstain=0)},
            )
            for k in range(n)
        ]  # fmt: skip
        found[t] = SplitResult(n=n, strategies={"pass@4": score}), rows
    return found


@pytest.mark.parametrize(
    ("accuracies", "used", "chosen"),
    [
        ({0.5: 0.2, 0.9: 0.4, 1.3: 0.3}, 0.5, 0.9),
        ({0.5: 0.4, 0.9: 0.4, 1.3: 0.4}, 0.9, 0.9),  # all equal: nothing changes
        ({0.5: 0.4, 0.9: 0.4, 1.3: 0.4}, 0.7, 0.5),  # of equally near ones the lower
        ({0.5: 0.4, 0.9: 0.3, 1.3: 0.4}, 1.2, 1.3),
        ({0.5: 0.0, 0.9: 0.0, 1.3: 0.0}, 1.3, 1.3),
    ],
)
def test_choices(accuracies, used, chosen):
    found = choose(measured(accuracies), "pass@4", used, 1, 0, 0)
    assert found.chosen == chosen
    assert found.tokens == 3 * 20 * 10
    assert (found.change is None) == (chosen == used or used not in accuracies)


def test_when_a_choice_is_made():
    assert [decision_iteration(k, 2) for k in range(1, 7)] == [1, 1, 3, 3, 5, 5]
    assert [decision_iteration(k, 1) for k in range(1, 4)] == [1, 2, 3]


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{temperatures: [0.5, 2.5]}", "sampling.adaptive.temperatures: 2.5 is out of range; .* above 0 and up to 2"),
        ("{temperatures: [0, 0.5]}", "0 is out of range"),
        ("{temperatures: [.nan, 0.5]}", "temperatures.0: .* finite number"),
        ("{temperatures: [0.5]}", "two different temperatures or more"),
        ("{temperatures: [0.9, 0.5]}", "in ascending order"),
        ("{temperatures: [0.5, 0.5]}", "two different temperatures"),
        ("{every: 0}", "sampling.adaptive.every"),
    ],
)
def test_grids_that_are_refused(data, tmp_path, value, message):
    with pytest.raises(ConfigError, match=message):
        settings(data, tmp_path / "run", f"sampling.adaptive={value}")


@pytest.mark.parametrize(
    ("name", "message"),
    [("majority@4", "which chooses an answer"), ("pas@4", "there is no strategy 'pas@4'"), ("greedy", "chooses an")],
)
def test_what_cannot_be_maximised_is_refused_before_anything_is_sampled(data, tmp_path, name, message):
    chosen = settings(data, tmp_path / "run", f"sampling.adaptive={{maximise: {name}}}")
    with pytest.raises(ConfigError, match=message):
        run_loop(chosen, QUIET, open_engine=lambda *args: pytest.fail("an engine was opened"))


def test_off_it_is_no_part_of_a_run(data, tmp_path):
    plain = settings(data, tmp_path / "run", "seed=0")
    assert "adaptive" not in plain.identity()["sampling"]
    assert settings(data, tmp_path / "run").identity()["sampling"]["adaptive"]["every"] == 2
    assert settings(data, tmp_path / "run", "sampling.adaptive=false").digest() == plain.digest()
    assert settings(data, tmp_path / "run", "sampling.adaptive=true").sampling.adaptive.maximise == "pass@8"
