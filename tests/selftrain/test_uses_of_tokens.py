"""A whole loop whose test split is read under many strategies: resumable, byte for byte, and paid for as drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import seeds
from data_process.io import read_jsonl
from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import ConfigError, load_config
from selftrain.engines.base import EngineError
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs.metrics import Metrics, contrasted
from selftrain.sampling.engine_factory import open_engine
from selftrain.scoring.compare import compare_runs
from selftrain.scoring.rejudge import stored_answers

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
QUIET = Progress(quiet=True)
MORE = (
    "greedy+1", "majority@5", "vote_consistent@5", "adaptive@8", "select@5", "fused@5/3", "majority@2+1", "select@2+1",
    "refine@1",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "data"
    minigeo.write(folder, {"train": 24, "dev": 10, "test": 16}, seed=0)
    return folder


def config(data: Path, folder: Path, *more: str):
    overrides = [
        f"data.folder={data}",
        "data.leakage=ignore",
        f"output={folder / 'run'}",
        f"bank={folder / 'b.sqlite'}",
    ]
    return load_config(REHEARSAL, [*overrides, "iters=1", "engine.batch_size=24", *more])


EXTRA = f"evaluation.test_strategies=[{', '.join(MORE)}]"


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Drawing takes most of the time; tests/selftrain/report looks at it."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run_loop(config(data, folder, EXTRA), QUIET)
    return folder / "run"


def files(run: Path) -> dict[str, bytes]:
    """Everything that does not depend on the clock."""
    names = [*run.glob("iter*/*/rows.jsonl"), *run.glob("iter*/*/split.json"), run / "metrics.json"]
    return {str(file.relative_to(run)): file.read_bytes() for file in names}


@pytest.mark.slow
def test_the_other_splits_are_as_without(data, finished, tmp_path):
    """What is measured on test alone changes nothing else, and without it metrics.json has its old fields."""
    run_loop(config(data, tmp_path), QUIET)
    plain, extended = files(tmp_path / "run"), files(finished)
    for name in plain:
        assert (plain[name] == extended[name]) == (not name.startswith(("iter0/test", "iter1/test", "metrics"))), name
    assert "contrasts" not in read_json(tmp_path / "run/metrics.json")
    for k in (0, 1):
        few, many = (read_json(run / f"iter{k}/test/split.json")["strategies"] for run in (tmp_path / "run", finished))
        assert {name: many[name] for name in few} == few
        assert set(many) - set(few) == set(MORE)


@pytest.mark.slow
def test_it_resumes_to_the_same_bytes(data, finished, tmp_path):
    """The engine dies in each part of the reading of test, again and again."""
    deaths = 0

    def dying(*args):
        engine = open_engine(*args)
        engine.fail_at = 90
        return engine

    while True:
        try:
            run_loop(config(data, tmp_path, EXTRA), QUIET, open_engine=dying)
            break
        except EngineError as error:
            assert "scripted failure" in str(error)  # noqa: PT017
            deaths += 1
    assert deaths > 2
    assert files(tmp_path / "run") == files(finished)


@pytest.mark.slow
def test_tokens_are_those_of_the_texts(finished):
    """Recounted from the rows: samples, ignore strings and all."""
    for k in (0, 1):
        rows = read_jsonl(finished / f"iter{k}/test/rows.jsonl")
        scores = read_json(finished / f"iter{k}/test/split.json")["strategies"]

        def mean(texts, rows=rows):
            return sum(text["tokens"] for row in rows for text in texts(row)) / len(rows)

        expected = {
            "greedy+1": mean(lambda row: row["strategies"]["greedy+1"]["texts"]),
            "majority": mean(lambda row: row["samples"][:3]),
            "majority@5": mean(lambda row: row["samples"][:5]),
            "majority@2+1": mean(lambda row: row["forced"]["+1"]),
            "refine@1": mean(lambda row: row["strategies"]["refine@1"]["texts"]),
            "select@5": mean(lambda row: [*row["samples"][:5], *row["strategies"]["select@5"]["texts"]]),
            "select@2+1": mean(lambda row: [*row["forced"]["+1"], *row["strategies"]["select@2+1"]["texts"]]),
        }
        for name, generated in expected.items():
            assert scores[name]["tokens_per_problem"]["generated"] == pytest.approx(generated), name
        drawn = scores["adaptive@8"]["completions"] / len(rows)
        assert 5 <= drawn <= 8
        assert {len(row["samples"]) for row in rows} <= set(range(5, 9))


@pytest.mark.slow
def test_what_is_said_of_it(data, finished, tmp_path):
    metrics = Metrics.read(finished / "metrics.json")
    names = [*read_json(finished / "iter0/test/split.json")["strategies"]]
    found = {(c.iteration, c.a, c.b) for c in metrics.contrasts}
    assert found == {(k, a, b) for k in {0, metrics.accepted} for a, b in contrasted(names, 3)}
    assert ("greedy+1", "select@5") in contrasted(names, 3)
    on_test = {c.strategy for c in metrics.comparisons if c.split == "test"}
    if metrics.accepted:
        assert set(MORE) <= on_test
    stored = {answer.name for answer in stored_answers(finished, ("test",))}
    assert {"sample 1 +1", "greedy+1", "select@5", "refine@1 1"} <= stored
    run_loop(config(data, tmp_path, EXTRA, "seed=1"), QUIET)
    pairs = compare_runs(finished, tmp_path / "run")
    assert {"greedy", *MORE} <= {pair.strategy for pair in pairs}
    assert not {"mean", "pass"} & {pair.strategy for pair in pairs}


def test_a_bad_name_is_refused_before_anything_is_sampled(data, tmp_path):
    def no_engine(*args):
        pytest.fail("an engine was opened")

    with pytest.raises(ConfigError, match="no strategy 'elect@3'"):
        run_loop(config(data, tmp_path, "evaluation.test_strategies=[elect@3]"), QUIET, open_engine=no_engine)


@pytest.mark.slow
def test_the_table_over_seeds_shows_what_the_runs_measured(finished, monkeypatch, capsys):
    metrics = Metrics.read(finished / "metrics.json")
    monkeypatch.setattr("sys.argv", ["seeds", str(finished), str(finished)])
    seeds.main()
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("| greedy+1 |"))
    scores = [
        split.strategies["greedy+1"] for k, split in metrics.splits("test") if k.iteration in (0, metrics.accepted)
    ]
    shown = " → ".join(f"{100 * score.accuracy:.1f}" for score in scores)
    assert row.count(shown) == 2
    rows = [
        line for line in lines if line.startswith("| select@5 | majority@5 |")
    ]  # the accepted iteration's, the base's
    for iteration, row in zip((metrics.accepted, 0), rows, strict=True):
        (pair,) = (c for c in metrics.contrasts if (c.iteration, c.a, c.b) == (iteration, "majority@5", "select@5"))
        assert row.count(f"{100 * pair.difference:+.1f} [") == 2
