"""MiniGeo: same seed, same bytes; nothing shared between splits; every step and answer true; no hint in the text."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import operator
import re
import statistics
from collections import Counter

import PIL
import pytest
from PIL import Image

from data_process.io import load_problems
from data_process.judging import judge
from data_process.schema import Problem
from data_process.sources import minigeo
from data_process.sources.minigeo import BY_NAME, HARD, SIZES, VARIANTS, attainable, deal, generate
from data_process.sources.minigeo.__main__ import main

SPLITS = ("base", "train", "dev", "test")


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Problem, Image.Image]]:
    """A dozen problems of each variant: (problem, image)."""
    return list(generate("train", 12 * len(VARIANTS)))


@pytest.fixture(scope="module")
def unseen() -> dict[str, list[Problem]]:
    """Train and test problems, whose images are drawn and thrown away."""
    return {split: [p for p, _ in generate(split, n)] for split, n in (("train", 1500), ("test", 800))}


# ---- the same, and apart ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_bytes(tmp_path):
    sizes = {"train": 10, "dev": 4, "test": 6}
    cards = [minigeo.write(tmp_path / name, sizes, seed) for name, seed in (("a", 1), ("b", 1), ("c", 0))]
    files = [
        {str(f.relative_to(tmp_path / name)): f.read_bytes() for f in (tmp_path / name).rglob("*") if f.is_file()}
        for name in "abc"
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 20 + 4
    assert cards[0] == cards[1]
    assert cards[0]["digest"] != cards[2]["digest"]
    assert {n for n in files[0] if files[0][n] == files[2][n]} == set()


@pytest.mark.slow
def test_fewer_problems_of_a_split_do_not_change_another(tmp_path):
    minigeo.write(tmp_path / "a", {"train": 4, "dev": 6}, 0)
    minigeo.write(tmp_path / "b", {"train": 9, "dev": 6}, 0)
    assert (tmp_path / "a/dev.jsonl").read_bytes() == (tmp_path / "b/dev.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_splits_are_disjoint_and_large_enough(seed):
    """Every parameter tuple is dealt once, so the splits of any size, the default ones too, share none."""
    dealt = deal(seed)
    assert set(dealt) == {*SPLITS, "hard"}
    assert set(dealt["hard"]) == {variant.name for variant in HARD}
    for variant in VARIANTS:
        tuples = [params for split in SPLITS for params in dealt[split][variant.name]]
        assert len(set(tuples)) == len(tuples), variant.name
        low, high = variant.answers
        assert all(low <= variant.solve(params)[1] <= high for params in tuples)
        assert all(dealt[split][variant.name] for split in SPLITS), f"a split never sees {variant.name}"
    for split, n in minigeo.DEFAULT_SIZES.items():
        assert sum(map(len, dealt[split].values())) >= n


@pytest.mark.slow
def test_the_bytes_of_a_seed_are_the_published_ones(tmp_path):
    """A change of these digests makes other data of every recorded seed: raise `minigeo.VERSION` with it."""
    card = minigeo.write(tmp_path, {"train": 12, "dev": 5, "test": 8}, seed=3)
    assert minigeo.VERSION == 3
    if PIL.__version__ == "11.3.0":  # another version of Pillow may draw or compress differently
        assert card["digest"] == "b4053aae3e34c45e"
    digest = hashlib.sha256(b"".join((tmp_path / f"{split}.jsonl").read_bytes() for split in ("train", "dev", "test")))
    assert digest.hexdigest()[:16] == "05246fb644aa1fe7"
    everything = json.dumps(deal(3)).encode()  # also of what so small splits leave
    assert hashlib.sha256(everything).hexdigest()[:16] == "4df3a812dd9a22e0"


@pytest.mark.slow
def test_the_command_writes_the_same(tmp_path, capsys):
    sizes = {"train": 12, "dev": 5, "test": 8, "hard": 6}
    wanted = [word for split, n in sizes.items() for word in (f"--{split}", str(n))]
    main(["--out", str(tmp_path / "a"), "--seed", "3", *wanted])
    assert json.loads(capsys.readouterr().out) == minigeo.write(tmp_path / "b", sizes, seed=3)


@pytest.mark.slow
def test_other_seed_other_deal():
    assert deal(0)["test"] != deal(1)["test"]


@pytest.mark.slow
def test_more_than_there_is():
    available = sum(map(len, deal(0)["dev"].values()))
    with pytest.raises(ValueError, match=f"has {available} parameter tuples for split 'dev', not {available + 1}"):
        next(generate("dev", available + 1))


def test_no_problem_twice(unseen):
    problems = [p for split in unseen.values() for p in split]
    assert len({p.id for p in problems}) == len(problems)
    shown = {(p.meta["variant"], tuple(p.meta["params"])) for p in problems}
    assert len(shown) == len(problems)


# ---- true ---------------------------------------------------------------------------------------------------------


def test_families_and_difficulties(drawn):
    families = {variant.family for variant in VARIANTS}
    assert len(families) >= 8
    assert {variant.difficulty for variant in VARIANTS} == {1, 2, 3}
    assert {p.meta["family"] for p, _ in drawn} == families
    for problem, _ in drawn:
        assert problem.meta["difficulty"] == len(problem.meta["steps"]) == BY_NAME[problem.meta["variant"]].difficulty


@pytest.mark.parametrize(("split", "n"), [("train", 400), ("dev", 120), ("dev", 42)])
def test_letters_are_balanced(split, n):
    letters = Counter(p.answer for p, _ in generate(split, n))
    assert set(letters) == set("ABCD")
    assert max(letters.values()) - min(letters.values()) <= (1 if n % 4 else 0)


def test_gold_is_the_solution(drawn, unseen):
    for problem in [p for p, _ in drawn] + unseen["train"] + unseen["test"]:
        variant, params = BY_NAME[problem.meta["variant"]], tuple(problem.meta["params"])
        value = variant.solve(params)[1]
        assert problem.meta["value"] == value
        assert problem.choices["ABCD".index(problem.answer)] == str(value)
        assert len(set(problem.choices)) == 4
        assert {int(choice) for choice in problem.choices} <= set(attainable(variant))


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Div: operator.truediv}


def test_each_step_is_true_and_starts_from_what_is_known(unseen):
    """`a op b = c` holds exactly; a and b are labels, earlier results or constants; the last c is the answer."""
    constants = {2, 90, 180, 360}
    for problem in unseen["train"] + unseen["test"]:
        known = {int(label) for label in problem.meta["labels"] if label != "x"} | constants
        for step in problem.meta["steps"]:
            left, right = step.split("=")
            term = ast.parse(left, mode="eval").body
            a, b = term.left.value, term.right.value
            assert OPERATORS[type(term.op)](a, b) == int(right), step
            assert {a, b} <= known, (problem.id, step)
            known.add(int(right))
        assert int(right) == problem.meta["value"]


def test_the_reference_rationale_is_judged_right(unseen):
    for problem in unseen["train"] + unseen["test"]:
        verdict = judge(problem.meta["rationale"], problem)
        assert (verdict.status, verdict.extracted) == ("correct", problem.answer)
        labels = [label for label in problem.meta["labels"] if label != "x"]
        assert f"I see {' and '.join(labels)}." in problem.meta["rationale"]
        assert ". ".join(problem.meta["steps"]) in problem.meta["rationale"]


@pytest.mark.parametrize("variant", [*VARIANTS, *HARD], ids=lambda variant: variant.name)
def test_a_mirror_maps_the_answers_to_themselves(variant):
    """Then the right answer and the typical mistake are equally likely a priori, as are the misread ones."""
    if variant.mirror is not None:
        assert sum(variant.answers) == variant.mirror
        values = attainable(variant)
        assert sorted(variant.mirror - value for value in values) == list(values)


def test_hard_problems_are_of_unseen_kinds_with_more_steps(unseen):
    hard = [problem for problem, _ in generate("hard", 300)]
    seen = [problem for several in unseen.values() for problem in several]
    assert {p.meta["variant"] for p in hard} == {variant.name for variant in HARD}
    assert not {p.question for p in hard} & {p.question for p in seen}
    steps = [statistics.fmean(len(p.meta["steps"]) for p in several) for several in (seen, hard)]
    assert steps[1] > steps[0] + 1
    for problem in hard:
        verdict = judge(problem.meta["rationale"], problem)
        assert (verdict.status, verdict.extracted) == ("correct", problem.answer)
        assert all(eval_step(step) for step in problem.meta["steps"])
    letters = Counter(p.answer for p in hard)
    assert max(letters.values()) == min(letters.values())


def eval_step(step: str) -> bool:
    left, right = step.split("=")
    a, sign, b = re.fullmatch(r"(\d+)([-+/])(\d+)", left).groups()
    return {"+": int(a) + int(b), "-": int(a) - int(b), "/": int(a) / int(b)}[sign] == int(right)


# ---- nothing in the text ------------------------------------------------------------------------------------------


def test_the_text_holds_no_number(unseen):
    for problem in unseen["train"] + unseen["test"]:
        assert not re.search(r"\d", problem.question)
        labels = {label for label in problem.meta["labels"] if label != "x"}
        assert labels
        assert not labels & set(problem.question.split())


def test_the_text_alone_is_a_guess(unseen):
    """Chance is 0.25; 0.30 is 3.3 standard errors above it for 800 problems."""
    assert minigeo.text_only_accuracy(unseen["train"], unseen["test"], epochs=200) < 0.30


def test_the_check_would_notice_a_hint():
    """The same check on problems whose right choice is always the largest finds it."""

    def leaky(number: int) -> Problem:
        answer = "ABCD"[number % 4]
        choices = ["20", "30", "40"]
        choices.insert("ABCD".index(answer), str(50 + number % 7))
        return Problem(f"p{number}", "Find x.", answer, tuple(choices), meta={"variant": "v"})

    assert minigeo.text_only_accuracy([*map(leaky, range(200))], [*map(leaky, range(200, 300))], epochs=50) > 0.95


def test_no_simple_rule_finds_the_answer(unseen):
    """Smallest, largest, second, third, always A, nearest to the others: each is right about one time in four."""
    problems = unseen["train"] + unseen["test"]
    rules = {
        **{f"rank {r}": lambda values, r=r: sorted(values)[r] for r in range(4)},
        **{f"place {i}": lambda values, i=i: values[i] for i in range(4)},
        "nearest to 90": lambda values: min(values, key=lambda v: abs(v - 90)),
        "round": lambda values: min(values, key=lambda v: (v % 10 != 0, v)),
        "middle": lambda values: min(values, key=lambda v: abs(v - sum(values) / 4)),
    }
    for name, rule in rules.items():
        right = sum(rule([int(c) for c in p.choices]) == p.meta["value"] for p in problems)
        assert right / len(problems) < 0.30, name


# ---- images -----------------------------------------------------------------------------------------------------


def test_both_sizes_occur(drawn):
    sizes = Counter(image.size for _, image in drawn)
    assert set(sizes) == set(SIZES)
    assert 1 / 16 < sizes[SIZES[1]] / len(drawn) < 1 / 4
    assert all(side % minigeo.CELL == 0 for size in SIZES for side in size)


def test_every_image_shows_every_label_whole(monkeypatch):
    """Boxes of all texts, as Pillow was asked to draw them: inside the image, apart, and still there at the end.

    Nothing is drawn after the labels, so ink inside its box is what a reader sees.
    """
    from PIL import ImageDraw

    boxes: list[tuple[str, tuple[float, ...]]] = []
    text = ImageDraw.ImageDraw.text

    def recorded(pen, at, what, *args, font=None, anchor=None, **rest):
        boxes.append((what, pen.textbbox(at, what, font=font, anchor=anchor)))
        text(pen, at, what, *args, font=font, anchor=anchor, **rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    for problem, image in generate("test", 400):
        shown = [cell["label"] for cell in problem.meta["cells"]]
        assert sorted(what for what, _ in boxes) == sorted(shown)
        assert sorted(shown) == sorted([*map(str, problem.meta["params"]), "x"])
        for what, (left, top, right, bottom) in boxes:
            assert left >= 0, (problem.id, what)
            assert top >= 0, (problem.id, what)
            assert right <= image.width, (problem.id, what)
            assert bottom <= image.height, (problem.id, what)
            box = image.crop((int(left), int(top), int(right) + 1, int(bottom) + 1)).convert("L")
            assert min(box.getdata()) < 60, f"{problem.id}: nothing black where {what!r} should stand"
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{problem.id}: {one!r} and {other!r} overlap"
        boxes.clear()


def test_labels_are_those_of_the_problem(drawn):
    for problem, _ in drawn:
        numbers = [int(label) for label in problem.meta["labels"] if label != "x"]
        assert sorted(numbers) == sorted(problem.meta["params"])


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_written_is_what_the_loop_reads(tmp_path):
    card = minigeo.write(tmp_path / "m", {"train": 8, "test": 4}, seed=1)
    assert card["seed"] == 1
    assert {split: entry["items"] for split, entry in card["splits"].items()} == {"train": 8, "test": 4}
    problems = load_problems(tmp_path / "m/train.jsonl", tmp_path / "m")
    made = [problem for problem, _ in generate("train", 8, 1)]
    assert [(p.id, p.question, p.answer, p.choices, p.images) for p in problems] == [
        (p.id, p.question, p.answer, p.choices, p.images) for p in made
    ]
    for problem in problems:
        with Image.open(tmp_path / "m" / problem.images[0]) as image:
            assert image.mode == "RGB"
            assert image.size in SIZES


def test_the_card_is_written_last(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("json.dumps", fail)
    with pytest.raises(KeyboardInterrupt):
        minigeo.write(tmp_path / "m", {"train": 2}, seed=0)
    assert not (tmp_path / "m/card.json").exists()
