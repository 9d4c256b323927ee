"""Draws traces from a stronger model: solutions of problems, in a file that `traces:` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_process import prompts as wording
from data_process.io import load_problems, write_jsonl
from data_process.judging import judge
from data_process.outputs import check_outputs
from data_process.prompts import prompt_set
from data_process.schema import DataError, Problem, to_json
from selftrain.config import Config
from selftrain.engines.base import Completion, RequestsFailed
from selftrain.progress import Progress
from selftrain.runs.splits import canonical_images, image_store, usable_problems
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, open_engine, sampling_params
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.sampling.weights import sampler_of

MILLION = 1_000_000


@dataclass(frozen=True)
class DistillSettings:
    """What is asked, and what it may cost."""

    problems: Path
    out: Path
    images: Path | None = None  # folder of the images; None: the folder of the problems
    limit: int | None = None  # the first so many problems
    token_budget: int | None = (
        None  # generated tokens of the whole file, those found in the bank included; None: no end
    )
    price_in: float = 0.0  # for a million prompt tokens
    price_out: float = 0.0  # for a million generated tokens


@dataclass(frozen=True)
class Distilled:
    """What a call left in its file."""

    asked: int  # problems in the file of traces
    offered: int  # usable problems
    verdicts: Counter[str]  # samples by status
    truncated: int
    drawn: int  # samples that were not in the bank
    prompt_tokens: int  # once for each sample
    generated: int
    cost: float
    unusable: int  # problems whose image cannot be used
    failed: Mapping[str, str]  # problem id -> why the engine gave no answer to it

    @property
    def stopped(self) -> bool:
        """Whether the token budget ended it."""
        return self.asked + len(self.failed) < self.offered


def distill(
    config: Config, settings: DistillSettings, progress: Progress | None = None, opener: Opener = open_engine
) -> Distilled:
    """Sample `sampling.n` solutions of each problem with the configured engine, and write them.

    The token budget is never exceeded: problems are asked in portions whose longest answers would fit in what is left
    of it. Samples lie in the bank, so the same command resumes and writes the same file. A problem that the engine
    refuses is left out and counted, and asked again by the next call. DataError where nothing can be asked, EngineError
    from the engine if it answers nothing at all.
    """
    progress = progress or Progress()
    check_outputs({"--out": settings.out}, [settings.problems, config.bank, config.model.path])
    folder = settings.images or settings.problems.parent
    with Bank(config.bank) as bank:
        store = image_store(config, folder)
        problems = load_problems(settings.problems, folder)[: settings.limit]
        usable, failed = usable_problems(problems, store, config, str(settings.problems))
        params = sampling_params(config.sampling)
        least = config.sampling.n * params.max_tokens
        if not usable or (settings.token_budget is not None and settings.token_budget < least):
            raise DataError(
                f"{settings.problems}: {len(usable)} usable problems, and a token budget of {settings.token_budget}; "
                f"one problem may take {least} tokens (sampling.n x sampling.max_tokens)"
            )
        sampler = sampler_of(config, bank, canonical_images(store), usable, None, 0, opener)
        with sampler, progress.stage(f"distilling {len(usable)} problems", "problems") as update:
            found: dict[str, list[Completion]] = {}
            failures: dict[str, str] = {}
            for several in _portions(config, settings, usable, sampler, found, failures):
                update(len(several), len(usable))
    rows, verdicts = [], Counter[str]()
    model = _teacher(config)
    for problem in usable:
        for index, completion in enumerate(found.get(problem.id, ())):
            status = judge(completion.text, problem, truncated=completion.finish == "length").status
            verdicts[status] += 1
            rows.append(_row(problem, index, completion, status, model))
    write_jsonl(settings.out, rows)
    everything = [completion for several in found.values() for completion in several]
    prompt_tokens = sum(completion.n_prompt_tokens for completion in everything)
    generated = sum(len(completion.token_ids) for completion in everything)
    return Distilled(
        asked=len(found), offered=len(usable), verdicts=verdicts, drawn=sampler.drawn, prompt_tokens=prompt_tokens,
        truncated=sum(completion.finish == "length" for completion in everything), generated=generated,
        cost=(prompt_tokens * settings.price_in + generated * settings.price_out) / MILLION, unusable=len(failed),
        failed=failures,
    )  # fmt: skip


def _portions(
    config: Config, settings: DistillSettings, problems: Sequence[Problem], sampler: Sampler,
    found: dict[str, list[Completion]], failures: dict[str, str],
) -> Iterator[dict[str, list[Completion]]]:  # fmt: skip
    """Fill `found` with completions by problem, portion after portion, as far as the token budget goes.

    `failures` takes the problems that the engine gave no answer to. A sample of one that it answered before it failed
    lies in the bank, and is paid for, but not in the file.
    """
    prompts, params, n = prompt_set(config.prompts), sampling_params(config.sampling), config.sampling.n
    spent, start = 0, 0
    while start < len(problems):
        size = len(problems)
        if settings.token_budget is not None:
            size = (settings.token_budget - spent) // (n * params.max_tokens)
        if size < 1:
            return
        portion = problems[start : start + size]
        asks = [Ask(p.id, wording.cot(p, prompts), wording.images(p)) for p in portion]
        drawn = None
        while drawn is None:
            try:
                drawn = sampler.draw(asks, params, n)
            except RequestsFailed as error:
                failures |= error.reasons
                asks = [ask for ask in asks if ask.id not in error.reasons]
                spent += len(error.reasons) * (n - 1) * params.max_tokens  # of those of its samples that came through
                if not found and not asks:
                    raise
        spent += sum(len(completion.token_ids) for several in drawn.values() for completion in several)
        found.update(drawn)
        start += len(portion)
        yield found


def _row(problem: Problem, index: int, completion: Completion, status: str, model: str) -> dict[str, Any]:
    """A row of kind `cot`, with its problem, so that it stands for itself."""
    fields = {key: value for key, value in to_json(replace(problem, meta={})).items() if value not in (None, [], {})}
    said = {"response": completion.text, "sample": index, "finish": completion.finish, "verdict": status}
    tokens = {"tokens": len(completion.token_ids), "prompt_tokens": completion.n_prompt_tokens}
    return {**fields, **said, **tokens, "teacher": model}


def _teacher(config: Config) -> str:
    return str(getattr(config.engine, "model_name", None) or config.model.path.name)
