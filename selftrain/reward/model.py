"""The folder of a reward model, and whether a run may use it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data_process.prompts import prompt_set
from data_process.steps import VERSION
from selftrain.config import Config, ConfigError
from selftrain.engines.base import EngineError
from selftrain.files import RunError, SparseRecord, file_digest
from selftrain.sampling.bank import Bank
from selftrain.sampling.weights import weights_digest

FILE = "reward.json"  # written last: a folder that has it is whole


class RewardManifest(SparseRecord):
    """What a reward model was made from: `reward.json`."""

    optional: ClassVar[frozenset[str]] = frozenset({"head"})

    base: str  # digest of the base model
    weights: str  # digest of the base and of what was trained on it
    prompts: str  # digest of the wordings
    steps: int  # version of the rule that splits a solution
    max_steps: int
    trained: str  # the folder of what was trained, in this one
    head: bool = False  # a reward head; otherwise a verifier


@dataclass(frozen=True)
class RewardModel:
    """A reward model that fits a run."""

    manifest: RewardManifest
    weights: Path

    @property
    def digest(self) -> str:
        """Of all that its judgements depend on."""
        return hashlib.sha256(json.dumps(self.manifest.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def manifest_of(config: Config, bank: Bank, trained: Path, folder: Path) -> RewardManifest:
    """Of a reward model that was `trained` with these settings, in `folder`. EngineError for damaged weights."""
    return RewardManifest(
        base=base_digest(config, bank), weights=trained_digest(config, bank, trained), steps=VERSION,
        prompts=prompt_set(config.prompts).verify_digest, max_steps=config.reward.max_steps,
        trained=str(trained.relative_to(folder)), head=config.reward.form == "head",
    )  # fmt: skip


def load_reward(config: Config, bank: Bank) -> RewardModel | None:
    """The reward model that a run names; None if it names none.

    ConfigError for a model of another base, other prompts or another rule of steps, and for an engine that gives no
    log-probabilities or cannot read the model's form. RunError where there is no model, or it is damaged.
    """
    folder = config.reward.model
    if folder is None:
        return None
    again = f"make it with `selftrain reward` and the settings of this run, or leave reward.model {folder} out"
    if not (folder / FILE).is_file():
        raise RunError(f"{folder} holds no finished reward model ({FILE} is missing); {again}")
    manifest = RewardManifest.read(folder / FILE)
    if not judging(config, manifest.head).engine.gives_logprobs:
        raise ConfigError(
            "reward.model needs log-probabilities; set engine.logprobs to true, or leave reward.model out"
        )
    found, wanted = manifest.base, base_digest(config, bank)
    if found != wanted:
        raise ConfigError(
            f"the reward model in {folder} was trained on another base (digest {found}) than {config.model.path} "
            f"({wanted}), and would judge with the wrong one; set model.path to its base, or {again}"
        )
    for what, theirs, ours in (
        ("prompts", manifest.prompts, prompt_set(config.prompts).verify_digest),
        ("rule that splits solutions into steps", manifest.steps, VERSION),
    ):
        if theirs != ours:
            raise ConfigError(
                f"the reward model in {folder} was trained with another {what} ({theirs}, not {ours}); {again}"
            )
    trained = folder / manifest.trained
    try:
        digest = trained_digest(config, bank, trained)
    except (OSError, EngineError) as error:
        raise RunError(f"the weights of the reward model in {folder} cannot be read ({error}); {again}") from error
    if digest != manifest.weights:
        raise RunError(
            f"{trained} is not what {folder / FILE} was written for; restore it, or delete {folder} and {again}"
        )
    return RewardModel(manifest, trained)


def judging(config: Config, head: bool) -> Config:
    """The settings with the engine that judges with a reward model of this form. ConfigError if there is none."""
    if not head:
        return config
    engine = config.engine.judge_of_heads
    if engine is None:
        raise ConfigError(
            f"engine.kind {config.engine.kind} cannot judge with a reward head (reward.form head); set engine.kind to "
            "hf, vllm or ray, or make a verifier"
        )
    return config.model_copy(update={"engine": engine})


def base_digest(config: Config, bank: Bank) -> str:
    path = config.model.path
    return config.engine.model_identity(path, lambda: weights_digest(bank, path, None)) or "rehearsal"


def trained_digest(config: Config, bank: Bank, trained: Path) -> str:
    """Of the base and what was trained on it."""
    if config.engine.has_model:
        return weights_digest(bank, config.model.path, trained)
    return file_digest(trained / "adapter_model.rehearsal")[:32]
