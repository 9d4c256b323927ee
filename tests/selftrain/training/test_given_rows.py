"""`selftrain train`: one training on given rows, rehearsed; the slow test trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_process.io import read_examples, write_jsonl
from data_process.schema import DataError, Example, to_json
from selftrain.cli.main import main
from selftrain.config import load_config
from selftrain.files import RunError, read_json
from selftrain.progress import Progress
from selftrain.training import disk, given_rows
from selftrain.training.given_rows import train_given

ROOT = Path(__file__).parents[3]
QUIET = Progress(quiet=True)
THOUGHT = "<think>\nIt is half of 80.\n</think>\nAnswer: 40"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def sharegpt(prompt: str, *images: str, target: str = THOUGHT) -> dict[str, Any]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": target}]
    return {"messages": turns, "images": list(images)}


@pytest.fixture
def rows(tmp_path) -> Path:
    """Ten rows: seven ShareGPT ones of text, two with an image, and one of our own."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (112, 112), "white").save(tmp_path / "images/a.png")
    given = [sharegpt(f"What is {k} + {k}?") for k in range(7)]
    given += [sharegpt("<image>How large is B?", "images/a.png"), sharegpt("B?", "images/a.png")]
    own = Example("own", "cot", "own", "How large is C?", THOUGHT, ("images/a.png",))
    write_jsonl(tmp_path / "rows.jsonl", [*given, to_json(own)])
    return tmp_path / "rows.jsonl"


def config(folder: Path, *words: str, file: str = "smoke"):
    rehearsed = () if "engine.kind=hf" in words else ("engine.kind=scripted",)
    fixed = (f"output={folder / 'out'}", f"bank={folder / 'bank.sqlite'}")
    return load_config(ROOT / f"configs/{file}.yaml", [*fixed, *rehearsed, *words])


@pytest.mark.parametrize("file", ["smoke", "smoke_full", "s1_qwen2_5vl_7b", "s1_qwen2_5vl_32b", "s1m_qwen2vl_7b"])
def test_a_rehearsal(rows, file):
    chosen = config(rows.parent, file=file)
    trained = train_given(chosen, [rows], rows.parent, QUIET)
    assert trained == rows.parent / "out/train" / ("adapter" if file == "smoke" else "weights")
    assert len(read_examples(rows.parent / "out/rows/examples.jsonl")) == 10
    assert read_json(rows.parent / "out/train/result.json")["rows"] == 10
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert train_given(chosen, [rows], rows.parent, QUIET) == trained
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == before


# Every kind of outside trace, each with a right row of text and a wrong one; `rows` and `sharegpt` have no gold answer.
S1K = {"question": "What is $5+6$?", "solution": "11", "cot_type": "math"}
TRACES = {
    "thinking": [
        {**S1K, "deepseek_thinking_trajectory": "Five and six.", "deepseek_attempt": "So \\boxed{11}"},
        {**S1K, "deepseek_thinking_trajectory": "Five or six.", "deepseek_attempt": "So \\boxed{5}"},
    ],
    "cot": [
        {"question": "What is 3 + 4?", "solution": "7", "response": "Three and four are seven. Answer: 7"},
        {"question": "What is 3 + 4?", "solution": "7", "response": "Three and four are eight. Answer: 8"},
    ],
    "sharegpt": [sharegpt("What is 1 + 1?"), sharegpt("Look at <image> there", target="x")],
    "rows": [to_json(Example("own", "cot", "own", "How large is C?", THOUGHT, ())), sharegpt("What is 2 + 2?")],
}


@pytest.mark.parametrize("kind", ["thinking", "cot", "sharegpt", "rows"])
def test_outside_traces(tmp_path, capsys, kind):
    """They are read and checked as those of the loop, with and without further rows."""
    write_jsonl(tmp_path / "t.jsonl", TRACES[kind][: 1 if kind in ("rows", "sharegpt") else 2])
    unjudged = str(kind in ("sharegpt", "rows")).lower()
    trace = f"traces=[{{file: {tmp_path}/t.jsonl, kind: {kind}, unjudged: {unjudged}, weight: 2}}]"
    chosen = config(tmp_path, trace)
    said: list[str] = []
    rows, dropped = given_rows.rows_of(chosen, [], tmp_path, said.append)
    assert len(rows) == 2, "one is right, and its weight is 2"
    assert not dropped
    assert (", wrong 1" in said[-1]) == (kind in ("thinking", "cot"))
    if kind == "thinking":
        assert rows[0].target == "<think>Five and six.</think>\nSo \\boxed{11}"
    train_given(chosen, [], tmp_path, QUIET)
    assert read_json(tmp_path / "out/train/result.json")["rows"] == 2
    words = ["--set", "engine.kind=scripted", "--set", trace, "--output", str(tmp_path / "dry"), "--dry-run"]
    assert main(["train", "--config", "smoke", "--images", str(tmp_path), *words]) == 0
    assert f"on 2 rows of {tmp_path}/t.jsonl" in capsys.readouterr().out


@pytest.fixture
def held_out(rows) -> Path:
    """A data folder that holds out two of the rows' questions: one of text, and one with the rows' image."""
    folder = rows.parent / "data"
    (folder / "images").mkdir(parents=True)
    Image.open(rows.parent / "images/a.png").save(folder / "images/copy.png")
    asked = [{"question": "What is 3 + 3?", "image": None}, {"question": "How large is B?", "image": "images/copy.png"}]
    for split, row in zip(("dev", "test"), asked, strict=True):
        write_jsonl(folder / f"{split}.jsonl", [{"id": split, "answer": "40", "answer_type": "number", **row}])
    return folder


def test_the_leakage_guard_looks_at_rows(rows, held_out, capsys):
    """Whatever folder their images are in. What it leaves out does not count as unusable."""
    given = config(rows.parent, f"data.folder={held_out}")
    with pytest.raises(DataError, match=r"rows\.jsonl: 2 of 10 rows ask dev or test .*first is rows-000004(?s:.*)drop"):
        train_given(given, [rows], rows.parent, QUIET)
    assert not (rows.parent / "out/rows").exists()
    words = ["data.leakage=drop", "training.max_dropped_share=0"]
    train_given(config(rows.parent, f"data.folder={held_out}", *words), [rows], rows.parent, Progress())
    assert read_json(rows.parent / "out/rows/counts.json") == {"examples": 8, "dropped": {"leak": 2}}
    ids = {row.id for row in read_examples(rows.parent / "out/rows/examples.jsonl")}
    assert not ids & {"rows-000004", "rows-000008"}
    said = capsys.readouterr().err
    assert "leakage guard: 1 problems of dev, 1 problems of test" in said
    assert "left out: leak 2" in said
    given = config(rows.parent, f"data.folder={held_out}", "data.leakage=ignore", f"output={rows.parent / 'all'}")
    train_given(given, [rows], rows.parent, QUIET)
    assert read_json(rows.parent / "all/train/result.json")["rows"] == 10


def test_the_leakage_guard_looks_at_traces(rows, held_out):
    asked = [{"question": f"What is {k} + {k}?", "solution": str(2 * k), "cot": f"Twice {k}: {2 * k}"} for k in (3, 4)]
    write_jsonl(rows.parent / "t.jsonl", asked)
    traced = f"traces=[{{file: {rows.parent}/t.jsonl, kind: cot}}]"
    with pytest.raises(DataError, match=r"t\.jsonl: 1 of 2 rows ask dev or test problems"):
        given_rows.rows_of(config(rows.parent, f"data.folder={held_out}", traced), [], rows.parent)
    said: list[str] = []
    chosen = config(rows.parent, f"data.folder={held_out}", traced, "data.leakage=drop")
    found, _ = given_rows.rows_of(chosen, [], rows.parent, said.append)
    assert [row.target for row in found] == ["Twice 4: 8"]
    assert said[-1].endswith("t.jsonl: 1 of 2 traces, leak 1")
    write_jsonl(rows.parent / "t.jsonl", asked[:1])
    with pytest.raises(DataError, match=r"none of 1 traces can be used \(leak 1\)"):
        given_rows.rows_of(chosen, [], rows.parent)


def test_nothing_to_train_on_is_said(tmp_path, capsys):
    assert main(["train", "--config", "smoke", "--dry-run"]) == 2
    assert "give --rows FILE, or name files under traces:" in capsys.readouterr().err


def test_other_rows_settings_or_images_are_refused(rows):
    train_given(config(rows.parent), [rows], rows.parent, QUIET)
    with pytest.raises(RunError, match=r"config\.training\.per_device_batch"):
        train_given(config(rows.parent, "training.per_device_batch=2"), [rows], rows.parent, QUIET)
    train_given(config(rows.parent, "sampling.n=7", "training.threads=2"), [rows], rows.parent, QUIET)  # of no concern
    Image.new("RGB", (112, 112), "black").save(rows.parent / "images/a.png")
    with pytest.raises(RunError, match=r"inputs\.rows"):
        train_given(config(rows.parent), [rows], rows.parent, QUIET)


def test_rows_without_their_image_are_counted_or_too_many(rows):
    lost = rows.with_name("lost.jsonl")
    write_jsonl(lost, [sharegpt("B?", "images/none.png"), {"messages": [{"role": "user", "content": "B?"}]}])
    with pytest.raises(DataError, match=r"2 of 12 rows .*no_answer.*image_missing.*training\.max_dropped_share"):
        train_given(config(rows.parent), [rows, lost], rows.parent, QUIET)
    train_given(config(rows.parent, "training.max_dropped_share=0.2"), [rows, lost], rows.parent, QUIET)
    counts = read_json(rows.parent / "out/rows/counts.json")
    assert counts == {"examples": 10, "dropped": {"no_answer": 1, "image_missing": 1}}


def test_the_disk_is_asked_before_anything_is_read(rows, monkeypatch):
    def full(plan) -> None:
        assert plan.sets == 1
        raise RunError("not enough disk")

    monkeypatch.setattr(given_rows, "check_room", full)
    monkeypatch.setattr(given_rows, "read_given", lambda *_: pytest.fail("rows were read"))
    with pytest.raises(RunError, match="not enough disk"):
        train_given(config(rows.parent, "engine.kind=hf", file="smoke_full"), [rows], rows.parent, QUIET)
    assert disk.disk_plan(config(rows.parent, "engine.kind=hf"), 1) is None


def test_a_dry_run_writes_nothing(rows, capsys):
    line = ["train", "--config", "smoke_full", "--rows", str(rows), "--images", str(rows.parent), "--dry-run"]
    assert main([*line, "--output", str(rows.parent / "out")]) == 0
    said = capsys.readouterr().out
    assert "Train all weights of models/tiny-qwen2vl on 10 rows" in said
    assert "3 of them show images" in said
    assert "disk: 1 x 2.7 MiB of weights (training.keep_weights: accepted)" in said
    assert "/out/train.partial/work" in said
    assert not (rows.parent / "out").exists()


@pytest.mark.slow
def test_the_command_trains(rows, capsys):
    line = ["train", "--config", "smoke_full", "--rows", str(rows), "--images", str(rows.parent), "--quiet"]
    line += ["--output", str(rows.parent / "out"), "--set", f"bank={rows.parent / 'bank.sqlite'}"]
    line += ["--set", "training.overrides={max_steps: 2, global_batch_size: 4}"]
    assert main([*line, "--set", "training.freeze_multi_modal_projector=false"]) == 0
    folder = rows.parent / "out/train/weights"
    assert capsys.readouterr().out == f"Trained: {folder}\n"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_vl"
    from safetensors.torch import load_file

    before, after = (load_file(f / "model.safetensors") for f in (ROOT / "models/tiny-qwen2vl", folder))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert any("visual.merger" in name for name in changed)
    assert any("layers.0" in name for name in changed)
    assert not any("visual.blocks" in name or "patch_embed" in name for name in changed)
