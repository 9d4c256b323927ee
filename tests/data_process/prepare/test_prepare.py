"""Prepared folders: whole or absent, images as they are, what is held out, what the card says, the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.images import standin
from data_process.prepare import folder as folder_module
from data_process.prepare.command import SOURCES, borrowed, main, source_named, splits_of
from data_process.prepare.data_card import Entry, digest_of, overlaps, render, row_of, split_card
from data_process.prepare.holdout import groups, hold_out
from data_process.prepare.images import ImagePlacer, PlacedImage
from data_process.schema import DataError, Problem
from data_process.sources.base import SourceImage
from tests.data_process.raw_files import load, png, prepared, shared, write_lines


def rows(n: int, **more) -> list[dict]:
    return [
        {"id": f"q{i}", "question": f"What is {i} + 1?", "choices": ["1", "2", "3"], "answer": "ABC"[i % 3], **more}
        for i in range(n)
    ]


def raw_folder(root, n: int = 6):
    write_lines(root / "train.jsonl", [{**row, "image": f"{row['id']}.png"} for row in rows(n)])
    (root / "images").mkdir()
    for i in range(n):
        (root / f"images/q{i}.png").write_bytes(png(size=(10 + i, 20)))
    return root


# ---- whole or not at all ------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_failed_call(tmp_path):
    raw = write_lines(tmp_path / "train.jsonl", [*rows(3), {"id": "bad"}])
    with pytest.raises(DataError, match=r"train\.jsonl, row 4"):
        prepared("table", raw, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl"]


def test_an_earlier_folder_survives_a_failed_call(tmp_path, monkeypatch):
    good = write_lines(tmp_path / "train.jsonl", rows(20))
    before = prepared("table", good, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_lines(good, [*rows(3), {"id": "bad"}])
    with pytest.raises(DataError, match="row 4"):
        prepared("table", good, tmp_path / "out", replace=True)
    monkeypatch.setattr(folder_module, "_card", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    write_lines(good, rows(20))
    with pytest.raises(KeyboardInterrupt):
        prepared("table", good, tmp_path / "out", replace=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "train.jsonl"]
    monkeypatch.undo()
    assert prepared("table", good, tmp_path / "out", replace=True) == before


def test_what_is_never_replaced(tmp_path):
    raw = write_lines(tmp_path / "train.jsonl", rows(20))
    prepared("table", raw, tmp_path / "out")
    with pytest.raises(DataError, match="already exists; give another --out, or replace it with --replace"):
        prepared("table", raw, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"has no card\.json, so it is not a prepared folder; give another --out"):
        prepared("table", raw, tmp_path / "mine", replace=True)
    (tmp_path / "empty").mkdir()
    prepared("table", raw, tmp_path / "empty")


def test_a_place_that_cannot_be_written(tmp_path):
    raw = write_lines(tmp_path / "train.jsonl", rows(20))
    with pytest.raises(DataError, match="cannot be written"):
        prepared("table", raw, raw / "out")


# ---- images -----------------------------------------------------------------------------------------------------


def test_linked_or_copied(tmp_path):
    raw = raw_folder(tmp_path / "raw")
    for name, link in (("copied", False), ("linked", True)):
        prepared("table", raw, tmp_path / name, dev_share=0, link=link)
        for i in range(6):
            mine, theirs = tmp_path / name / f"images/q{i}.png", raw / f"images/q{i}.png"
            assert mine.read_bytes() == theirs.read_bytes()
            assert os.path.samefile(mine, theirs) is link


def test_equal_names_of_different_images(tmp_path):
    """Both are kept, under two names; the same image again keeps the name that it has."""
    placer = ImagePlacer(tmp_path)
    first = placer.place(SourceImage("a.png", data=png("red")))
    second = placer.place(SourceImage("A.png", data=png("blue")))
    again = placer.place(SourceImage("a.png", data=png("red")))
    other = placer.place(SourceImage("a.png", data=png("blue")))
    assert first == again
    assert first.relative == "images/a.png"
    assert second.relative == f"images/A-{second.digest[:8]}.png"
    assert {(tmp_path / p.relative).read_bytes() for p in (first, second, other)} == {png("red"), png("blue")}
    assert (tmp_path / other.relative).read_bytes() == png("blue")


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "empty"), (b"<html>404</html>", "unreadable"), (png()[:20], "unreadable"), (None, "missing")],
)
def test_images_that_are_not_there(tmp_path, data, why):
    if data is not None:
        (tmp_path / "a.png").write_bytes(data)
    assert ImagePlacer(tmp_path / "out").place(SourceImage("a.png", (tmp_path / "a.png",))) == why
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("attribute", ["write_bytes", "copyfile"])
def test_a_full_disk_names_the_image(tmp_path, monkeypatch, attribute):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(png("red"))
    image = (
        SourceImage("a.png", data=png("red"))
        if attribute == "write_bytes"
        else SourceImage("a.png", (tmp_path / "a.png",))
    )
    monkeypatch.setattr(Path if attribute == "write_bytes" else shutil, attribute, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*out/images/a\.png'"):
        ImagePlacer(tmp_path / "out").place(image)


def damaged(root):
    raw = raw_folder(root, 20)
    (raw / "images/q1.png").unlink()
    (raw / "images/q2.png").write_bytes(b"")
    (raw / "images/q3.png").write_bytes(b"no")
    return raw


def test_images_not_there_are_an_error_unless_said_otherwise(tmp_path):
    raw = damaged(tmp_path / "raw")
    said = r"3 of 20 problems have no usable image \(empty 1, missing 1, unreadable 1\); first: images/q1\.png of q1"
    with pytest.raises(DataError, match=said + r".*--missing count\|drop\|standin"):
        prepared("table", raw, tmp_path / "out", dev_share=0)
    counted = prepared("table", raw, tmp_path / "count", dev_share=0, missing="count")["splits"]["train"]["images"]
    assert counted["reasons"] == {"empty": 1, "missing": 1, "unreadable": 1}
    assert (counted["with_image"], counted["unusable"], counted["stand_ins"]) == (17, 3, 0)
    dropped = prepared("table", raw, tmp_path / "drop", dev_share=0, missing="drop")
    assert dropped["splits"]["train"]["items"] == len(load(tmp_path / "drop", "train")) == 17
    assert "3 of 20 rows left out" in dropped["remarks"][0]
    assert len(dropped["left_out"]) == 3


def test_stand_ins_are_marked(tmp_path):
    raw = damaged(tmp_path / "raw")
    card = prepared("table", raw, tmp_path / "out", dev_share=0, missing="standin")
    problems = load(tmp_path / "out", "train")
    drawn = [p for p in problems if p.meta.get("stand_in")]
    assert [p.id for p in drawn] == ["q1", "q2", "q3"]
    assert all(p.images == (f"images/{standin.name_for(p.question)}",) for p in drawn)
    assert all((tmp_path / "out" / p.images[0]).is_file() for p in problems)
    images = card["splits"]["train"]["images"]
    assert (images["with_image"], images["unusable"], images["stand_ins"], images["files"]) == (17, 3, 3, 17)
    assert "DRAWN STAND-INS: 3" in render(card)


def test_a_stand_in_comes_from_the_text_alone():
    first, again, other = standin.draw("Find x."), standin.draw("Find x."), standin.draw("Find y.")
    assert first == again != other
    assert standin.name_for("Find x.") != standin.name_for("Find y.")
    from PIL import Image

    image = Image.open(__import__("io").BytesIO(first))
    assert image.size == standin.SIZE


def test_a_link_that_leads_outside(tmp_path):
    raw = raw_folder(tmp_path / "raw")
    (tmp_path / "secret.png").write_bytes(png())
    (raw / "images/q0.png").unlink()
    (raw / "images/q0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"row 1: image 'q0\.png' leads out of .* through a link"):
        prepared("table", raw, tmp_path / "out")


# ---- rows that cannot be used -------------------------------------------------------------------------------------


def test_ids_are_unique_over_all_splits(tmp_path):
    write_lines(tmp_path / "raw/train.jsonl", rows(3))
    write_lines(tmp_path / "raw/test.jsonl", rows(1))
    with pytest.raises(DataError, match=r"test\.jsonl, row 1: id 'q0' was already used \(.*train\.jsonl, row 1\)"):
        prepared("table", tmp_path / "raw", tmp_path / "out")


def test_bad_rows_are_left_out_when_asked_and_counted(tmp_path):
    bad = [{**rows(1)[0], "id": "x", "answer": "Z"}, {"id": "y"}, rows(1)[0], {**rows(1)[0], "id": "z", "answer": "Y"}]
    raw = write_lines(tmp_path / "train.jsonl", [*rows(20), *bad])
    card = prepared("table", raw, tmp_path / "out", skip_bad=True)
    assert card["splits"]["train"]["items"] + card["splits"]["dev"]["items"] == 20
    assert "4 of 24 rows left out" in card["remarks"][-1]
    assert "outside the choices" in card["remarks"][-1]
    assert "(2)" in card["remarks"][-1]  # two for the same reason
    assert card["left_out"][0].startswith(f"{raw}, row 21: gold 'Z' is outside")


def test_no_row_can_be_used(tmp_path):
    raw = write_lines(tmp_path / "train.jsonl", [{"id": "y"}])
    with pytest.raises(DataError, match=r"none of 1 rows can be used; .*First: .*no question"):
        prepared("table", raw, tmp_path / "out", skip_bad=True)
    with pytest.raises(DataError, match="none of 0 rows can be used"):
        prepared("table", write_lines(tmp_path / "train_2.jsonl", []), tmp_path / "out")


# ---- held out -----------------------------------------------------------------------------------------------------


def problem(i: int, question: str, choices: tuple[str, ...] = ("1", "2")) -> Problem:
    return Problem(f"p{i}", question, "A", choices)


LONG = "How many sides has the figure that is shown here?"


def test_groups():
    problems = [
        problem(0, "Find x."), problem(1, "Find x.", ("3", "4")),  # a short question of two diagrams
        problem(2, "find  X. "),  # with the choices of 0, another spelling
        problem(3, LONG), problem(4, LONG, ("3", "4")),  # a long one: together whatever the choices
        problem(5, "Find y."), problem(6, "Find z."),  # one image
        problem(7, "Why?"), problem(8, "Why?", ("3", "4")),  # text alone: the question is the problem
    ]  # fmt: skip
    images = ["a", "b", "c", "d", "e", "f", "f", None, None]
    found = sorted(sorted(group) for group in groups(problems, [tuple(image or ()) for image in images]))
    assert found == [[0, 2], [1], [3, 4], [5, 6], [7, 8]]


@settings(max_examples=50, deadline=None)
@given(
    questions=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 5),
    data=st.randoms(),
)
def test_nothing_straddles_and_the_order_does_not_matter(questions, share, seed, data):
    problems = [problem(i, f"{LONG} {q}") for i, q in enumerate(questions)]
    images = [(str(i % 40),) for i in range(len(problems))]
    held = hold_out(problems, images, share, seed, "dev")
    assert len(held) <= round(share * len(problems))
    for key in (lambda i: problems[i].question, lambda i: images[i]):
        sides: dict[str, set[bool]] = {}
        for i, p in enumerate(problems):
            sides.setdefault(key(i), set()).add(p.id in held)
        assert all(len(side) == 1 for side in sides.values())
    order = list(range(len(problems)))
    data.shuffle(order)
    assert hold_out([problems[i] for i in order], [images[i] for i in order], share, seed, "dev") == held


def test_shares(tmp_path):
    raw = write_lines(tmp_path / "train.jsonl", rows(100))
    sizes = lambda card: {name: split["items"] for name, split in card["splits"].items()}  # noqa: E731
    assert sizes(prepared("table", raw, tmp_path / "a")) == {"train": 90, "dev": 10}
    assert sizes(prepared("table", raw, tmp_path / "b", dev_share=0)) == {"train": 100}
    assert sizes(prepared("table", raw, tmp_path / "c", test_share=0.2)) == {"train": 70, "dev": 10, "test": 20}
    first, other = (prepared("table", raw, tmp_path / f"s{seed}", seed=seed) for seed in (0, 1))
    assert first["splits"]["dev"]["digest"] != other["splits"]["dev"]["digest"]
    few = write_lines(tmp_path / "train_3.jsonl", rows(3))
    assert sizes(prepared("table", few, tmp_path / "d")) == {"train": 2, "dev": 1}
    two = write_lines(tmp_path / "train_2.jsonl", rows(2))
    with pytest.raises(DataError, match="2 train problems are too few to hold 1 out as dev; give --dev-share 0"):
        prepared("table", two, tmp_path / "e")


# ---- borrowed splits ----------------------------------------------------------------------------------------------


def test_a_test_split_of_another_folder(tmp_path):
    other = raw_folder(tmp_path / "other")
    write_lines(
        other / "train.jsonl", [{**row, "id": f"t-{row['id']}", "image": f"{row['id']}.png"} for row in rows(6)]
    )
    source = prepared("table", other, tmp_path / "tests", "train=test")
    mine = write_lines(tmp_path / "train.jsonl", rows(20))
    card = prepared("table", mine, tmp_path / "out", "train", borrow={"test": tmp_path / "tests"})
    assert card["splits"]["test"]["items"] == 6
    assert source["digest"] in next(remark for remark in card["remarks"] if remark.startswith("test has 6 problems of"))
    for p in load(tmp_path / "out", "test"):
        (image,) = p.images
        assert image == f"images/table-test/{p.id.removeprefix('t-')}.png"
        assert (tmp_path / "out" / image).read_bytes() == (other / "images" / image.rpartition("/")[2]).read_bytes()


def test_what_cannot_be_borrowed(tmp_path):
    mine = write_lines(tmp_path / "train.jsonl", rows(20))
    prepared("table", mine, tmp_path / "same")
    with pytest.raises(DataError, match=r"it has no card\.json, so it is not a prepared folder"):
        prepared("table", mine, tmp_path / "out", borrow={"test": tmp_path})
    with pytest.raises(DataError, match="the source has this split itself"):
        prepared("table", mine, tmp_path / "out", borrow={"train": tmp_path / "same"})
    with pytest.raises(DataError, match=r"id 'q\d+' is also in .*train\.jsonl, row"):
        prepared("table", mine, tmp_path / "out", borrow={"dev": tmp_path / "same"})
    with pytest.raises(DataError, match=r"not the card of a folder with test\.jsonl"):
        prepared("table", mine, tmp_path / "out", borrow={"test": tmp_path / "same"})
    for bad in (["test"], ["test="], ["tset=x"], ["test=a", "test=b"]):
        with pytest.raises(DataError, match="give each split once, as SPLIT=DIR"):
            borrowed(bad)


@pytest.mark.parametrize("text", ["", "[", "null", "[1]", "{}", '"a"', '{"source": "x", "splits": []}', "\x80"])
def test_a_damaged_card_of_a_borrowed_folder(tmp_path, text):
    mine = write_lines(tmp_path / "train.jsonl", rows(20))
    prepared("table", mine, tmp_path / "other", "train=test")
    (tmp_path / "other/card.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"card\.json: .*; prepare that folder again"):
        prepared("table", mine, tmp_path / "out", borrow={"test": tmp_path / "other"})


def test_a_borrowed_card_cannot_place_images_outside(tmp_path):
    raw = raw_folder(tmp_path / "raw")
    prepared("table", raw, tmp_path / "tests", "train=test")
    card = json.loads((tmp_path / "tests/card.json").read_text())
    (tmp_path / "tests/card.json").write_text(json.dumps({**card, "source": "../../../escaped\ud800"}))
    mine = write_lines(tmp_path / "train.jsonl", [{**row, "id": f"m-{row['id']}"} for row in rows(20)])
    prepared("table", mine, tmp_path / "out", "train", borrow={"test": tmp_path / "tests"})
    assert {p.images[0].split("/")[1] for p in load(tmp_path / "out", "test")} == {".._.._.._escaped_-test"}


# ---- the card -----------------------------------------------------------------------------------------------------


def test_half_of_a_surrogate_pair_in_the_card(tmp_path, capfd):
    """A column's name, or the path of the raw file, may hold one: it is written and printed as an escape."""
    folder = tmp_path / "raw\udcff"
    folder.mkdir()
    mine = folder / "train.jsonl"
    mine.write_text("".join(json.dumps({**row, "extra\ud800\x1b[2J": 1}) + "\n" for row in rows(20)))
    for more in ([], ["--json", "--replace"]):
        assert main(["table", "--raw", str(mine), "--out", str(tmp_path / "out"), *more]) == 0
        said = capfd.readouterr().out
        assert "extra\\ud800" in said
        assert "\x1b" not in said
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card == json.loads(said)
    assert card["unused_columns"] == ["extra\ud800\x1b[2J"]
    assert card["raw"] == str(mine)


def entry(i: int, answer: str, choices=("1", "2", "3", "4"), question="q?", digest=None, **meta) -> Entry:
    placed = (PlacedImage(f"images/{digest}.png", digest, 10, 20, 100),) if digest else ()
    kind = "choice" if choices else "number"
    names = tuple(image.relative for image in placed)
    return Entry(Problem(f"p{i}", question, answer, choices, names, kind, meta=meta), placed, notes=("odd",))


def lost(i: int) -> Entry:
    """One question of images that are not there, and so cannot be told to be one image."""
    wanted = (f"images/{i}.png",)
    return Entry(Problem(f"p{i}", "q?", "A", ("1", "2"), wanted), (), "missing", wanted=wanted)


def test_the_numbers_of_a_card():
    entries = [
        entry(0, "A", question="one?", digest="x"),
        entry(1, "B", question="ONE? ", digest="x"),  # the same problem, another gold
        entry(2, "B", question="two?", digest="x"),
        entry(3, "A", ("yes", "no"), question="three?", language="english"),
        entry(4, "7", (), question="four?"),
        entry(5, "7", (), question="five?"),
        entry(6, "8", (), question="six?"),
    ]
    card = split_card(entries)
    assert card["items"] == 7
    assert card["answer_types"] == {"choice": 4, "number": 3}
    assert card["choices"] == {"2": 1, "4": 3}
    assert card["chance"] == pytest.approx((3 / 4 + 1 / 2) / 4, abs=1e-4)
    assert card["letters"] == {"A": 2, "B": 2}
    assert card["majority_letter"] == {"letter": "B", "rate": 0.5, "of": 4}
    assert card["majority_answer"] == {"answer": "7", "rate": 0.6667, "of": 3}
    assert card["duplicates"] == {
        "ids": 0, "question_choices_image": 1, "question_choices": 1, "question": 1, "image": 2,
        "groups": [["p0", "p1"]], "contradicting": [["p0", "p1"]],
    }  # fmt: skip
    assert card["languages"] == {"english": 1, "not stated": 6}
    assert card["notes"] == {"odd": {"count": 7, "ids": [f"p{i}" for i in range(7)]}}
    assert split_card([lost(0), lost(1)])["duplicates"]["question_choices_image"] == 0
    images = card["images"]
    assert (images["with_image"], images["text_only"], images["files"], images["different"]) == (3, 4, 1, 1)
    assert images["width"] == {"min": 10, "median": 10, "max": 10}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("xyz"), st.booleans(), st.booleans()), max_size=30))
def test_the_counts_add_up(drawn):
    entries = []
    for i, (letter, digest, has_image, is_there) in enumerate(drawn):
        made = entry(i, letter, digest=digest if has_image and is_there else None)
        if has_image and not is_there:
            wanted = Problem(made.problem.id, "q?", letter, made.problem.choices, ("images/x.png",))
            made = Entry(wanted, (), "missing", wanted=("images/x.png",))
        entries.append(made)
    card = split_card(entries)
    images = card["images"]
    assert images["with_image"] + images["text_only"] + images["unusable"] == card["items"] == len(entries)
    assert sum(card["answer_types"].values()) == sum(card["languages"].values()) == len(entries)
    assert sum(card.get("letters", {}).values()) == len(entries)


def test_the_digest_sees_every_change():
    base = [entry(0, "A", digest="x"), entry(1, "B")]
    changed = [
        [entry(0, "B", digest="x"), base[1]],
        [entry(0, "A", digest="y"), base[1]],
        [entry(0, "A", digest="x", level=1), base[1]],
        [base[1], base[0]],
        base[:1],
    ]
    other = replace(base[0].placed[0], digest="other bytes of the same file")
    changed.append([replace(base[0], placed=(other,)), base[1]])
    assert len({digest_of(entries) for entries in [base, *changed]}) == 7
    assert digest_of(base) == digest_of([entry(0, "A", digest="x"), entry(1, "B")])


def test_overlaps():
    train = [entry(0, "A", question="one?"), entry(1, "A", question="two?")]
    test = [
        entry(2, "A", question="One?"),
        entry(3, "A", ("5", "6"), question="two?"),
        entry(4, "A", question="three?"),
    ]
    assert overlaps({"train": train, "test": test}) == {"train/test": {"question": 2, "question_choices_image": 1}}


def test_rows_read_back(tmp_path):
    made = Problem("a", "q", "1.5", (), ("images/a.png",), "float", 1, "cm", None, {"x": [1]})
    write_lines(tmp_path / "x.jsonl", [row_of(made)])
    assert load(tmp_path, "x") == [made]
    assert row_of(made, labelled=False) == {key: value for key, value in row_of(made).items() if key != "answer"}


def test_same_input_same_folder(tmp_path):
    raw = raw_folder(tmp_path / "raw", 20)
    cards = [prepared("table", raw, tmp_path / name) for name in ("a", "b")]
    assert cards[0] == cards[1]
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


# ---- the command line ---------------------------------------------------------------------------------------------

WRONG = {
    "unknown source": (["geoqaa", "--raw", "x"], "unknown source 'geoqaa'; did you mean 'geoqa'?"),
    "unlike any": (
        ["zzz", "--raw", "x"],
        f"unknown source 'zzz'; known: {', '.join(sorted(SOURCES))}, or MODULE:NAME",
    ),
    "no raw": (["geoqa", "--raw", "nowhere"], "nowhere does not exist. The processed GeoQA"),
    "neither": (["geoqa"], "say where the data are"),
    "both": (["geoqa", "--raw", "x", "--hub"], "either --raw PATH for files or --hub [OWNER/NAME]"),
    "no images": (["geoqa", "--raw", "RAW", "--images", "nowhere"], "nowhere is not a folder; --images"),
    "not its flag": (
        ["geoqa", "--raw", "RAW", "--map", "question=q"],
        "the source geoqa has no option --map; leave it out",
    ),
    "not its flag either": (
        ["table", "--raw", "RAW", "--text", "problem_text"],
        "the source table has no option --text; leave it out",
    ),
    "no such split": (["table", "--raw", "RAW", "--split", "extra"], "say which of them this is: --split extra=test"),
    "twice": (
        ["table", "--raw", "RAW", "--split", "train", "--split", "x=train"],
        "is given twice; give each split once",
    ),
    "no pattern": (["table", "--raw", "RAW", "--answer-pattern", "("], "is not a regular expression"),
    "no group": (["table", "--raw", "RAW", "--answer-pattern", "x"], "must have exactly one group, and it has 0"),
}

# A module of a source, the name that is given, and the message.
OUTSIDE_WRONG = {
    "no module": (
        "",
        "not_there:SOURCE",
        "the source module not_there cannot be imported (No module named 'not_there')",
    ),
    "no module of a package": (
        "",
        "not.there",
        "install its package, or run the command in the folder that contains it",
    ),
    "a file": ("", "./mine.py", "'./mine.py' is not the name of a Python module"),
    "no name": ("", ":SOURCE", "'' is not the name of a Python module"),
    "its own import fails": ("import not_there_either", "mine:SOURCE", "(No module named 'not_there_either')"),
    "no source": ("", "mine:SOURCE", "mine has no source SOURCE; define SOURCE = Source(name=..., item=...) in it"),
    "something else": ("OTHER = 'x'", "mine:OTHER", "mine has no source OTHER"),
}

OUTSIDE = """
from data_process.sources.base import Item, Source, find_image, wrong

def item(request, split, where, row):
    if not row["result"]:
        wrong(where, "no result")
    fields = {"id": row["key"], "question": row["text"], "answer": row["result"]}
    return Item(fields, (find_image(row["at"], request, where),))

SOURCE = Source(name="mine", item=item)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes the text of a module named "mine" where Python imports from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return (tmp_path / "mine.py").write_text


@pytest.mark.parametrize("name", OUTSIDE_WRONG)
def test_wrong_sources_of_ones_own(tmp_path, mine, capsys, name):
    text, source, message = OUTSIDE_WRONG[name]
    mine(text)
    assert main([source, "--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_source_of_ones_own(tmp_path, mine, capsys):
    """A module that only reads a row: its tables, splits, images and errors are handled as those of any source."""
    mine(OUTSIDE)
    raw = tmp_path / "raw"
    write_lines(
        raw / "train.jsonl", [{"key": f"k{i}", "text": f"{i} + 1?", "result": str(i), "at": "a.png"} for i in "123"]
    )
    (raw / "images").mkdir()
    (raw / "images/a.png").write_bytes(png())
    arguments = ["mine:SOURCE", "--raw", str(raw), "--dev-share", "0"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "mine"
    assert [(p.id, p.answer, p.images) for p in load(tmp_path / "out", "train")] == [
        (f"k{i}", i, ("images/a.png",)) for i in "123"
    ]
    write_lines(raw / "train.jsonl", [{"key": "k", "text": "?", "result": "", "at": "a.png"}])
    assert main([*arguments, "--out", str(tmp_path / "bad")]) == 2
    assert "train.jsonl, row 1: no result" in capsys.readouterr().err


@pytest.mark.parametrize("name", WRONG)
def test_wrong_commands(tmp_path, capsys, name):
    arguments, message = WRONG[name]
    raw = write_lines(tmp_path / "train.jsonl", rows(20))
    arguments = [str(raw) if part == "RAW" else part for part in arguments]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert message in said.err
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_card(tmp_path, capsys):
    raw = write_lines(tmp_path / "questions.jsonl", [{"problem": f"{i}?", "key": i} for i in range(20)])
    arguments = ["jsonl", "--raw", str(raw), "--split", "train", "--map", "question=problem", "--map", "answer=key"]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "train: 16 items" in said
    assert "answer_type number inferred from the answer: 16 (train-row1" in said
    assert main([*arguments, "--out", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "b/card.json").read_text())


def test_split_names():
    mathvista, geometry = source_named("mathvista"), source_named("geometry3k")
    assert splits_of(mathvista, []) == {"testmini": "test"}
    assert splits_of(mathvista, ["test"]) == {"test": "questions"}
    assert splits_of(mathvista, ["testmini=dev"]) == {"testmini": "dev"}
    assert splits_of(geometry, ["val"]) == {"val": "dev"}


# ---- the loop reads it --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_prepared_folder_runs_through_the_loop(tmp_path):
    """The rehearsal: scripted answers, nothing trained, every stage."""
    from selftrain.config import load_config
    from selftrain.loop import run_loop
    from selftrain.progress import Progress

    raw = write_lines(tmp_path / "train.jsonl", [{**row, "image": f"{row['id']}.png"} for row in rows(60)])
    prepared("geoqa", raw, tmp_path / "data", missing="standin", test_share=0.2)
    settings = [
        "data.source=jsonl", f"data.folder={tmp_path / 'data'}", f"output={tmp_path / 'run'}", "iters=1",
        f"bank={tmp_path / 'bank.sqlite'}", "engine.kind=scripted",
    ]  # fmt: skip
    outcome = run_loop(load_config(None, settings, {"prompts": "short"}), Progress(quiet=True))
    assert outcome.metrics.iterations[0].evaluation["test"].n == 12
    assert outcome.metrics.run.chance == pytest.approx(1 / 3)


@pytest.mark.slow
def test_real_questions_with_stand_ins(tmp_path):
    raw = shared("geoqa/train_questions.jsonl")
    sample = write_lines(
        tmp_path / "train.jsonl",
        random.Random(0).sample([json.loads(line) for line in raw.read_text().splitlines()], 100),
    )
    card = prepared("geoqa", sample, tmp_path / "out", missing="standin")
    problems = load(tmp_path / "out", "train") + load(tmp_path / "out", "dev")
    assert all(p.meta["stand_in"] and (tmp_path / "out" / p.images[0]).is_file() for p in problems)
    assert sum(split["images"]["stand_ins"] for split in card["splits"].values()) == 100


# ---- bad rows, ids that start again, groups that are too large ------------------------------------------------------


def test_a_few_bad_rows_do_not_stop_the_others(tmp_path, capsys):
    raw = write_lines(tmp_path / "train.jsonl", [*rows(39), {**rows(1)[0], "id": "x" * 5000, "answer": "Z" * 5000}])
    assert main(["table", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "1 of 40 rows left out (of unusable ones 1; the limit is 5%)" in out
    line = next(line for line in out.splitlines() if "row 40" in line)
    assert "outside the choices" in line
    assert len(line) < 500
    command = ["table", "--raw", str(raw), "--out", str(tmp_path / "b"), "--bad-share", "0.01"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "train.jsonl, row 40: gold 'ZZZ" in err
    assert "1 of 40 rows cannot be used, more than the limit of 1% (--bad-share)" in err
    assert len(err) < 600


@pytest.mark.parametrize("name", ["auto", "split", "none"])
def test_ids_that_start_again(tmp_path, name):
    for split in ("train", "test"):
        write_lines(
            tmp_path / f"raw/{split}.jsonl", [{"id": i, "question": f"{split} {i}?", "answer": i} for i in (0, 1)]
        )
    settings_of = {} if name == "auto" else {"ids": name}
    card = prepared("table", tmp_path / "raw", tmp_path / "out", dev_share=0, **settings_of)
    found = [problem.id for split in ("train", "test") for problem in load(tmp_path / "out", split)]
    same = ["train-0", "train-1", "test-0", "test-1"]
    assert found == (["train-row1", "train-row2", "test-row1", "test-row2"] if name == "none" else same)
    assert any("ids start again in each split" in remark for remark in card["remarks"]) == (name == "auto")


def test_ids_in_words_start_again_only_for_other_problems(tmp_path):
    write_lines(tmp_path / "raw/train.jsonl", rows(3))
    write_lines(tmp_path / "raw/test.jsonl", [{**rows(1)[0], "question": "Another?"}])
    prepared("table", tmp_path / "raw", tmp_path / "out", dev_share=0)
    assert [problem.id for problem in load(tmp_path / "out", "test")] == ["test-q0"]
    write_lines(tmp_path / "raw/test.jsonl", rows(1))
    prepared("table", tmp_path / "raw", tmp_path / "split", dev_share=0, ids="split")
    assert [problem.id for problem in load(tmp_path / "split", "test")] == ["test-q0"]


COUNTING = {
    "one question for all images": (lambda i: "How many different items are there in the image?", lambda i: 10 + i),
    "one image for all questions": (lambda i: f"How many items of kind {i} are there in this image?", lambda i: 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTING)
def test_what_hangs_together_can_be_split(tmp_path, name):
    question, width = COUNTING[name]
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(png(size=(width(i), 20)))
    made = [{"question": question(i), "answer": i, "image": f"{i}.png"} for i in range(60)]
    card = prepared("table", write_lines(tmp_path / "train.jsonl", made), tmp_path / "out")
    assert card["splits"]["dev"]["items"] == 6
    assert any("6 of 60 train problems, held out" in remark for remark in card["remarks"])


def test_why_nothing_can_be_held_out(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    made = [{"id": i, "question": "What is the same?", "answer": i, "image": "a.png"} for i in range(60)]
    with pytest.raises(DataError, match=r"60 train problems cannot be held out as dev: at least 60 of them share both"):
        prepared("table", write_lines(tmp_path / "train.jsonl", made), tmp_path / "out")


def test_golds_that_cannot_be_read_are_text_and_counted(tmp_path):
    golds = ["1:2:4", "60° or 120°", r"$\overrightarrow{a}$", "180°-2α or so", "12"]
    made = [{"question": f"{i}?", "answer": gold} for i, gold in enumerate(golds)]
    card = prepared("table", write_lines(tmp_path / "train.jsonl", made), tmp_path / "out", dev_share=0)
    assert card["splits"]["train"]["items"] == 5
    assert sum(card["splits"]["train"]["answer_types"].values()) == 5
    asked = write_lines(
        tmp_path / "train_1.jsonl", [{"question": "?", "answer": "N 30° E or so", "answer_type": "expression"}]
    )
    card = prepared("table", asked, tmp_path / "asked", "train", dev_share=0)
    assert card["splits"]["train"]["answer_types"] == {"text": 1}
    assert [note for note in card["splits"]["train"]["notes"] if "cannot be read as mathematics" in note]


def test_alternatives_come_back_from_the_folder(tmp_path):
    made = [{"question": "Which city?", "answer": ["NYC", "New York"]}, {"question": "How many?", "answer": 3}]
    prepared("table", write_lines(tmp_path / "train.jsonl", made), tmp_path / "out", dev_share=0)
    first, second = load(tmp_path / "out", "train")
    assert (first.alternatives, second.alternatives) == (("New York",), ())
    assert '"alternatives"' not in (tmp_path / "out/train.jsonl").read_text().splitlines()[1]


# ---- several images ---------------------------------------------------------------------------------------------


def several(root: Path, n: int = 20) -> Path:
    """`n` rows of two images each with marks in the text, and one file shared by all of them."""
    (root / "images").mkdir(parents=True)
    (root / "images/legend.png").write_bytes(png("blue"))
    made = []
    for i in range(n):
        (root / f"images/q{i}.png").write_bytes(png(size=(10 + i, 20)))
        question = f"By the legend <image 2>, what does part {i} of <image 1> show?"
        made.append({"id": f"q{i}", "question": question, "answer": i, "image_1": f"q{i}.png", "image_2": "legend.png"})
    write_lines(root / "train.jsonl", made)
    return root


def test_a_table_of_several_images(tmp_path):
    card = prepared("table", several(tmp_path / "raw"), tmp_path / "out", dev_share=0)
    problems = load(tmp_path / "out", "train")
    assert problems[3].images == ("images/q3.png", "images/legend.png")
    assert problems[3].question.startswith("By the legend <image 2>,")
    assert all((tmp_path / "out" / image).is_file() for problem in problems for image in problem.images)
    images = card["splits"]["train"]["images"]
    assert (images["with_image"], images["several"], images["files"]) == (20, {"items": 20, "most": 2}, 21)
    assert "20 with several, at most 2" in render(card)
    again = prepared("table", tmp_path / "raw", tmp_path / "again", dev_share=0)
    assert again["digest"] == card["digest"]
    (tmp_path / "raw/images/legend.png").write_bytes(png("red"))
    assert prepared("table", tmp_path / "raw", tmp_path / "other", dev_share=0)["digest"] != card["digest"]


def test_one_of_several_images_is_missing(tmp_path):
    raw = several(tmp_path / "raw")
    (raw / "images/q1.png").unlink()
    said = r"1 of 20 problems have no usable image \(missing 1\); first: images/q1\.png of q1"
    with pytest.raises(DataError, match=said):
        prepared("table", raw, tmp_path / "out", dev_share=0)
    card = prepared("table", raw, tmp_path / "count", dev_share=0, missing="count")["splits"]["train"]["images"]
    assert (card["with_image"], card["unusable"], card["files"]) == (19, 1, 20)
    assert len(load(prepared_at(raw, tmp_path / "drop", missing="drop"), "train")) == 19
    drawn = load(prepared_at(raw, tmp_path / "standin", missing="standin"), "train")[1]
    assert drawn.images == (f"images/{standin.name_for(drawn.question)}", "images/legend.png")
    assert drawn.meta["stand_in"]


def prepared_at(raw: Path, out: Path, **settings) -> Path:
    prepared("table", raw, out, dev_share=0, **settings)
    return out


def test_problems_that_share_one_of_several_images_stay_together():
    problems = [problem(i, f"Find side {i}.") for i in range(4)]
    shared = [("a", "x"), ("x", "b"), ("c",), ("c", "d")]
    assert groups(problems, shared) == [[0, 1], [2, 3]]


def test_marks_without_an_image(tmp_path):
    raw = write_lines(tmp_path / "train.jsonl", [{"question": f"<image>\nFind {i}.", "answer": i} for i in range(9)])
    with pytest.raises(DataError, match=r"row 1.*marks <image>, but the row has no image; .*--map image=COLUMN"):
        prepared("table", raw, tmp_path / "out")
