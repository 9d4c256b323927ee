"""One engine for all iterations: it rests between them and is given other weights, instead of a new start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_process.schema import Problem
from selftrain.config import Config, ModelConfig
from selftrain.engine_settings import EngineSettings
from selftrain.engines.base import (
    Completion,
    Engine,
    EngineError,
    EngineFacts,
    ReloadsWeights,
    Request,
    SamplingParams,
    StreamsResults,
)
from selftrain.sampling.engine_factory import Opener


@contextlib.contextmanager
def keeping(config: Config, opener: Opener) -> Iterator[Opener]:
    """`opener`, or, if the engine can be given other weights and is to be kept, one that opens it once.

    What was kept is closed at the end of the `with` block.
    """
    if not config.engine.reusable:
        yield opener
        return
    keeper = _Keeper(opener)
    try:
        yield keeper.open
    finally:
        keeper.close()


class _Keeper:
    """Holds the engine while nobody uses it."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._held: ReloadsWeights | None = None
        self._settings: tuple[EngineSettings, ModelConfig] | None = None  # of the engine that is held
        self._in_use = False

    def open(self, config: Config, weights: Path | None, iteration: int, problems: Sequence[Problem]) -> Engine:
        if not config.engine.reusable:  # another kind, which judges in between; the one that is held rests
            return self._opener(config, weights, iteration, problems)
        if self._in_use:
            raise EngineError("this engine holds one set of weights at a time; close it before others are wanted")
        settings = (config.engine, config.model)
        if self._held is not None and settings != self._settings:
            self.close()
        if self._held is None:
            engine = self._opener(config, weights, iteration, problems)
            if not isinstance(engine, ReloadsWeights):
                engine.close()
                raise EngineError(f"{engine!r} cannot be given other weights; set engine.keep_open to false")
            self._held, self._settings = engine, settings
        else:
            try:
                self._held.load(weights)
            except BaseException:
                self.close()  # nobody knows what it holds
                raise
        self._in_use = True
        return EngineLease(self._held, self._give_back)

    def _give_back(self) -> None:
        self._in_use = False
        if self._held is None:
            return
        if self._held.closed:  # it failed: the next one is opened afresh
            self._held = None
        else:
            self._held.rest()

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


class EngineLease(StreamsResults):
    """The engine as one user sees it: `close` gives it back."""

    def __init__(self, held: ReloadsWeights, give_back: Callable[[], None]) -> None:
        self._held = held
        self._give_back = give_back

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._give_back()

    def facts(self) -> EngineFacts:
        return self._open().facts()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        held = self._open()
        held.on_batch, held.on_result = self.on_batch, self.on_result
        return held.generate(requests, params)

    def prompt_ids(self, prompt: str, images: Sequence[Path]) -> list[int]:
        return self._open().prompt_ids(prompt, images)

    def count_prompt_tokens(self, prompt: str, images: Sequence[Path]) -> int:
        return self._open().count_prompt_tokens(prompt, images)

    def _open(self) -> ReloadsWeights:
        self._check_open()
        return self._held
