"""From settings and an adapter to a sampler: which weights answer, and under which digest the bank keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from data_process.schema import Problem
from selftrain.config import Config
from selftrain.engines.base import Engine, EngineError
from selftrain.files import file_digest
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import open_engine, served_name
from selftrain.sampling.sampler import Picture, Sampler

# Files of a model folder that decide what it answers: weights, their shape, tokenizer, template and image processor.
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def weights_digest(bank: Bank, base: Path, adapter: Path | None) -> str:
    """Digest of everything in the base model's folder that determines answers, and of the adapter's weights.

    Raises EngineError if the base folder holds no weights, or the adapter's folder no adapter.
    """
    parts: list[tuple[str, str]] = []
    weights = sorted([*base.glob("*.safetensors"), *base.glob("pytorch_model*.bin")])
    if not weights:
        raise EngineError(f"{base} holds no model weights (*.safetensors); set model.path to a checkpoint folder")
    for path in [*(base / name for name in _MODEL_FILES), *weights]:
        if path.is_file():
            parts.append((path.name, bank.known_digest(path)))
    if adapter is not None:
        found = sorted(adapter.glob("adapter_model*"))
        try:
            scale = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{adapter} holds no adapter ({error}); delete {adapter.parent} to train it again"
            ) from error
        if not found:
            raise EngineError(f"{adapter} holds no adapter_model file; delete {adapter.parent} to train it again")
        parts += [(f"adapter/{path.name}", bank.known_digest(path)) for path in found]
        parts.append(("adapter/scale", str([scale.get("r"), scale.get("lora_alpha"), scale.get("use_rslora")])))
        patterns = {key: scale[key] for key in ("rank_pattern", "alpha_pattern") if scale.get(key)}
        if patterns:
            parts.append(("adapter/patterns", json.dumps(patterns, sort_keys=True)))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


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
