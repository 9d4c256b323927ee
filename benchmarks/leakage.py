"""What the leakage guard finds on real questions, what it misses of changed copies, and what it costs.

    python -m benchmarks.leakage --data ../shared/data --minigeo data/minigeo [--pairs 30]

`--data` holds the real GeoQA and MathVista questions as JSON Lines (no images), `--minigeo` what
`python -m data_process.sources.minigeo --out DIR` wrote. `--pairs` prints so many blocking pairs to read. Sections
whose data is absent say so and are skipped.
"""

from __future__ import annotations

import argparse
import io
import itertools
import random
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_process.decontamination.guard import guard
from data_process.decontamination.near_image import fingerprint, match_images
from data_process.decontamination.near_text import JACCARD, matching_wordings, ngrams, read_text
from data_process.io import load_problems, read_jsonl
from data_process.schema import Problem

# One word for another, each way round, as a rewording would do it.
SYNONYMS = (
    ("equal", "identical"), ("degree", "measure"), ("size", "magnitude"), ("length", "extent"), ("intersects", "meets"),
    ("known", "given"), ("connect", "join"), ("points", "dots"), ("figure", "drawing"), ("straight", "right"),
    ("height", "altitude"), ("respectively", "each"), ("extension", "prolongation"), ("bisects", "halves"),
)  # fmt: skip


SIGNS = {"angle": "∠", "perpendicular": "⊥", "parallel": "∥"}


def _synonym(text: str) -> str:
    for word, other in SYNONYMS:
        changed = re.sub(rf"\b{word}\b", other, text, count=1)
        if changed != text:
            return changed
    return text


TEXT_CHANGES: Mapping[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "lower case": str.lower,
    "no punctuation": lambda t: re.sub(r"[,;:?()]|\.(?!\d)", "", t),
    "spaces added": lambda t: re.sub(r" ", "   ", t) + "  ",
    "letters set together": lambda t: re.sub(r"\b([A-Z]) (?=[A-Z]\b)", r"\1", t),
    "80.0 as 80": lambda t: re.sub(r"\b(\d+)\.0\b", r"\1", t),
    "80.0 as 80°": lambda t: re.sub(r"\b(angle [A-Z ]+= )(\d+)\.0\b", r"\1\2°", t),
    "signs for words": lambda t: re.sub(r"\b(angle|perpendicular|parallel)\b", lambda m: SIGNS[m[1]], t),
    "one synonym": _synonym,
    "sentence added": lambda t: t + " Show each step of the solution and give reasons.",
    "inside a prompt": lambda t: f"Hint: Answer with the letter, e.g., A, B, C, D, at the end.\nQuestion: {t}",
}


def _shared(folder: Path, path: str) -> list[dict[str, Any]] | None:
    file = folder / path
    return read_jsonl(file) if file.is_file() else None


def geoqa_train(folder: Path) -> list[Problem] | None:
    rows = _shared(folder, "geoqa/train_questions.jsonl")
    return rows and [
        Problem(
            f"geoqa-{r['id']}", r["question"], r["answer"], tuple(r["choices"]), (r["image"],), meta={"source": "GeoQA"}
        )
        for r in rows
    ]


def geoqa_test(folder: Path) -> list[Problem] | None:
    rows = _shared(folder, "geoqa/qwen2vl_7b_instruct_test_outputs.jsonl")
    return rows and [
        Problem(f"geoqa-{r['id']}", r["question"], str(r["gold"]), (), (f"{r['id']}.png",), "text") for r in rows
    ]


def mathvista(folder: Path) -> list[Problem] | None:
    rows = _shared(folder, "mathvista/testmini.jsonl.gz")
    return rows and [
        Problem(
            f"mathvista-{r['pid']}",
            r["question"] or "?",
            str(r["answer"]),
            images=(r["image"],) if r["image"] else (),
            answer_type="text",
            meta={"choices": r["choices"], "metadata": r["metadata"]},
        )
        for r in rows
    ]


def real(train: Sequence[Problem], tests: Mapping[str, Sequence[Problem]], shown: int) -> None:
    """What there is between the real sets; prints pairs to read."""
    by_id = {problem.id: problem for problems in (train, *tests.values()) for problem in problems}
    for name, test in tests.items():
        start = time.process_time()
        report = guard(train, {"test": test})
        print(f"\n## GeoQA train against {name}: {time.process_time() - start:.1f} s CPU\n{report.summary()}")
        pairs = [leak for leak in report.leaks if leak.blocking]
        for leak in random.Random(0).sample(pairs, min(shown, len(pairs))):
            print(f"\n{leak.kind} {leak.text} {leak.score}  {leak.train_id} | {leak.test_id}")
            for problem in (by_id[leak.train_id], by_id[leak.test_id]):
                choices = list(problem.choices or problem.meta.get("choices") or ())
                print(f"  {problem.question}  {choices} -> {problem.answer}")


def missed_proposals(train: Sequence[Problem], test: Sequence[Problem]) -> None:
    """MinHash proposals against every pair of wordings."""
    ours = {read_text(problem.question).words for problem in train}
    theirs = {read_text(problem.question).words for problem in test}
    found = {(match.train, match.test) for match in matching_wordings(ours, theirs)}
    grams = {wording: ngrams(wording) for wording in ours | theirs}
    near = [
        (a, b)
        for a in ours
        for b in theirs
        if (both := len(grams[a] & grams[b])) >= JACCARD * (len(grams[a]) + len(grams[b]) - both)
    ]
    missed = sum(pair not in found for pair in near)
    print(f"\nof {len(near)} pairs of wordings with Jaccard {JACCARD} or more, MinHash did not propose {missed}")


def text_recall(problems: Sequence[Problem]) -> None:
    """Each changed question against the whole training set: is its original found, and is it a leak?"""
    print("\n## Text: 500 GeoQA questions, changed, against all of GeoQA train\n")
    print("| change | changed | leak found |\n|---|--:|--:|")
    train = [replace(problem, images=()) for problem in problems]
    sample = random.Random(0).sample(train, min(500, len(train)))
    for name, change in TEXT_CHANGES.items():
        test = [
            replace(p, id=f"changed-{p.id}", question=text)
            for p in sample
            if (text := change(p.question)) != p.question
        ]
        if test:
            found = guard(train, {"test": test}).test_ids()["test"]
            print(f"| {name} | {len(test)} | {len(found) / len(test):.1%} |")


def image_changes() -> Mapping[str, Callable[[Any], Any]]:
    from PIL import Image, ImageEnhance

    def jpeg(image: Any, quality: int) -> Any:
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=quality)
        return Image.open(file)

    def scaled(image: Any, factor: float) -> Any:
        return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC)

    def cropped(image: Any, left: float, right: float) -> Any:
        w, h = image.size
        return image.crop((round(w * left), round(h * left), w - round(w * right), h - round(h * right)))

    return {
        "JPEG quality 90": lambda i: jpeg(i, 90),
        "JPEG quality 75": lambda i: jpeg(i, 75),
        "JPEG quality 50": lambda i: jpeg(i, 50),
        "half size": lambda i: scaled(i, 0.5),
        "three quarters": lambda i: scaled(i, 0.75),
        "double size": lambda i: scaled(i, 2),
        "2% cropped, all round": lambda i: cropped(i, 0.01, 0.01),
        "2% cropped, one corner": lambda i: cropped(i, 0.02, 0),
        "4% cropped": lambda i: cropped(i, 0.02, 0.02),
        "10% darker": lambda i: ImageEnhance.Brightness(i).enhance(0.9),
        "10% lighter": lambda i: ImageEnhance.Brightness(i).enhance(1.1),
        "cropped, darker, 80%, JPEG 75": lambda i: jpeg(
            scaled(cropped(ImageEnhance.Brightness(i).enhance(0.95), 0.01, 0.01), 0.8), 75
        ),
    }


def chart(rng: random.Random) -> Any:
    """A bar chart of one template: the axes are always the same, the bars are not."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (320, 240), "white")
    pen = ImageDraw.Draw(image)
    pen.line((30, 10, 30, 210, 310, 210), fill="black", width=2)
    for bar in range(6):
        height = rng.randint(20, 190)
        pen.rectangle((45 + 44 * bar, 210 - height, 75 + 44 * bar, 208), fill=("steelblue", "orange")[bar % 2])
    return image


def table(rng: random.Random) -> Any:
    """A small table as TabMWP renders them: one template, a few rows of numbers, at times a title or named rows."""
    from PIL import Image, ImageDraw, ImageFont

    font, rows, height = ImageFont.load_default(rng.choice((13, 14))), rng.randint(3, 5), rng.choice((20, 24))
    named, titled = rng.random() < 0.5, rng.random() < 0.5
    width = 230 if named else 200
    heads = ["Name", "Number"] if named else ["x", "y"]
    left = rng.sample(("Ann", "Ben", "Cal", "Dee", "Eve", "Fay"), rows) if named else None
    lines = [heads] + [
        [left[row] if left else str(rng.randint(1, 20)), str(rng.randint(1, 99 if named else 20))]
        for row in range(rows)
    ]
    image = Image.new("RGB", (width, height * (len(lines) + titled) + 1), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width, height), fill=(230, 240, 255) if titled else (60, 130, 240))
    if titled:
        pen.text((width // 4, 3), "Collections", fill="black", font=font)
    for number, cells in enumerate(lines, start=int(titled)):
        pen.line((0, height * number, width, height * number), fill=(170, 170, 170))
        for column, cell in enumerate(cells):
            pen.text((10 + column * width // 2, height * number + 3), cell, fill="black", font=font)
    pen.rectangle((0, 0, width - 1, image.height - 1), outline=(170, 170, 170))
    pen.line((width // 2, height * titled, width // 2, image.height), fill=(170, 170, 170))
    return image


def false_blocks(n: int = 1000) -> None:
    """Tables and charts that all differ, under a few questions with a few answers, through the whole guard."""
    rng = random.Random(0)
    questions = {"Is the relation in the table a function?": ("yes", "no"), "What is the range of the numbers?": "6789"}
    print(f"\n## False blocks: {n} problems, 3 in 10 of them test, all of other images\n")
    for name, make in {"tables": table, "charts": chart}.items():
        with tempfile.TemporaryDirectory() as folder:
            problems = []
            for number in range(n):
                question, answers = rng.choice(list(questions.items()))
                make(rng).save(Path(folder) / f"{number}.png")
                problems.append(
                    Problem(f"{number}", question, rng.choice(answers), (), f"{number}.png", answer_type="text")
                )
            start = time.process_time()
            cut = n * 7 // 10
            report = guard(problems[:cut], {"test": problems[cut:]}, Path(folder))
            blocked = len(report.test_ids()["test"])
            print(f"{name}: {blocked} of {n - cut} test problems blocked, {time.process_time() - start:.1f} s CPU")


def scene(rng: random.Random) -> Any:
    """Something without margins or lines: overlapping soft blobs, as a photo is to a hash."""
    from PIL import Image, ImageDraw, ImageFilter

    image = Image.new("RGB", (320, 240), tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        x, y, r = rng.randrange(320), rng.randrange(240), rng.randrange(15, 70)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(256) for _ in range(3)))
    return image.filter(ImageFilter.GaussianBlur(3))


def image_recall(minigeo: Path | None) -> None:
    """Changed copies against their originals, and images against other images."""
    from PIL import Image

    rng = random.Random(0)
    sets = {
        "tables": [table(rng) for _ in range(200)],
        "charts": [chart(rng) for _ in range(200)],
        "scenes": [scene(rng) for _ in range(200)],
    }
    if minigeo is not None:
        files = sorted((minigeo / "images").glob("*.png"))
        sets["MiniGeo"] = [Image.open(file).convert("RGB") for file in rng.sample(files, 200)]
    print("\n## Pictures: copies found, of 200\n\n| change | " + " | ".join(sets) + " |\n|---|" + "--:|" * len(sets))
    with tempfile.TemporaryDirectory() as folder:
        names = itertools.count()

        def print_of(image: Any) -> Any:
            file = Path(folder) / f"{next(names)}.png"  # matches are confirmed from the files
            image.save(file, "PNG")
            found = fingerprint(file)
            return [] if isinstance(found, str) else [found]  # too blank to compare, so never found

        originals = {name: [print_of(image) for image in images] for name, images in sets.items()}
        for change, apply in image_changes().items():
            cells = []
            for name, images in sets.items():
                copies = [print_of(apply(image)) for image in images]
                found = sum(bool(match_images(a, b)) for a, b in zip(originals[name], copies, strict=True))
                cells.append(f"{found} ({found / len(images):.1%})")
            print(f"| {change} | {' | '.join(cells)} |")
        for name, each in originals.items():
            prints = [print_ for prints in each for print_ in prints]
            wrong = sum(match.train != match.test for match in match_images(prints, prints)) // 2
            pairs = len(prints) * (len(prints) - 1) // 2
            print(f"other images taken for the same, {name}: {wrong} of {pairs} pairs")


def cost(minigeo: Path) -> None:
    train = load_problems(minigeo / "train.jsonl", minigeo)
    test = load_problems(minigeo / "test.jsonl", minigeo)
    guard(train[:2], {"test": test[:2]}, minigeo)  # imports
    wall, cpu = time.perf_counter(), time.process_time()
    report = guard(train, {"test": test}, minigeo)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"\n## Cost: MiniGeo, {len(train)} x {len(test)} with images: {wall:.1f} s wall, {cpu:.1f} s CPU")
    print(report.summary())
    print("without images:\n" + guard(train, {"test": test}).summary())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minigeo", type=Path)
    parser.add_argument("--pairs", type=int, default=0)
    args = parser.parse_args()
    train, test, vista = geoqa_train(args.data), geoqa_test(args.data), mathvista(args.data)
    if train and test and vista:
        real(train, {"the GeoQA test questions": test, "MathVista testmini": vista}, args.pairs)
        missed_proposals(train, test)
        text_recall(train)
    else:
        print(f"skipped: no real questions in {args.data}")
    false_blocks()
    image_recall(args.minigeo)
    if args.minigeo is not None:
        cost(args.minigeo)


if __name__ == "__main__":
    main()
