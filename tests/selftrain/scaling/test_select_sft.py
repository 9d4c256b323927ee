"""`selftrain select-data`: rows from a run's candidates, stages that are done once, settings that are bound."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data_process import prompts as wording
from data_process.io import load_problems, read_jsonl
from data_process.judging import judge
from data_process.prompts import SHORT
from data_process.schema import Candidate, Example
from data_process.sources import minigeo
from selftrain import loop
from selftrain.cli.main import main
from selftrain.config import ConfigError, load_config
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.scaling import select_sft
from selftrain.scaling.select_sft import SelectData, mixture

ROOT = Path(__file__).parents[3]
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("select-data")
    minigeo.write(folder / "data", {"train": 40, "dev": 6, "test": 6}, seed=0)
    overrides = [
        f"data.folder={folder / 'data'}",
        "data.leakage=ignore",
        f"bank={folder / 'bank.sqlite'}",
        f"output={folder / 'run'}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run_loop(load_config(ROOT / "configs/rehearsal.yaml", [*overrides, "iters=2", "sampling.n=4"]), QUIET)
    return folder / "run"


@pytest.fixture
def run(rehearsed, monkeypatch):
    """The rehearsal as if a model had answered; training is replaced by a record of what it was given."""
    config = read_json(rehearsed / "config.json")
    config["engine"] = {"kind": "hf"}
    config["model"]["path"] = str(ROOT / config["model"]["path"])
    config["training"]["hyperparameters"] = str(ROOT / config["training"]["hyperparameters"])
    kept = (rehearsed / "config.json").read_bytes()
    (rehearsed / "config.json").write_text(json.dumps(config))
    calls = []

    def tune(config, store, examples, start, out, seed, update, overrides):
        calls.append((examples, start, overrides))
        (out / "adapter").mkdir(parents=True)
        (out / "adapter" / "adapter_config.json").write_text("{}")
        return {"steps": 1, "train_loss": 1.0, "rows": len(examples), "dropped": {}}

    monkeypatch.setattr(select_sft, "tune", tune)
    monkeypatch.chdir(ROOT)
    yield rehearsed, calls
    (rehearsed / "config.json").write_bytes(kept)


@pytest.mark.slow
def test_rows_are_of_the_runs_own_candidates(run, tmp_path):
    folder, calls = run
    adapter = select_sft.select_data(folder, SelectData(max_rows=30), tmp_path / "out", QUIET)
    assert (adapter / "adapter_config.json").is_file()
    ((examples, start, overrides),) = calls
    assert start == folder / f"iter{read_json(folder / 'metrics.json')['accepted']}/train/adapter"
    assert overrides == {}
    kinds = Counter(example.kind for example in examples)
    assert kinds["select"] == 30
    counts = read_json(tmp_path / "out/build/counts.json")
    assert kinds == counts["examples"]
    assert counts["slots"] == 40 * 5 * 3 == sum(counts["by_size"].values()) + sum(counts["dropped"].values())
    assert counts["above_max_rows"] == sum(counts["by_size"].values()) - 30
    texts = {
        Candidate(**row["candidate"]).id: row["candidate"]["text"]
        for file in folder.glob("iter*/judge/judged.jsonl")
        for row in read_jsonl(file)
    }
    data = folder.parent / "data"
    problems = {p.id: p for p in load_problems(data / "train.jsonl", data)}
    for example in examples:
        if example.kind == "select":
            shown = [texts[source] for source in example.sources]
            assert example.prompt == wording.select(problems[example.problem_id], shown, SHORT)
            assert example.target == f"Answer: ({problems[example.problem_id].answer})"


@pytest.mark.slow
def test_selections_with_a_rationale(run, tmp_path):
    """Natural draws of the run's candidates, with a whole right response as the target."""
    folder, calls = run
    select_sft.select_data(folder, SelectData(form="rationale", max_rows=30, cot_share=0), tmp_path / "out", QUIET)
    ((examples, *_),) = calls
    counts = read_json(tmp_path / "out/build/counts.json")
    assert counts["slots"] == 40 * 5 * 3 == sum(counts["by_size"].values()) + sum(counts["dropped"].values())
    problems = {p.id: p for p in load_problems(folder.parent / "data/train.jsonl", folder.parent / "data")}
    assert len(examples) == 30
    for example in examples:
        assert judge(example.target, problems[example.problem_id]).correct
        assert example.target.startswith("From the figure")


@pytest.mark.slow
def test_it_goes_on_where_it_was(run, tmp_path):
    folder, calls = run
    for _ in range(2):
        select_sft.select_data(folder, SelectData(max_rows=30), tmp_path / "out", QUIET)
    assert len(calls) == 1
    with pytest.raises(RunError, match="per_size: 3 -> 2"):
        select_sft.select_data(folder, SelectData(max_rows=30, per_size=2), tmp_path / "out", QUIET)


@pytest.mark.slow
def test_from_the_base(run, tmp_path):
    folder, calls = run
    select_sft.select_data(folder, SelectData(start="base", max_steps=7, cot_share=0), tmp_path / "out", QUIET)
    ((examples, start, overrides),) = calls
    assert (start, overrides) == (None, {"max_steps": 7})
    assert {example.kind for example in examples} == {"select"}


@pytest.mark.slow
def test_nothing_to_choose_from(run, tmp_path):
    folder, _ = run
    with pytest.raises(RunError, match=r"no selection could be built .*too_few_candidates"):
        select_sft.select_data(folder, SelectData(sizes=(50,), cot_share=0), tmp_path / "out", QUIET)


@pytest.mark.slow
def test_a_rehearsal_cannot_be_trained_on(rehearsed, tmp_path):
    with pytest.raises(ConfigError, match="rehearsal without a model"):
        select_sft.select_data(rehearsed, SelectData(), tmp_path / "out", QUIET)


def test_a_run_without_candidates(tmp_path):
    with pytest.raises(RunError, match="holds no judged candidates"):
        select_sft.pool_of_run(tmp_path)


def rows(kind: str, n: int) -> list[Example]:
    return [Example(f"{kind}{k}", kind, f"p{k}", "prompt", "target", ()) for k in range(n)]


@pytest.mark.parametrize(
    ("n_select", "n_cot", "max_rows", "share", "expected"),
    [
        (10, 10, None, 0.5, (10, 5)),
        (10, 10, 4, 0.5, (4, 2)),
        (10, 3, None, 1.0, (10, 3)),
        (10, 10, None, 0.0, (10, 0)),
        (0, 5, None, 1.0, (0, 0)),
    ],
)
def test_the_mixture(n_select, n_cot, max_rows, share, expected):
    settings = SelectData(max_rows=max_rows, cot_share=share)
    made, counts = mixture(rows("select", n_select), rows("cot", n_cot), settings)
    kinds = Counter(row.kind for row in made)
    assert (kinds["select"], kinds["cot"]) == expected
    assert len({row.id for row in made}) == len(made)
    assert counts["above_max_rows"] == n_select - expected[0]
    assert mixture(rows("select", n_select), rows("cot", n_cot), settings)[0] == made


@pytest.mark.parametrize("bad", [{"cot_share": -1.0}, {"max_rows": 0}])
def test_bad_mixtures(bad):
    with pytest.raises(ConfigError, match="must not be negative"):
        mixture(rows("select", 2), [], SelectData(**bad))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--sizes", "2,x"], "write whole numbers separated by commas"),
        (["--sizes", "1,2"], "each must be at least 2"),
        (["--per-size", "0"], "per_size is 0"),
    ],
)
def test_command_line_errors(run, tmp_path, capsys, flags, match):
    folder, _ = run
    argv = ["select-data", "--run", str(folder), "--output", str(tmp_path / "out"), "--no-curves", "--quiet", *flags]
    assert main(argv) == 2
    assert match in capsys.readouterr().err
