"""What an answer costs, and whether a prompt fits. The rules of counting are in the package's docstring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from operator import add

from selftrain.config import ConfigError
from selftrain.engines.base import Completion


@dataclass(frozen=True)
class TokenCost:
    """Cost of answering one problem once. Fractions come from means over draws."""

    generated: float = 0.0  # tokens; forced ones, ones taken out again and the end of turn included
    prompt: float = 0.0  # tokens, chat template and image included
    completions: float = 0.0
    truncated: float = 0.0  # completions among them that hit the token limit

    @property
    def total(self) -> float:
        return self.generated + self.prompt

    def __add__(self, other: TokenCost) -> TokenCost:
        return TokenCost(*map(add, astuple(self), astuple(other)))

    def times(self, factor: float) -> TokenCost:
        return TokenCost(*(factor * part for part in astuple(self)))


NOTHING = TokenCost()


def cost_of(completions: Sequence[Completion]) -> TokenCost:
    """Cost of several completions of one prompt: the prompt is prefilled once, whatever their number.

    ValueError when their prompts have different lengths, so are not one prompt.
    """
    if len({c.n_prompt_tokens for c in completions}) > 1:
        raise ValueError("completions of different prompts do not share a prefill; count each prompt apart")
    return TokenCost(
        float(sum(generated_tokens(c) for c in completions)),
        float(completions[0].n_prompt_tokens) if completions else 0.0,
        float(len(completions)),
        float(sum(c.finish == "length" for c in completions)),
    )


def mean_cost(parts: Sequence[TokenCost]) -> TokenCost:
    """The mean of several ways of answering the same problem; ValueError when there are none."""
    if not parts:
        raise ValueError("the mean cost of nothing")
    return TokenCost(*(sum(column) / len(parts) for column in zip(*map(astuple, parts), strict=True)))


def generated_tokens(completion: Completion) -> int:
    """Tokens that decoding took: those of the text, and those that a budget took out again."""
    forcing = completion.forcing
    return len(completion.token_ids) + (0 if forcing is None else forcing.discarded)


def thinking_tokens(completion: Completion) -> int:
    """Tokens spent on thinking: as recorded for a forced completion, otherwise everything in the text."""
    forcing = completion.forcing
    return len(completion.token_ids) if forcing is None else forcing.thinking_tokens


@dataclass(frozen=True)
class ContextLimit:
    """How many tokens the model can hold, and how long a prompt is, so that what cannot fit is refused early."""

    limit: int  # positions: prompt and answer together
    # (prompt, its images as in `Ask`) -> tokens, chat template and images included
    count: Callable[[str, tuple[str, ...]], int]
    # Tokens of the longest selection prompt in training; longer ones are cut, see `select.fitted`. None: no such limit.
    trained: int | None = None

    def lacking(self, prompt: str, images: tuple[str, ...], max_tokens: int) -> str | None:
        """Why the prompt does not fit with an answer of `max_tokens`, with the arithmetic; None when it does."""
        prompt_tokens = self.count(prompt, images)
        if prompt_tokens + max_tokens <= self.limit:
            return None
        return f"{prompt_tokens} tokens of prompt + {max_tokens} of answer > {self.limit} positions"

    def fits(self, prompt: str, images: tuple[str, ...], max_tokens: int) -> bool:
        """Whether the prompt fits with its answer, and is no longer than those in training."""
        short = self.trained is None or self.count(prompt, images) <= self.trained
        return short and self.lacking(prompt, images, max_tokens) is None


def refuse(lacking: Iterable[tuple[str, str | None]], advice: str) -> None:
    """ConfigError for prompts that do not fit; `lacking` gives (problem id, reason or None)."""
    without = [(problem_id, why) for problem_id, why in lacking if why is not None]
    if without:
        problem_id, why = without[0]
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        raise ConfigError(f"problem {problem_id}{more} does not fit: {why}; {advice}")
