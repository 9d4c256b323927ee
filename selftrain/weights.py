"""From settings and an adapter to a sampler: which weights answer, and under which digest the bank keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from data_process.schema import Problem
from selftrain.bank import Bank
from selftrain.config import Config
from selftrain.engines.base import Engine
from selftrain.engines.opening import open_engine, served_name
from selftrain.run_dir import file_digest
from selftrain.sampling import Picture, Sampler, weights_digest

# Batches that an engine is given at a time. Those that tell each answer as it comes can have many without a risk; they
# keep themselves busy until the last one, which comes once per call.
UNIT_BATCHES = {"vllm": 64, "ray": 64}

Opener = Callable[[Config, "Path | None", int, Sequence[Problem]], Engine]


def sampler_of(
    config: Config,
    bank: Bank,
    picture: Callable[[str], Picture],
    problems: Sequence[Problem],
    adapter: Path | None,
    iteration: int,
    opener: Opener = open_engine,
) -> Sampler:
    """A sampler of the base model with `adapter` (None: without one). Its engine opens when a sample is missing.

    `iteration` and `problems` matter to the scripted engine only: how good its answers are, and what the gold is.
    Raises EngineError if the model or the adapter is not there.
    """
    if config.engine.kind == "scripted":
        digest = _script_digest(config, adapter, iteration, problems)
    elif config.engine.kind == "server":
        digest = server_digest(config)
    else:
        digest = weights_digest(bank, config.model.path, adapter)
        if config.engine.dtype != "auto":  # another precision gives other answers
            digest += f"-{config.engine.dtype}"
        if inner_kind(config) == "vllm":  # its random streams are others, seed for seed
            digest += "-vllm" if config.engine.logprobs else "-vllm-without-logprobs"
    return Sampler(
        bank=bank,
        open_engine=lambda: opener(config, adapter, iteration, problems),
        engine_name=config.engine.kind,
        weights=digest,
        picture=picture,
        seed=config.seed,
        unit_rows=config.engine.batch_size * UNIT_BATCHES.get(config.engine.kind, 1),
    )


def inner_kind(config: Config) -> str:
    """The kind of engine that computes: what Ray's actors run, or the engine itself."""
    return config.engine.ray_engine if config.engine.kind == "ray" else config.engine.kind


def server_digest(config: Config) -> str:
    """Which server, what it calls the model, and what kind it is: the weights behind that name cannot be seen."""
    what = [config.engine.url, served_name(config), config.engine.dialect]
    if not config.engine.logprobs:  # or samples without them would be found where they are needed
        what.append("without log-probabilities")
    return "server-" + hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _script_digest(config: Config, adapter: Path | None, iteration: int, problems: Sequence[Problem]) -> str:
    """What a scripted engine's answers depend on: its settings, and the gold answers that it reads."""
    settings = config.engine
    what = [
        [settings.script_accuracy, settings.script_gain, settings.script_abstain, config.prompts, iteration],
        file_digest(adapter / "adapter_model.rehearsal") if adapter else None,
        [[problem.id, problem.answer] for problem in problems],
    ]
    return "scripted-" + hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
