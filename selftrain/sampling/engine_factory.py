"""From a run's configuration to what an engine is opened and asked with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data_process.schema import Problem
from selftrain.config import Config, DecodingConfig
from selftrain.engine_settings import EngineJob
from selftrain.engines.base import Engine, SamplingParams
from selftrain.engines.opening import open_by_settings

Opener = Callable[[Config, Path | None, int, Sequence[Problem]], Engine]


def engine_job(config: Config, weights: Path | None, iteration: int, problems: Sequence[Problem]) -> EngineJob:
    """What the configured engine is opened for. `iteration` and `problems` matter to made-up answers only."""
    return EngineJob(
        model=config.model.path,
        weights=weights,
        min_pixels=config.model.min_pixels,
        max_pixels=config.model.max_pixels,
        output=config.output,
        prompts=config.prompts,
        seed=config.seed,
        iteration=iteration,
        problems=problems,
        select_format=config.select_format,
    )


def open_engine(config: Config, weights: Path | None, iteration: int, problems: Sequence[Problem]) -> Engine:
    """The configured engine with the weights of `iteration`; raises EngineError if it cannot be opened."""
    return open_by_settings(config.engine, engine_job(config, weights, iteration, problems))


def sampling_params(decoding: DecodingConfig) -> SamplingParams:
    """What an engine is asked for."""
    return SamplingParams(**decoding.model_dump(include=set(DecodingConfig.model_fields)))
