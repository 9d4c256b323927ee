"""A reward model's judgement of responses: how likely each step still leads to a correct answer.

The model is asked about every step: it sees the image, the problem and the solution up to the end of that step. A
verifier answers + or -, and so does the hf engine for a reward head (engines/decoding/reward_head.py). The score of a
step is the probability of +, that of a response the least of its steps (M-STaR, arXiv 2412.17451). One greedy token is
drawn through the bank, under the reward model's weights. Engines give the log-probability of the token that they drew,
so the score under a - is 1 - p(-), which takes all else for +; a trained model leaves next to nothing for anything
else. An answer that is neither scores 0 and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from data_process.prompts import prompt_set
from data_process.schema import Problem
from data_process.steps import prefixes, split_steps
from selftrain.config import Config
from selftrain.engines.base import Completion, Engine, EngineError, SamplingParams
from selftrain.engines.decoding.reward_head import BAD, GOOD
from selftrain.reward.model import RewardModel, judging
from selftrain.reward.rows import ask_about
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, open_engine
from selftrain.sampling.sampler import Ask, Picture
from selftrain.sampling.weights import sampler_of
from selftrain.test_time.records import Rating
from selftrain.test_time.tokens import TokenCost

JUDGEMENT = SamplingParams(temperature=0, max_tokens=1)


class Rater:
    """Rates responses with one reward model. Its engine is open while it rates what the bank does not have."""

    def __init__(
        self,
        config: Config,
        model: RewardModel,
        bank: Bank,
        picture: Callable[[str], Picture],
        problems: Sequence[Problem],
        *,
        opener: Opener = open_engine,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`make_room` is called before the engine opens: another model may have to leave the memory.

        `problems` matter to the scripted engine alone.
        """
        self._config = judging(config, model.manifest.head)
        self._model, self._bank, self._picture = model, bank, picture
        self._problems, self._opener, self.make_room = problems, opener, make_room
        self.on_progress: Callable[[int, int], None] = lambda done, total: None

    def __call__(self, items: Sequence[tuple[Problem, Completion]]) -> list[Rating]:
        """One rating for each response, in order.

        EngineError from the engine, and if more judgements than `reward.max_dropped_share` are neither + nor -.
        """
        prompts, manifest = prompt_set(self._config.prompts), self._model.manifest
        asks: dict[tuple[str, str], Ask] = {}
        steps: list[list[tuple[str, str]]] = []
        for problem, completion in items:
            # A response without text is one bad step.
            texts = prefixes(split_steps(completion.text, manifest.max_steps)) or [""]
            steps.append([(problem.id, text) for text in texts])
            for key in steps[-1]:
                if key not in asks:
                    name = f"{problem.id}/reward/{len(asks)}"
                    asks[key] = ask_about(name, problem, key[1], prompts, manifest.head)
        judgements = self._judge(asks)
        return [_rating([judgements[key] for key in keys]) for keys in steps]

    def _judge(self, asks: dict[tuple[str, str], Ask]) -> dict[tuple[str, str], Completion]:
        def open_in_its_place(*what: object) -> Engine:
            self.make_room()
            return self._opener(*what)  # type: ignore[arg-type]

        with sampler_of(
            self._config, self._bank, self._picture, self._problems, self._model.weights, 0, open_in_its_place
        ) as sampler:
            sampler.on_progress = self.on_progress
            drawn = sampler.draw([*asks.values()], JUDGEMENT, 1)
        found = {key: drawn[ask.id][0] for key, ask in asks.items()}
        unread = [c.text for c in found.values() if c.text.strip() not in (GOOD, BAD)]
        if len(unread) > self._config.reward.max_dropped_share * len(found):
            raise EngineError(
                f"{len(unread)} of {len(found)} judgements of the reward model in {self._config.reward.model} are "
                f"neither {GOOD} nor {BAD}, for instance {unread[0]!r}; train it longer (reward.overrides), or raise "
                "reward.max_dropped_share"
            )
        return found


def probability(judgement: Completion) -> float:
    """Of a step being good. EngineError where the engine gave no log-probability."""
    if judgement.mean_logprob is None:
        raise EngineError("the engine gave no log-probability for a judgement; set engine.logprobs to true")
    said = math.exp(min(judgement.mean_logprob, 0.0))
    return {GOOD: said, BAD: 1 - said}.get(judgement.text.strip(), 0.0)


def _rating(judgements: Sequence[Completion]) -> Rating:
    found = tuple(map(probability, judgements))
    cost = TokenCost(
        generated=float(sum(len(c.token_ids) for c in judgements)),
        prompt=float(sum(c.n_prompt_tokens for c in judgements)),
        completions=float(len(judgements)),
    )
    return Rating(min(found), found, cost)
