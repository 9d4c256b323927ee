"""Whether budgets keep their promises on a real model: every setting, every sample accounted for.

    python -m benchmarks.budget_sweep --model PATH --problems 50

For numbers of ignores and limits of thinking: accuracy, how the thinking ended, samples that were lost (without an
answer attempt: cut while thinking or within the answer), and answers that cannot be read after a forced close. The
ledgers' arithmetic is checked for every sample.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.sampling import make_requests
from data_process.judging import judge
from data_process.schema import Problem
from data_process.sources import minigeo
from selftrain.engine_settings import HFSettings
from selftrain.engines.base import Completion, SamplingParams
from selftrain.engines.budget import Budget, preset
from selftrain.engines.hf import HFEngine


def check(completion: Completion, budget: Budget, max_tokens: int) -> None:
    """What holds for every sample; AssertionError otherwise."""
    forcing, ids = completion.forcing, completion.token_ids
    assert forcing is not None
    assert len(ids) <= max_tokens
    if budget.max_tokens is not None:
        assert forcing.thinking_tokens <= budget.max_tokens
    assert forcing.ignores <= budget.num_ignore
    assert forcing.ignores == len(forcing.ignored_at) == completion.text.count(budget.ignore[0]) or (
        budget.ignore[0] in completion.text  # the model says so itself, too
    )
    assert all(0 <= first < last <= len(ids) for first, last in forcing.forced)


def row(problems: Sequence[Problem], completions: Sequence[Completion]) -> str:
    ledgers = [c.forcing for c in completions if c.forcing is not None]
    verdicts = [judge(c.text, p, truncated=c.finish == "length") for p, c in zip(problems, completions, strict=True)]
    lost = sum(f.closed_by is None or c.finish == "length" for f, c in zip(ledgers, completions, strict=True))
    closed = Counter(f.closed_by for f in ledgers)
    forced = [v for f, v in zip(ledgers, verdicts, strict=True) if f.closed_by in ("budget", "loop")]
    unreadable = sum(v.status == "abstain" for v in forced)
    correct = sum(v.correct for v in verdicts)
    abstained = sum(v.status == "abstain" for v in verdicts)
    return (
        f"{correct}/{len(completions)} | {abstained} | {lost} | {unreadable}/{len(forced)} "
        f"| {statistics.mean(f.thinking_tokens for f in ledgers):.1f} | {max(f.thinking_tokens for f in ledgers)} "
        f"| {statistics.mean(f.ignores for f in ledgers):.2f} "
        f"| {closed['model']} / {closed['budget']} / {closed['loop']} / {closed['end_of_turn']}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny-qwen2vl"))
    parser.add_argument("--adapter", type=Path, help="LoRA adapter to merge")
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--n", type=int, default=1, help="samples per problem")
    parser.add_argument("--split", default="test")
    parser.add_argument("--prompts", default="short")
    parser.add_argument("--ignores", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--limits", type=int, nargs="+", default=[8, 16, 24, 32, 48, 64], help="thinking tokens")
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--any-answer", action="store_true", help="leave the answer after a forced cue to the model")
    args = parser.parse_args(argv)

    base = preset("tiny")
    if args.any_answer:
        base = replace(base, answers=())
    problems = [problem for problem, _ in minigeo.generate(args.split, args.problems) for _ in range(args.n)]
    print(
        "| ignores | limit | correct | abstained | lost | unreadable after a forced close | mean thinking | most ",
        end="",
    )
    print("| mean ignores | closed by model / budget / loop / end of turn |\n|" + " ---: |" * 10)
    with (
        tempfile.TemporaryDirectory() as folder,
        HFEngine(args.model, args.adapter, settings=HFSettings(threads=1)) as engine,
    ):
        requests = make_requests(Path(folder), args.problems, args.n, args.split, args.prompts)
        for ignores in args.ignores:
            for limit in (*args.limits, None):
                budget = replace(base, num_ignore=ignores, max_tokens=limit)
                params = SamplingParams(args.temperature, args.max_tokens, args.top_p, args.top_k, budget=budget)
                completions = [c for found in engine.generate(requests, params) for c in found]
                for completion in completions:
                    check(completion, budget, args.max_tokens)
                print(f"| {ignores} | {'-' if limit is None else limit} | {row(problems, completions)} |", flush=True)


if __name__ == "__main__":
    main()
