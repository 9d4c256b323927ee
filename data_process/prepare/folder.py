"""Makes a prepared folder from raw rows: reads, checks and splits them, and writes all files or none."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_process.images import standin
from data_process.images.marks import PLACEHOLDER
from data_process.io import load_problems, problem_from_row, write_json, write_jsonl
from data_process.json_files import read_json
from data_process.outputs import check_outputs
from data_process.prepare.data_card import LISTED, Entry, digest_of, overlaps, row_of, split_card, without_details
from data_process.prepare.holdout import LEVELS, groups, hold_out, question_key
from data_process.prepare.images import FOLDER, ImagePlacer, PlacedImage
from data_process.schema import DataError, Problem, shown, wrong
from data_process.sources.base import SPLITS, Item, PrepareRequest, Source, SourceImage, refuse_unreadable, row_id
from data_process.sources.golds import AS_TEXT, readable
from data_process.sources.tables import table_rows

MISSING = ("error", "count", "drop", "standin")
DEV_SHARE = 0.1  # of train, where a source has no dev split
BAD_SHARE = 0.05  # of the rows that may be unusable; more of them are a fault of the file or of the options
# What reading a row of strange values may raise; such a row is left out and counted, with the error as its reason.
UNFORESEEN = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, OSError)
MAX_LISTED = 190  # characters of names in a message
IDS = ("split", "none")  # put the split's name before every id; number the rows of each split instead
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
    skip_bad: bool = False  # leave out and count rows that cannot be used, however many
    bad_share: float = BAD_SHARE  # of rows that are left out and counted in any case
    ids: str | None = None  # one of IDS; None: as they are, and as "split" where numbers start again in each split
    borrow: Mapping[str, Path] = field(default_factory=dict)  # split -> prepared folder to take it from


@dataclass
class _Read:
    """What was read so far."""

    splits: dict[str, list[Entry]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (reason, where) of the rows left out
    offered: int = 0  # rows seen
    bad: int = 0  # of those left out: rows that cannot be used
    ids: dict[tuple[str, str], str] = field(default_factory=dict)  # (split, problem id) -> where it was read
    columns: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # field -> column -> rows
    unused: Counter[str] = field(default_factory=Counter)  # column -> rows in which no field takes it


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
                refuse_unreadable(row, where)
                item = source.item(request, raw_split, where, row)
                if plan.ids == "none":
                    item = replace(item, fields={**item.fields, "id": row_id(raw_split, where)})
                item = _as_text(item)
                problem = _checked(source, request, item, split, where, root)
                if (split, problem.id) in read.ids:
                    first = read.ids[split, problem.id]
                    raise DataError(
                        f"{where}: id {shown(problem.id)} was already used ({first}); --id none numbers the rows"
                    )
            except (DataError, *UNFORESEEN) as error:
                if not isinstance(error, DataError):
                    error = DataError(f"{where}: it cannot be read ({type(error).__name__}: {str(error)[:200]})")
                read.bad += 1
                read.skipped.append((str(error).removeprefix(f"{where}: ").removeprefix(f"{where}, ")[:300], where))
                continue
            read.ids[split, problem.id] = where
            read.unused.update(item.unused)
            for name, column in item.columns.items():
                read.columns[name][column] += 1
            _keep(with_images(problem, item, placer, plan.missing), where, entries, read, plan)
    if not plan.skip_bad and read.bad > plan.bad_share * read.offered:
        why, where = read.skipped[0]
        raise DataError(
            f"{where}: {why}. {read.bad:,} of {read.offered:,} rows cannot be used, more than the limit of "
            f"{plan.bad_share:.0%} (--bad-share); correct them, or leave them out with --skip-bad"
        )
    if not read.ids:
        raise DataError(
            f"{source.name}: none of {read.offered} rows can be used; correct --raw or the options. "
            f"First: {read.skipped[:1]}"
        )
    return read


def _as_text(item: Item) -> Item:
    """The item with type text where its gold answers are expressions that cannot be read; the card counts these."""
    golds = (item.fields.get("answer"), *item.fields.get("alternatives", ()))
    if item.fields.get("answer_type") != "expression" or golds[0] is None:
        return item
    if all(not gold.strip() or readable(gold, "expression") for gold in golds):
        return item
    notes = (*(note for note in item.notes if "expression inferred" not in note), AS_TEXT)
    return replace(item, fields={**item.fields, "answer_type": "text"}, notes=notes)


def _tell_apart(read: _Read, plan: FolderPlan) -> list[str]:
    """Puts the split's name before every id where asked, or where ids start again in each split. Returns remarks.

    Numbers that start again are always told apart, and other ids where their problems ask different questions:
    DataError where two splits have the same problem under one id.
    """
    of_id: dict[str, list[tuple[str, Problem]]] = {}
    for split, entries in read.splits.items():
        for entry in entries:
            of_id.setdefault(entry.problem.id, []).append((split, entry.problem))
    repeated = {name: found for name, found in of_id.items() if len(found) > 1}
    if plan.ids != "split" and not repeated:
        return []
    for name, found in repeated.items():
        if plan.ids is None and not name.isdecimal() and len({question_key(p) for _, p in found}) < len(found):
            first, second = (read.ids[split, name] for split, _ in found[:2])
            raise DataError(
                f"{second}: id {shown(name)} was already used ({first}); if these are two problems, "
                "--id split puts the split's name before every id"
            )
    for split, entries in read.splits.items():
        read.splits[split] = [
            replace(entry, problem=replace(entry.problem, id=f"{split}-{entry.problem.id}")) for entry in entries
        ]
    read.ids = {(split, f"{split}-{name}"): where for (split, name), where in read.ids.items()}
    return [] if plan.ids else ["ids start again in each split, so every id has the name of its split in front"]


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
    where = f"{where}, problem {fields['id']!r}"
    images = [f"{FOLDER}/{image.name}" for image in item.images]
    if not images and source.pictured:
        wrong(where, f"no image, but every problem of {source.name} has one; fetch the table again, or add the image")
    if not images and PLACEHOLDER in fields["question"]:
        wrong(where, f"the question marks {PLACEHOLDER}, but the row has no image; name its column: --map image=COLUMN")
    return problem_from_row({**fields, "images": images}, where, root)


def with_images(problem: Problem, item: Item, placer: ImagePlacer, missing: str) -> Entry:
    """The problem with its images in the folder. If one of them cannot be used, the problem is counted as unusable.

    `missing`: one of MISSING; with "standin" an image is drawn for the ones that cannot be used.
    """
    found = [placer.place(image) for image in item.images]
    usable = tuple(one for one in found if isinstance(one, PlacedImage))
    faults = [one for one in found if not isinstance(one, PlacedImage)]
    if not faults:
        return Entry(replace(problem, images=tuple(one.relative for one in usable)), usable, notes=item.notes)
    wanted = tuple(name for name, one in zip(problem.images, found, strict=True) if not isinstance(one, PlacedImage))
    if missing != "standin":
        return Entry(problem, usable, faults[0], wanted=wanted, notes=item.notes)
    drawn = placer.place(SourceImage(standin.name_for(problem.question), data=standin.draw(problem.question)))
    assert isinstance(drawn, PlacedImage)
    files = tuple(one if isinstance(one, PlacedImage) else drawn for one in found)
    marked = replace(problem, images=tuple(one.relative for one in files), meta={**problem.meta, "stand_in": True})
    return Entry(marked, files, faults[0], stand_in=True, wanted=wanted, notes=item.notes)


def _keep(entry: Entry, where: str, entries: list[Entry], read: _Read, plan: FolderPlan) -> None:
    if entry.unusable and plan.missing == "drop":
        read.skipped.append((f"image {entry.unusable}", f"{where}, problem {entry.problem.id!r}"))
    else:
        entries.append(entry)


def _refuse_missing(splits: Mapping[str, Sequence[Entry]], request: PrepareRequest) -> None:
    unusable = [entry for entries in splits.values() for entry in entries if entry.unusable]
    if unusable:
        reasons = Counter(str(entry.unusable) for entry in unusable)
        listed = ", ".join(f"{e.wanted[0]} of {e.problem.id} ({e.unusable})" for e in unusable[:LISTED])
        listed = listed if len(listed) <= MAX_LISTED else f"{listed[:MAX_LISTED]}..."
        raise DataError(
            f"{len(unusable)} of {sum(map(len, splits.values()))} problems have no usable image "
            f"({', '.join(f'{name} {n}' for name, n in sorted(reasons.items()))}); first: {listed}. Name their "
            f"folder with --images DIR{'' if request.images is None else f' (now {request.images})'}, or say what "
            "to do with --missing count|drop|standin"
        )


def _borrow(splits: dict[str, list[Entry]], plan: FolderPlan, read: _Read, root: Path) -> list[str]:
    """Copies splits and their images from other prepared folders. Returns remarks for the card."""
    remarks = []
    taken = {identifier: where for (_, identifier), where in read.ids.items()}
    for name, folder in plan.borrow.items():
        if name in splits:
            raise DataError(f"--borrow {name}={folder}: the source has this split itself; leave it out with --split")
        card = folder / "card.json"
        if not card.is_file():
            raise DataError(f"--borrow {name}={folder}: it has no card.json, so it is not a prepared folder")
        try:
            about = read_json(card, "prepare that folder again")
            of = [about[key] for key in ("source", "licence", "citation")] + [about["splits"][name]["digest"]]
        except (KeyError, TypeError) as error:
            raise DataError(f"{card}: not the card of a folder with {name}.jsonl; prepare that folder again") from error
        source, licence, citation, digest = map(str, of)
        # The name comes from a file of others, and must not lead out of the folder.
        placer = ImagePlacer(root, plan.link, below=re.sub(r"[^\w.:-]", "_", f"{source}-{name}"))
        entries: list[Entry] = []
        for problem in load_problems(folder / f"{name}.jsonl", folder):
            where = f"{folder / name}.jsonl"
            if taken.setdefault(problem.id, where) != where:
                raise DataError(f"{where}: id {shown(problem.id)} is also in {taken[problem.id]}; see --id split")
            images = tuple(SourceImage(name.removeprefix(f"{FOLDER}/"), (folder / name,)) for name in problem.images)
            entry = with_images(problem, Item({}, images), placer, plan.missing)
            entry = replace(entry, stand_in=entry.stand_in or bool(problem.meta.get("stand_in")))
            _keep(entry, where, entries, read, plan)
            read.offered += 1
        splits[name] = entries
        remarks.append(
            f"{name} has {len(entries):,} problems of {folder}: {source}, digest {digest}; {licence}; {citation}"
        )
    return remarks


def _hold_out(splits: dict[str, list[Entry]], plan: FolderPlan) -> list[str]:
    """Makes the test and dev splits that the source lacks out of train. Returns remarks for the card."""
    remarks = []
    offered = len(splits.get("train", []))
    for name, asked in (("test", plan.test_share), ("dev", plan.dev_share)):
        train = splits.get("train", [])
        if name in splits or not train or not asked:
            continue
        # Each is a share of all that train had, and at least one problem.
        share = max(asked * offered, 1) / len(train)
        wanted, problems = round(share * len(train)), [entry.problem for entry in train]
        if len(train) <= 2 or wanted >= len(train):
            raise DataError(
                f"{len(train)} train problems are too few to hold {wanted} out as {name}; give --{name}-share 0"
            )
        held: set[str] = set()
        for level in range(len(LEVELS)):
            contents = [entry.contents(unusable=bool(level)) for entry in train]
            drawn = hold_out(problems, contents, share, plan.seed, name, level)
            if len(drawn) > len(held):
                held, together = drawn, LEVELS[level]
            if 2 * len(held) >= wanted:
                break
        if not held:
            least = min(map(len, groups(problems, contents, level)))
            raise DataError(
                f"{wanted} of {len(train)} train problems cannot be held out as {name}: at least {least} of them "
                f"{LEVELS[-1]}, so that all must stay together; give --{name}-share 0, or a larger share"
            )
        splits[name] = [entry for entry in train if entry.problem.id in held]
        splits["train"] = [entry for entry in train if entry.problem.id not in held]
        remarks.append(
            f"{name} has {len(held):,} of {len(train):,} train problems, held out (seed {plan.seed}, in groups that "
            f"{together}); it is not a published split"
        )
    return remarks


@contextlib.contextmanager
def new_folder(out: Path, *, replace: bool) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends; if it raises, `out` stays as it was.

    DataError if there is one already, unless it is a prepared folder and to be replaced.
    """
    target = out.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if not replace:
            raise DataError(f"{out} already exists; give another --out, or replace it with --replace")
        if not (target / "card.json").is_file():
            raise DataError(f"{out} has no card.json, so it is not a prepared folder; give another --out")
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
        raise DataError(f"{out} cannot be written ({error.strerror or error}); give another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def prepare(source: Source, request: PrepareRequest, plan: FolderPlan) -> dict[str, Any]:
    """Writes the folder, the card last, and returns the card. If it raises DataError, nothing has been written."""
    if request.raw is not None and not request.raw.exists():
        raise DataError(f"{request.raw} does not exist. {source.files}")
    if request.images is not None and not request.images.is_dir():
        raise DataError(f"{request.images} is not a folder; --images takes the folder of the images")
    check_outputs({"--out": plan.out}, [request.raw, request.images, *plan.borrow.values()])
    request = replace(request, splits=request.splits or dict(source.splits))
    with new_folder(plan.out, replace=plan.replace) as root:
        read = _entries(source, request, plan, root)
        remarks = []
        if request.assumed:
            remarks = [f"no --split, and the name {request.raw and request.raw.name} says none: all rows are train"]
        remarks += _tell_apart(read, plan)
        splits = {name: entries for name, entries in read.splits.items() if entries}
        remarks += _borrow(splits, plan, read, root)
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
        write_json(root / "card.json", card)
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
    reasons = Counter(without_details(why) for why, _ in read.skipped)
    if read.skipped:
        limit = "" if plan.skip_bad else f" (of unusable ones {read.bad:,}; the limit is {plan.bad_share:.0%})"
        remarks = [*remarks, f"{len(read.skipped):,} of {read.offered:,} rows left out{limit}: "
                   + "; ".join(f"{why} ({n:,})" for why, n in reasons.most_common(LISTED))]  # fmt: skip
    if QUESTIONS in splits:
        remarks = [*remarks, f"{QUESTIONS}.jsonl has no answers: it is for a submission, and the loop does not read it"]
    return {
        "source": source.name,
        "licence": source.licence,
        "citation": source.citation,
        "prompts": source.prompts,
        "judge": source.judge,
        "raw": str(request.raw) if request.raw else f"hub:{request.hub or source.hub}@{request.revision or 'main'}",
        "split_names": dict(request.splits),
        "options": {key: value for key, value in request.options.items() if value},
        "seed": plan.seed,
        "digest": digest_of([entry for entries in splits.values() for entry in entries]),
        "columns": {name: [column for column, _ in found.most_common()] for name, found in read.columns.items()},
        "unused_columns": [name for name in read.unused if not any(name in found for found in read.columns.values())],
        "remarks": remarks,
        "left_out": [f"{where}: {why}" for why, where in read.skipped[:LISTED]],
        "splits": {name: split_card(entries, labelled=name != QUESTIONS) for name, entries in splits.items()},
        "overlaps": overlaps(splits),
    }
