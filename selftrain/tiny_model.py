"""A Qwen2-VL of a few million parameters, built from nothing, with the classes, template and tokens of the real one.

It replaces the pretrained model in the demo and in tests, so that the whole real stack (processor, image tokens,
multimodal rotary positions, LoRA through LLaMA-Factory) runs on a laptop. `scripts/make_tiny_base.py` trains
the one that ships in `models/tiny-qwen2vl`.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

# Qwen2-VL's template for text and images, rewritten: a system turn is added when there is none, an image becomes
# <|vision_start|><|image_pad|><|vision_end|>, every turn is closed by <|im_end|> and a newline.
_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}" + _SYSTEM + "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CHAT_TEMPLATE_WITHOUT_SYSTEM = CHAT_TEMPLATE.replace(_SYSTEM, "")  # as Qwen3-VL-Instruct's

MAX_NUMBER = 360  # numbers up to this are single tokens
PERIODS = (2, 5, 10, 20, 36, 50, 90, 100, 180, 360, 720)  # of the number embeddings' waves

MIN_PIXELS = 56 * 56
MAX_PIXELS = 224 * 224


def build_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> Any:
    """A byte-level BPE with Qwen2's splitting rule (digits stand alone), trained on `texts`; Qwen2's special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Letters of choices stay tokens of their own: "(C" in a prompt and " (C" in an answer share the token "C".
    raw.train_from_iterator((re.sub(r"\([A-D]\)", "( )", text) for text in texts), trainer)
    learned = json.loads(raw.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=merges, **special, model_max_length=4096)
    # One token per number that occurs, so that finding a value among the choices is a matter of one match.
    tokenizer.add_tokens([str(value) for value in range(MAX_NUMBER + 1)])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.padding_side = "left"
    return tokenizer


def build_processor(tokenizer: Any) -> Qwen2VLProcessor:
    """Qwen2-VL's processor around a tokenizer, with pixel limits that fit the tiny model."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: Any, *, hidden: int = 128, layers: int = 4, vision_hidden: int = 96, vision_depth: int = 2, seed: int = 0
) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL with random weights, in float32. Deterministic for a seed. ValueError if it is too small."""
    import torch
    from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

    if layers < 3:
        raise ValueError(f"the prepared circuits need 3 layers at least, not {layers}")
    heads = 4  # as many as the prepared circuits need
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    half = hidden // heads // 2  # rotary pairs of one head, shared out over time, height and width as in Qwen2-VL
    section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    vision = {"depth": vision_depth, "embed_dim": vision_hidden, "hidden_size": hidden}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 3,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section},
            "rms_norm_eps": 1e-6,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config=vision | {"num_heads": 4, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
        _prepare_attention(model, heads)
        _prepare_numbers(model, tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], pad_token_id=ids["<|endoftext|>"], do_sample=False
    )
    return model


def _prepare_attention(model: Any, heads: int) -> None:
    """Start attention from useful circuits instead of noise: training alone forms them over tens of millions of tokens.

    In the spirit of mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828) and of the induction heads of
    Olsson et al. 2022 (arXiv 2209.11895). Layer 0: head h looks h + 1 tokens back, by way of query and key biases under
    rotary positions, so every token hears what stands 1, 2, 3, 4 tokens before it. Layer 1: the first head copies what
    followed an earlier occurrence of the current token; the upper half, after "60 is (", finds "60" in "(C) 60" and
    fetches the token three places before it. This is only the initialisation: all weights are trained.
    """
    import torch

    text = model.model.language_model
    width = text.config.hidden_size
    size = width // heads
    half = size // 2
    frequencies = text.config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    # Contents far apart can only be compared where the rotation is slow: a radian over a hundred tokens.
    slow = torch.cat([torch.where(frequencies < 0.012)[0], half + torch.where(frequencies < 0.012)[0]])

    # Token embeddings start in the first half of the residual stream, the output of layer 0 in the second, so that
    # neither is noise to the other; `channel` directions per head carry a token's content between them.
    own, channel = width // 2, min(size, width // 2 // heads)

    def frame() -> torch.Tensor:
        """[channel, width], orthonormal rows within the embeddings' half."""
        rows = torch.zeros(channel, width)
        rows[:, :own] = torch.linalg.qr(torch.randn(own, channel))[0].T
        return rows

    def rows_of(head: int) -> slice:
        return slice(head * size, (head + 1) * size)

    def look_back(attention: Any, head: int, offset: int) -> None:
        rows = rows_of(head)
        strength = 5.0 * (frequencies > 0.02).float()  # slower rotations cannot tell neighbours apart
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[rows] *= 0.3
        attention.k_proj.bias[rows] = torch.cat([strength, torch.zeros(half)])
        angle = -offset * frequencies
        attention.q_proj.bias[rows] = torch.cat([strength * torch.cos(angle), strength * torch.sin(angle)])

    def carry(attention: Any, head: int, read: torch.Tensor, write: torch.Tensor, gain: float) -> None:
        start = head * size
        attention.v_proj.weight[start : start + channel] = read
        attention.o_proj.weight[:, start : start + channel] = gain * write.T

    def match(attention: Any, head: int, query: torch.Tensor, key: torch.Tensor, gain: float) -> None:
        n = min(len(slow), channel)
        for projection, read in ((attention.q_proj, query), (attention.k_proj, key)):
            projection.weight[rows_of(head)] *= 0.1
            projection.weight[head * size + slow[:n]] = gain * read[:n]

    with torch.no_grad():
        for parameter in text.parameters():
            if parameter.dim() > 1:
                # The library's standard deviation of 0.02 is meant for widths in the thousands.
                parameter.mul_(0.7 / (0.02 * math.sqrt(width)))
        text.embed_tokens.weight[:, :own] *= 4
        text.embed_tokens.weight[:, own:] *= 0.2
        first, second = text.layers[0].self_attn, text.layers[1].self_attn
        heard, spoken = [frame() for _ in range(heads)], []
        for head in range(heads):
            spoken.append(torch.zeros(channel, width))
            spoken[head][:, own + head * channel : own + (head + 1) * channel] = torch.eye(channel)
            look_back(first, head, head + 1)
            carry(first, head, heard[head], spoken[head], gain=0.35)
        match(second, 0, query=heard[0], key=spoken[0], gain=1.5)
        copied = frame()
        carry(second, 0, copied, copied, gain=0.25)
        for head in range(heads // 2, heads):
            match(second, head, query=spoken[1], key=heard[1], gain=2.5)
            carry(second, head, spoken[2], heard[2], gain=1.0)
        for head in range(heads // 2):
            look_back(text.layers[2].self_attn, head, head + 1)


def _prepare_numbers(model: Any, tokenizer: Any) -> None:
    """Start the number tokens from waves of their value, so that sums are rotations rather than a table to learn.

    After the Fourier number embedding of Zhou et al. 2025 (arXiv 2502.09741); only an initialisation, too.
    """
    import torch

    table = model.get_input_embeddings().weight
    waves = 2 * len(PERIODS)
    with torch.no_grad():
        scale = table[:, : table.shape[1] // 2].std().item()
        table[:, :waves] *= 0.2
        for value in range(MAX_NUMBER + 1):
            row = tokenizer.convert_tokens_to_ids(str(value))
            angles = torch.tensor([2 * math.pi * value / period for period in PERIODS])
            table[row, :waves] = torch.stack([angles.cos(), angles.sin()], dim=1).flatten() * 2 * scale
            table[row, waves:] *= 0.5


def save(model: Any, processor: Any, folder: Path, dtype: Literal["bfloat16", "float32"] = "bfloat16") -> None:
    """Write the model (safetensors in `dtype`) and its processor."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(folder)
    processor.save_pretrained(folder)
