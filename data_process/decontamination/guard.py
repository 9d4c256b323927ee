"""The leakage guard: finds test problems, and near copies of them, among the training problems.

    python -m data_process.decontamination --train data/minigeo --test data/minigeo

The exit status is 0 if there are no leaks, 1 if there are, and 2 if the input cannot be used.

What counts as a leak depends on where a problem's facts are. If both problems have images, the images and the questions
must match: MiniGeo asks thirty questions about thousands of images, so an equal question alone means nothing, and one
figure may serve two questions. Two problems have the same images if they have as many and these match one by one, in
the order of their places in the prompt; a single image in common among several counts for nothing. Without images, an
equal question is a leak, and so is a near one with the same answer.
If an image exists but cannot be compared (missing, torn, blank), an equal question and answer are a leak only if the
words identify the problem, that is, if no two problems at hand have these words and different answers.
The same wording with other numbers or labels is another problem: the guard lists it and does not block it.
`near_text` and `near_image` define what is near; `known_overlaps` lists data sets that contain each other's problems.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from data_process.decontamination.compare import LeakSearch, group_problems
from data_process.decontamination.known_overlaps import FAMILIES, origin_of, source_overlaps
from data_process.decontamination.near_image import Fingerprint, IncomparableReason
from data_process.decontamination.report import BLOCKING, Leak, LeakReport
from data_process.errors import printable
from data_process.io import load_problems, write_jsonl
from data_process.outputs import check_outputs
from data_process.schema import DataError, Problem, to_json


def guard(
    train: Sequence[Problem],
    tests: Mapping[str, Sequence[Problem]],
    train_images: Path | None = None,
    test_images: Path | Mapping[str, Path] | None = None,
    *,
    train_source: str | None = None,
    allow_sources: Collection[str] = (),
) -> LeakReport:
    """The leaks from the test sets, given by name, into `train`.

    Image paths are relative to `train_images` and to `test_images`, which is one folder for all test sets or one for
    each name; None is the folder of the training set. `train_source` names the data set of training problems without
    an origin. `allow_sources` holds families (of `known_overlaps.FAMILIES`) whose overlap is accepted.
    The order of the problems does not change the report. Images are read one at a time; those
    of similar pairs are read again.
    Raises DataError for a test set named "train", an unknown family or a folder that does not exist.
    """
    if "train" in tests:
        raise DataError("a test set cannot be named 'train'; give it another name")
    if unknown := sorted(set(allow_sources) - set(FAMILIES)):
        raise DataError(f"unknown families of data sets: {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    folders = test_images if isinstance(test_images, Mapping) else dict.fromkeys(tests, test_images)
    prints: dict[Path, Fingerprint | IncomparableReason] = {}
    trained, uncompared = group_problems(train, train_images, prints)
    reasons = {"train": uncompared}
    leaks: list[Leak] = []
    overlaps = []
    for name, problems in tests.items():
        tested, reasons[name] = group_problems(problems, folders.get(name) or train_images, prints)
        leaks += LeakSearch(name, trained, tested, prints).leaks()
        overlaps += source_overlaps(
            train, problems, test_set=name, train_source=train_source, allowed=tuple(allow_sources)
        )
    leaks.sort(key=lambda leak: (leak.kind not in BLOCKING, leak.kind, leak.test_set, leak.test_id, leak.train_id))
    sizes = {name: len(problems) for name, problems in tests.items()}
    return LeakReport(tuple(leaks), tuple(overlaps), len(train), sizes, reasons)


def clean(train: Sequence[Problem], report: LeakReport, *, train_source: str | None = None) -> list[Problem]:
    """The training problems that are neither in a blocking pair nor from a blocked source.

    Raises DataError if none is left.
    """
    sources = {overlap.train_source for overlap in report.sources if overlap.blocking}
    ids = report.train_ids()
    kept = []
    for problem in train:
        origin = origin_of(problem, train_source)
        if problem.id not in ids and (origin is None or origin.dataset not in sources):
            kept.append(problem)
    if train and not kept:
        raise DataError("every training problem leaks; use other training data or another test set")
    return kept


def _file(path: Path, split: str) -> Path:
    return path / f"{split}.jsonl" if path.is_dir() else path


def _load(path: Path, split: str, images: Path | None) -> tuple[list[Problem], Path]:
    """The problems of a JSONL file, or of `split`.jsonl in a folder, and the folder of their images."""
    file = _file(path, split)
    root = images or file.parent
    return load_problems(file, root), root


def main(argv: Sequence[str] | None = None, prog: str = "python -m data_process.decontamination") -> int:
    parser = argparse.ArgumentParser(prog=prog, description="Find test problems among training problems.")
    both = "a JSONL file of problems, or a folder that holds"
    parser.add_argument("--train", type=Path, required=True, help=f"{both} train.jsonl")
    parser.add_argument("--test", type=Path, required=True, help=f"{both} test.jsonl")
    parser.add_argument("--train-images", type=Path, help="folder of the training images (default: beside the file)")
    parser.add_argument("--test-images", type=Path, help="folder of the test images (default: beside the file)")
    parser.add_argument("--train-source", help="data set of training problems that do not name it, e.g. GeoQA")
    parser.add_argument(
        "--allow-source", action="append", default=[], choices=list(FAMILIES), help="accept the overlap of this family"
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parser.add_argument("--write-clean", type=Path, metavar="FILE", help="write the training problems that do not leak")
    args = parser.parse_args(argv)
    try:
        files = [_file(args.train, "train"), _file(args.test, "test")]
        check_outputs({"--write-clean": args.write_clean}, [*files, args.train_images, args.test_images])
        train, train_root = _load(args.train, "train", args.train_images)
        test, test_root = _load(args.test, "test", args.test_images)
        sources = {"train_source": args.train_source, "allow_sources": args.allow_source}
        report = guard(train, {"test": test}, train_root, test_root, **sources)
        print(json.dumps(report.to_json(), indent=1) if args.json else report.summary())
        if args.write_clean is not None:
            kept = clean(train, report, train_source=args.train_source)
            write_jsonl(args.write_clean, map(to_json, kept))
            print(f"{args.write_clean}: {len(kept)} of {len(train)} training problems", file=sys.stderr)
    except DataError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    return int(report.blocking)
