"""Turn a downloaded data set into a folder that the loop reads.

    python -m data_process.prepare geoqa --raw geoQA-data --out data/geoqa
    python run.py --config configs/geoqa_qwen2vl_7b.yaml --set data.folder=data/geoqa

The first command writes `train.jsonl`, `dev.jsonl`, `test.jsonl` (those that the source has), `images/` and
`card.json`, all or nothing, and prints the card. If the source has no dev split, a seeded share of train is held out,
in groups that share an image or a question. A table without a test split has one held out too, and a file whose name
says no split is taken for train. A split whose answers are not public becomes `questions.jsonl`, which no
stage of the loop reads. `--borrow test=data/mathvista` takes a split from another prepared folder, to train on one data
set and test on another. MODULE:NAME in place of a source's name reads with a `Source` of your own; `sources.base` shows
how to write one.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from data_process.errors import printable, write_escapes
from data_process.prepare.data_card import render
from data_process.prepare.folder import BAD_SHARE, DEV_SHARE, IDS, MISSING, QUESTIONS, FolderPlan, prepare
from data_process.schema import ANSWER_TYPES, DataError, wrong
from data_process.sources.base import SPLITS, PrepareRequest, Source
from data_process.sources.columns import parse_map, parse_tolerance
from data_process.sources.tables import says_no_split

# name -> module of data_process.sources that has a SOURCE
BENCHMARKS = (
    "chartqa", "clevr_math", "geometry3k", "geoqa", "m3cot", "mathverse", "mathvision", "mathvista", "mmmu", "tabmwp",
    "wemath",
)  # fmt: skip
SOURCES = {**{name: name for name in BENCHMARKS}, **dict.fromkeys(("table", "jsonl"), "columns")}


def source_named(name: str) -> Source:
    """A known source by its name, or the `Source` of a module: "my_package.my_source", "my_source:SOURCE".

    DataError for an unknown name, with the nearest one, and for a module that cannot be imported or has no such source.
    """
    module, colon, attribute = name.partition(":")
    if colon or "." in module:
        return _imported(module, attribute or "SOURCE")
    if name not in SOURCES:
        near = difflib.get_close_matches(name.lower(), SOURCES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(SOURCES))}"
        raise DataError(f"unknown source {name!r}; {hint}, or MODULE:NAME for a source of your own")
    return _imported(f"data_process.sources.{SOURCES[name]}", "SOURCE")


def _imported(module: str, attribute: str) -> Source:
    if not all(part.isidentifier() for part in module.split(".")):
        raise DataError(f"{module!r} is not the name of a Python module; write for instance my_package.my_source")
    try:
        found = vars(importlib.import_module(module)).get(attribute)
    except ImportError as error:
        advice = "install its package, or run the command in the folder that contains it"
        raise DataError(f"the source module {module} cannot be imported ({error}); {advice}") from error
    if not isinstance(found, Source):
        raise DataError(f"{module} has no source {attribute}; define {attribute} = Source(name=..., item=...) in it")
    return found


def splits_of(source: Source, asked: Sequence[str]) -> dict[str, str]:
    """Raw split -> prepared split for `--split` values such as "test" and "testmini=dev"; by default the source's."""
    wanted: dict[str, str] = {}
    for text in asked:
        raw, equals, name = text.partition("=")
        if not equals:
            name = QUESTIONS if raw in source.unlabelled else source.splits.get(raw, raw)
        if name not in SPLITS and not (name == QUESTIONS and raw in source.unlabelled):
            raise DataError(
                f"--split {text}: a prepared folder has the splits {', '.join(SPLITS)}; say which of them this is: "
                f"--split {raw}=test"
            )
        if raw in source.unlabelled and name != QUESTIONS:
            raise DataError(
                f"--split {text}: the answers of {source.name}'s {raw} split are not public, so nothing can be trained "
                f"or scored on it; --split {raw} writes its questions, to be answered and submitted"
            )
        if raw in wanted or name in wanted.values():
            raise DataError(f"--split {text}: {raw!r} or {name!r} is given twice; give each split once")
        wanted[raw] = name
    return wanted or dict(source.splits)


def borrowed(pairs: Sequence[str]) -> dict[str, Path]:
    """`["test=data/mathvista"]` -> {"test": Path("data/mathvista")}. Raises DataError."""
    found: dict[str, Path] = {}
    for pair in pairs:
        split, equals, folder = pair.partition("=")
        if not equals or not folder or split not in SPLITS or split in found:
            wrong(f"--borrow {pair!r}", f"give each split once, as SPLIT=DIR; the splits are {', '.join(SPLITS)}")
        found[split] = Path(folder)
    return found


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a fraction in [0, 1), for instance 0.1")
    return value


def parser(prog: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=prog, description="Turn a downloaded data set into a folder for the loop.")
    known = ", ".join(sorted(SOURCES))
    made.add_argument("source", help=f"one of {known}; or MODULE[:NAME], a module with a Source of your own")
    made.add_argument("--raw", type=Path, help="file or folder of the data set as published")
    made.add_argument("--hub", nargs="?", const="", metavar="OWNER/NAME", help="read it from the Hugging Face hub")
    made.add_argument("--hub-config", help="configuration (subset) on the hub")
    made.add_argument("--revision", help="commit, tag or branch on the hub")
    made.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, if not beside the rows")
    made.add_argument("--out", type=Path, required=True, help="folder to write")
    made.add_argument("--split", action="append", default=[], metavar="NAME[=AS]", help="e.g. testmini=test")
    made.add_argument(
        "--missing", choices=MISSING, default="error", help="problems whose image is missing, empty or unreadable: "
        "stop (default), keep and count, leave out, or draw marked stand-ins",
    )  # fmt: skip
    made.add_argument(
        "--holdout", type=_share, metavar="SHARE", help="share of train to hold out as dev, and as test, where the "
        "data have none (0.1; as test 0.1 for a table and 0 for a published data set)",
    )  # fmt: skip
    made.add_argument("--dev-share", type=_share, metavar="SHARE", help="the same for dev alone")
    made.add_argument("--test-share", type=_share, metavar="SHARE", help="the same for test alone")
    made.add_argument("--seed", type=int, default=0, help="seed of the draw of held-out problems (0)")
    made.add_argument("--borrow", action="append", default=[], metavar="SPLIT=DIR", help="split of a prepared folder")
    made.add_argument("--link", action="store_true", help="hard-link the images instead of copying them")
    made.add_argument("--replace", action="store_true", help="replace an already prepared folder")
    made.add_argument(
        "--bad-share", type=_share, default=BAD_SHARE, metavar="SHARE",
        help="leave out and count unusable rows up to this share of all, and stop at more (0.05)",
    )  # fmt: skip
    made.add_argument("--skip-bad", action="store_true", help="leave out and count unusable rows, however many")
    made.add_argument(
        "--id", choices=IDS, help="split: put the split's name before every id; none: number the rows instead. By "
        "default ids stay as they are, and numbers that start again in each split get its name",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="print the card as JSON")
    made.add_argument("--origin", metavar="NAME", help="data set that the problems are from, e.g. GeoQA")
    table = made.add_argument_group("table")
    table.add_argument("--map", action="append", default=[], metavar="FIELD=COLUMN", help="e.g. question=problem")
    table.add_argument("--answer-type", choices=ANSWER_TYPES, help="of every answer (default: inferred, and printed)")
    table.add_argument("--answer-is", choices=("letter", "text", "index0", "index1"), help="form of a gold choice")
    table.add_argument("--answer-pattern", metavar="REGEX", help="the group of its last match is the answer")
    table.add_argument(
        "--answer-list", choices=("any", "ordered"), help="several answers in a cell: any of them is right, or all in "
        "this order (default: any for texts, ordered for numbers)",
    )  # fmt: skip
    table.add_argument(
        "--tolerance", metavar="SIZE", help="of every number without one of its own: 5%% or 0.05 of the answer, or "
        "+-0.5 in its unit",
    )  # fmt: skip
    charts = made.add_argument_group("chartqa")
    charts.add_argument("--part", choices=("human", "augmented"), help="questions written by people, or generated")
    geometry = made.add_argument_group("geometry3k")
    geometry.add_argument("--text", choices=("annotat_text", "problem_text", "compact_text"), help="question field")
    return made


def _request(args: argparse.Namespace, source: Source) -> PrepareRequest:
    if (args.raw is None) == (args.hub is None):
        raise DataError("say where the data are: either --raw PATH for files or --hub [OWNER/NAME]")
    given = {
        "map": parse_map(args.map), "answer_type": args.answer_type, "answer_is": args.answer_is,
        "answer_pattern": args.answer_pattern, "answer_list": args.answer_list, "text": args.text,
        "part": args.part, "tolerance": args.tolerance,
    }  # fmt: skip
    for name, value in given.items():
        if value and name not in source.options:
            raise DataError(f"the source {source.name} has no option --{name.replace('_', '-')}; leave it out")
    if args.tolerance:
        parse_tolerance(args.tolerance)
    if args.answer_pattern:
        option = f"--answer-pattern {args.answer_pattern!r}"
        try:
            groups = re.compile(args.answer_pattern).groups
        except re.error as error:
            raise DataError(f"{option} is not a regular expression: {error}; correct it") from error
        if groups != 1:
            raise DataError(f"{option} must have exactly one group, and it has {groups}")
    raw, splits, assumed = args.raw, splits_of(source, args.split), None
    if source.assumed_split and raw is not None and not args.split:
        assumed = says_no_split(raw, list(splits))
    if assumed and source.assumed_split:
        raw, splits = assumed, {source.assumed_split: source.assumed_split}
    return PrepareRequest(
        raw=raw, images=args.images, hub=args.hub or None, hub_config=args.hub_config, revision=args.revision,
        splits=splits, assumed=assumed is not None, origin=args.origin, options=given,
    )  # fmt: skip


def _shares(args: argparse.Namespace, source: Source) -> dict[str, float]:
    """What to hold out of train: the option for the split, else the one for both, else the default."""
    usual = {"dev_share": DEV_SHARE, "test_share": source.test_share}
    given = {name: vars(args)[name] for name in usual}
    both = args.holdout
    return {
        name: share if (share := given[name]) is not None else both if both is not None else usual[name]
        for name in usual
    }


def main(argv: Sequence[str] | None = None, prog: str = "python -m data_process.prepare") -> int:
    args = parser(prog).parse_args(argv)
    write_escapes()
    try:
        source = source_named(args.source)
        plan = FolderPlan(
            out=args.out, missing=args.missing, seed=args.seed, link=args.link, replace=args.replace,
            skip_bad=args.skip_bad, borrow=borrowed(args.borrow), bad_share=args.bad_share, ids=args.id,
            **_shares(args, source),
        )  # fmt: skip
        card = prepare(source, _request(args, source), plan)
    except DataError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    print(json.dumps(card, indent=1, ensure_ascii=False) if args.json else printable(render(card)))
    return 0
