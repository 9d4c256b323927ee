"""A plugin in one module: a source of addition problems, an engine that adds, and a strategy.

The source is named on the command line (`selftrain prepare addition_plugin:SOURCE`). The engine and the strategy
register themselves when `plugins: [addition_plugin]` of a configuration imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from data_process.schema import Problem
from data_process.seeds import seed_for
from data_process.sources.base import Item, LocatedRow, PrepareRequest, Row, Source, wrong
from selftrain.engine_settings import EngineJob, EngineSettings, Fraction, register_engine
from selftrain.engines.base import Completion, Engine, Request, SamplingParams
from selftrain.sampling.sampler import Sampler
from selftrain.test_time import vote
from selftrain.test_time.records import Outcome, single_outcome
from selftrain.test_time.strategies import Strategy, register_strategy
from selftrain.test_time.strategy_config import Pool, StrategyConfig, pool_of
from selftrain.test_time.tokens import cost_of

# ---- a source: a text file for each split, one addition on each line


def rows(request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[tuple[str, Iterable[LocatedRow]]]:
    assert request.raw is not None
    for split in splits:
        lines = (request.raw / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        yield split, [(f"{split}.txt, line {k}", {"sum": line}) for k, line in enumerate(lines, start=1)]


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    terms = row["sum"].split("+")
    if len(terms) != 2:
        wrong(where, f"expected one addition such as 3+4, found {row['sum']!r}")
    a, b = map(int, terms)
    fields = {"id": f"{split}-{a}-{b}", "question": f"What is {a} plus {b}?", "answer": str(a + b)}
    return Item({**fields, "answer_type": "integer"}, images=())


SOURCE = Source(
    name="additions",
    licence="CC0",
    citation="none",
    splits={"train": "train", "dev": "dev", "test": "test"},
    rows=rows,
    item=item,
)


# ---- an engine: it adds what a prompt asks for, and slips now and then


@register_engine
class AdderSettings(EngineSettings):
    """Settings below `engine:` in a configuration."""

    opener: ClassVar[str] = "addition_plugin:open_adder"
    has_model: ClassVar[bool] = False  # nothing is trained, as in a rehearsal
    local_weights: ClassVar[bool] = False
    kind: Literal["adder"] = "adder"
    slips: Fraction = 0.5  # chance of a wrong sum

    def samples_digest(self, job: EngineJob, weights: object) -> str:
        return f"adder-{self.slips}-{job.iteration}"


class Adder(Engine):
    """Each completion follows from the prompt and the seed."""

    def __init__(self, slips: float) -> None:
        self._slips = slips

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        return [[self._complete(request, seed) for seed in request.seeds] for request in requests]

    def _complete(self, request: Request, seed: int) -> Completion:
        found = re.search(r"What is (\d+) plus (\d+)\?", request.prompt)
        assert found is not None
        slip = seed_for(request.prompt, seed) % 1000 < 1000 * self._slips
        total = int(found[1]) + int(found[2]) + slip
        text = f"I add {found[2]} to {found[1]} step by step, first the tens and then the ones.\nAnswer: {total}"
        ids = tuple(text.encode())
        return Completion(text, ids, n_prompt_tokens=len(request.prompt), finish="stop", mean_logprob=None)

    def close(self) -> None:
        pass


def open_adder(settings: AdderSettings, job: EngineJob) -> Adder:
    # A model that was trained slips less often.
    return Adder(settings.slips / (1 + job.iteration))


# ---- a strategy: the answer of the last sample


def run_last(problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, pool: Pool | None) -> list[Outcome]:
    samples = pool_of(problems, sampler, plan, pool)
    return [
        single_outcome(p, vote.majority(samples[p.id][-1:]), cost_of([samples[p.id][-1].completion])) for p in problems
    ]


register_strategy("last", Strategy("the last of n samples", "vote", run_last))
