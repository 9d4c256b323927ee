"""Files: what is read, what is refused and in which words, and that writing is whole or nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.io import load_problems, numbered_rows, read_examples, read_jsonl, write_jsonl
from data_process.schema import DataError, Example, to_json

DATA = Path(__file__).parents[3] / "shared" / "data" / "geoqa"

READ = {
    "plain": (b'{"id": "a"}\n{"id": "b"}\n', ["a", "b"]),
    "no last newline": (b'{"id": "a"}', ["a"]),
    "blank lines": (b'\n  \n{"id": "a"}\n\r\n\n{"id": "b"}\n\n', ["a", "b"]),
    "windows": (b'\xef\xbb\xbf{"id": "a"}\r\n{"id": "b"}\r\n', ["a", "b"]),
    "array": (b'[{"id": "a"},\n {"id": "b"}]', ["a", "b"]),
    "array after blank lines": (b'\n\n [\n{"id": "a"}\n]\n', ["a"]),
    "empty": (b"", []),
    "empty array": (b"[]", []),
    "line separator inside text": ('{"id": "a\u2028b"}\n'.encode(), ["a\u2028b"]),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("zipped", [False, True])
def test_read(tmp_path, name, zipped):
    data, ids = READ[name]
    path = tmp_path / ("x.jsonl.gz" if zipped else "x.jsonl")
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert [row["id"] for row in read_jsonl(path)] == ids


REFUSED = {
    "torn": (b'{"id": "a"}\n{"id": "b', r"x\.jsonl, line 2: not complete JSON .* write it again"),
    "torn in the middle": (b'{"id": "a"\n{"id": "b"}\n', r"line 1: not complete JSON"),
    "not UTF-8": (b'{"id": "a"}\n\n{"id": "\xff"}\n', r"line 3: not UTF-8 at byte 8; save the file as UTF-8"),
    "number": (b'{"id": "a"}\n7\n', r"line 2: a row must be a JSON object, this is a int"),
    "list in a line": (b'{"id": "a"}\n["b"]\n', r"line 2: a row must be a JSON object, this is a list"),
    "item of an array": (b'[{"id": "a"}, "b"]', r"x\.jsonl, item 2: a row must be a JSON object, this is a str"),
    "torn array": (b'[{"id": "a"},', r"x\.jsonl: not complete JSON"),
    "NaN": (b'{"id": "a", "x": NaN}\n', r"line 1: .*NaN is not JSON"),
    "deep": (b'{"id": ' + b"[" * 100_000 + b"\n", r"line 1: (nested too deeply|not complete)"),
    "huge number": (b'{"id": ' + b"9" * 10_000 + b"}\n", r"line 1: "),
}


def test_numbers_keep_their_digits(tmp_path):
    """`jsonlines` would read with orjson where it is installed, and whole numbers above 64 bits as floats."""
    row = {"id": "a", "big": 12345678901234567890123, "small": 0.1, "negative": -0.0}
    write_jsonl(tmp_path / "x.jsonl", [row])
    assert repr(read_jsonl(tmp_path / "x.jsonl")) == repr([row])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    data, message = REFUSED[name]
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_jsonl(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        read_jsonl(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_jsonl(tmp_path)
    whole = gzip.compress(b'{"id": "a"}\n' * 1000)
    for name, data in {
        "cut.gz": whole[:-12],
        "not.gz": b'{"id": "a"}\n',
        "bad.gz": whole[:15] + b"xxxx" + whole[19:],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: damaged gzip"):
            read_jsonl(tmp_path / name)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), _JSON, max_size=4), max_size=4))
def test_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("io")
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert write_jsonl(folder / name, rows) == len(rows)
        first = (folder / name).read_bytes()
        assert read_jsonl(folder / name) == rows
        write_jsonl(folder / name, iter(rows))
        assert (folder / name).read_bytes() == first
    assert len(list(folder.iterdir())) == 2


def test_half_of_a_surrogate_pair_survives(tmp_path):
    write_jsonl(tmp_path / "x.jsonl", [{"text": "\ud800"}])
    assert read_jsonl(tmp_path / "x.jsonl") == [{"text": "\ud800"}]


@pytest.mark.parametrize(
    "text", ['{"id": "a", "answer": 1, "answer": 2}', '{"id": "a", "meta": {"answer": 1, "answer": 2}}']
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_a_key_that_stands_twice(tmp_path, text, name):
    whole = '{"id": "b"}'
    (tmp_path / name).write_text(f"{whole}\n{text}\n" if name == "x.jsonl" else f"[{whole}, {text}]")
    where = "line 2" if name == "x.jsonl" else r"x\.json"
    for nan_is_null in (False, True):
        with pytest.raises(DataError, match=rf"{where}: key 'answer' stands 2 times in one object; keep one of them"):
            list(numbered_rows(tmp_path / name, nan_is_null=nan_is_null))


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "my.csv").write_text("question,answer\n1 + 1,2\n")
    with pytest.raises(
        DataError, match=r"my\.csv is a file, .*`selftrain prepare table --raw .*my\.csv --out data/my`"
    ):
        load_problems(tmp_path / "my.csv/train.jsonl", tmp_path / "my.csv")


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_a_failed_write_leaves_the_old_file(tmp_path, bad):
    path = tmp_path / "deep" / "x.jsonl"
    write_jsonl(path, [{"id": "old"}])
    with pytest.raises(DataError, match=r"x\.jsonl: a row cannot be written"):
        write_jsonl(path, [{"id": "new"}, bad])
    assert read_jsonl(path) == [{"id": "old"}]

    def interrupted():
        yield {"id": "new"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, interrupted())
    assert read_jsonl(path) == [{"id": "old"}]
    assert [p.name for p in path.parent.iterdir()] == ["x.jsonl"]


ROW = {"id": "p", "question": "Which?", "choices": ["30", "40"], "answer": "B", "image": "a/p.png"}
MANY = {key: value for key, value in ROW.items() if key != "image"} | {"images": ["a.png", "b.png"]}
NUMBER = {"id": "p", "question": "How much?", "answer": "5"}


def load(tmp_path, *rows):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_problems(path, tmp_path / "images")


def test_problems(tmp_path):
    first, second, third = load(
        tmp_path,
        ROW | {"family": "angles", "meta": {"level": 2}},
        NUMBER | {"id": "q", "answer": "\\frac{1}{2}cm", "choices": None},
        ROW | {"id": "r", "answer": "40", "image": None},
    )
    assert (first.letters, first.answer, first.images, first.answer_type) == ("AB", "B", ("a/p.png",), "choice")
    assert first.meta == {"family": "angles", "level": 2}
    assert (second.choices, second.answer_type, second.images) == ((), "number", ())
    assert third.answer == "B"  # the text of one choice becomes its letter


def test_alternatives_and_whole_decimals(tmp_path):
    number, choice, old = load(
        tmp_path,
        NUMBER | {"alternatives": ["5", "6", "6"], "answer_type": "float", "precision": 1.0},
        ROW | {"id": "q", "alternatives": ["30"]},
        NUMBER | {"id": "r"},
    )
    assert (number.alternatives, number.precision, choice.alternatives, old.alternatives) == (("6",), 1, ("A",), ())


BAD_ROWS = [
    (ROW | {"id": 3}, r"line 1: 'id' must be a non-empty string"),
    (ROW | {"question": ""}, r"line 1, problem 'p': 'question' is empty"),
    (ROW | {"question": " \n"}, r"'question' is empty"),
    (ROW | {"question": 5}, r"'question' must be text, found int 5"),
    ({"id": "p", "question": "?"}, r"'answer' must be text, found nothing"),
    (NUMBER | {"answer": 5}, r"'answer' must be text, found int 5"),
    (ROW | {"choices": "30,40"}, r"'choices' must be a list of texts"),
    (ROW | {"choices": [30, 40]}, r"'choices' must be a list of texts"),
    (ROW | {"choices": ["30"]}, r"1 choices; there must be 2 to 10"),
    (ROW | {"choices": [str(k) for k in range(11)]}, r"11 choices; there must be 2 to 10"),
    (ROW | {"choices": ["30", " "]}, r"a choice is empty"),
    (ROW | {"answer": "C"}, r"answer 'C' is neither one of the letters AB nor the text of exactly one choice"),
    (ROW | {"answer": "AB"}, r"answer 'AB' is neither"),
    (ROW | {"choices": ["40", "40"], "answer": "40"}, r"answer '40' is neither"),
    (ROW | {"choices": [], "answer_type": "choice"}, r"a choice problem needs 'choices'"),
    (ROW | {"answer_type": "number"}, r"a number problem cannot have 'choices'"),
    (ROW | {"answer_type": "poem"}, r"unknown answer_type 'poem'; known: choice, integer"),
    (NUMBER | {"answer": "five"}, r"answer 'five' is not a number; write it as"),
    (NUMBER | {"answer": "5 or 6"}, r"is not a number"),
    (NUMBER | {"answer": "2√3"}, r"is not a number"),
    (NUMBER | {"meta": [1]}, r"'meta' must be an object, found list"),
    (NUMBER | {"alternatives": "6"}, r"'alternatives' must be a list of texts, found '6'"),
    (NUMBER | {"alternatives": ["six"]}, r"answer 'six' is not a number"),
    (ROW | {"alternatives": ["C"]}, r"answer 'C' is neither"),
    (NUMBER | {"answer": "x" * 9000}, r"^.{,400}$"),
    (ROW | {"image": 3}, r"'image' must be a relative path"),
    (ROW | {"images": ["b.png"]}, r"'image' or 'images', not both"),
    (MANY | {"images": "b.png"}, r"'images' must be a list of paths"),
    (MANY | {"images": ["a.png", 3]}, r"'image' must be a relative path"),
    (MANY | {"images": ["a.png", "../b.png"]}, r"must be a path inside the image folder"),
    (MANY | {"images": ["a.png"] * 17}, r"17 images; a problem has at most 16"),
    (MANY | {"question": "See <image 3>."}, r"line 1, problem 'p': the text marks <image 3>, but the problem has 2"),
    (MANY | {"choices": ["<image> <image>", "<image>"]}, r"the text marks <image>, but the problem has 2 images"),
    (ROW | {"image": ""}, r"'image' must be a relative path"),
    (ROW | {"image": "a\0b"}, r"'image' must be a relative path"),
    (ROW | {"image": "/etc/passwd"}, r"must be a path inside the image folder"),
    (ROW | {"image": "../x.png"}, r"must be a path inside the image folder"),
    (ROW | {"image": "a/../x.png"}, r"must be a path inside the image folder"),
    (ROW | {"image": "C:\\x.png"}, r"must be a path inside the image folder"),
    (ROW | {"image": "out/x.png"}, r"leads out of the image folder through a link"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_bad_problems(tmp_path, row, message):
    images = tmp_path / "images"
    images.mkdir()
    (images / "out").symlink_to(tmp_path)
    with pytest.raises(DataError, match=message):
        load(tmp_path, row)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (NUMBER, r"line 2: id 'p' was already used \(.*\.jsonl, line 1\)"),
        (
            {key: value for key, value in ROW.items() if key != "id"},
            r"line 2: 'id' must be a non-empty string, found None",
        ),
        (ROW | {"id": 7}, r"line 2: 'id' must be a non-empty string, found 7"),
        (ROW | {"id": ""}, r"line 2: 'id' must be a non-empty string, found ''"),
    ],
)
def test_problem_ids_are_text_and_unique(tmp_path, second, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, ROW, second)


def test_a_link_that_stays_inside_is_fine(tmp_path):
    (tmp_path / "images" / "real").mkdir(parents=True)
    (tmp_path / "images" / "a").symlink_to("real")
    assert load(tmp_path, ROW)[0].images == ("a/p.png",)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/geoqa is not here: the real questions are not shipped")
def test_real_problems(tmp_path):
    problems = load_problems(DATA / "train_questions.jsonl", tmp_path)
    assert len(problems) == 3497
    assert {p.answer_type for p in problems} == {"choice"}


def test_one_image_is_written_as_before_and_several_as_a_list(tmp_path):
    """`image` where there is one image or none, so that rows keep their bytes; `images` for more."""
    rows = [ROW | {"id": "none", "image": None}, ROW | {"id": "one"}, MANY | {"id": "two"}, ROW | {"id": "listed"}]
    rows[3]["images"] = [rows[3].pop("image")]
    problems = load(tmp_path, *rows)
    assert [p.images for p in problems] == [(), ("a/p.png",), ("a.png", "b.png"), ("a/p.png",)]
    written = [to_json(problem) for problem in problems]
    assert [row.get("image", row.get("images")) for row in written] == [None, "a/p.png", ["a.png", "b.png"], "a/p.png"]
    assert list(written[1])[4] == "image"
    assert list(written[2])[4] == "images"
    again = [{key: value for key, value in row.items() if value is not None} for row in written]
    assert load(tmp_path, *map(json.loads, map(json.dumps, again))) == problems
    examples = [Example(p.id, "qa", p.id, "prompt", "target", p.images, ("s",)) for p in problems]
    write_jsonl(tmp_path / "examples.jsonl", map(to_json, examples))
    assert read_examples(tmp_path / "examples.jsonl") == examples
    assert "images" not in (tmp_path / "examples.jsonl").read_text().splitlines()[1]
