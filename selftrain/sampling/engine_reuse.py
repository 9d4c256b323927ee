"""One engine for all iterations: it rests between them and is given other weights, instead of starting anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from data_process.schema import Problem
from selftrain.config import Config
from selftrain.engines.base import Completion, Engine, EngineError, Request, SamplingParams

Opener = Callable[[Config, "Path | None", int, Sequence[Problem]], Engine]


@contextlib.contextmanager
def keeping(config: Config, opener: Opener) -> Iterator[Opener]:
    """`opener`, or, if the engine can be given other weights and is to be kept, one that opens it once.

    What was kept is closed at the end of the `with` block.
    """
    if config.engine.kind != "vllm" or not config.engine.keep_open:
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
        self._held: Any = None
        self._settings: Any = None  # of the engine that is held
        self._in_use = False

    def open(self, config: Config, adapter: Path | None, iteration: int, problems: Sequence[Problem]) -> Engine:
        if self._in_use:
            raise EngineError("this engine holds one set of weights at a time; close it before others are wanted")
        settings = (config.engine, config.model)
        if self._held is not None and settings != self._settings:
            self.close()
        if self._held is None:
            self._held, self._settings = self._opener(config, adapter, iteration, problems), settings
        else:
            try:
                self._held.load(adapter)
            except BaseException:
                self.close()  # nobody knows what it holds
                raise
        self._in_use = True
        return _Lent(self._held, self._give_back)

    def _give_back(self) -> None:
        self._in_use = False
        if self._held.closed:  # it failed: the next one starts anew
            self._held = None
        else:
            self._held.rest()

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


class _Lent:
    """The engine as one user sees it: `close` gives it back."""

    def __init__(self, held: Any, give_back: Callable[[], None]) -> None:
        self._held, self._give_back = held, give_back
        self.on_batch: Callable[[int], None] | None = None
        self.on_result: Callable[[Request, int, Completion], None] | None = None

    def __enter__(self) -> _Lent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._held is not None:
            self._held = None
            self._give_back()

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self._open().facts)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        held = self._open()
        held.on_batch, held.on_result = self.on_batch, self.on_result
        found: list[list[Completion]] = held.generate(requests, params)
        return found

    def prompt_ids(self, prompt: str, image: Path | None) -> list[int]:
        found: list[int] = self._open().prompt_ids(prompt, image)
        return found

    def count_prompt_tokens(self, prompt: str, image: Path | None) -> int:
        return len(self.prompt_ids(prompt, image))

    def _open(self) -> Any:
        if self._held is None:
            raise EngineError("the engine is closed; open a new one")
        return self._held
