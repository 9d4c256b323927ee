"""What budget forcing costs: inside the decode, against plain decoding, and against stopping and asking again.

    python -m benchmarks.budget --model PATH --problems 64 --n 3 --ignores 2 --json out.json

In one process, in turn, on the same requests and the same rows per batch:

* forcing: the budget of the `tiny` preset, whatever it does;
* plain decoding of as many tokens: row by row as many steps as forcing took, tokens that were taken back included;
* plain decoding of the completions' tokens alone: those taken back count as a cost of forcing;
* the naive way: a round ends where something was forced, and the next one starts from the picture and the whole text
  so far, as a client of a server or of `model.generate` would do it. Rounds are as long as they were under forcing.

The lengths of the plain and the naive rows are set from outside, so all ways compute the same tokens; what they say
does not matter to the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.sampling import machine, make_requests
from selftrain.config import ConfigError, build_section
from selftrain.engine_settings import HFSettings
from selftrain.engine_settings.budget import BudgetSettings
from selftrain.engines.base import Completion, Request, SamplingParams
from selftrain.engines.decoding import kv_cache
from selftrain.engines.decoding.inputs import Prompt
from selftrain.engines.hf import HFEngine, _Row


def budget_of(text: str) -> BudgetSettings:
    """What `--preset` names: a preset, or a mapping in YAML."""
    try:
        return build_section(BudgetSettings, yaml.safe_load(text), "budget")
    except (ConfigError, yaml.YAMLError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass(frozen=True)
class Measured:
    """One way, once in every round of the benchmark."""

    name: str
    seconds: tuple[float, ...]  # of the clock
    cpu_seconds: tuple[float, ...]  # of this process: what others do on the machine counts for less
    tokens: int  # steps of all rows, prompts excluded
    prompts: int  # prompt tokens read, pictures included


class Lengths:
    """Takes the place of an engine's table of end tokens: every row ends after the number of steps set for it.

    It has to follow the rows when the cache drops those that have ended.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        import torch

        self.left = torch.tensor(steps)

    def __getitem__(self, tokens: Any) -> Any:
        import torch

        if isinstance(tokens, list):  # asked for the finish reasons, afterwards
            return torch.ones(len(tokens), dtype=torch.bool)
        self.left = self.left.to(tokens.device) - 1
        return self.left == 0

    def keep(self, holes: Any, movers: Any, rows: int) -> None:
        self.left[holes] = self.left[movers]
        self.left = self.left[:rows]


def decode(
    engine: HFEngine, prompts: Sequence[Prompt], rows: Sequence[_Row], steps: Sequence[int], params: SamplingParams
) -> None:
    """One batch, decoded plainly, each row for its number of steps."""
    lengths, ends, keep = Lengths(steps), engine._is_eos, kv_cache.SharedPromptCache.keep

    def following(cache: kv_cache.SharedPromptCache, holes: Any, movers: Any, left: int) -> None:
        keep(cache, holes, movers, left)
        lengths.keep(holes, movers, left)

    engine._is_eos = lengths  # type: ignore[assignment]
    kv_cache.SharedPromptCache.keep = following  # type: ignore[method-assign]
    try:
        engine._decode(prompts, rows, replace(params, max_tokens=max(steps), budget=None))
    finally:
        engine._is_eos = ends
        kv_cache.SharedPromptCache.keep = keep  # type: ignore[method-assign]


def plain(
    engine: HFEngine, requests: Sequence[Request], params: SamplingParams, steps: dict[tuple[int, int], int]
) -> tuple[int, int]:
    """All batches as the engine would make them. Returns (steps of all rows, prompt tokens read)."""
    import torch

    engine._encoded.clear()
    read = 0
    with torch.inference_mode():
        prompts = engine._prepare(requests)
        for rows in engine._batches(prompts):
            decode(engine, prompts, rows, [steps[row.prompt, row.sample] for row in rows], params)
            read += sum(len(prompts[i].ids) for i in {row.prompt for row in rows})
    return sum(steps.values()), read


def rounds_of(completion: Completion) -> list[tuple[int, int]]:
    """(tokens that stand before a round, steps that it takes) for every stretch of drawn tokens."""
    forcing = completion.forcing
    assert forcing is not None
    edges = [0, *(edge for span in forcing.forced for edge in span), len(completion.token_ids)]
    stretches = [(first, last - first) for first, last in zip(edges[::2], edges[1::2], strict=True) if last > first]
    # An end that was replaced had been written in full before anyone could notice.
    share, rest = divmod(forcing.discarded, max(1, len(stretches)))
    return [(first, size + share + (number < rest)) for number, (first, size) in enumerate(stretches)]


def naive(
    engine: HFEngine, requests: Sequence[Request], params: SamplingParams, answers: Sequence[Sequence[Completion]]
) -> tuple[int, int]:
    """Round after round: picture, prompt and the text so far are sent again. Returns as `plain`."""
    import torch

    total = read = 0
    with torch.inference_mode():
        prompts = engine._prepare(requests)
        samples = [
            (prompts[i], seed, c.token_ids, rounds_of(c))
            for i, (request, found) in enumerate(zip(requests, answers, strict=True))
            for seed, c in zip(request.seeds, found, strict=True)
        ]
        for number in range(max(len(rounds) for *_, rounds in samples)):
            going = [(p, seed, ids, rounds[number]) for p, seed, ids, rounds in samples if number < len(rounds)]
            texts = [replace(p, ids=(*p.ids, *ids[:before])) for p, _, ids, (before, _) in going]
            order = sorted(range(len(going)), key=lambda i: -len(texts[i].ids))
            for start in range(0, len(order), engine.batch_size):
                engine._encoded.clear()
                part = order[start : start + engine.batch_size]
                rows = [_Row(place, 0, going[i][1]) for place, i in enumerate(part)]
                decode(engine, [texts[i] for i in part], rows, [going[i][3][1] for i in part], params)
                total += sum(going[i][3][1] for i in part)
                read += sum(len(texts[i].ids) for i in part)
    return total, read


def measure(ways: Sequence[tuple[str, Callable[[], tuple[int, int]]]], rounds: int) -> list[Measured]:
    """All ways in turn in every round, so that a busy spell of the machine hits all alike."""
    seconds: list[list[float]] = [[] for _ in ways]
    cpu: list[list[float]] = [[] for _ in ways]
    counts = [(0, 0)] * len(ways)
    for _ in range(rounds):
        for index, (_, way) in enumerate(ways):
            start, busy = time.perf_counter(), time.process_time()
            counts[index] = way()
            seconds[index].append(time.perf_counter() - start)
            cpu[index].append(time.process_time() - busy)
    return [Measured(name, tuple(seconds[i]), tuple(cpu[i]), *counts[i]) for i, (name, _) in enumerate(ways)]


def report(rows: Sequence[Measured]) -> str:
    """A Markdown table; ratios are of forcing to the way, the median over the rounds with the extremes."""
    forcing = rows[0]
    lines = [
        "| way | seconds | CPU seconds | tokens | prompt tokens | forcing / way, clock | forcing / way, CPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        clock, cpu = ratios(forcing.seconds, row.seconds), ratios(forcing.cpu_seconds, row.cpu_seconds)
        lines.append(
            f"| {row.name} | {min(row.seconds):.3f} | {min(row.cpu_seconds):.3f} | {row.tokens} | {row.prompts} "
            f"| {clock} | {cpu} |"
        )
    return "\n".join(lines)


def ratios(these: Sequence[float], those: Sequence[float]) -> str:
    found = sorted(a / b for a, b in zip(these, those, strict=True))
    return f"{statistics.median(found):.3f} ({found[0]:.2f}-{found[-1]:.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny-qwen2vl"))
    parser.add_argument("--adapter", type=Path, help="LoRA adapter to merge")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--n", type=int, default=3, help="samples per problem")
    parser.add_argument("--split", default="test", help="MiniGeo split the problems come from")
    parser.add_argument("--prompts", default="short", help="prompt set: short or r3v-qwen2vl")
    parser.add_argument("--preset", default="tiny", type=budget_of, help="name of a preset, or a mapping of fields")
    parser.add_argument("--ignores", type=int, default=2, help="natural stops replaced")
    parser.add_argument(
        "--thinking", type=int, help="thinking tokens at most; without it as many as --max-tokens leaves"
    )
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--batch-size", type=int, default=192, help="rows of the engine")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    budget = args.preset.budget(num_ignore=args.ignores, max_tokens=args.thinking)
    params = SamplingParams(args.temperature, args.max_tokens, budget=budget)
    settings = HFSettings(device=args.device, threads=args.threads, batch_size=args.batch_size)
    with tempfile.TemporaryDirectory() as folder, HFEngine(args.model, args.adapter, settings) as engine:
        requests = make_requests(Path(folder), args.problems, args.n, args.split, args.prompts)
        answers = engine.generate(requests, params)
        done = {(i, s): c for i, found in enumerate(answers) for s, c in enumerate(found)}
        steps = {at: len(c.token_ids) + c.forcing.discarded for at, c in done.items()}
        kept = {at: len(c.token_ids) for at, c in done.items()}
        prompt_tokens = sum(found[0].n_prompt_tokens for found in answers)

        def forcing() -> tuple[int, int]:
            engine._encoded.clear()
            engine.generate(requests, params)
            return sum(steps.values()), prompt_tokens

        ways = [
            ("forcing inside the decode", forcing),
            ("plain decoding, as many tokens", lambda: plain(engine, requests, params, steps)),
            ("plain decoding, the completions' tokens", lambda: plain(engine, requests, params, kept)),
            ("stop, append, send again", lambda: naive(engine, requests, params, answers)),
        ]
        rows = measure(ways, args.rounds)
        about = machine(engine)
    ledgers = [c.forcing for c in done.values() if c.forcing is not None]
    ignores, forced, discarded = (
        sum(f.ignores for f in ledgers), sum(f.n_forced for f in ledgers), sum(f.discarded for f in ledgers)
    )  # fmt: skip
    print(
        f"{args.problems} problems x {args.n} samples, {args.batch_size} rows a batch; {ignores} ignores, "
        f"{forced} forced and {discarded} discarded tokens."
    )
    print(", ".join(f"{key} {value}" for key, value in about.items()) + ".\n\n" + report(rows))
    if args.json is not None:
        content = {"machine": about, "params": params.to_json(), "rows": [asdict(row) for row in rows]}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(args.json)


if __name__ == "__main__":
    main()
