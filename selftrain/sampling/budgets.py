"""Whether the configured model can keep the budgets that it is asked to, before anything is sampled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from selftrain.config import Config, ConfigError
from selftrain.engines.base import EngineError, SamplingParams
from selftrain.engines.budget_forcing.tags import check_kept


def processor_of(config: Config) -> Any:
    """The checkpoint's processor; None where there is no checkpoint: scripted answers, a server's own model.

    ConfigError for a path that is no folder with a processor. The hub is never asked.
    """
    path = config.model.path
    if not config.engine.reads_checkpoint(path):
        return None
    if not (path / "config.json").is_file():
        raise ConfigError(f"model.path {path} is not a checkpoint folder; download the model, and name its folder")
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path, local_files_only=True)
    except Exception as error:  # of a damaged tokenizer or template, libraries raise what they like
        said = f"{type(error).__name__}: {str(error)[:500]}"
        raise ConfigError(f"{path} holds no usable processor ({said}); copy the base model's into it") from error


def check(what: str, decodings: Iterable[SamplingParams], processor: Any) -> None:
    """ConfigError, which begins with `what`, for a budget that tokenizer, template or max_tokens does not allow."""
    try:
        check_kept(decodings, processor)
    except (ValueError, EngineError) as error:
        raise ConfigError(f"{what}: {error}") from error
