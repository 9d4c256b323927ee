"""What the tiny base model does on dev: greedy with and without forced waits, and samples."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_process.prompts import SHORT, cot
from data_process.schema import Problem
from data_process.sources import minigeo
from data_process.sources.minigeo.derivation import fault
from selftrain.engines.base import SamplingParams
from selftrain.engines.budget import preset
from selftrain.engines.hf import HFEngine
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Ask, Picture, Sampler
from selftrain.sampling.weights import weights_digest
from selftrain.test_time.records import Attempt, attempt
from selftrain.test_time.vote import majority

MAX_TOKENS = 110  # of a text, and as many more for every forced wait
N = 10
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, max_tokens=MAX_TOKENS)
GREEDY = replace(SAMPLED, temperature=0.0, top_p=1.0, top_k=0)


def scores(folder: Path, data_seed: int, size: int, waits: Sequence[int] = (1, 2, 4)) -> dict[str, object]:
    """Fractions of 1 on the first `size` problems of dev. Honest: labels, sums and letter are right."""
    made = list(minigeo.generate("dev", size, data_seed))
    problems = [problem for problem, _ in made]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "images").mkdir()
        for problem, image in made:
            image.save(root / problem.images[0])
        with (
            Bank(root / "bank.sqlite") as bank,
            Sampler(
                bank=bank,
                open_engine=lambda: HFEngine(folder),
                engine_name="hf",
                weights=weights_digest(bank, folder, None),
                picture=lambda relative: Picture(root / relative, relative),
                seed=0,
                unit_rows=192,
            ) as sampler,
        ):
            asks = [Ask(problem.id, cot(problem, SHORT), problem.images) for problem in problems]

            def draw(params: SamplingParams, n: int) -> dict[str, list[Attempt]]:
                drawn = sampler.draw(asks, params, n)
                return {p.id: [attempt(one, p) for one in drawn[p.id]] for p in problems}

            pool = draw(SAMPLED, N)
            found: dict[str, object] = {"n_problems": len(problems), "greedy": _shares(problems, draw(GREEDY, 1))}
            for n in waits:
                budget = replace(preset("tiny"), num_ignore=n)
                forced = replace(GREEDY, budget=budget, max_tokens=MAX_TOKENS * (n + 1))
                found[f"greedy, {n} forced"] = _shares(problems, draw(forced, 1))
    found["samples"] = _shares(problems, pool)
    for n in (3, 5, N):
        found[f"vote@{n}"] = round(sum(majority(pool[p.id][:n]).credit for p in problems) / len(problems), 4)
    found[f"pass@{N}"] = round(sum(any(a.right for a in pool[p.id]) for p in problems) / len(problems), 4)
    return {"split": "dev", **found}


def _shares(problems: Sequence[Problem], drawn: dict[str, list[Attempt]]) -> dict[str, float]:
    """Shares of the attempts that are right, honest, unreadable; and that have each fault, luck included."""
    counts: Counter[str] = Counter()
    for problem in problems:
        for one in drawn[problem.id]:
            found = fault(one.completion.text, one.verdict, problem)
            counts["right"] += one.right
            counts["honest"] += one.right and found is None
            counts["unreadable"] += one.answer is None
            counts[found or "none"] += 1
    total = sum(map(len, drawn.values()))
    del counts["none"]
    return {name: round(count / total, 4) for name, count in counts.items()}
