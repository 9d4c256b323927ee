"""From settings and trained weights to a sampler: which weights answer, and under which digest the bank keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from data_process.json_files import read_object
from data_process.schema import DataError, Problem
from selftrain.config import Config, ConfigError
from selftrain.engines.base import EngineError
from selftrain.engines.decoding.lora_merge import is_checkpoint
from selftrain.engines.decoding.reward_head import FILE as HEAD
from selftrain.engines.decoding.reward_head import has_head
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, engine_job, open_engine
from selftrain.sampling.sampler import Picture, Sampler

# Files of a model folder that decide what it answers: weights, their shape, tokenizer, template and image processor.
# fmt: off
_MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json",
)
# fmt: on


def weights_digest(bank: Bank, base: Path, trained: Path | None) -> str:
    """Digest of everything in the base model's folder that determines answers, and of an adapter and a reward head.

    A checkpoint that was trained takes the place of the base. Raises EngineError if there are no weights in a
    checkpoint's folder, or no adapter in an adapter's.
    """
    if trained is not None and is_checkpoint(trained):
        base, trained = trained, None
    parts: list[tuple[str, str]] = []
    weights = sorted([*base.glob("*.safetensors"), *base.glob("pytorch_model*.bin")])
    if not weights:
        raise EngineError(f"{base} holds no model weights (*.safetensors); set model.path to a checkpoint folder")
    for path in [*(base / name for name in _MODEL_FILES), *weights]:
        if path.is_file():
            parts.append((path.name, bank.known_digest(path)))
    if (adapter := trained) is not None:
        found = sorted(adapter.glob("adapter_model*"))
        advice = f"give a whole adapter; in a run, delete {adapter.parent} to train it again"
        try:
            scale = read_object(adapter / "adapter_config.json", advice)
        except DataError as error:
            raise EngineError(f"{adapter} holds no adapter: {error}") from error
        if not found:
            raise EngineError(f"{adapter} holds no adapter_model file; {advice}")
        if (adapter / HEAD).is_file():
            found.append(adapter / HEAD)
        parts += [(f"adapter/{path.name}", bank.known_digest(path)) for path in found]
        parts.append(("adapter/scale", str([scale.get("r"), scale.get("lora_alpha"), scale.get("use_rslora")])))
        patterns = {key: scale[key] for key in ("rank_pattern", "alpha_pattern") if scale.get(key)}
        if patterns:
            parts.append(("adapter/patterns", json.dumps(patterns, sort_keys=True)))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def refuse_head(weights: Path | None) -> None:
    """ConfigError for a reward head where weights that write texts are wanted."""
    if has_head(weights):
        raise ConfigError(
            f"{weights} is a reward head, which writes no texts; name an adapter or a checkpoint, and under "
            "reward.model the folder that has reward.json"
        )


def sampler_of(
    config: Config,
    bank: Bank,
    picture: Callable[[str], Picture],
    problems: Sequence[Problem],
    trained: Path | None,
    iteration: int,
    opener: Opener = open_engine,
    *,
    seed: int | None = None,
) -> Sampler:
    """A sampler of the base model or of what was `trained`: an adapter of it, or a checkpoint in its place.

    Its engine opens when a sample is missing.
    `seed`: of the draws; None is the run's own. `iteration` and `problems` matter to the scripted engine only: how good
    its answers are, and what the gold is.
    Raises EngineError if the model or what was trained is not there.
    """
    settings = config.engine
    job = engine_job(config, trained, iteration, problems)
    return Sampler(
        bank=bank,
        open_engine=lambda: opener(config, trained, iteration, problems),
        engine_name=settings.kind,
        weights=settings.samples_digest(job, lambda: weights_digest(bank, job.model, trained)),
        picture=picture,
        seed=config.seed if seed is None else seed,
        unit_rows=settings.rows_at_once * settings.unit_batches,
    )
