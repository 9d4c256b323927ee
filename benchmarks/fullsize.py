"""A checkpoint of a published size with random weights, for timings where nothing can be downloaded.

    python -m benchmarks.fullsize --size 7b --out outputs/qwen2vl-7b-random
    python -m benchmarks.fullsize --size 3b --family qwen2_5_vl --out outputs/qwen25vl-3b-random
    python -m benchmarks.fullsize --size 8b --family qwen3_vl --out outputs/qwen3vl-8b-random

The folder holds what a download would: configuration, weights in bfloat16 shards, generation settings, tokenizer and
processor. Shapes, names, ids of special tokens and the width of the logits are the published ones, so memory and time
are too; what the model says is noise. `nano` is the same family at a million parameters, for machines without a GPU.

Three things differ from a real model, all to make timings repeatable:

* The weights of the special tokens' rows are zero. Their logits are then in the middle of all, so sampling within a
  top-k never ends a turn or writes an image mark, and every sample is as long as its limit.
* The tokenizer knows its words from MiniGeo's texts; the rest of its vocabulary are made-up words that text is never
  split into, but that ids are written as. One in SENTENCE of them begins with a full stop, so that what acts on full
  stops (benchmarks.gpu_profile) does so about as often as in prose. Prompts are split into other tokens than by the
  published tokenizer.
* As in the published checkpoints, the last rows of the embedding have no token. Here they are drawn like all others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_process.schema import DataError
from data_process.seeds import seed_for
from selftrain.estimate.sizes import PUBLISHED, Size
from selftrain.families import FAMILIES

SHARD_BYTES = 5_000_000_000
INITIALIZER_RANGE = 0.02  # standard deviation of every matrix, as published
BYTES = 2  # of a bfloat16
SENTENCE = 16  # one made-up word in so many ends in a full stop: about the length of a sentence
TOKENIZER_TEXTS = 400  # MiniGeo problems that the tokenizer is trained on
LEARNED_TOKENS = 8192  # at most; MiniGeo's texts give a few hundred
FORCED = "So it is. Wait, so it is not.\nAnswer: (A) Final answer: so"  # what budgets write is to be words, not letters
SPACE = "\u0120"  # as a byte-level piece has it

# Qwen2-VL's and Qwen2.5-VL's, in the order of their ids, the first of which is 151643.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen3-VL's, which follow. Those in angle brackets alone are ordinary tokens: they are written in a text.
LATER_TOKENS = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
CLASSES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}  # as transformers' begin
POSITIONS = {"qwen2_vl": 32768, "qwen2_5_vl": 128000, "qwen3_vl": 262144}  # the longest text
ROPE = {"qwen3_vl": (5_000_000.0, 5)}  # theta and sixteenths of the rotary pairs for height, and for width
# What images are resized to, in pixels: 4 to 16384 image tokens, of Qwen3-VL 64 to 16384.
LIMITS = {"qwen3_vl": (256 * 256, 16384 * 32 * 32)}


def _nano(**vision: Any) -> Size:
    # Heads of 32 are the smallest that vLLM takes on a CPU. A fifth of the rows has no token: far more than published.
    vision = {"depth": 2, "num_heads": 2, **vision}
    return Size(128, 256, 3, 4, 2, 1280, tied=True, vision=vision, text_tokens=1000, head=32)


_WIDE = {"hidden_size": 64, "intermediate_size": 172, "out_hidden_size": 128}
SIZES: dict[tuple[str, str], Size] = {
    ("qwen2_vl", "nano"): _nano(embed_dim=64, hidden_size=128, mlp_ratio=4),
    ("qwen2_5_vl", "nano"): _nano(**_WIDE, window_size=112, fullatt_block_indexes=[1], tokens_per_second=2),
    ("qwen3_vl", "nano"): _nano(**_WIDE, depth=3, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
    **PUBLISHED,
}


# ---- the model ---------------------------------------------------------------------------------------------------


def build_config(family: str, size: Size) -> Any:
    """transformers' configuration of a size."""
    import transformers

    ids = {token: size.text_tokens + place for place, token in enumerate(tokens_of(family))}
    half = size.head // 2  # rotary pairs of a head, shared out over time, height and width
    theta, sixteenths = ROPE.get(family, (1_000_000.0, 6))
    side = half * sixteenths // 16
    rope = {"rope_type": "default", "rope_theta": theta, "mrope_section": [half - 2 * side, side, side]}
    newer = {"head_dim": size.head} if family == "qwen3_vl" else {"max_window_layers": size.layers}
    rope |= {"mrope_interleaved": True} if family == "qwen3_vl" else {}
    config = getattr(transformers, f"{CLASSES[family]}Config")(
        text_config={
            "vocab_size": size.vocab,
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "max_position_embeddings": POSITIONS[family],
            **newer,
            "rope_parameters": rope,
            "rms_norm_eps": 1e-6,
            "initializer_range": INITIALIZER_RANGE,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": size.tied,
        },
        vision_config=dict(size.vision),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=size.tied,
        dtype="bfloat16",
    )
    config.architectures = [f"{CLASSES[family]}ForConditionalGeneration"]
    return config


def tokens_of(family: str) -> tuple[str, ...]:
    """The tokens that follow those of text, in the order of their ids."""
    return SPECIAL_TOKENS + (LATER_TOKENS if family == "qwen3_vl" else ())


def shapes_of(config: Any) -> dict[str, tuple[int, ...]]:
    """Name in a published checkpoint -> shape, of every tensor; no memory is taken."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shapes = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if config.model_type != "qwen3_vl":
            # transformers nests the two parts under `model` now; these checkpoints are older
            name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        shapes[name] = tuple(tensor.shape)
    return shapes


def count(shapes: Mapping[str, Sequence[int]]) -> int:
    """Parameters."""
    total = 0
    for shape in shapes.values():
        numbers = 1
        for side in shape:
            numbers *= side
        total += numbers
    return total


def shards(shapes: Mapping[str, Sequence[int]], limit: int = SHARD_BYTES) -> list[list[str]]:
    """Names in order, in parts of at most `limit` bytes, or of one tensor."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = BYTES * count({name: shape})
        if parts[-1] and filled + size > limit:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def draw(name: str, shape: Sequence[int], size: Size, seed: int, special: int = len(SPECIAL_TOKENS)) -> Any:
    """One tensor, made in bfloat16: matrices are normal, biases 0, scales of norms 1, rows of special tokens 0.

    `special`: how many tokens follow those of text.
    """
    import torch

    tensor = torch.empty(shape, dtype=torch.bfloat16)
    if name.endswith("bias"):
        return tensor.zero_()
    if len(shape) == 1:
        return tensor.fill_(1)
    tensor.normal_(0, INITIALIZER_RANGE, generator=torch.Generator().manual_seed(seed_for(seed, name)))
    if name == "lm_head.weight" or name.endswith("embed_tokens.weight"):
        tensor[size.text_tokens : size.text_tokens + special] = 0
    return tensor


# ---- the words ---------------------------------------------------------------------------------------------------


def made_up_words() -> Iterator[str]:
    """Byte-level pieces such as " aaabq", without end; one in SENTENCE, such as ".aaabp", closes a sentence."""
    for number, letters in enumerate(itertools.product(string.ascii_lowercase, repeat=5)):
        closes = number % SENTENCE == SENTENCE - 1
        yield ("." if closes else SPACE) + "".join(letters)


def build_tokenizer(size: Size, family: str = "qwen2_vl") -> Any:
    """Qwen2's tokenizer with the published number of tokens and the published ids of the special ones."""
    from transformers import Qwen2Tokenizer

    from data_process import prompts
    from data_process.sources import minigeo
    from selftrain import tiny_model

    chosen = prompts.prompt_set("r3v-qwen2vl")
    texts = []
    for problem, _ in minigeo.generate("base", TOKENIZER_TEXTS):
        texts += [prompts.cot(problem, chosen), str(problem.meta["rationale"]), FORCED]
    room = min(LEARNED_TOKENS, size.text_tokens * 3 // 4)
    trained = tiny_model.build_tokenizer(texts, vocab_size=room + len(tiny_model.SPECIAL_TOKENS))
    learned = json.loads(trained.backend_tokenizer.to_str())["model"]
    vocab: dict[str, int] = dict(learned["vocab"])
    for word in made_up_words():
        if len(vocab) == size.text_tokens:
            break
        vocab.setdefault(word, len(vocab))
    named = tokens_of(family)
    for token in named:
        vocab[token] = len(vocab)
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=POSITIONS[family],
    )
    special = [token for token in named if token.startswith("<|")]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([token for token in named if token not in special])
    tokenizer.padding_side = "left"
    return tokenizer


def build_processor(family: str, tokenizer: Any) -> Any:
    """The family's processor with its published pixel limits."""
    import transformers

    from selftrain import tiny_model

    known, newer = FAMILIES[family], family == "qwen3_vl"
    low, high = LIMITS.get(family, (56 * 56, 16384 * 28 * 28))
    colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if newer else {}
    images = transformers.Qwen2VLImageProcessor(
        size={"shortest_edge": low, "longest_edge": high}, patch_size=known.patch, merge_size=known.merge, **colours
    )
    return getattr(transformers, f"{CLASSES[family]}Processor")(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor() if newer else transformers.Qwen2VLVideoProcessor(),
        chat_template=tiny_model.CHAT_TEMPLATE if known.system else tiny_model.CHAT_TEMPLATE_WITHOUT_SYSTEM,
    )


# ---- the folder --------------------------------------------------------------------------------------------------


def write_checkpoint(family: str, size_name: str, out: Path, *, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> int:
    """Make the folder `out`, whole or not at all; returns the number of parameters.

    At most one shard is in memory. Raises DataError if the size is unknown, `out` exists or the disk is too full.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    if (family, size_name) not in SIZES:
        known = ", ".join(name for at, name in SIZES if at == family)
        raise DataError(f"{family} has no size {size_name!r}; known: {known or f'none, families are {list(FAMILIES)}'}")
    if out.exists():
        raise DataError(f"{out} exists; remove it, or name another folder")
    size = SIZES[family, size_name]
    config = build_config(family, size)
    shapes = shapes_of(config)
    needed = BYTES * count(shapes)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise DataError(f"{out} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on its disk; name another")

    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    parts, special = shards(shapes, shard_bytes), len(tokens_of(family))
    places = {}
    for number, names in enumerate(parts, start=1):
        file = "model.safetensors" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = {name: draw(name, shapes[name], size, seed, special) for name in names}
        save_file(tensors, partial / file, metadata={"format": "pt"})
        (partial / file).chmod(0o644)  # safetensors makes files that only their owner can read
        places |= dict.fromkeys(names, file)
    if len(parts) > 1:
        index = {"metadata": {"total_size": needed}, "weight_map": places}
        (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    config.save_pretrained(partial)
    text = config.text_config
    GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=[text.eos_token_id, text.pad_token_id],
        pad_token_id=text.pad_token_id,
        do_sample=False,
    ).save_pretrained(partial)
    build_processor(family, build_tokenizer(size, family)).save_pretrained(partial)
    manifest = {
        "family": family,
        "size": size_name,
        "weights": "random",
        "parameters": count(shapes),
        "seed": seed,
        "torch": torch.__version__,
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    partial.rename(out)
    return count(shapes)


def random_adapter(model: Path, out: Path, *, rank: int = 64, alpha: int = 16, seed: int = 0) -> Path:
    """A LoRA adapter of every matrix of the language model, as training with `lora_target: all` writes it, that moves
    the weights a little. The model's own weights are not read. Returns `out`.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    options = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    )
    with torch.device("meta"):
        adapted = get_peft_model(AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(model)), options)
    tensors = {}
    for name, empty in get_peft_model_state_dict(adapted).items():
        # A keeps the size of what goes through it; a B of 0.01 changes weights by about a hundredth of their size
        scale = empty.shape[1] ** -0.5 if "lora_A" in name else 0.01
        generator = torch.Generator().manual_seed(seed_for(seed, name))
        tensors[name] = torch.randn(empty.shape, generator=generator) * scale
    out.mkdir(parents=True)
    options.inference_mode = True
    options.save_pretrained(out)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return out


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", required=True, help="; ".join(f"{f}: {', '.join(_names(f))}" for f in FAMILIES))
    parser.add_argument("--family", default="qwen2_vl", choices=list(FAMILIES))
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    args = parser.parse_args(argv)
    try:
        parameters = write_checkpoint(args.family, args.size, args.out, seed=args.seed)
    except DataError as error:
        parser.error(str(error))
    print(f"{args.out}: {parameters:,} parameters, random")


def _names(family: str) -> list[str]:
    return [name for at, name in SIZES if at == family]


if __name__ == "__main__":
    main()
