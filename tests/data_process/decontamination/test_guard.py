"""The leakage guard as a whole: which pairs block, which are only noted, and what bad input does."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_process.decontamination.guard import clean, guard, main
from data_process.decontamination.known_overlaps import origin_of
from data_process.io import load_problems, read_jsonl, write_jsonl
from data_process.prepare.command import main as prepare_main
from data_process.schema import DataError, Origin, Problem, to_json
from data_process.sources.minigeo import generate
from tests.data_process.raw_files import png, write_json, write_lines

QUESTION = "In triangle A B C , angle A = 50.0 , angle B = 60.0 , then the degree of angle C is ()"
CHOICES = ("50.0", "60.0", "70.0", "80.0")


def problem(identifier, question=QUESTION, answer="C", choices=CHOICES, **fields) -> Problem:
    return Problem(identifier, question, answer, choices, answer_type="choice" if choices else "text", **fields)


def draw(path: Path, seed: int, labels: str = "") -> str:
    """A drawing of its own for each seed; returns its name."""
    rng = random.Random(seed)
    image = Image.new("L", (160, 120), 255)
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        pen.line([(rng.randrange(10, 150), rng.randrange(10, 110)) for _ in range(2)], fill=0, width=2)
    if labels:
        pen.text((75, 55), labels, fill=0, font=ImageFont.load_default(13))
    image.save(path)
    return path.name


def find_leaks(train, test, *images, **sources):
    return guard(train, {"test": test}, *images, **sources)


def kinds(report) -> set[str]:
    return {leak.kind for leak in report.leaks}


@pytest.mark.parametrize(
    ("test", "kind", "blocks"),
    [
        pytest.param({}, "text", True, id="word for word"),
        pytest.param({"question": QUESTION.upper()}, "text", True, id="case"),
        pytest.param({"question": QUESTION.replace("50.0", "50").replace("60.0", "60°")}, "text", True, id="numbers"),
        pytest.param({"question": QUESTION.replace(" ,", "")}, "text", True, id="punctuation"),
        pytest.param({"question": QUESTION.replace("A B C", "ABC")}, "text", True, id="letters together"),
        pytest.param({"question": "Calculation: As shown in the figure, " + QUESTION}, "text", True, id="boilerplate"),
        pytest.param({"question": QUESTION.replace("degree", "measure")}, "text", True, id="synonym"),
        pytest.param({"question": QUESTION.replace(" angle", " ∠")}, "text", True, id="sign for a word"),
        pytest.param({"choices": CHOICES[::-1], "answer": "B"}, "text", True, id="choices in another order"),
        pytest.param({"choices": (), "answer": "70°"}, "text", True, id="free answer"),
        pytest.param({"choices": ("1", "2", "70"), "answer": "C"}, "text", True, id="other wrong choices"),
        pytest.param({"answer": "D"}, "text", True, id="mislabelled copy"),
        pytest.param({"question": QUESTION.replace("50", "40")}, "other_values", False, id="other number"),
        pytest.param({"question": QUESTION.replace("50.0", "60.0", 1)}, "other_values", False, id="number twice"),
        pytest.param(
            {"question": QUESTION.replace("50.0", "x").replace("60.0", "50.0").replace("x", "60.0")},
            "other_values", False, id="numbers swapped",
        ),
        pytest.param({"question": QUESTION.replace("A B C", "D E F")}, "other_values", False, id="other label"),
        pytest.param({"choices": ("1", "2", "3"), "answer": "A"}, "other_values", False, id="other choices and answer"),
        pytest.param(
            {"question": QUESTION.replace("degree", "supplement"), "answer": "D"}, "other_values", False,
            id="another thing asked, another answer",
        ),
        pytest.param({"question": "How many apples are left in the basket?"}, None, False, id="another question"),
    ],
)  # fmt: skip
def test_text_only_pairs(test, kind, blocks):
    report = find_leaks([problem("a")], [problem("b", **test)])
    assert (kinds(report), report.blocking) == ({kind} if kind else set(), blocks)


@pytest.mark.parametrize(
    ("first", "second"),
    [("What is 2 + 3?", "What is 2 * 3?"), ("Solve x = -3", "Solve x = 3"), ("Find 2^3", "Find 2/3")],
)
def test_operators_and_signs_are_part_of_a_question(first, second):
    pair = [problem("a", first, "7", ())], [problem("b", second, "8", ())]
    assert not find_leaks(*pair).blocking
    assert find_leaks(pair[0], [replace(pair[0][0], id="b")]).blocking


@pytest.mark.parametrize(
    ("image", "changes", "kind", "blocks"),
    [
        ("same", {}, "item", True),
        ("same", {"question": QUESTION.replace("degree", "measure")}, "item", True),
        ("same", {"answer": "D"}, "item", True),  # equal bytes and question: a mislabelled copy
        ("same", {"question": "Which two sides of the triangle are equal?"}, "image", False),
        ("same", {"question": QUESTION.replace("degree", "supplement"), "answer": "D"}, "image", False),
        ("near", {}, "item", True),
        ("near", {"choices": (), "answer": "8"}, "image", False),  # a near image and another answer never block
        ("near", {"answer": "D"}, "image", False),
        ("near", {"question": QUESTION.replace("degree", "supplement"), "answer": "D"}, "image", False),
        ("digit", {}, "other_image", False),  # one figure with another number, though the answer is the same
        ("digit", {"answer": "D"}, None, False),
        ("other", {}, "other_image", False),
        ("other", {"answer": "D"}, None, False),
        ("missing", {}, "unseen", True),
        ("torn", {}, "unseen", True),
        ("blank", {}, "unseen", True),
        (None, {}, "unseen", True),
        ("missing", {"question": QUESTION.replace("50", "40")}, "other_values", False),
    ],
)
def test_pairs_with_images(tmp_path, image, changes, kind, blocks):
    draw(tmp_path / "train.png", 1, "50")
    draw(tmp_path / "same.png", 1, "50")
    with Image.open(tmp_path / "train.png") as drawn:
        drawn.convert("RGB").save(tmp_path / "near.jpg", quality=75)
        (tmp_path / "near.jpg").rename(tmp_path / "near.png")
    draw(tmp_path / "digit.png", 1, "53")
    draw(tmp_path / "other.png", 2)
    Image.new("RGB", (100, 100), "white").save(tmp_path / "blank.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "same.png").read_bytes()[:200])
    train = [problem("a", images=("train.png",))]
    test = [problem("b", images=(f"{image}.png",) if image else (), **changes)]
    report = find_leaks(train, test, tmp_path)
    assert (kinds(report), report.blocking) == ({kind} if kind else set(), blocks)
    assert report.uncompared["test"] == ({image: 1} if image in ("missing", "torn", "blank") else {})


def test_words_that_fit_several_problems_do_not_block_without_images():
    """MiniGeo's case: the facts stand in the images, and these are not there."""
    train = [
        problem("a", "Find angle x.", "40", (), images=("1.png",)),
        problem("b", "Find angle x.", "50", (), images=("2.png",)),
    ]
    report = find_leaks(train, [problem("c", "Find angle x.", "40", (), images=("3.png",))])
    assert kinds(report) == {"template"}
    assert not report.blocking
    assert report.uncompared == {"train": {"no_folder": 2}, "test": {"no_folder": 1}}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Few wordings, many figures: as MiniGeo, quicker to draw."""
    folder = tmp_path_factory.mktemp("figures")
    wordings = ("Find angle x.", "Find the side x.", "The perimeter is given. Find the side x.")

    def split(name, seeds):
        rng = random.Random(name)
        return [
            problem(
                f"{name}-{seed}",
                rng.choice(wordings),
                rng.choice("ABCD"),
                tuple(map(str, rng.sample(range(10, 90), 4))),
                images=(draw(folder / f"{name}-{seed}.png", seed, str(rng.randint(10, 99))),),
            )
            for seed in seeds
        ]

    return folder, split("train", range(120)), split("test", range(1000, 1040))


@pytest.mark.slow
def test_few_wordings_do_not_leak_with_images_or_without(figures):
    folder, train, test = figures
    assert not find_leaks(train, test, folder).blocking
    assert not find_leaks(train, test).blocking


@pytest.mark.slow
def test_minigeo_does_not_leak(tmp_path):
    (tmp_path / "images").mkdir()
    splits = {"train": [], "test": []}
    for split, n in (("train", 600), ("test", 200)):
        for item, image in generate(split, n):
            image.save(tmp_path / item.images[0])
            splits[split].append(item)
    assert not find_leaks(splits["train"], splits["test"], tmp_path).blocking
    assert not find_leaks(splits["train"], splits["test"]).blocking


@pytest.mark.slow
def test_planted_copies_are_found_all_and_alone(figures):
    folder, train, test = figures
    planted = []
    for position, item in enumerate(test[:20]):
        with Image.open(folder / item.images[0]) as image:
            image.convert("RGB").save(folder / f"copy{position}.jpg", quality=80)
        planted.append(replace(item, id=f"copy{position}", images=(f"copy{position}.jpg",)))
    report = find_leaks([*train, *planted], test, folder)
    assert report.train_ids() == {item.id for item in planted}
    assert report.test_ids() == {"test": frozenset(item.id for item in test[:20])}
    assert clean([*train, *planted], report) == train


@pytest.mark.slow
def test_the_order_of_problems_changes_nothing(figures):
    folder, train, test = figures
    train = [*train, *(replace(item, id=f"copy-{item.id}") for item in test[:5])]
    expected = find_leaks(train, test, folder).to_json()
    rng = random.Random(1)
    for _ in range(2):
        shuffled = rng.sample(train, len(train)), rng.sample(test, len(test))
        assert find_leaks(*shuffled, folder).to_json() == expected


def test_many_copies_name_every_id_without_every_pair():
    train = [problem(f"a{i:03}") for i in range(300)]
    report = find_leaks(train, [problem(f"b{i:03}") for i in range(200)])
    assert len(report.train_ids()) == 300
    assert len(report.test_ids()["test"]) == 200
    assert len(report.leaks) == 300 + 200 - 1


@pytest.mark.slow
def test_thousands_of_problems_of_one_wording_are_compared_by_their_numbers():
    question = "Tom has {} apples and buys {} more. How many apples does he have after that?"
    train = [problem(f"a{i}", question.format(i, i % 7), str(i + i % 7), ()) for i in range(4000)]
    test = [problem(f"b{i}", question.format(i, i % 7), str(i + i % 7), ()) for i in range(3500, 4700)]
    started = time.process_time()
    report = find_leaks(train, test)
    assert time.process_time() - started < 5  # 0.5 s; every pair would take 10
    assert len(report.test_ids()["test"]) == 500
    assert {kind: count["pairs"] for kind, count in report.counts().items() if count["pairs"]} == {
        "text": 500,
        "other_values": 700,
    }


@pytest.mark.parametrize(("train", "test"), [([], []), ([], [problem("b")]), ([problem("a")], [])])
def test_empty_sets_do_not_leak(train, test):
    report = find_leaks(train, test)
    assert not report.blocking
    assert report.leaks == ()
    assert (report.n_train, report.n_test) == (len(train), {"test": len(test)})


def vista(identifier, source):
    return problem(identifier, f"question {identifier}", origin=Origin(source, "MathVista"))


@pytest.mark.parametrize(
    ("source", "test_source", "family"),
    [
        ("GeoQA", "GeoQA+", "GeoQA"),
        ("leonardPKU/GEOQA_R1V_Train_8K", "UniGeo", "GeoQA"),
        ("hiyouga/geometry3k", "Geometry3K", "Geometry3K"),
        ("Inter-GPS", "Geometry3K", "Geometry3K"),
        ("geos", "GEOS", "GEOS"),
        ("minigeo", "GeoQA+", None),
        ("GeoQA", "Geometry3K", None),
        ("GeoQA", "ChartQA", None),
    ],
)
def test_sources_of_mathvista(source, test_source, family):
    train = [problem("a", origin=Origin(source)), problem("b", origin=Origin(source))]
    report = find_leaks(train, [vista("v", test_source)])
    assert [(o.family, o.n_train, o.n_test) for o in report.sources] == ([(family, 2, 1)] if family else [])
    assert report.blocking == bool(family)
    turned = find_leaks([vista("v", test_source)], train)  # to train on MathVista and test on GeoQA leaks as well
    assert turned.blocking == bool(family)


def test_rows_written_before_there_was_an_origin():
    about = {"source": "UniGeo", "category": "math-targeted-vqa"}
    for meta in (about, {"metadata": about}, {"mathvista": {"pid": "1", "metadata": about}}):
        assert origin_of(problem("v", meta=meta)) == Origin("UniGeo", "MathVista")
    assert origin_of(problem("a", meta={"source": " GeoQA "})) == Origin("GeoQA")
    for meta in ({}, {"source": 3}, {"metadata": "text"}, {"mathvista": None}):
        assert origin_of(problem("a", meta=meta)) is None
        assert origin_of(problem("a", meta=meta), "GeoQA") == Origin("GeoQA")
    assert origin_of(problem("a", meta=about, origin=Origin("GeoQA"))) == Origin("GeoQA")


def test_sources_can_be_named_and_allowed():
    train, test = [problem("a", "Something else")], [vista("v", "UniGeo"), vista("w", "UniGeo")]
    assert not find_leaks(train, test).blocking
    report = find_leaks(train, test, train_source="geoqa")
    assert report.blocking
    assert "2 problems of test are from UniGeo" in report.summary()
    with pytest.raises(DataError, match="every training problem leaks"):
        clean(train, report, train_source="geoqa")
    allowed = find_leaks(train, test, train_source="geoqa", allow_sources=["GeoQA"])
    assert not allowed.blocking
    assert len(allowed.sources) == 1  # still reported
    with pytest.raises(DataError, match="known: GeoQA, Geometry3K, GEOS"):
        find_leaks(train, test, allow_sources=["geoqa"])


@pytest.mark.parametrize("own", [Origin("geoqa"), Origin("UniGeo", "MathVista")])
def test_a_data_set_may_be_tested_on_its_own_test_split(own):
    assert not find_leaks([problem("a", "One question", origin=own)], [problem("b", "Another", origin=own)]).sources


# ---- prepared folders -----------------------------------------------------------------------------------------------


def mathvista_row(pid: str, source: str, category="math-targeted-vqa") -> dict:
    return {
        "pid": pid, "question": f"How wide is shape {pid}?", "image": None, "choices": ["1", "2"], "unit": None,
        "precision": None, "answer": "2", "question_type": "multi_choice", "answer_type": "text",
        "metadata": {"source": source, "category": category, "language": "english"},
    }  # fmt: skip


def plain_rows(n: int = 20, **more) -> list[dict]:
    return [{"id": f"train-{i}", "question": f"What is {i} + {i}?", **more} for i in range(n)]


GEOQA_ROWS = plain_rows(choices=["1", "2"], answer="A")
GEOMETRY3K_ROWS = [
    {"id": i, "images": [{"bytes": png("red", (20, 10 + i)), "path": None}], "problem": f"<image>Find {i}.",
     "answer": "1", "choices": ["1", "2"], "ground_truth": "A"}
    for i in range(20)
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "rows", "flags", "leaks"),
    [
        ("geoqa", GEOQA_ROWS, [], "GeoQA; 2 problems of test are from GeoQA+"),
        ("geometry3k", GEOMETRY3K_ROWS, [], "Geometry3K; 1 problems of test are from Geometry3K"),
        ("table", plain_rows(answer="3"), [], None),
        ("table", plain_rows(answer="3"), ["--origin", "GeoQA"], "GeoQA; 2 problems of test are from GeoQA+"),
        ("table", plain_rows(answer="3", origin="Geo170K"), [], "Geo170K; 2 problems of test are from GeoQA+"),
        ("table", plain_rows(answer="3", src="GeoQA"), ["--map", "origin=src"], "GeoQA; 2 problems of test are"),
        ("table", plain_rows(answer="3", source="UniGeo"), [], "UniGeo; 2 problems of test are from GeoQA+"),
    ],
)
def test_a_prepared_folder_names_its_sources(source, rows, flags, leaks, tmp_path, capsys):
    """Through `prepare` alone, as users make their folders."""
    raw, tables = tmp_path / "raw", tmp_path / "vista.json"
    raw.mkdir()
    if source == "geometry3k":
        pq.write_table(pa.Table.from_pylist(rows), raw / "train.parquet")
    else:
        write_lines(raw / "train.jsonl", rows)
    vista_rows = [*(mathvista_row(f"{i}", "GeoQA+") for i in range(2)), mathvista_row("2", "Geometry3K")]
    write_json(tables, {row["pid"]: row for row in [*vista_rows, mathvista_row("3", "FigureQA", "general-vqa")]})
    made, mine = str(tmp_path / "MV"), str(tmp_path / "mine")
    assert prepare_main(["mathvista", "--raw", str(tables), "--split", "testmini=test", "--out", made]) == 0
    borrow = ["--split", "train", "--borrow", f"test={made}"]
    assert prepare_main([source, "--raw", str(raw), *borrow, "--out", mine, *flags]) == 0
    capsys.readouterr()
    assert main(["--train", mine, "--test", mine]) == (1 if leaks else 0)
    printed = capsys.readouterr().out
    assert ("LEAK source" in printed) == bool(leaks)
    assert (leaks or "no blocking leaks found") in printed
    family = "Geometry3K" if source == "geometry3k" else "GeoQA"
    assert main(["--train", mine, "--test", mine, "--allow-source", family]) == 0


@pytest.mark.slow
def test_the_former_command(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "data_process.curate.leakage", "--help"], capture_output=True, text=True, check=True
    )
    assert "--train-source" in done.stdout
    assert done.stderr == "note: this command is now `python -m data_process.decontamination`\n"


@pytest.mark.parametrize("origin", [3, [], ["a", "b", "c"], ["a", 1], " ", {"dataset": "GeoQA"}])
def test_an_origin_that_names_no_data_set(origin, tmp_path):
    row = {"id": "a", "question": "1 + 1?", "answer": "2", "origin": origin}
    with pytest.raises(DataError, match="line 1, problem 'a': 'origin' must name a data set"):
        load_problems(write_lines(tmp_path / "a.jsonl", [row]), tmp_path)


def test_an_origin_is_written_and_read_back(tmp_path):
    for origin in (None, Origin("GeoQA"), Origin("UniGeo", "MathVista")):
        row = to_json(problem("a", origin=origin))
        assert ("origin" in row) == (origin is not None)  # rows without one keep their bytes, and runs their digests
        write_jsonl(tmp_path / "a.jsonl", [row])
        assert load_problems(tmp_path / "a.jsonl", tmp_path)[0].origin == origin


def test_guard_keeps_test_sets_apart():
    report = guard([problem("a")], {"dev": [problem("d", "Nothing of the kind")], "test": [problem("t")]})
    assert report.test_ids() == {"dev": frozenset(), "test": frozenset({"t"})}
    assert json.loads(json.dumps(report.to_json()))["leaked_test"] == {"dev": 0, "test": 1}
    with pytest.raises(DataError, match="cannot be named 'train'"):
        guard([], {"train": []})


def test_a_folder_of_images_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_leaks([problem("a", images=("a.png",))], [], tmp_path / "absent")


def test_command_line(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    draw(tmp_path / "data" / "1.png", 1)
    draw(tmp_path / "data" / "2.png", 2)
    leaking, fine = problem("a", images=("1.png",)), problem("b", "How long is the side D E ?", images=("2.png",))
    write_jsonl(tmp_path / "data" / "train.jsonl", map(to_json, [leaking, fine]))
    write_jsonl(tmp_path / "data" / "test.jsonl", [to_json(replace(leaking, id="t"))])
    both = ["--train", str(tmp_path / "data"), "--test", str(tmp_path / "data" / "test.jsonl")]

    assert main([*both, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert (printed["blocking"], printed["counts"]["item"]["pairs"]) == (True, 1)

    assert main([*both, "--write-clean", str(tmp_path / "data" / "clean.jsonl")]) == 1
    assert "LEAK item" in capsys.readouterr().out
    assert load_problems(tmp_path / "data" / "clean.jsonl", tmp_path) == [fine]
    assert main(["--train", str(tmp_path / "data" / "clean.jsonl"), *both[2:]]) == 0
    assert main(["--train", str(tmp_path / "nothing.jsonl"), *both[2:]]) == 2
    assert "no such file" in capsys.readouterr().err


GEOQA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "geoqa"


@pytest.mark.slow
@pytest.mark.skipif(not GEOQA.is_dir(), reason="the real GeoQA questions are not beside the repository")
def test_real_geoqa_train_gives_away_test_questions():
    """Rewritten copies that a comparison of strings does not see; every one of the pairs was read."""
    train = [
        Problem(row["id"], row["question"], row["answer"], tuple(row["choices"]), (row["image"],))
        for row in read_jsonl(GEOQA / "train_questions.jsonl")
    ]
    test = [
        Problem(row["id"], row["question"], str(row["gold"]), images=(f"{row['id']}.png",), answer_type="text")
        for row in read_jsonl(GEOQA / "qwen2vl_7b_instruct_test_outputs.jsonl")
    ]
    report = find_leaks(train, test)
    pairs = {(leak.train_id, leak.test_id) for leak in report.leaks if leak.blocking}
    assert {("train-3046", "test-410"), ("train-944", "test-75"), ("train-1978", "test-103")} <= pairs
    assert 40 <= len(report.test_ids()["test"]) <= 60


@pytest.mark.parametrize(
    ("train", "test", "kind"),
    [
        (("a", "b"), ("a", "b"), "item"),
        (("a", "b"), ("near-a", "b"), "item"),
        (("a", "b"), ("near-a", "near-b"), "item"),
        (("a", "b"), ("b", "a"), "other_image"),
        (("a", "b"), ("a", "c"), "other_image"),  # one image in common is not the same problem
        (("a", "b"), ("a",), "other_image"),
        (("a",), ("a", "b"), "other_image"),
        (("a", "b", "c"), ("a", "b"), "other_image"),
    ],
)
def test_several_images_match_pairwise_in_order(tmp_path, train, test, kind):
    for seed, name in enumerate("abc"):
        draw(tmp_path / f"{name}.png", seed, str(37 + 11 * seed))
        with Image.open(tmp_path / f"{name}.png") as image:
            image.resize([side * 9 // 10 for side in image.size]).save(tmp_path / f"near-{name}.png")

    def shown(identifier: str, names: tuple[str, ...]) -> Problem:
        return problem(identifier, images=tuple(f"{name}.png" for name in names))

    report = find_leaks([shown("x", train)], [shown("y", test)], tmp_path)
    assert [leak.kind for leak in report.leaks] == [kind]
    assert report.blocking == (kind == "item")


def test_marks_give_the_order_and_are_no_words(tmp_path):
    """The same problem with its images listed in another order, and marked in another way."""
    for seed, name in enumerate("ab"):
        draw(tmp_path / f"{name}.png", seed, str(37 + 11 * seed))
    train = problem("x", f"In <image> and <image>: {QUESTION}", images=("a.png", "b.png"))
    test = problem("y", f"In <image 2> and <image_1>: {QUESTION}", images=("b.png", "a.png"))
    assert [leak.kind for leak in find_leaks([train], [test], tmp_path).leaks] == ["item"]


def test_one_of_several_images_cannot_be_compared(tmp_path):
    draw(tmp_path / "a.png", 1, "37")
    train, test = (problem(name, images=("a.png", "gone.png")) for name in "xy")
    report = find_leaks([train], [test], tmp_path)
    assert report.uncompared == {"train": {"missing": 1}, "test": {"missing": 1}}
    assert [leak.kind for leak in report.leaks] == ["unseen"]
