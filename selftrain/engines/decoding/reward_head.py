"""A reward head: one number for a whole text, in place of a language model's logits.

LLaMA-Factory's stage `rm` trains one: a linear layer on the last hidden state (TRL's ValueHead), read at the last token
of a row, after the end of the turn. Its value v becomes the logits of two tokens, v for + and 0 for -, so that + has
the probability sigmoid(v), and a judgement is a completion of one token like that of a verifier.
torch is imported inside the functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.engines.base import EngineError, SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

FILE = "value_head.safetensors"  # beside an adapter, as LLaMA-Factory writes it
REHEARSED = "value_head.rehearsal"  # in its place, without a model
WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"  # [1, hidden] and [1]
GOOD, BAD = "+", "-"  # one token of every tokenizer that is supported


def has_head(weights: Path | None) -> bool:
    """Whether a folder of trained weights is a reward head and the adapter under it."""
    return weights is not None and (weights / FILE).is_file()


def check_judgement(params: SamplingParams, weights: Path | None) -> None:
    """EngineError for parameters with which a reward head would have to write a text."""
    if params.max_tokens != 1 or params.temperature != 0 or params.repetition_penalty != 1 or params.budget is not None:
        raise EngineError(
            f"{weights} is a reward head: it says how good a text is, in one greedy token, and writes none; name other "
            "weights, and under reward.model the folder that has reward.json"
        )


def read_head(weights: Path, hidden: int) -> tuple[Tensor, Tensor]:
    """Weight [hidden] and bias [], float32. EngineError if the file is damaged or of a model of another width."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights / FILE, "pt") as file:
            weight, bias = file.get_tensor(WEIGHT).float().flatten(), file.get_tensor(BIAS).float().sum()
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{weights / FILE} holds no reward head ({error}); train it again") from error
    if len(weight) != hidden:
        raise EngineError(
            f"{weights / FILE} is for a model of width {len(weight)}, and this one has {hidden}: it belongs to "
            "another base"
        )
    return weight, bias


def write_head(weights: Path, scale: float, offset: float, out: Path) -> None:
    """Write into `out` the head of `weights` with its value v replaced by `scale` * v + `offset`."""
    from safetensors.torch import load_file, save_file

    held = load_file(weights / FILE)
    held[WEIGHT], held[BIAS] = held[WEIGHT].float() * scale, held[BIAS].float() * scale + offset
    save_file(held, out / FILE, metadata={"format": "pt"})


def attach(model: Any, weights: Path, tokenizer: Any) -> None:
    """Put the reward head of `weights` in place of the model's output layer. EngineError as `read_head` raises it."""
    import torch

    good, bad = (_token(tokenizer, text) for text in (GOOD, BAD))
    old = model.lm_head.weight
    weight, bias = (part.to(old.device) for part in read_head(weights, old.shape[1]))
    vocab = old.shape[0]

    class Head(torch.nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            """Of [..., hidden], logits [..., vocab]."""
            logits = torch.full((*hidden.shape[:-1], vocab), -torch.inf, device=hidden.device)
            logits[..., good] = hidden.float() @ weight + bias
            logits[..., bad] = 0
            return logits

    model.lm_head = Head()


def _token(tokenizer: Any, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise EngineError(f"{text!r} is {len(ids)} tokens of this model; a reward head needs it to be one")
    return int(ids[0])
