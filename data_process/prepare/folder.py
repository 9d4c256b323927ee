"""Makes a prepared folder from raw rows: reads, checks and splits them, and writes all files or none."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_process.images import standin
from data_process.io import load_problems, problem_from_row, write_aside, write_jsonl
from data_process.prepare.data_card import LISTED, Entry, digest_of, overlaps, row_of, split_card
from data_process.prepare.holdout import hold_out
from data_process.prepare.images import FOLDER, ImagePlacer, PlacedImage
from data_process.schema import DataError, Problem
from data_process.sources.base import SPLITS, Item, PrepareRequest, Source, SourceImage
from data_process.sources.tables import table_rows

MISSING = ("error", "count", "drop", "standin")
DEV_SHARE = 0.1  # of train, where a source has no dev split
QUESTIONS = "questions"  # the split, and file, of problems without public answers
# Stands in for an answer that is not public while the row is checked; it is never written.
_ANY_ANSWER = {"choice": "A", "integer": "0", "float": "0.0", "list": "[0]", "number": "0", "text": "-"}


@dataclass(frozen=True)
class FolderPlan:
    """How the raw rows become a folder."""

    out: Path
    missing: str = "error"  # what to do about unusable images: one of MISSING
    dev_share: float = DEV_SHARE
    test_share: float = 0.0  # held out of train before dev, where a source has no test split
    seed: int = 0
    link: bool = False
    replace: bool = False  # overwrite a folder that an earlier call made
    skip_bad: bool = False  # leave out and count rows that cannot be used
    borrow: Mapping[str, Path] = field(default_factory=dict)  # split -> prepared folder to take it from


@dataclass
class _Read:
    """What was read so far."""

    splits: dict[str, list[Entry]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (reason, where) of the rows left out
    offered: int = 0  # rows seen
    ids: dict[str, str] = field(default_factory=dict)  # problem id -> where it was read


def _entries(source: Source, request: PrepareRequest, plan: FolderPlan, root: Path) -> _Read:
    """Reads every row as a checked problem and places its image under `root`; counts the rows left out."""
    read, placer = _Read(), ImagePlacer(root, plan.link)
    split_rows = source.rows or partial(table_rows, source)
    for raw_split, located in split_rows(request, request.splits):
        split = request.splits[raw_split]
        entries = read.splits.setdefault(split, [])
        for where, row in located:
            read.offered += 1
            try:
                item = source.item(request, raw_split, where, row)
                problem = _checked(source, request, item, split, where, root)
                if problem.id in read.ids:
                    raise DataError(f"{where}: id {problem.id!r} was already used ({read.ids[problem.id]})")
            except DataError as error:
                if not plan.skip_bad:
                    raise
                read.skipped.append((str(error).removeprefix(f"{where}: ")[:160], where))
                continue
            read.ids[problem.id] = where
            _keep(_with_image(problem, item, placer, plan), where, entries, read, plan)
    if not read.ids:
        raise DataError(
            f"{source.name}: none of {read.offered} rows can be used; correct --raw or the options. "
            f"First: {read.skipped[:1]}"
        )
    return read


def _checked(source: Source, request: PrepareRequest, item: Item, split: str, where: str, root: Path) -> Problem:
    """The problem, checked as `load_problems` will check it. Raises DataError."""
    fields = dict(item.fields)
    if source.language and "language" not in fields.get("meta", {}):
        fields["meta"] = {**fields.get("meta", {}), "language": source.language}
    if origin := source.origin or request.origin or request.hub:
        fields.setdefault("origin", origin)
    if "answer" not in fields:
        if split != QUESTIONS:
            raise DataError(f"{where}: no answer; problems for training or evaluation need one")
        fields["answer"] = _ANY_ANSWER.get(fields["answer_type"], "")
    image = f"{FOLDER}/{item.image.name}" if item.image else None
    return problem_from_row({**fields, "image": image}, f"{where}, problem {fields['id']!r}", root)


def _with_image(problem: Problem, item: Item, placer: ImagePlacer, plan: FolderPlan) -> Entry:
    if item.image is None:
        return Entry(problem, None, notes=item.notes)
    placed = placer.place(item.image)
    if isinstance(placed, PlacedImage):
        return Entry(replace(problem, image=placed.relative), placed, notes=item.notes)
    if plan.missing != "standin":
        return Entry(problem, None, placed, wanted=problem.image, notes=item.notes)
    drawn = placer.place(SourceImage(standin.name_for(problem.question), data=standin.draw(problem.question)))
    assert isinstance(drawn, PlacedImage)
    marked = replace(problem, image=drawn.relative, meta={**problem.meta, "stand_in": True})
    return Entry(marked, drawn, placed, stand_in=True, wanted=problem.image, notes=item.notes)


def _keep(entry: Entry, where: str, entries: list[Entry], read: _Read, plan: FolderPlan) -> None:
    if entry.unusable and plan.missing == "drop":
        read.skipped.append((f"image {entry.unusable}", f"{where}, problem {entry.problem.id!r}"))
    else:
        entries.append(entry)


def _refuse_missing(splits: Mapping[str, Sequence[Entry]], request: PrepareRequest) -> None:
    unusable = [entry for entries in splits.values() for entry in entries if entry.unusable]
    if unusable:
        reasons = Counter(str(entry.unusable) for entry in unusable)
        shown = ", ".join(f"{e.problem.image} of {e.problem.id} ({e.unusable})" for e in unusable[:LISTED])
        raise DataError(
            f"{len(unusable)} of {sum(map(len, splits.values()))} problems have no usable image "
            f"({', '.join(f'{name} {n}' for name, n in sorted(reasons.items()))}); first: {shown}. Name their folder "
            f"with --images DIR{'' if request.images is None else f' (now {request.images})'}, or say what to do with "
            "--missing count|drop|standin"
        )


def _borrow(splits: dict[str, list[Entry]], plan: FolderPlan, read: _Read, root: Path) -> list[str]:
    """Copies splits and their images from other prepared folders. Returns remarks for the card."""
    remarks = []
    for name, folder in plan.borrow.items():
        if name in splits:
            raise DataError(f"--borrow {name}={folder}: the source has this split itself; leave it out with --split")
        card = folder / "card.json"
        if not card.is_file():
            raise DataError(f"--borrow {name}={folder}: it has no card.json, so it is not a prepared folder")
        about = json.loads(card.read_text(encoding="utf-8"))
        placer = ImagePlacer(root, plan.link, below=f"{about['source']}-{name}")
        entries: list[Entry] = []
        for problem in load_problems(folder / f"{name}.jsonl", folder):
            where = f"{folder / name}.jsonl"
            if read.ids.setdefault(problem.id, where) != where:
                raise DataError(f"{where}: id {problem.id!r} is also in {read.ids[problem.id]}")
            image = None
            if problem.image is not None:
                short = problem.image.removeprefix(f"{FOLDER}/")
                image = SourceImage(short, (folder / problem.image,))
            entry = _with_image(problem, Item({}, image), placer, plan)
            entry = replace(entry, stand_in=entry.stand_in or bool(problem.meta.get("stand_in")))
            _keep(entry, where, entries, read, plan)
            read.offered += 1
        splits[name] = entries
        remarks.append(
            f"{name} has {len(entries):,} problems of {folder}: {about['source']}, digest "
            f"{about['splits'][name]['digest']}; {about['licence']}; {about['citation']}"
        )
    return remarks


def _hold_out(splits: dict[str, list[Entry]], plan: FolderPlan) -> list[str]:
    """Makes the test and dev splits that the source lacks out of train. Returns remarks for the card."""
    remarks = []
    for name, share in (("test", plan.test_share), ("dev", plan.dev_share)):
        train = splits.get("train", [])
        if name in splits or not train or not share:
            continue
        contents = [entry.placed.digest if entry.placed and not entry.stand_in else None for entry in train]
        held = hold_out([entry.problem for entry in train], contents, share, plan.seed, name)
        if not held:
            raise DataError(
                f"{len(train)} train problems are too few to hold {share:.0%} out as {name}; give --{name}-share 0"
            )
        splits[name] = [entry for entry in train if entry.problem.id in held]
        splits["train"] = [entry for entry in train if entry.problem.id not in held]
        remarks.append(
            f"{name} has {len(held):,} of {len(train):,} train problems, held out (seed {plan.seed}, in groups that "
            "share an image or a question); it is not a published split"
        )
    return remarks


@contextlib.contextmanager
def _folder(plan: FolderPlan) -> Iterator[Path]:
    """A folder that replaces `plan.out` when the block ends; if it raises, `plan.out` stays as it was."""
    target = plan.out.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if not plan.replace:
            raise DataError(f"{plan.out} already exists; give another --out, or replace it with --replace")
        if not (target / "card.json").is_file():
            raise DataError(f"{plan.out} has no card.json, so it is not a prepared folder; give another --out")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    aside = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rename(aside)
        partial.rename(target)
    except OSError as error:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise DataError(f"{plan.out} cannot be written ({error.strerror or error}); give another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def prepare(source: Source, request: PrepareRequest, plan: FolderPlan) -> dict[str, Any]:
    """Writes the folder, the card last, and returns the card. If it raises DataError, nothing has been written."""
    if request.raw is not None and not request.raw.exists():
        raise DataError(f"{request.raw} does not exist. {source.files}")
    if request.images is not None and not request.images.is_dir():
        raise DataError(f"{request.images} is not a folder; --images takes the folder of the images")
    request = replace(request, splits=request.splits or dict(source.splits))
    with _folder(plan) as root:
        read = _entries(source, request, plan, root)
        splits = {name: entries for name, entries in read.splits.items() if entries}
        remarks = _borrow(splits, plan, read, root)
        if plan.missing == "error":
            _refuse_missing(splits, request)
        remarks += _hold_out(splits, plan)
        splits = {name: splits[name] for name in (*SPLITS, QUESTIONS) if name in splits}
        card = _card(source, request, plan, read, splits, remarks)
        for name, entries in splits.items():
            labelled = name != QUESTIONS
            write_jsonl(root / f"{name}.jsonl", (row_of(e.problem, labelled=labelled) for e in entries))
            if labelled and load_problems(root / f"{name}.jsonl", root) != [e.problem for e in entries]:
                raise RuntimeError(f"{name}.jsonl reads back differently from what was written")
        with write_aside(root / "card.json") as file:
            file.write(json.dumps(card, indent=1, ensure_ascii=False).encode() + b"\n")
    return card


def _card(
    source: Source,
    request: PrepareRequest,
    plan: FolderPlan,
    read: _Read,
    splits: Mapping[str, list[Entry]],
    remarks: list[str],
) -> dict[str, Any]:
    kept = sum(map(len, splits.values()))
    assert kept + len(read.skipped) == read.offered, "a row left without a reason"
    reasons = Counter(_general(why) for why, _ in read.skipped)
    if read.skipped:
        remarks = [*remarks, f"{len(read.skipped):,} of {read.offered:,} rows left out: "
                   + "; ".join(f"{why} ({n:,})" for why, n in reasons.most_common(LISTED))]  # fmt: skip
    if QUESTIONS in splits:
        remarks = [*remarks, f"{QUESTIONS}.jsonl has no answers: it is for a submission, and the loop does not read it"]
    return {
        "source": source.name,
        "licence": source.licence,
        "citation": source.citation,
        "raw": str(request.raw) if request.raw else f"hub:{request.hub or source.hub}@{request.revision or 'main'}",
        "split_names": dict(request.splits),
        "options": {key: value for key, value in request.options.items() if value},
        "seed": plan.seed,
        "digest": digest_of([entry for entries in splits.values() for entry in entries]),
        "remarks": remarks,
        "left_out": [f"{where}: {why}" for why, where in read.skipped[:LISTED]],
        "splits": {name: split_card(entries, labelled=name != QUESTIONS) for name, entries in splits.items()},
        "overlaps": overlaps(splits),
    }


def _general(why: str) -> str:
    """The reason without quoted and bracketed parts and numbers, which differ from row to row, for counting."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\d+", "…", why)[:100]
