"""Labels of steps from Monte-Carlo roll-outs (Math-Shepherd, arXiv 2312.08935, section 3.3).

A step of a sampled solution is worth what the model makes of it: `rollouts` completions go on from its end, and the
share of them that end in a correct answer is its label. The last step is worth what the judge says of the solution. All
samples lie in the bank, so that a resumed labelling draws nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_process import prompts as wording
from data_process.images.marks import neutralise
from data_process.judging import judge
from data_process.prompts import prompt_set
from data_process.schema import DataError, Problem
from data_process.steps import prefixes, split_steps
from selftrain.config import Config
from selftrain.engines.base import Completion
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.sampler import Ask, Sampler


@dataclass(frozen=True)
class StepLabel:
    """One step of a sampled solution. Solutions that begin with the same steps share their labels."""

    problem_id: str
    sample: int  # of the first solution that has it
    step: int  # from 0
    steps: str  # the solution up to the end of this step
    right: int  # roll-outs with a correct answer
    rollouts: int  # 1 for the last step, whose solution the judge has read

    @property
    def id(self) -> str:
        return f"{self.problem_id}/{self.sample}/{self.step}"

    @property
    def share(self) -> float:
        return self.right / self.rollouts

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Labelled:
    """Labels, and what they were made of and cost."""

    labels: tuple[StepLabel, ...]
    counts: dict[str, Any]


def label_steps(problems: Sequence[Problem], sampler: Sampler, config: Config, *, trained: bool = False) -> Labelled:
    """Labels of the steps of `reward.traces` solutions for each problem.

    `trained`: the weights are not the base model's, which may be asked in another wording.

    Truncated solutions, and those that hold a mark of the chat template, are left out and counted. DataError if none is
    left. EngineError from the engine; what was drawn before stays in the bank.
    """
    settings, params, prompts = config.reward, sampling_params(config.sampling), prompt_set(config.prompts)
    by_id = {problem.id: problem for problem in problems}
    ask = wording.cot if trained else wording.cot_untrained
    asks = {p.id: Ask(p.id, ask(p, prompts), wording.images(p)) for p in problems}
    drawn = sampler.draw([*asks.values()], params, settings.traces)
    left_out = Counter[str]()
    found: dict[tuple[str, str], StepLabel] = {}  # by problem and text; those without roll-outs have none yet
    open_asks: dict[tuple[str, str], Ask] = {}
    for name, completions in drawn.items():
        for sample, completion in enumerate(completions):
            if reason := _why_not(completion):
                left_out[reason] += 1
                continue
            texts = prefixes(split_steps(completion.text, settings.max_steps))
            for step, text in enumerate(texts):
                key = (name, text)
                if step == len(texts) - 1:
                    solved = judge(text, by_id[name]).correct
                    found[key] = StepLabel(name, sample, step, text, int(solved), 1)
                    open_asks.pop(key, None)  # a solution that another one goes on from is judged as it is
                elif key not in found:
                    found[key] = StepLabel(name, sample, step, text, 0, settings.rollouts)
                    open_asks[key] = Ask(f"{name}/rollout/{sample}/{step}", asks[name].prompt, asks[name].images, text)
    if not found:
        raise DataError(
            f"none of {left_out.total()} solutions of {len(problems)} problems can be labelled ({dict(left_out)}); "
            "raise sampling.max_tokens, or see what the model writes with `selftrain distill`"
        )
    rollouts = sampler.draw([*open_asks.values()], params, settings.rollouts)
    for key, asked in open_asks.items():
        name, text = key
        right = sum(
            judge(text + c.text, by_id[name], truncated=c.finish == "length").correct for c in rollouts[asked.id]
        )
        found[key] = StepLabel(name, found[key].sample, found[key].step, text, right, settings.rollouts)
    labels = tuple(found.values())
    everything = [completion for several in rollouts.values() for completion in several]
    counts = {
        "problems": len(problems),
        "solutions": sum(map(len, drawn.values())),
        "left_out": left_out,
        "steps": len(labels),
        "rollouts": len(everything),
        "shares": Counter(f"{one.right}/{one.rollouts}" for one in labels),
        "tokens": {"solutions": _tokens(drawn.values()), "rollouts": _tokens(rollouts.values())},
    }
    return Labelled(labels, counts)


def _why_not(completion: Completion) -> str | None:
    """Why a solution cannot be labelled, or None."""
    if completion.finish == "length":
        return "truncated"
    if not completion.text.strip():
        return "empty"
    return "mark" if neutralise(completion.text) != completion.text else None


def _tokens(answers: Any) -> dict[str, int]:
    """Generated tokens, and prompt tokens once for each prompt."""
    several: list[Sequence[Completion]] = list(answers)
    generated = sum(len(completion.token_ids) for of_one in several for completion in of_one)
    return {"generated": generated, "prompt": sum(of_one[0].n_prompt_tokens for of_one in several)}
