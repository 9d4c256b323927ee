"""Data that cannot be used are named, or counted."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest

from data_process.images.store import ImageStore
from data_process.io import read_jsonl
from data_process.schema import DataError
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs.splits import load_splits
from tests.selftrain.whole_loops import QUIET, splits_of


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


SPOIL = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "corrupt": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "too_large": lambda path: path.write_bytes(png_header(50_000, 50_000)),
}


def test_other_prompts_than_the_data_card_names_are_noted(config, own, capsys):
    card = json.loads((own / "card.json").read_text()) if (own / "card.json").is_file() else {}
    chosen = config("data.source=jsonl", "prompts=short", data_folder=own)
    store = ImageStore(chosen.bank.parent / "images", own, min_pixels=1, max_pixels=99999)
    for prompts, noted in (("chartqa", True), ("short", False), ("r3v-qwen2vl", False), (None, False)):
        named = {} if prompts is None else {"prompts": prompts}
        (own / "card.json").write_text(json.dumps({**card, **named}))
        load_splits(chosen, store, Progress())
        said = capsys.readouterr()
        assert ("to change that, set prompts=chartqa" in said.out + said.err) is noted


@pytest.mark.parametrize("reason", SPOIL)
def test_unusable_pictures_are_counted_or_too_many(config, own, reason):
    """One of 20 is 5 %, which is allowed and listed; two are an error that names the reason and the first problem."""
    chosen = config("data.dev_limit=20", "data.train_limit=20", data_folder=own)
    rows = read_jsonl(own / "dev.jsonl")
    SPOIL[reason](own / rows[3]["image"])
    splits, card = splits_of(chosen)
    assert card["dev"] == {"offered": 20, "usable": 19, "left_out": [[rows[3]["id"], reason]]}
    assert rows[3]["id"] not in {problem.id for problem in splits["dev"]}
    assert card["train"] == {"offered": 20, "usable": 20, "left_out": []}
    SPOIL[reason](own / rows[22]["image"])  # beyond the limit: nobody looks
    splits_of(chosen)
    SPOIL[reason](own / rows[4]["image"])
    with pytest.raises(DataError, match=rf"2 of 20 images of dev .*{reason} 2; first: problem '{rows[3]['id']}'"):
        splits_of(chosen)


@pytest.mark.slow
def test_a_left_out_problem_is_reported_with_the_run(config, own, no_report):
    chosen = config("iters=1", "data.max_dropped_share=0.1", data_folder=own)
    [*_, last] = read_jsonl(own / "train.jsonl")
    (own / last["image"]).unlink()
    metrics = run_loop(chosen, QUIET).metrics
    assert read_json(chosen.output / "data.json")["train"]["left_out"] == [[last["id"], "missing"]]
    assert metrics.iterations[1].train.sampled_problems == 59


def edit(row: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**row, **changes}).encode()


BAD_LINES = {
    "outside": (lambda row: edit(row, image="../../etc/passwd"), r"line 3.*inside the image folder"),
    "absolute": (lambda row: edit(row, image="/etc/passwd"), r"line 3.*inside the image folder"),
    "link outside": (lambda row: edit(row, image="images/link.png"), r"line 3.*leads out of the image folder"),
    "torn": (lambda row: edit(row)[:40], r"line 3: not complete JSON"),
    "not UTF-8": (lambda row: edit(row).replace(b"minigeo", b"\xff\xfe", 1), r"line 3: not UTF-8"),
    "gold beyond": (lambda row: edit(row, answer="E"), r"line 3.*answer 'E' is neither one of the letters ABCD"),
    "gold is no choice": (lambda row: edit(row, answer="many"), r"line 3.*answer 'many' is neither"),
    "one choice": (lambda row: edit(row, choices=["1"], answer="A"), r"line 3.*1 choices; there must be 2"),
    "no choice": (lambda row: edit(row, choices=[], answer="A"), r"line 3.*a choice problem needs 'choices'"),
    "half a character": (lambda row: edit(row, question="x \ud800"), r"line 3.*'question' holds half of a character"),
    "half a choice": (lambda row: edit(row, choices=["\udfff", "b"], answer="A"), r"line 3.*'choices' holds half"),
    "id twice": (lambda row: edit(row, id="minigeo-dev-00000"), r"line 3: id 'minigeo-dev-00000' was already used"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(config, own, name, capsys):
    spoil, message = BAD_LINES[name]
    (own / "images/link.png").symlink_to("/etc/passwd")
    lines = (own / "dev.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = spoil(json.loads(lines[2])) + b"\n"
    (own / "dev.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=rf"dev\.jsonl, {message}"):
        splits_of(config("data.dev_limit=10", data_folder=own))


def test_one_id_in_two_splits(config, own):
    rows = read_jsonl(own / "test.jsonl")
    rows[5]["id"] = "minigeo-train-00002"
    (own / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="problem 'minigeo-train-00002' is in train and in test"):
        splits_of(config(data_folder=own))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "holds no usable problem"), (b"\n\n", "holds no usable")]
)
def test_no_problems(config, own, content, message):
    (own / "dev.jsonl").unlink()
    if content is not None:
        (own / "dev.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=rf"dev\.jsonl:? {message}"):
        splits_of(config(data_folder=own))
