"""How long the report of a large run takes to write, and how large its one file is.

    python -m benchmarks.report_size --problems 10000 --candidates 10 --json out.json

A synthetic run: two iterations on one split, texts of about 600 characters that do not repeat, an image for every
eighth problem. Beside it a run of six photos. Exit status 1 if the large report takes 60 s of CPU time or 50 MB or
more, or if the report of six photos is larger than 0.5 MB (10**6 bytes).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import in_own_process, machine, show, table, timed
from data_process.io import write_jsonl
from selftrain.config import load_config
from selftrain.files import write_json
from selftrain.report import write_run_report

MOST_SECONDS, MOST_MB, MOST_PHOTOS_MB = 60.0, 50.0, 0.5
WORDS = (
    "angle",
    "side",
    "line",
    "point",
    "circle",
    "chord",
    "parallel",
    "degrees",
    "so",
    "then",
    "thus",
    "arc",
    "base",
)
PHOTO = (1600, 1000)  # pixels


def text(rng: random.Random, answer: str, gold: str) -> dict[str, Any]:
    """A judged text that compresses about as badly as a model's."""
    body = " ".join(f"{rng.choice(WORDS)} {rng.randrange(400)}" for _ in range(64))
    words = f"{body}. Answer: ({answer})"
    status = "correct" if answer == gold else "wrong"
    verdict = {"status": status, "extracted": answer, "rule": "answer_cue/letter", "span": [len(words) - 3, len(words)]}
    return {"text": words, "tokens": 130, "prompt_tokens": 300, "finish": "stop", "verdict": verdict}


def rows(number: int, candidates: int, iteration: int) -> Iterator[dict[str, Any]]:
    """Evaluated problems, one at a time."""
    rng = random.Random(iteration)
    for k in range(number):
        gold = rng.choice("ABCD")
        samples = [text(rng, rng.choice("ABCD"), gold) for _ in range(candidates)]
        greedy, select = text(rng, rng.choice("ABCD"), gold), text(rng, rng.choice("ABCD"), gold)
        select["prompt"] = ["Which is correct?", *(part for i in range(candidates) for part in (str(i), "\n"))]
        read = [one["verdict"]["extracted"] for one in (greedy, select)]
        yield {
            "id": f"p{k}", "question": f"Find x in figure {k}: {' '.join(rng.choices(WORDS, k=20))}?", "gold": gold,
            "choices": ["40", "50", "60", "70"], "iteration": iteration, "samples": samples,
            "strategies": {
                "greedy": {"credit": float(read[0] == gold), "abstain": 0.0, "texts": [greedy], "answers": [read[0]]},
                "majority": {"credit": float(read[0] == gold), "abstain": 0.0, "answers": [read[0]]},
                "select": {"credit": float(read[1] == gold), "abstain": 0.0, "texts": [select], "answers": [read[1]]},
            },
        }  # fmt: skip


def photos(folder: Path, number: int) -> list[str]:
    """JPEGs with as much detail as photos have; returns their names."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    for k in range(number):
        noise = Image.effect_noise(PHOTO, 40 + k % 50)
        image = Image.merge("RGB", [noise, Image.radial_gradient("L").resize(PHOTO), noise.rotate(90 * (k % 4))])
        image.save(folder / f"images/{k}.jpg", quality=90)
    return [f"images/{k}.jpg" for k in range(number)]


def make(folder: Path, problems: int, candidates: int, images: int) -> Path:
    """A finished run folder. Every eighth problem has one of the images."""
    data, run = folder / "data", folder / "run"
    names = photos(data, images)
    every = 8 if problems > images else 1
    known = [
        {"id": f"p{k}", "question": "Find x.", "answer": "A", "choices": ["40", "50", "60", "70"],
         **({"image": names[k // every % images]} if k % every == 0 else {})}
        for k in range(problems)
    ]  # fmt: skip
    for split in ("train", "dev", "test"):
        write_jsonl(data / f"{split}.jsonl", known if split == "test" else [{**known[0], "id": split}])
    given = ["data.source=jsonl", f"data.folder={data}", f"output={run}"]
    write_json(run / "config.json", load_config(None, given).model_dump(mode="json"))
    scores = {"greedy": {"accuracy": 0.25, "low": 0.2, "high": 0.3, "n": problems}}
    measured = [{"iteration": k, "eval": {"test": {"n": problems, "strategies": scores}}} for k in (0, 1)]
    write_json(run / "metrics.json", {"run": {"name": "synthetic"}, "iterations": measured, "accepted": 1})
    for k in (0, 1):
        write_jsonl(run / f"iter{k}/test/rows.jsonl", rows(problems, candidates, k))
    return run


def measure(problems: int, candidates: int, images: int) -> dict[str, Any]:
    """Time, memory and size of one report, and what it says of what it left out."""
    with tempfile.TemporaryDirectory() as folder:
        run = make(Path(folder), problems, candidates, images)
        stored = sum(file.stat().st_size for file in run.glob("iter*/test/rows.jsonl"))
        _, spent = timed(write_run_report, run)
        page = (run / "report.html").read_text(encoding="utf-8")
    return {
        "problems": problems, "candidates": candidates, "stored_mb": round(stored / 1e6, 1),
        "report_mb": round(len(page.encode()) / 1e6, 2), "cpu_seconds": round(spent.cpu_seconds, 1),
        "seconds": round(spent.seconds, 1), "peak_mib": round(spent.peak_mib),
        "says_so": "This file holds a part of the run" in page,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_size", description=__doc__)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=10, help="samples of each problem")
    parser.add_argument("--images", type=int, default=1_250, help="JPEGs of 1600 by 1000 pixels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    large = in_own_process(measure, args.problems, args.candidates, args.images)
    small = in_own_process(measure, 6, 3, 6)
    columns = ("problems", "candidates", "stored_mb", "report_mb", "cpu_seconds", "seconds", "peak_mib", "says_so")
    shown = table(columns, [[str(one[name]) for name in columns] for one in (large, small)])
    ok = large["cpu_seconds"] < MOST_SECONDS and large["report_mb"] < MOST_MB and small["report_mb"] <= MOST_PHOTOS_MB
    show(machine(), [shown], {"large": large, "photos": small, "ok": ok}, args.json)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
