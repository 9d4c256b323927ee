"""The one narrow door to the models: requests in, completions out, in order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from data_process.errors import FailedError
from data_process.schema import Finish
from selftrain.engines.budget import Budget, ForcingRecord


class EngineError(FailedError, RuntimeError):
    """An engine could not answer. The message names the request (or the engine) and the next step."""

    heading = "engine failed"
    advice = "The samples drawn so far are in the bank; the same command resumes."


class RequestsFailed(EngineError):
    """Some requests got no answer; every other one was finished and handed on. `reasons`: why, by request id."""

    def __init__(self, message: str, reasons: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reasons = dict(reasons)


@dataclass(frozen=True)
class SamplingParams:
    """Every decoding setting, always explicit: checkpoints ship defaults that turn sampling into greedy decoding."""

    temperature: float  # 0 is greedy; then top_p and top_k have no effect
    max_tokens: int  # generated tokens at most, end-of-turn and whatever a budget puts in included
    top_p: float = 1.0  # nucleus mass in (0, 1]
    top_k: int = 0  # 0: no limit
    repetition_penalty: float = 1.0
    budget: Budget | None = None  # how long to think before the answer; None: as the model likes

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, not {self.temperature}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, not {self.max_tokens}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0, not {self.top_k}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be > 0, not {self.repetition_penalty}")

    def to_json(self) -> dict[str, Any]:
        """All that determines a sample. Without a budget the field is left out, as before there were budgets."""
        if self.budget is not None:
            return asdict(self)
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "budget"}


@dataclass(frozen=True)
class Request:
    """One prompt and the seeds of the completions wanted for it."""

    id: str  # names the request in errors; unique within a call
    prompt: str  # the user turn, to which the engine applies the chat template; `data_process.images.marks` says where
    images: tuple[Path, ...]  # in it the images stand: canonical PNGs from the image store
    seeds: tuple[int, ...]  # one completion per seed; a completion depends on its own seed, not on its neighbours
    prefix: str = ""  # what the assistant's turn begins with: part of the prompt, and the completion is what follows it

    def groups(self, params: SamplingParams) -> list[tuple[int, ...]]:
        """Which seeds are decoded as one, by index: all of them if greedy, when seeds have no effect."""
        samples = tuple(range(len(self.seeds)))
        return [samples] if params.temperature == 0 and samples else [(sample,) for sample in samples]


@dataclass(frozen=True)
class Completion:
    """One generated answer."""

    text: str  # special tokens left out
    token_ids: tuple[int, ...]  # as generated, with the end-of-turn token if it was reached; forced ones included
    n_prompt_tokens: int  # chat template and image tokens included
    finish: Finish
    # Mean of ln p under the plain distribution (temperature 1, no filtering) over token_ids, those that a budget put in
    # left out: the model did not choose them, and their probability would say how unwelcome the budget was. None: the
    # engine gave no log-probabilities.
    mean_logprob: float | None
    forcing: ForcingRecord | None = None  # what the budget did; None exactly when there was none


OnResult = Callable[[Request, int, Completion], None]


class Engine(ABC):
    """Holds a model open. Use as a context manager: memory is free again afterwards."""

    on_batch: Callable[[int], None] | None = None  # called with the number of completions that were just finished
    closed = False  # whether `close` was called, or the engine failed

    @abstractmethod
    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        """Completions in the order of `requests`, one per seed in the order of `Request.seeds`.

        Raises EngineError and returns nothing if any request cannot be served; ValueError for two requests with one id,
        and for a budget that `params.max_tokens` has no room for.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds. May be called twice; afterwards every other call raises EngineError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise EngineError("the engine is closed; open a new one")


def check_ids(requests: Sequence[Request]) -> None:
    """ValueError for two requests with one id."""
    ids = [request.id for request in requests]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"two requests have the id {twice!r}; ids name requests in errors and must differ")


def mean_logprob(values: Iterable[float | None]) -> float | None:
    """Mean over the tokens that the model chose and whose log-probability is known; None if there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


# ---- abilities that some engines have; ask with isinstance -----------------------------------------------------------


class StreamsResults(Engine):
    """Passes on each completion when it is finished, in the thread that called `generate`."""

    on_result: OnResult | None = None  # called with the request, the index into its seeds, and the completion

    def _answers(self, requests: Sequence[Request]) -> Answers:
        """ValueError for two requests with one id."""
        check_ids(requests)
        return Answers(self, requests)


class Answers:
    """The completions of one call, in any order, each passed on as it comes."""

    def __init__(self, engine: StreamsResults, requests: Sequence[Request]) -> None:
        self._engine, self._requests = engine, requests
        self._found: list[list[Completion | None]] = [[None] * len(request.seeds) for request in requests]
        self.missing = sum(len(request.seeds) for request in requests)

    def add(self, place: int, sample: int, completion: Completion) -> None:
        """The completion for seed number `sample` of request number `place`."""
        if self._found[place][sample] is not None:
            raise EngineError(f"{self._engine!r} answered request {self._requests[place].id!r} twice")
        self._found[place][sample] = completion
        self.missing -= 1
        if self._engine.on_result is not None:
            self._engine.on_result(self._requests[place], sample, completion)

    def whole(self) -> list[list[Completion]]:
        """All of them, as `generate` returns them; EngineError if any is missing."""
        if self.missing:
            raise EngineError(f"{self._engine!r} left {self.missing} completions out; run again: the others are kept")
        return [[completion for completion in of_one if completion is not None] for of_one in self._found]


class ReloadsWeights(StreamsResults):
    """Can give its memory back and take new weights, instead of being opened anew."""

    @abstractmethod
    def load(self, weights: Path | None) -> None:
        """Take trained weights, an adapter or a whole checkpoint; None: the base's. EngineError if they do not fit."""

    @abstractmethod
    def rest(self) -> None:
        """Give the memory back; `load` is called next."""

    @abstractmethod
    def prompt_ids(self, prompt: str, images: Sequence[Path]) -> list[int]: ...

    def count_prompt_tokens(self, prompt: str, images: Sequence[Path]) -> int:
        return len(self.prompt_ids(prompt, images))

    @abstractmethod
    def facts(self) -> EngineFacts: ...


@runtime_checkable
class CountsPromptTokens(Protocol):
    """Knows how long a prompt is."""

    def count_prompt_tokens(self, prompt: str, images: Sequence[Path]) -> int:
        """Length in tokens, chat template and image tokens included."""


@runtime_checkable
class GivesPromptIds(CountsPromptTokens, Protocol):
    """Knows the token ids of a prompt."""

    def prompt_ids(self, prompt: str, images: Sequence[Path]) -> list[int]:
        """The token ids that the model is given for a user turn, image tokens included."""


@runtime_checkable
class StatesFacts(Protocol):
    """Says what it found out about the model when it was opened."""

    def facts(self) -> EngineFacts: ...


@dataclass(frozen=True)
class EngineFacts:
    """What an engine computes with."""

    library: str  # with its version
    dtype: str  # "float32", "bfloat16" or "float16"
    device: str  # "cpu" or "gpu"
    max_model_len: int  # tokens, prompt and answer together
