"""From one word of configuration to an engine."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from data_process.prompts import prompt_set
from data_process.schema import Problem
from selftrain.config import Config
from selftrain.engines.base import Engine, EngineError


def open_engine(config: Config, adapter: Path | None, iteration: int, problems: Sequence[Problem]) -> Engine:
    """The configured engine with the weights of `iteration`; raises EngineError if it cannot be opened.

    `problems` are what the scripted engine takes its answers from; a model never sees them.
    """
    settings = config.engine
    if settings.kind == "scripted":
        from selftrain.engines.scripted import GoldNoise, ScriptedEngine

        accuracy = min(settings.script_accuracy + settings.script_gain * iteration, 1 - settings.script_abstain)
        noise = GoldNoise(
            problems,
            prompt_set(config.prompts),
            accuracy,
            settings.script_abstain,
            config.seed,
            weights=f"iteration-{iteration}",
        )
        return ScriptedEngine(noise)
    if settings.kind == "server":
        from selftrain.engines.openai_server import ServerEngine

        if adapter is not None:
            raise EngineError(
                f"a server answers with the weights it was started with, not with {adapter}; serve that adapter "
                "(`python -m selftrain serve --adapter NAME=FOLDER`), set engine.model_name to NAME and measure it "
                "with `python -m selftrain scale --problems`, or set engine.kind to hf"
            )
        return ServerEngine(
            settings.url,
            served_name(config),
            dialect=settings.dialect,
            api_key_env=settings.api_key_env,
            max_concurrency=settings.max_concurrency,
            timeout_s=settings.timeout_s,
            retries=settings.retries,
            logprobs=settings.logprobs,
        )
    if settings.kind == "ray":
        from selftrain.engines.ray_pool import RayEngine

        return RayEngine(
            functools.partial(open_engine, _as_copy(config), adapter and adapter.absolute(), iteration, ()),
            address=settings.ray_address,
            actors=settings.ray_actors,
            cpus=settings.ray_cpus,
            gpus=0 if settings.device == "cpu" and settings.ray_gpus is None else settings.ray_gpus,
            gpus_if_any=settings.tensor_parallel,
            block_rows=settings.batch_size,
        )
    if settings.kind == "vllm":
        from selftrain.engines.vllm_offline import VLLMEngine

        return VLLMEngine(
            config.model.path,
            adapter,
            interpreter=settings.interpreter or Path(sys.executable),
            batch_size=settings.batch_size,
            dtype=settings.dtype,
            device=settings.device,
            memory_share=settings.memory_share,
            tensor_parallel=settings.tensor_parallel,
            max_model_len=settings.max_model_len,
            min_pixels=config.model.min_pixels,
            max_pixels=config.model.max_pixels,
            logprobs=settings.logprobs,
            sleep=settings.keep_open,
            threads=settings.threads,
            options=settings.vllm_options,
            log=config.output / "vllm.log",
        )
    from selftrain.engines.hf import HFEngine

    return HFEngine(
        config.model.path,
        adapter,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads,
        min_pixels=config.model.min_pixels,
        max_pixels=config.model.max_pixels,
    )


def _as_copy(config: Config) -> Config:
    """The settings of the engine in one of Ray's actors: as here, but for what Ray does, and with whole paths."""
    settings = config.engine
    interpreter = settings.interpreter and settings.interpreter.absolute()
    engine = settings.model_copy(update={"kind": settings.ray_engine, "interpreter": interpreter, "keep_open": False})
    model = config.model.model_copy(update={"path": config.model.path.absolute()})
    return config.model_copy(update={"engine": engine, "model": model, "output": config.output.absolute()})


def served_name(config: Config) -> str:
    """What the server calls the model."""
    return config.engine.model_name or config.model.path.name
