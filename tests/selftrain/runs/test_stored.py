"""A finished run read again: `selftrain show`, `list` and `compare`, `load`, and its files in pandas and datasets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_process.io import read_jsonl, write_jsonl
from data_process.prepare.command import main as prepare
from data_process.sources import minigeo
from selftrain import load
from selftrain.cli.main import main
from selftrain.config import load_config
from selftrain.files import RunError
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.report.formatting import visible
from selftrain.runs.metrics import rows_of
from selftrain.runs.readings import Reading, record

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data of a user's own, and two runs on them."""
    folder = tmp_path_factory.mktemp("stored")
    rows = [
        {"question": f"What is {k} plus {k * k}?", "options": [str(k + k * k), str(k * k), str(k)], "answer": "A"}
        for k in range(3, 63)
    ]
    write_jsonl(folder / "my.jsonl", rows)
    assert prepare(["table", "--raw", str(folder / "my.jsonl"), "--out", str(folder / "data"), "--holdout", "0.2"]) == 0
    for name, seed in (("a", 0), ("b", 1)):
        given = [f"output={folder / 'runs' / name}", f"bank={folder / 'bank.sqlite'}", f"seed={seed}", "iters=1"]
        given += ["data.source=jsonl", f"data.folder={folder / 'data'}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("selftrain.loop.write_run_report", lambda path: [])
            run_loop(load_config(ROOT / "configs/rehearsal.yaml", given), Progress(quiet=True))
    return folder


@pytest.fixture
def run(folder) -> Path:
    return folder / "runs/a"


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([*map(str, words)]) == 0
    return capsys.readouterr().out


def test_rows_carry_the_problem(run):
    rows = read_jsonl(run / "iter0/dev/rows.jsonl")
    problems = {row["id"]: row for row in read_jsonl(run.parents[1] / "data/dev.jsonl")}
    assert {row["id"] for row in rows} == set(problems)
    for row in rows:
        assert [*row][:3] == ["id", "question", "choices"]
        assert (row["question"], row["choices"]) == (problems[row["id"]]["question"], problems[row["id"]]["choices"])


def test_one_problem_with_every_iteration(run, capsys):
    row = read_jsonl(run / "iter1/dev/rows.jsonl")[0]
    text = shown(capsys, "show", run, row["id"])
    assert f"{row['id']}  (dev)\n{row['question']}\n  A. {row['choices'][0]}\n" in text
    assert text.index("\niteration 0") < text.index("\niteration 1")
    for k in (0, 1):
        [found] = [one for one in read_jsonl(run / f"iter{k}/dev/rows.jsonl") if one["id"] == row["id"]]
        for sample in [*found["samples"], *found["strategies"]["greedy"]["texts"]]:
            verdict = sample["verdict"]
            assert f"{verdict['status']} {verdict['extracted'] or '-'} [{verdict['rule']}]" in text
            assert sample["text"].splitlines()[0] in text
    [whole] = json.loads(shown(capsys, "show", run, row["id"], "--json"))
    assert [one["iteration"] for one in whole["iterations"]] == [0, 1]
    assert (whole["question"], whole["gold"]) == (row["question"], "A")


@pytest.mark.slow
def test_lists_by_filter(run, capsys):
    """Every filter, against what the rows say."""
    before, after = ({row["id"]: row for row in read_jsonl(run / f"iter{k}/dev/rows.jsonl")} for k in (0, 1))
    right = {k: {name: row["strategies"]["greedy"]["credit"] == 1 for name, row in rows.items()}
             for k, rows in ((0, before), (1, after))}  # fmt: skip
    unread = {name for name, row in after.items() if row["strategies"]["greedy"]["abstain"] == 1}
    wrong = {name for name in after if not right[1][name]}
    gained = {name for name in after if right[1][name] and not right[0][name]}
    lost = {name for name in after if right[0][name] and not right[1][name]}
    assert gained
    assert lost
    expected = {
        (): {*after}, ("--wrong",): wrong, ("--unread",): unread, ("--gained",): gained, ("--lost",): lost,
        ("--flipped",): gained | lost, ("--wrong", "--flipped"): lost,
    }  # fmt: skip
    for words, names in expected.items():
        lines = shown(capsys, "show", run, *words, "--iteration", 1, "--limit", 0).splitlines()
        assert {line.split()[0] for line in lines[1:-1]} == names, words
        assert lines[-1] == f"{len(names)} of {len(after)} problems"
    assert "the first 2 are listed, --limit 0 lists all" in shown(capsys, "show", run, "--limit", 2)
    assert {one["id"] for one in json.loads(shown(capsys, "show", run, "--lost", "--iteration", 1, "--json"))} == lost
    assert shown(capsys, "show", run, "--full", "--limit", 1).startswith(f"{next(iter(after))}  (dev)\n")


WRONG = {
    "an unknown id": (["train-row999999x"], "no evaluated problem 'train-row999999x'"),
    "an iteration that was not measured": (["--iteration", "7"], "iteration 7 was not measured on dev; were: 0, 1"),
    "an unknown strategy": (["--strategy", "greed"], "no strategy 'greed' on dev; measured: greedy, mean"),
    "a split without evaluation": (["--split", "hard"], "iteration 0 was not measured on hard; were: none yet"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_shown(run, capsys, name):
    words, message = WRONG[name]
    assert main(["show", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_its_data_and_questions(run, tmp_path):
    """Rows of earlier versions have no question. The data folder has it; without that folder the texts are shown."""
    old = tmp_path / "old"
    shutil.copytree(run, old)
    for file in old.glob("iter*/*/rows.jsonl"):
        rows = [{k: v for k, v in row.items() if k not in ("question", "choices")} for row in read_jsonl(file)]
        write_jsonl(file, rows)
    asked = load(run).samples("dev").question
    assert [*load(old).samples("dev").question] == [*asked]
    assert asked.notna().all()
    config = json.loads((old / "config.json").read_text())
    config["data"]["folder"] = str(tmp_path / "gone")
    (old / "config.json").write_text(json.dumps(config))
    assert load(old).samples().question.isna().all()
    assert main(["show", str(old), "--full"]) == 0


def test_list(folder, capsys):
    shutil.copytree(folder / "runs/b", folder / "runs/more/c")
    (folder / "runs/more/c/metrics.json").unlink()
    rows = {row["run"]: row for row in json.loads(shown(capsys, "list", folder / "runs", "--json"))}
    assert [Path(name).name for name in rows] == ["a", "b", "c"]
    metrics = json.loads((folder / "runs/a/metrics.json").read_text())
    first = rows[str(folder / "runs/a")]
    assert (first["accepted"], first["state"]) == (metrics["accepted"], "finished, 1 iterations")
    measured = next(row["eval"] for row in metrics["iterations"] if row["iteration"] == metrics["accepted"])
    assert first["test"] == measured["test"]["strategies"]["greedy"]["accuracy"]
    assert rows[str(folder / "runs/more/c")]["state"] == "unfinished, iteration 1 measured"
    assert "unfinished" in shown(capsys, "list", folder / "runs")
    assert main(["list", str(folder / "nowhere")]) == 2


def test_compare_several(folder, capsys):
    a, b = (str(folder / "runs" / name) for name in "ab")
    found = json.loads(shown(capsys, "compare", a, b, a, "--json"))
    assert {(one["run_a"], one["run_b"]) for one in found} == {(a, b), (a, a)}
    for one in found:
        rows = [
            {row["id"]: row["strategies"][one["strategy"]]["credit"] for row in
             read_jsonl(Path(one[f"run_{side}"]) / f"iter{one[side]}/test/rows.jsonl")}
            for side in "ab"
        ]  # fmt: skip
        assert one["gained_ids"] == [name for name in rows[1] if rows[1][name] > rows[0][name]]
        assert one["lost_ids"] == [name for name in rows[1] if rows[1][name] < rows[0][name]]
        assert (one["gained"], one["lost"]) == (len(one["gained_ids"]), len(one["lost_ids"]))
    assert any(one["gained_ids"] or one["lost_ids"] for one in found)
    assert f"{b} minus {a}" in shown(capsys, "compare", a, b)


def test_samples_are_a_frame(run):
    loaded = load(run)
    frame = loaded.samples()
    assert set(frame.split) == {"train", "dev", "test"}
    greedy = frame[(frame.split == "dev") & (frame.name == "greedy")].groupby("iteration").correct.mean()
    metrics = json.loads((run / "metrics.json").read_text())
    for row in metrics["iterations"]:
        assert greedy[row["iteration"]] == pytest.approx(row["eval"]["dev"]["strategies"]["greedy"]["accuracy"])
    train = frame[frame.split == "train"]
    assert len(train) == len(read_jsonl(run / "iter1/judge/judged.jsonl"))
    assert train.question.notna().all()
    assert len(loaded.samples("dev")) == (frame.split == "dev").sum()
    with pytest.raises(RunError, match="unknown split 'val'; a run has train, dev, test, hard"):
        loaded.samples("val")


@pytest.mark.slow
def test_every_file_of_rows_opens_in_one_line(folder, tmp_path):
    """With `datasets` and with pandas, as docs/files.md says."""
    import datasets
    import pandas as pd

    minigeo.write(tmp_path / "minigeo", {"train": 4, "dev": 2, "test": 2}, seed=0)
    by_scale = Reading(
        by="scale", weights=("base", "iter1"), splits=("test",), settings="a", strategies=("greedy",), iters=None
    )
    record(folder / "runs/b", by_scale)  # beside the loop's, whose weights are numbers
    files = [*folder.glob("data/*.jsonl"), *folder.glob("runs/a/**/*.jsonl"), *tmp_path.glob("minigeo/*.jsonl")]
    files.append(folder / "runs/b/test_readings.jsonl")
    assert {file.name for file in files} >= {
        "train.jsonl", "rows.jsonl", "candidates.jsonl", "judged.jsonl", "examples.jsonl", "rates.jsonl",
    }  # fmt: skip
    for file in files:
        rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path))
        assert len(rows) == len(pd.read_json(file, lines=True)) == len(read_jsonl(file)), file
        if "id" in rows.column_names:
            assert rows["id"][:] == [row["id"] for row in read_jsonl(file)]


def test_control_characters_do_not_reach_the_terminal():
    assert visible("a\x1b[2Jb\n\tü\x00") == "a\\x1b[2Jb\n\tü\\x00"


def test_rows_of_other_strategies_are_refused(tmp_path):
    path = tmp_path / "iter1/test/rows.jsonl"
    path.parent.mkdir(parents=True)
    one = {"credit": 1.0, "abstain": 0.0}
    same = {"greedy": one, "select": one}
    rows = [{"id": name, "iteration": 1, "gold": "A", "strategies": same, "samples": []} for name in "ab"]
    write_jsonl(path, rows)
    assert [row.id for row in rows_of(tmp_path, 1, "test")] == ["a", "b"]
    write_jsonl(path, [*rows, {**rows[0], "id": "c", "strategies": {"greedy": one, "sele": one}}])
    with pytest.raises(RunError, match=r"rows\.jsonl: c was answered with greedy, sele, and a was .*, select; restore"):
        rows_of(tmp_path, 1, "test")
