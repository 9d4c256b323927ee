"""`python -m selftrain score` and `rejudge`: their options and what they print. Light to import."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parsers(verbs: Any) -> None:
    """Add the two verbs to the sub-parsers of the command line."""
    score = verbs.add_parser(
        "score",
        help="score a file of answers, or judge a run's stored answers again",
        description="Score a file of answers (--problems, --outputs, --judge), or a run folder's stored evaluations.",
        epilog="Judges: auto (by answer type), mathvista, geoqa, mathvista-official; legacy:NAME are published ones.",
    )
    score.add_argument("run", type=Path, nargs="?", help="run folder, instead of the two files")
    score.add_argument("--problems", type=Path, metavar="FILE", help="problems, JSONL or .gz")
    score.add_argument("--outputs", type=Path, metavar="FILE", help="answers, JSONL or .gz, joined by id or pid")
    score.add_argument("--judge", metavar="NAME", help="who judges (default auto)")
    score.add_argument(
        "--per-item", type=Path, metavar="FILE",
        help="where the verdict on every problem goes (default outputs/score/NAME.jsonl under the current folder)",
    )  # fmt: skip
    score.add_argument("--seed", type=int, help="of legacy judges that draw (default 0)")
    score.add_argument("--official-out", type=Path, metavar="FILE", help="write MathVista's official result file")
    score.add_argument("--official-scores", type=Path, metavar="FILE", help="write MathVista's official score tables")
    score.add_argument(
        "--extractor-url", metavar="URL",
        help="OpenAI-compatible server that reads what the rules cannot, such as http://localhost:8000/v1; its key, if "
        "it needs one, comes from the environment variable EXTRACTOR_API_KEY",
    )  # fmt: skip
    score.add_argument("--extractor-model", metavar="NAME", help="its model")
    score.add_argument(
        "--extractor-cache", type=Path, metavar="FILE", help="its replies (default outputs/extractor.sqlite)"
    )
    score.add_argument("--json", action="store_true", help="print one JSON object and nothing else")

    again = verbs.add_parser("rejudge", help="judge all stored answers of a run again and report what changed")
    again.add_argument("run", type=Path, help="run folder")
    again.add_argument(
        "--flips", type=Path, metavar="FILE", help="list of all changes (default outputs/rejudge/RUN.jsonl)"
    )
    again.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


FILE_OPTIONS = (
    "problems", "outputs", "judge", "per_item", "seed", "official_out", "official_scores", "extractor_url",
    "extractor_model", "extractor_cache",
)  # fmt: skip


def score(args: argparse.Namespace) -> int:
    """A run folder's evaluations, or one file of answers; returns the exit status."""
    from data_process.schema import DataError

    given = [name for name in FILE_OPTIONS if getattr(args, name) is not None]
    if args.run is not None:
        if given:
            raise DataError(f"--{given[0].replace('_', '-')} belongs to a file of answers, not to the run {args.run}")
        return _score_run(args)
    if args.problems is None or args.outputs is None:
        raise DataError("score needs --problems FILE and --outputs FILE, or a run folder")
    return _score_files(args)


def _score_run(args: argparse.Namespace) -> int:
    from selftrain.scoring import rescore

    result = rescore(args.run)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    for entry in result["evaluations"]:
        print(
            f"iteration {entry['iteration']} {entry['split']}: greedy {entry['correct']}/{entry['n']} = "
            f"{100 * entry['accuracy']:.1f} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}], abstain "
            f"{entry['abstain']}, judged otherwise than stored: {entry['changed']}"
        )
    return 0


def _score_files(args: argparse.Namespace) -> int:
    from data_process.schema import DataError
    from selftrain.scorecard import ExtractorSettings, as_text, score_files

    extractor = None
    if args.extractor_url is not None:
        if args.extractor_model is None:
            raise DataError("--extractor-url needs --extractor-model NAME, the model that the server serves")
        extractor = ExtractorSettings(args.extractor_url, args.extractor_model)
        if args.extractor_cache is not None:
            extractor = ExtractorSettings(args.extractor_url, args.extractor_model, args.extractor_cache)
    elif args.extractor_model is not None or args.extractor_cache is not None:
        raise DataError("--extractor-model and --extractor-cache need --extractor-url URL")
    result = score_files(
        args.problems,
        args.outputs,
        args.judge or "auto",
        seed=args.seed or 0,
        per_item=args.per_item,
        extractor=extractor,
        official_out=args.official_out,
        official_scores=args.official_scores,
    )
    print(json.dumps(result, indent=1) if args.json else as_text(result))
    return 0


def rejudge(args: argparse.Namespace) -> int:
    """Print the flip report of a run; returns the exit status."""
    from selftrain.scoring import rejudge as judge_again

    result = judge_again(args.run, args.flips)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(
        f"{result['answers']} stored answers under judge version {result['judge']}: {result['unchanged']} unchanged, "
        f"{result['flipped']} with another verdict, {result['other_answer']} with the same verdict on another answer"
    )
    for when in ("stored", "now"):
        print(f"{when:>6}: " + ", ".join(f"{status} {count}" for status, count in result[when].items()))
    for name in ("by_status", "by_rule"):
        for change, count in result[name].items():
            print(f"{count:6d}  {change}")
    for row in result["examples"]:
        before, now = row["stored"], row["now"]
        print(
            f"{row['id']} ({row['file']}, {row['answer']}, gold {row['gold']}): {before['status']} "
            f"{before['extracted']} [{before['rule']}] -> {now['status']} {now['extracted']} [{now['rule']}]"
        )
    print(f"all changes: {result['flips']}")
    return 0
