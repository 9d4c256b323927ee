"""`selftrain distill`: draw traces from a stronger model."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_config, add_quiet


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "distill", distill_command, "draw solutions from a stronger model, into a file that `traces:` reads",
        "Draw solutions of problems from any engine, such as a server with a stronger model. Samples lie in the bank: "
        "the same command resumes. Each row says what the judge makes of it; `traces:` uses the correct ones.",
        "selftrain distill --problems data/mine/train.jsonl --out data/mine/teacher.jsonl --config mathvista_served",
    )  # fmt: skip
    parser.add_argument("--problems", type=Path, required=True, metavar="FILE", help="problems, JSONL")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file of traces to write, JSONL")
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder (default: the problems' folder)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="ask the first N problems")
    parser.add_argument(
        "--token-budget", type=_positive, metavar="N", help="generate at most N tokens (default: no limit)"
    )
    parser.add_argument("--price-in", type=_price, default=0.0, metavar="P", help="price of a million prompt tokens")
    parser.add_argument(
        "--price-out", type=_price, default=0.0, metavar="P", help="price of a million generated tokens"
    )
    add_config(parser)
    add_quiet(parser)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price, such as 0.6")
    return value


def distill_command(args: argparse.Namespace) -> int:
    """Draw, write, and print tokens and cost; returns the exit status."""
    from selftrain.config import load_config
    from selftrain.environment import prepare_environment

    config = load_config(args.config, args.set, layers=args.layer)
    prepare_environment(config.engine.threads)
    from selftrain.progress import Progress
    from selftrain.sampling.distill import DistillSettings, distill

    settings = DistillSettings(
        args.problems, args.out, args.images, args.limit, args.token_budget, args.price_in, args.price_out
    )
    made = distill(config, settings, Progress(quiet=args.quiet))
    samples = made.verdicts.total()
    print(
        f"{args.out}: {samples} traces of {made.asked} problems, {made.verdicts['correct']} correct, "
        f"{made.verdicts['wrong']} wrong, {made.verdicts['abstain']} unreadable, {made.truncated} truncated; "
        f"{made.drawn} drawn now, {samples - made.drawn} from the bank"
    )
    print(
        f"tokens: {made.prompt_tokens:,} of prompts x {args.price_in:g} + {made.generated:,} generated x "
        f"{args.price_out:g} per million = {made.cost:.4f}"
    )
    if made.failed:
        name, why = next(iter(made.failed.items()))
        print(f"not answered: {len(made.failed)} problems; the same command asks them again. The first, {name}: {why}")
    if made.unusable:
        print(f"left out: {made.unusable} problems whose image cannot be used")
    if made.stopped:
        print(
            f"the token budget of {args.token_budget:,} ended it after {made.asked} of {made.offered} problems; a "
            "larger one goes on from there"
        )
    return 0
