"""Benchmarks that are only tested on: small files of each published form, prepared, asked and judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_process.judging import judge
from data_process.prompts import cot, prompt_set, qa
from data_process.schema import DataError
from tests.data_process.raw_files import load, parquet, picture, png, prepared, write_json, write_lines

LOSSY = {"bad_share": 0.9}


# ---- MathVision ----

LETTERS = list("ABCDE")


def mathvision_row(number: int, **more: object) -> dict:
    return {
        "id": str(number), "question": "How many dots does the dice show?\n<image1>", "options": [], "answer": "6",
        "solution": None, "level": 1, "subject": "counting", "image": f"images/{number}.jpg", **more,
    }  # fmt: skip


MATHVISION = [
    mathvision_row(1),
    mathvision_row(2, question="Which shape fits?\n<image1>", options=LETTERS, answer="D", level=3, subject="logic"),
    mathvision_row(3, question="How long is <image1> beside <image2>?", options=["1", "2", "3", "4", "5"], answer="B"),
    mathvision_row(4, question="Which view is right?\n<image1>\n<image2>", answer="C", subject="solid geometry"),
    mathvision_row(5, answer="\frac{3}{4}", subject="algebra"),
    mathvision_row(6, answer="$\\boxed{4 \\pi}$", subject="algebra"),
    mathvision_row(7, options=["<image2>", "<image3>", "<image4>", "<image5>", "<image6>"], answer="E"),
    mathvision_row(8, answer="11 "),
    mathvision_row(9, question="<image1>", options=[""] * 5, answer="A"),
]


@pytest.fixture(params=["lines", "parquet"])
def mathvision(request, tmp_path):
    if request.param == "lines":
        write_lines(tmp_path / "raw/test.jsonl", MATHVISION)
        for row in MATHVISION:
            picture(tmp_path / "raw" / row["image"], f"#0000{int(row['id']):02x}")
    else:
        rows = [{**row, "decoded_image": {"bytes": png(f"#0000{int(row['id']):02x}")}} for row in MATHVISION]
        parquet(tmp_path / "raw/data/test-00000-of-00001.parquet", rows)
    return tmp_path / "raw"


def test_mathvision(mathvision, tmp_path):
    card = prepared("mathvision", mathvision, tmp_path / "out")
    number, drawn, choice, unlisted, fraction, surd, marked, padded, blank = load(tmp_path / "out", "test")
    assert card["prompts"] == "mathvision"
    assert (number.answer, number.answer_type, number.question) == ("6", "number", "How many dots does the dice show?")
    assert (drawn.choices, drawn.answer, drawn.choices_in_image) == (tuple("ABCDE"), "D", True)
    assert (choice.answer, choice.choices_in_image) == ("B", False)
    assert choice.question == "How long is image 1 beside image 2?"
    assert (unlisted.choices, unlisted.answer, unlisted.choices_in_image) == (tuple("ABCDE"), "C", True)
    assert [p.answer for p in (fraction, surd, padded)] == ["\\frac{3}{4}", "4 \\pi", "11"]
    assert (blank.choices, blank.choices_in_image) == (tuple("ABCDE"), True)
    assert blank.question == "The question is shown in the image."
    assert marked.choices == tuple(f"image {n}" for n in range(2, 7))
    assert (drawn.meta["level"], drawn.meta["subject"]) == (3, "logic")
    note = "no options; the answer is the letter of one in the image"
    assert card["splits"]["test"]["notes"][note]["ids"] == ["4"]
    assert all(p.images and p.origin.dataset == "MathVision" for p in (number, drawn))
    for problem, said in ((drawn, "So it is \\boxed{D}."), (fraction, "\\boxed{0.75}"), (surd, "Answer: 4π")):
        assert judge(said, problem).correct
    assert not judge("\\boxed{C}", drawn).correct


def test_mathvision_asks_as_published(mathvision, tmp_path):
    """mathllm/MATH-V: the instruction first, options in brackets, and none where they are drawn."""
    prepared("mathvision", mathvision, tmp_path / "out")
    wording = prompt_set("mathvision")
    _, drawn, choice, *_ = load(tmp_path / "out", "test")
    head = (
        'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
        'question, only one letter is allowed in the "\\boxed{}".\n'
    )
    assert cot(choice, wording) == head + "How long is image 1 beside image 2?\n(A) 1\n(B) 2\n(C) 3\n(D) 4\n(E) 5"
    assert cot(drawn, wording) == head + "Which shape fits?"
    assert qa(drawn, wording) == "Which shape fits?\nAnswer the question using a single word or phrase."


# ---- MathVerse ----

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
HINT = "Please first conduct reasoning, and then answer the question and provide "
LETTER_HINT = HINT + "the correct option letter, e.g., A, B, C, D, at the end.\n"


def mathverse_rows(number: int, full: str, answer: str, kind: str, **metadata: str) -> list[dict]:
    meta = {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry", "subfield": "Angle", **metadata}
    rows = []
    for index, version in enumerate(VERSIONS):
        question = "" if version == "Vision Only" else full
        rows.append(
            {"sample_index": str(5 * number + index), "problem_index": str(number), "problem_version": version,
             "question": question, "image": f"images_version_{index}/image_{number}.png", "answer": answer,
             "question_type": kind, "metadata": meta, "query_wo": "-", "query_cot": "-", "question_for_eval": full}
        )  # fmt: skip
    return rows


CHOICE = "AB and CD are parallel. Angle 2 is ()\nChoices:\nA:30°\nB:45°\nC:60°"
MATHVERSE = [
    *mathverse_rows(1, CHOICE, "C", "multi-choice"),
    *mathverse_rows(2, "Find the area.", "Area $=9 \\pi \\mathrm{cm}^{2}$", "free-form", subject="Solid Geometry"),
    *mathverse_rows(3, "What is it?\nChoices:\nA.$x>0$\nB.$x<0$", "(B)", "multi-choice", source="Functions_collected"),
    *mathverse_rows(4, "True or false: it is.\nChoice:\nA. True\nB. False", "False", "multi-choice"),
]


@pytest.fixture(params=["json", "parquet"])
def mathverse(request, tmp_path):
    if request.param == "json":
        for row in MATHVERSE:
            picture(tmp_path / "raw/images" / row["image"], f"#{hash(row['image']) & 0xFFFFFF:06x}")
        return write_json(tmp_path / "raw/testmini.json", MATHVERSE)
    return parquet(tmp_path / "raw/testmini.parquet", [{**row, "image": {"bytes": png()}} for row in MATHVERSE])


def test_mathverse(mathverse, tmp_path):
    card = prepared("mathverse", mathverse, tmp_path / "out", "testmini=test")
    problems = {p.id: p for p in load(tmp_path / "out", "test")}
    assert len(problems) == 20
    dominant, only = problems["1-text-dominant"], problems["1-vision-only"]
    assert (dominant.question, dominant.choices, dominant.answer, dominant.choices_in_image) == (
        "AB and CD are parallel. Angle 2 is ()", ("30°", "45°", "60°"), "C", False,
    )  # fmt: skip
    assert (only.question, only.choices, only.choices_in_image) == (
        "The question is shown in the image.", ("30°", "45°", "60°"), True,
    )  # fmt: skip
    assert (dominant.origin.dataset, dominant.origin.collection) == ("GeoQA", "MathVerse")
    assert {"query_cot", "metadata"}.isdisjoint(dominant.meta)
    assert (dominant.meta["problem_version"], dominant.meta["subfield"]) == ("Text Dominant", "Angle")
    assert [problems[f"{n}-vision-only"].answer for n in (3, 4)] == ["B", "B"]
    assert card["splits"]["test"]["answer_types"]["choice"] == 15
    assert judge("The arcs give 9π.\nAnswer: 9π cm²", problems["2-vision-only"]).correct
    assert judge("So angle 2 is 60°, and the answer is 60°.", only).correct  # the texts are known to the judge


def test_mathverse_asks_as_published(mathverse, tmp_path):
    prepared("mathverse", mathverse, tmp_path / "out", "testmini=test")
    problems = {p.id: p for p in load(tmp_path / "out", "test")}
    wording = prompt_set("mathverse")
    assert cot(problems["1-text-lite"], wording) == f"{LETTER_HINT}Question: {CHOICE}"
    assert cot(problems["1-vision-only"], wording) == f"{LETTER_HINT}Question: The question is shown in the image."
    assert cot(problems["2-text-lite"], wording) == (
        f"{HINT}the final value, e.g., 1, 2.5, 300, at the end.\nQuestion: Find the area."
    )
    assert qa(problems["2-text-lite"], wording).startswith("Please directly answer the question and provide the final")


def test_mathverse_text_only_and_older_files(tmp_path):
    text_only = {**MATHVERSE[0], "problem_version": "Text Only", "image": ""}
    older = {k: v for k, v in MATHVERSE[4].items() if k != "question_for_eval"}
    for row in (older,):
        picture(tmp_path / "images" / row["image"])
    raw = write_json(tmp_path / "testmini_text_only.json", [text_only, older])
    card = prepared("mathverse", raw, tmp_path / "out", "testmini_text_only=test")
    alone, drawn = load(tmp_path / "out", "test")
    assert (alone.id, alone.images, alone.answer) == ("1-text-only", (), "C")
    assert (drawn.choices, drawn.answer, drawn.choices_in_image) == (tuple("ABCD"), "C", True)
    assert "the texts of the choices in the image are unknown" in card["splits"]["test"]["notes"]


# ---- We-Math ----


def wemath_row(group: str, part: str, answer: str = "B", **more: object) -> dict:
    steps = group.partition("_")[0]
    number = group.partition("_")[2]
    return {
        "ID": group, "split": "testmini", "knowledge concept": "Circumference of Circles",
        "question": f"The radius in figure {number}, part {part}, is ( ) cm.",
        "option": "A. 1 cm;B. 1.5, 2 cm; C. 3.14;    D. 6.28.; E. No correct answer", "answer": answer,
        "image_path": f"{steps}/image/{number}-{part}.png", "key": f"{steps}_{part}", "question number": 1,
        "knowledge concept description": "Circumference of Circles:\nC is 2πr.", **more,
    }  # fmt: skip


WEMATH = [
    *(wemath_row("2steps_1", part) for part in ("1", "2", "multi")),
    *(wemath_row("3steps_1", part, "E") for part in ("1", "2", "3", "multi")),
]


def wemath_folder(tmp_path: Path, rows: list[dict]) -> Path:
    for row in rows:
        if isinstance(row.get("image_path"), str):
            picture(tmp_path / "raw" / row["image_path"])
    write_json(tmp_path / "raw/testmini.json", rows)
    return tmp_path / "raw"


def test_wemath(tmp_path):
    card = prepared("wemath", wemath_folder(tmp_path, WEMATH), tmp_path / "out")
    problems = load(tmp_path / "out", "test")
    assert [p.id for p in problems] == [
        "2steps_1-1", "2steps_1-2", "2steps_1-multi", "3steps_1-1", "3steps_1-2", "3steps_1-3", "3steps_1-multi",
    ]  # fmt: skip
    step, whole = problems[0], problems[2]
    assert step.choices == ("1 cm", "1.5, 2 cm", "3.14", "6.28.", "No correct answer")
    assert (step.answer, problems[-1].answer) == ("B", "E")
    assert [p.meta["steps"] for p in problems] == ["one-step"] * 2 + ["two-step"] + ["one-step"] * 3 + ["three-step"]
    assert (step.meta["concepts"], whole.meta["concepts"]) == (["Circumference of Circles"], [])
    assert (step.meta["ID"], step.meta["key"]) == ("2steps_1", "2steps_1")
    assert step.images == ("images/2steps/image/1-1.png",)
    assert card["splits"]["test"]["items"] == 7


def test_wemath_asks_as_published(tmp_path):
    prepared("wemath", wemath_folder(tmp_path, WEMATH), tmp_path / "out")
    assert cot(load(tmp_path / "out", "test")[0], prompt_set("wemath")) == (
        "Now, we require you to solve a multiple-choice math question. Please briefly describe your thought process "
        "and provide the final answer(option).\nQuestion: The radius in figure 1, part 1, is ( ) cm.\n"
        "Option: A. 1 cm; B. 1.5, 2 cm; C. 3.14; D. 6.28.; E. No correct answer;\n"
        "Regarding the format, please answer following the template below, and be sure to include two <> symbols:\n"
        "<Thought process>: <<your thought process>> <Answer>: <<your option>>"
    )


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("<Thought process>: <<It is 1 cm, no: 1.5>> <Answer>: <<B>>", "B"),
        ("<Thought process>: <<so>> <Answer>: <<B. 1.5, 2 cm>>", "B"),
        ("<Thought process>: <<so>>\n<Answer>:<<c>>.", "C"),
        ("Thought process: so\nAnswer: <<E>>", "E"),
        ("<Thought process>: <<so>> <Answer>: <<A>> or <<B>>", None),
        ("<Thought process>: <<so>> <Answer>: <<>>", None),
        ("<Thought process>: <<B is what it should be", None),
    ],
)
def test_the_answer_template_of_wemath(tmp_path, said, letter):
    prepared("wemath", wemath_folder(tmp_path, WEMATH), tmp_path / "out")
    assert judge(said, load(tmp_path / "out", "test")[0]).extracted == letter


# ---- MMMU ----


def mmmu_row(identifier: str, **more: object) -> dict:
    return {
        "id": identifier, "question": "Which note is shown in <image 1>?",
        "options": "['do', \"re'\", 'mi', 'fa']", "explanation": "", "answer": "B", "topic_difficulty": "Easy",
        "question_type": "multiple-choice", "subfield": "Harmony", "img_type": "['Sheet Music']",
        "image_1": {"bytes": png(), "path": "a.png"}, **{f"image_{n}": None for n in range(2, 8)}, **more,
    }  # fmt: skip


OPEN = {"options": "[]", "question_type": "open", "question": "How large is it in <image 1>?"}
MMMU = {
    "Music": [mmmu_row("validation_Music_1"), mmmu_row("validation_Music_2", **OPEN, answer="['24/7', '3.429']")],
    "Art_Theory": [mmmu_row("validation_Art_Theory_1", **OPEN, answer="Baroque"), mmmu_row("validation_Art_Theory_2")],
}


@pytest.fixture(params=["folders", "merged"])
def mmmu(request, tmp_path):
    tables = MMMU if request.param == "folders" else {"data": [row for rows in MMMU.values() for row in rows]}
    for folder, rows in tables.items():
        for split in ("dev", "validation", "test"):
            named = [{**row, "id": row["id"].replace("validation", split)} for row in rows]
            secret = [{**row, "answer": "?"} for row in named] if split == "test" else named
            parquet(tmp_path / f"raw/{folder}/{split}-00000-of-00001.parquet", secret)
    return tmp_path / "raw"


def test_mmmu(mmmu, tmp_path):
    prepared("mmmu", mmmu, tmp_path / "out")
    problems = {p.id: p for p in load(tmp_path / "out", "test")}
    choice, several, text = (problems[f"validation_{n}"] for n in ("Music_1", "Music_2", "Art_Theory_1"))
    assert (choice.choices, choice.answer) == (("do", "re'", "mi", "fa"), "B")
    assert (several.answer, several.alternatives, several.answer_type) == ("24/7", ("3.429",), "number")
    assert (text.answer, text.answer_type, text.choices) == ("Baroque", "text", ())
    assert (text.meta["subject"], text.meta["discipline"]) == ("Art_Theory", "Art and Design")
    assert choice.meta["subfield"] == "Harmony"
    assert judge("Answer: 3.429", several).correct
    assert judge("Answer: 24/7", several).correct
    assert not judge("Answer: 3.5", several).correct
    wording = prompt_set("mmmu")
    assert qa(choice, wording).endswith("(D) fa\n\nAnswer with the option's letter from the given choices directly.")
    assert cot(text, wording).endswith("where ANSWER is a single word, a phrase or a value.")


def test_mmmu_with_several_images(tmp_path):
    """They keep their places in the question and in the options."""
    second = {"bytes": png("blue"), "path": "b.png"}
    both = mmmu_row("validation_Music_1", question="<image 1> Which follows?", image_2=second,
                    options="['<image 2>', 'none', 'both', 'it is drawn in <image 1>']")  # fmt: skip
    parquet(tmp_path / "raw/Music/validation-00000-of-00001.parquet", [both])
    prepared("mmmu", tmp_path / "raw", tmp_path / "out", "validation=test")
    (problem,) = load(tmp_path / "out", "test")
    assert len(problem.images) == 2
    asked = cot(problem, prompt_set("mmmu"))
    assert asked.startswith(" Which follows?\n\n(A) <image>\n(B) none")
    assert "(D) it is drawn in image 1" in asked


@pytest.mark.parametrize("split", ["validation", "dev"])
def test_one_split_of_mmmu_is_not_taken_for_another(mmmu, tmp_path, split):
    prepared("mmmu", mmmu, tmp_path / "out", f"{split}=test")
    problems = load(tmp_path / "out", "test")
    assert [p.id.partition("_")[0] for p in problems] == [split] * 4


def test_the_test_split_of_mmmu_has_no_answers(mmmu, tmp_path):
    card = prepared("mmmu", mmmu, tmp_path / "out", "test")
    assert list(card["splits"]) == ["questions"]
    assert card["splits"]["questions"]["items"] == 4
    with pytest.raises(DataError, match="are not public"):
        prepared("mmmu", mmmu, tmp_path / "other", "test=test")


# ---- Bad rows ----

BAD = {
    "mathvision without a question": ("mathvision", {**MATHVISION[0], "question": ""}, "'question' must be text"),
    "mathvision letter outside": ("mathvision", {**MATHVISION[1], "answer": "F"}, "outside the choices"),
    "mathvision options as a number": ("mathvision", {**MATHVISION[1], "options": 5}, "'options' must be a list"),
    "mathverse without a version": ("mathverse", {**MATHVERSE[0], "problem_version": None}, "'problem_version'"),
    "mathverse without metadata": ("mathverse", {**MATHVERSE[0], "metadata": None}, "'metadata' an object"),
    "mathverse two letters": ("mathverse", {**MATHVERSE[0], "answer": "A\nC"}, "outside the choices"),
    "mathverse without choices": ("mathverse", {**MATHVERSE[0], "question": "Angle 2 is ()"}, "no choices"),
    "mathverse unknown type": ("mathverse", {**MATHVERSE[0], "question_type": "essay"}, "'question_type' must be"),
    "wemath without a key": ("wemath", {**WEMATH[0], "key": None}, "'key' must be text"),
    "wemath third step of two": ("wemath", {**WEMATH[0], "key": "2steps_3"}, "'key' must name a step"),
    "wemath letter outside": ("wemath", {**WEMATH[0], "answer": "F"}, "outside the choices"),
    "wemath without options": ("wemath", {k: v for k, v in WEMATH[0].items() if k != "option"}, "no column 'option'"),
    "mmmu unknown subject": ("mmmu", mmmu_row("validation_Cooking_1"), "must name a subject"),
    "mmmu options cut off": ("mmmu", mmmu_row("validation_Music_3", options="['do', 're"), "choices look like JSON"),
    "mmmu letter outside": ("mmmu", mmmu_row("validation_Music_3", answer="K"), "outside the choices"),
}
GOOD = {"mathvision": MATHVISION[0], "mathverse": MATHVERSE[1], "wemath": WEMATH[1], "mmmu": MMMU["Music"][0]}
SPLIT = {"mathvision": "test", "mathverse": "testmini", "wemath": "testmini", "mmmu": "validation"}


def one_table(name: str, folder: Path, rows: list[dict]) -> Path:
    """The rows as one file in which every problem has its image."""
    if name == "mmmu":
        rows = [{k: v for k, v in row.items() if not k.startswith("image_")} | {"image_1": "a.png"} for row in rows]
        picture(folder / "a.png")
    for row in rows:
        for column in ("image", "image_path"):
            if row.get(column):
                picture(folder / row[column])
    return write_lines(folder / f"{SPLIT[name]}.jsonl", rows)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_counted_and_named(tmp_path, case):
    name, row, message = BAD[case]
    raw = one_table(name, tmp_path / "raw", [GOOD[name], row])
    card = prepared(name, raw, tmp_path / "out", f"{SPLIT[name]}=test", **LOSSY)
    assert card["splits"]["test"]["items"] == 1
    (left_out,) = card["left_out"]
    assert "row 2" in left_out or "line 2" in left_out
    assert message in left_out
    assert len(left_out) < 400
    with pytest.raises(DataError, match="1 of 2 rows cannot be used"):
        prepared(name, raw, tmp_path / "strict", f"{SPLIT[name]}=test")


@pytest.mark.parametrize("name", sorted(SPLIT))
def test_a_torn_image_is_named(tmp_path, name):
    raw = one_table(name, tmp_path / "raw", [GOOD[name]])
    (image,) = (path for path in (tmp_path / "raw").rglob("*") if path.suffix in (".png", ".jpg"))
    image.write_bytes(png()[:40])
    with pytest.raises(DataError, match=r"1 of 1 problems have no usable image"):
        prepared(name, raw, tmp_path / "out", f"{SPLIT[name]}=test")
