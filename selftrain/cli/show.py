"""`selftrain show`: problems of a run in the terminal, with every iteration's answers, verdicts and rules."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.cli.commands import Commands, add_command, add_json

if TYPE_CHECKING:
    from selftrain.runs.stored import StoredRun
    from selftrain.test_time.results import EvaluatedProblem, JudgedText

SHOWN = 20  # problems of a list
COLOURS = {"correct": "green", "wrong": "red", "abstain": "yellow"}
FILTERS = {
    "wrong": "without full credit, unreadable answers included",
    "unread": "whose answer the judge could not read",
    "flipped": "gained or lost since the base model",
    "gained": "that the base model got wrong, and this iteration right",
    "lost": "that the base model got right, and this iteration wrong",
}


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "show", show, "show problems of a run with all answers and verdicts",
        "With ids, show these problems with every iteration's texts. Without ids, list the problems of one split; "
        "several filters must all hold.",
        "selftrain show outputs/demo --wrong --flipped",
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="run folder, finished or not")
    parser.add_argument("ids", nargs="*", metavar="id", help="ids of problems")
    for name, text in FILTERS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"problems {text}")
    parser.add_argument("--split", choices=("dev", "test", "hard"), help="problems to look at (default dev)")
    parser.add_argument("--strategy", default="greedy", help="strategy that the list and the filters go by (greedy)")
    parser.add_argument(
        "--iteration",
        type=int,
        metavar="K",
        help="iteration to list (default: the accepted one, or the newest if that is the base model)",
    )
    parser.add_argument("--limit", type=int, default=SHOWN, help=f"problems to list, 0 for all (default {SHOWN})")
    parser.add_argument("--full", action="store_true", help="show the listed problems as with their ids")
    add_json(parser)


def show(args: argparse.Namespace) -> int:
    """Print the problems; returns the exit status."""
    from selftrain.runs.stored import StoredRun

    run = StoredRun(args.run)
    if args.ids:
        found = [(split, name) for name in args.ids for split in _splits_with(run, name, args)]
    else:
        fitting = _filtered(run, args)
        found = [(args.split or "dev", name) for name in fitting[: args.limit or None]]
    if args.json:
        print(json.dumps([_whole(run, split, name) for split, name in found], indent=1, ensure_ascii=False))
        return 0
    for split, name in found:
        if args.ids or args.full:
            _print_whole(run, split, name)
    if not args.ids:
        if not args.full:
            _print_list(run, [name for _, name in found], args)
        cut = f"; the first {len(found)} are listed, --limit 0 lists all" if len(found) < len(fitting) else ""
        print(f"{len(fitting)} of {len(_both(run, args)[1])} problems{cut}")
    return 0


def _iteration(run: StoredRun, args: argparse.Namespace) -> int:
    """The iteration to list: the one asked for, the accepted one if it was trained, or else the newest measured one."""
    from selftrain.files import RunError

    measured = [k for split, k in run.evaluations if split == (args.split or "dev")]
    if args.iteration is not None or not measured:
        wanted = args.iteration if args.iteration is not None else run.base
        if wanted not in measured:
            known = ", ".join(map(str, measured)) or "none yet"
            raise RunError(f"{run.path}: iteration {wanted} was not measured on {args.split or 'dev'}; were: {known}")
        return wanted
    trained = run.accepted is not None and run.accepted > run.base
    return run.accepted if run.accepted is not None and trained and run.accepted in measured else measured[-1]


def _both(run: StoredRun, args: argparse.Namespace) -> tuple[dict[str, EvaluatedProblem], dict[str, EvaluatedProblem]]:
    """The rows of the base model, empty where it was not measured, and those of the listed iteration."""
    from selftrain.files import RunError

    split, k = args.split or "dev", _iteration(run, args)
    now = {row.id: row for row in run.rows(split, k)}
    before = {row.id: row for row in run.rows(split, run.base)} if (split, run.base) in run.evaluations else {}
    known = next(iter(now.values())).strategies if now else {}
    if now and args.strategy not in known:
        raise RunError(f"{run.path}: no strategy {args.strategy!r} on {split}; measured: {', '.join(known)}")
    return before, now


def _filtered(run: StoredRun, args: argparse.Namespace) -> list[str]:
    """Ids of the problems for which every filter holds, in the order of the split."""
    before, now = _both(run, args)
    wanted = [name for name in FILTERS if vars(args)[name]]
    found = []
    for name, row in now.items():
        result = row.strategies[args.strategy]
        right, was = result.credit == 1, None
        if (first := before.get(name)) and args.strategy in first.strategies:
            was = first.strategies[args.strategy].credit == 1
        holds = {
            "wrong": not right, "unread": result.abstain == 1, "flipped": was is not None and was != right,
            "gained": was is False and right, "lost": was is True and not right,
        }  # fmt: skip
        if all(holds[one] for one in wanted):
            found.append(name)
    return found


def _splits_with(run: StoredRun, name: str, args: argparse.Namespace) -> list[str]:
    """The splits in which a problem was measured. RunError for an id that none has."""
    from selftrain.runs.stored import refuse_unknown

    splits = [args.split] if args.split else list(dict.fromkeys(split for split, _ in run.evaluations))
    ids: dict[str, list[str]] = {}
    for split in splits:
        k = next((k for known, k in run.evaluations if known == split), run.base)
        ids[split] = [row.id for row in run.rows(split, k)]
    refuse_unknown([name], [one for several in ids.values() for one in several], run.path)
    return [split for split, several in ids.items() if name in several]


def _history(run: StoredRun, split: str, name: str) -> Iterator[EvaluatedProblem]:
    """The problem's row in every iteration."""
    for known, k in run.evaluations:
        if known == split:
            yield from (row for row in run.rows(split, k) if row.id == name)


def _whole(run: StoredRun, split: str, name: str) -> dict[str, Any]:
    rows = list(_history(run, split, name))
    problem = run.problem(split, rows[0])
    return {
        "id": name, "split": split, "question": problem.question, "choices": [*problem.choices], "gold": problem.gold,
        "iterations": [row.to_json() for row in rows],
    }  # fmt: skip


def _print_whole(run: StoredRun, split: str, name: str) -> None:
    from rich.text import Text

    from selftrain.report.formatting import visible
    from selftrain.runs.run_dir import called

    console = _console()
    rows = list(_history(run, split, name))
    problem = run.problem(split, rows[0])
    console.print(Text(f"{visible(name)}  ({split})", style="bold"))
    console.print(visible(problem.question or "(the question is neither in the run folder nor in the data folder)"))
    for letter, choice in zip("ABCDEFGHIJ", problem.choices, strict=False):
        console.print(f"  {letter}. {visible(choice)}")
    console.print(f"gold: {visible(problem.gold or '')}")
    for row in rows:
        chosen = ", accepted" if row.iteration == run.accepted else ""
        console.print(Text(f"\n{called(row.iteration)}{chosen}", style="bold"))
        for label, text in row.judged_texts():
            v = text.verdict
            line = Text(f"  {label}: ").append(v.status, style=COLOURS[v.status])
            line.append(f" {visible(v.extracted or '-')} [{v.rule}], {text.tokens} tokens")
            line.append(", truncated" if text.finish == "length" else "")
            line.append(f"; {visible(v.note)}" if v.note else "")
            console.print(line)
            console.print(textwrap.indent(visible(text.text), "    | ", lambda _: True))
        credits = (f"{key} {result.credit:.3g}" for key, result in row.strategies.items())
        console.print(f"  credit: {', '.join(credits)}")
    console.print("")


def _print_list(run: StoredRun, names: list[str], args: argparse.Namespace) -> None:
    """One line for each problem: gold, the base model's answer, this iteration's answer, the question's start."""
    from rich.text import Text

    from selftrain.report.formatting import visible
    from selftrain.runs.run_dir import called

    before, now = _both(run, args)
    console, split, k = _console(), args.split or "dev", _iteration(run, args)
    console.print(f"{split}, {args.strategy}: {called(run.base)} -> {called(k)}")
    for name in names:
        question = run.problem(split, now[name]).question or ""
        line = Text(f"{visible(name)}  gold {visible(now[name].gold)}  ")
        for mark, rows in ((" -> ", before if k != run.base else {}), ("  ", now)):
            if name in rows and args.strategy in rows[name].strategies:
                line.append(*_answer(rows[name], args.strategy)).append(mark)
        console.print(line.append(visible(textwrap.shorten(question, 60, placeholder=" …"))))


def _answer(row: EvaluatedProblem, strategy: str) -> tuple[str, str]:
    """What a strategy answered, with its colour."""
    from selftrain.report.formatting import visible

    result = row.strategies[strategy]
    texts: tuple[JudgedText, ...] = result.texts
    answers = result.answers or tuple(t.verdict.extracted for t in texts if t.verdict.extracted is not None)
    status = "correct" if result.credit == 1 else "abstain" if result.abstain == 1 else "wrong"
    said = visible(", ".join(answers)) or ("-" if status == "abstain" else f"{result.credit:.2f}")
    return f"{said} {status}", COLOURS[status]


def _console() -> Any:
    from rich.console import Console

    return Console(markup=False, highlight=False, soft_wrap=True, emoji=False)
