"""How fast samples are stored and found again, with an engine that answers at once.

    python -m benchmarks.bank --problems 1000 --stored 10000 100000 1000000 --json out.json

Each way stores the same answers, in a process and a file of its own: the sampler with an engine that returns whole
units, the sampler with an engine that tells each answer as it comes, and, for comparison, the usual script's one JSON
line per answer, flushed; what the sampler does then includes reading all of them from the file again. Banks of
`--stored` samples are opened, and everything in them is found: by a draw, which holds it, and by a stream.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measuring import Spent, in_own_process, machine, peak_mib, show, table, timed
from data_process.images.store import ImageStore
from selftrain.engines.base import Completion, Request, SamplingParams, StreamsResults
from selftrain.sampling.bank import Bank, PromptKey
from selftrain.sampling.sampler import Ask, Picture, Sampler

PARAMS = SamplingParams(temperature=1.0, max_tokens=512)
UNIT_ROWS = 192  # engine.batch_size of the demo
PROMPT, TEXT, TOKENS = 500, 400, 150  # characters, characters, token ids: a question with choices, a chain of thought
VOCABULARY = range(0, 150_000, 37)  # the few thousand token ids that chains of thought consist of
DRAWN = 200_000  # samples that one draw holds at most here
PICTURES = 64  # pictures that the problems share; each problem's is looked up in the store all the same

_WORDS = ("the angle", "at B", "is", "twice", "that", "of C", "so", "we get", "degrees", "and", "by the sum", "of all")


def _text(characters: int, seed: int) -> str:
    """Words of a length, other ones for each seed."""
    words = random.Random(seed).choices(_WORDS, k=characters // 3)
    return f"{seed} {' '.join(words)}"[:characters]


class InstantEngine:
    """Answers at once, with texts made before the clock starts."""

    def __init__(self) -> None:
        rng = random.Random(0)
        self._texts = [_text(TEXT, seed) for seed in range(997)]
        self._ids = [tuple(rng.choices(VOCABULARY, k=TOKENS)) for _ in range(997)]

    def __enter__(self) -> InstantEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        pass

    def answer(self, seed: int) -> Completion:
        return Completion(self._texts[seed % 997], self._ids[seed % 997], 300, "stop", -0.25)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        return [[self.answer(seed) for seed in request.seeds] for request in requests]


class TellingEngine(InstantEngine, StreamsResults):
    """Tells each answer as it comes, as an engine with requests under way at the same time does."""

    on_result: Callable[[Request, int, Completion], None] | None = None

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        found = super().generate(requests, params)
        for request, answers in zip(requests, found, strict=True):
            for sample, answer in enumerate(answers):
                assert self.on_result is not None
                self.on_result(request, sample, answer)
        return found


def make_pictures(folder: Path) -> None:
    """Pictures under `folder`/data, and their canonical form in `folder`/images."""
    from PIL import Image

    (folder / "data").mkdir(parents=True)
    store = _store(folder)
    for k in range(PICTURES):
        Image.new("RGB", (112, 112), (k, 2 * k, 255 - k)).save(folder / "data" / f"{k}.png")
        store.add(f"{k}.png")


def _store(folder: Path) -> ImageStore:
    return ImageStore(folder / "images", folder / "data", min_pixels=3136, max_pixels=200_704)


def make_asks(problems: int, pictures: bool) -> list[Ask]:
    return [Ask(f"q{k}", _text(PROMPT, k), (f"{k % PICTURES}.png",) if pictures else ()) for k in range(problems)]


def sampler(bank: Bank, folder: Path, engine: InstantEngine) -> Sampler:
    store = _store(folder)

    def picture(name: str) -> Picture:
        stored = store.add(name)
        return Picture(stored.path, stored.id)

    return Sampler(
        bank=bank,
        open_engine=lambda: engine,
        engine_name="instant",
        weights="benchmark",
        picture=picture,
        seed=0,
        unit_rows=UNIT_ROWS,
    )


def through_the_sampler(engine: type[InstantEngine], folder: Path, problems: int, n: int, pictures: bool) -> Spent:
    asks, answers = make_asks(problems, pictures), engine()
    with Bank(folder / "bank.sqlite") as bank:
        _, spent = timed(sampler(bank, folder, answers).draw, asks, PARAMS, n)
        assert bank.count() == problems * n
    return spent


def as_json_lines(_: type[InstantEngine], folder: Path, problems: int, n: int, pictures: bool) -> Spent:
    asks, engine = make_asks(problems, pictures), InstantEngine()

    def write() -> None:
        with (folder / "answers.jsonl").open("w") as file:
            for ask in asks:
                for sample in range(n):
                    answer = engine.answer(sample)
                    row = {"id": ask.id, "images": ask.images, "text": answer.text, "token_ids": answer.token_ids}
                    file.write(json.dumps(row) + "\n")
                    file.flush()

    return timed(write)[1]


STORING = {
    "JSON Lines, flushed": (as_json_lines, InstantEngine),
    "sampler, whole units": (through_the_sampler, InstantEngine),
    "sampler, each answer told": (through_the_sampler, TellingEngine),
}


def storing(problems: int, n: int, pictures: bool, rounds: int) -> list[dict[str, Any]]:
    """Every round runs all ways in turn; the fastest run of each counts, as other work only adds time."""
    best: dict[str, Spent] = {}
    for _ in range(rounds):
        for name, (way, engine) in STORING.items():
            with tempfile.TemporaryDirectory() as folder:
                make_pictures(Path(folder))
                spent = in_own_process(way, engine, Path(folder), problems, n, pictures)
            if name not in best or spent.seconds < best[name].seconds:
                best[name] = spent
    return [
        {
            "way": name,
            "n": n,
            "pictures": pictures,
            "samples": problems * n,
            "samples_per_s": problems * n / spent.seconds,
            **asdict(spent),
        }
        for name, spent in best.items()
    ]


def fill(path: Path, asks: Sequence[Ask], n: int) -> None:
    """A bank that holds `n` samples of each ask, written as the sampler would."""
    engine = InstantEngine()
    with Bank(path) as bank:
        for start in range(0, len(asks), 1000):
            keys = [PromptKey("benchmark", ask.prompt, (), PARAMS, 0) for ask in asks[start : start + 1000]]
            rows = [(key, key.digest(), sample, engine.answer(sample)) for key in keys for sample in range(n)]
            bank.write(rows, "instant")


def _find(path: Path, asks: Sequence[Ask], n: int, hold: bool) -> dict[str, Any]:
    """Find all that a bank holds; `grown_mib` is what memory grew by."""
    with Bank(path) as bank:
        everything = sampler(bank, path.parent, InstantEngine())
        before = peak_mib()

        def find() -> int:
            found = everything.draw(asks, PARAMS, n).items() if hold else everything.stream(asks, PARAMS, n)
            return sum(len(completions) for _, completions in found)

        number, spent = timed(find)
    assert number == len(asks) * n
    return {"grown_mib": spent.peak_mib - before, "samples_per_s": number / spent.seconds, **asdict(spent)}


def _open(path: Path, key: str) -> float:
    """Seconds until the first sample of a bank is there."""
    bank, spent = timed(Bank, path)
    with bank:
        return spent.seconds + timed(bank.read, [key], 1)[1].seconds


def finding(folder: Path, stored: int, n: int) -> dict[str, Any]:
    """A draw of all that is there is left out above DRAWN samples: nobody holds so many."""
    (folder / "data").mkdir(exist_ok=True)
    path, asks = folder / f"{stored}.sqlite", make_asks(stored // n, pictures=False)
    in_own_process(fill, path, asks, n)
    key = PromptKey("benchmark", asks[-1].prompt, (), PARAMS, 0).digest()
    return {
        "samples": stored,
        "n": n,
        "file_mib": path.stat().st_size / 2**20,
        "first_sample_ms": 1000 * in_own_process(_open, path, key),
        "draw": in_own_process(_find, path, asks, n, True) if stored <= DRAWN else None,
        "stream": in_own_process(_find, path, asks, n, False),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=1000, help="for storing")
    parser.add_argument("--stored", type=int, nargs="*", default=[10_000, 100_000], help="samples to find again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go, for a disk that matters (default: /tmp)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    stored = [
        row for n in (4, 16) for pictures in (False, True) for row in storing(args.problems, n, pictures, args.rounds)
    ]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = [finding(Path(folder), samples, 16) for samples in args.stored]
    firsts = {(row["n"], row["pictures"]): row for row in reversed(stored) if row["way"] == next(iter(STORING))}
    writes = table(
        ["storing", "n", "pictures", "samples/s", "CPU ms/sample", "CPU x JSON Lines"],
        [
            [
                row["way"],
                str(row["n"]),
                "yes" if row["pictures"] else "no",
                f"{row['samples_per_s']:.0f}",
                f"{1000 * row['cpu_seconds'] / row['samples']:.3f}",
                f"{row['cpu_seconds'] / firsts[row['n'], row['pictures']]['cpu_seconds']:.1f}",
            ]
            for row in stored
        ],
    )
    reads = table(
        ["samples in the bank", "file MiB", "open, read one, ms", "draw, s", "grown, MiB", "stream, s", "grown, MiB"],
        [
            [
                f"{row['samples']:,}",
                f"{row['file_mib']:.0f}",
                f"{row['first_sample_ms']:.1f}",
                *(
                    cell
                    for way in (row["draw"], row["stream"])
                    for cell in ([f"{way['seconds']:.1f}", f"{way['grown_mib']:.0f}"] if way else ["", ""])
                ),
            ]
            for row in found
        ],
    )
    show(machine(unit_rows=UNIT_ROWS), [writes, reads], {"storing": stored, "finding": found}, args.json)


if __name__ == "__main__":
    main()
