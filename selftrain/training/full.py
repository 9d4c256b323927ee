"""The weights of a full fine-tuning: from what LLaMA-Factory leaves to a checkpoint that engines open, checked.

LLaMA-Factory saves in the precision that it trained in, mostly float32, under the names and in the files that
transformers chooses. `adopt` puts these values into the form of the checkpoint that was trained: the same names, dtypes
and files, the same tokenizer and processor. So a set of weights takes as much room as the base, whatever opens the base
opens it, and prompts become the same tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selftrain.engines.decoding.lora_merge import core, shapes_of, tensor_of
from selftrain.families import read_model_config
from selftrain.training.hyperparameters import TrainingError
from selftrain.training.weight_files import header_of, weights_files, write_like

if TYPE_CHECKING:
    from torch import Tensor


def adopt(trained: Path, start: Path, out: Path) -> None:
    """Write `out`: the checkpoint `start` with the values of `trained`. One tensor of each is in memory at a time.

    TrainingError unless every tensor of `start` is in `trained` with the same shape, all numbers are finite, and at
    least one differs from `start` after rounding to its dtype.
    """
    import torch

    try:
        places = {core(name): (file, name) for file in weights_files(trained) for name in _names(file)}
        before = {name: file for file in weights_files(start) for name in shapes_of(file)}
    except (OSError, ValueError) as error:
        raise TrainingError(f"training left no whole checkpoint in {trained}: {error}") from error
    if _is_tied(start) and "embed_tokens.weight" in places:
        places.setdefault("lm_head.weight", places["embed_tokens.weight"])
    changed = False

    def value(name: str) -> Tensor:
        nonlocal changed
        if core(name) not in places:
            raise TrainingError(f"training left no tensor {name} in {trained}; the end of its log says why")
        tensor = tensor_of(*places[core(name)])
        if not torch.isfinite(tensor).all():
            raise TrainingError(
                f"{name} in {trained} holds NaN or infinity: training diverged, so lower learning_rate or max_grad_norm"
            )
        old = tensor_of(before[name], name)
        changed = changed or not torch.equal(tensor.to(old.dtype), old)
        return tensor

    out.mkdir()
    try:
        write_like(start, value, out)
    except ValueError as error:
        raise TrainingError(f"the weights in {trained} do not fit {start}: {error}") from error
    if not changed:
        raise TrainingError(
            f"{trained} equals {start} in every number, after rounding to the precision of {start}; check rows, steps, "
            "learning_rate"
        )


def _names(file: Path) -> list[str]:
    return list(header_of(file)[1])


def _is_tied(model: Path) -> bool:
    config = read_model_config(model)
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False)))
