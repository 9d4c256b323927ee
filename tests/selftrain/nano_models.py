"""Random models of a few hundred thousand parameters, one of each supported family, in the classes of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selftrain import tiny_model
from selftrain.families import FAMILIES, Family

WORDS = "find the angle of a triangle circle line what which answer step think sum is and so it equals"
HIDDEN, HEADS = 128, 4  # heads of 32: the smallest that vLLM takes on a CPU
LIMITS = {28: (56 * 56, 224 * 224), 32: (64 * 64, 256 * 256)}  # least and most pixels, by the side of a token

# Qwen3-VL's templates for text and images, rewritten: Instruct has no system turn, Thinking opens a thought.
_TURN = (
    "<|im_start|>{{ message['role'] }}\n"
    "%s{%% if message['content'] is string %%}{{ message['content'] }}{%% else %%}"
    "{%% for part in message['content'] %%}"
    "{%% if part['type'] == 'image' %%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%% elif part['type'] == 'text' %%}{{ part['text'] }}{%% endif %%}{%% endfor %%}{%% endif %%}<|im_end|>\n"
)
_OPEN = (
    "{%% for message in messages %%}" + _TURN + "{%% endfor %%}{%% if add_generation_prompt %%}<|im_start|>assistant\n"
)
_THOUGHT = "{% if message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
INSTRUCT = _OPEN % "" + "{% endif %}"
THINKING = _OPEN % _THOUGHT + "<think>\n{% endif %}"


def limits_of(family: Family) -> tuple[int, int]:
    return LIMITS[family.token_side]


def write(kind: str, folder: Path, *, thinking: bool = False, seed: int = 1) -> Path:
    """The folder of a random model of a family, with more stop tokens than usual, so that some completions stop."""
    import torch

    family = FAMILIES[kind]
    tokenizer = tiny_model.build_tokenizer([WORDS] * 3, vocab_size=384)
    if family.thinking:
        tokenizer.add_tokens(list(family.thinking))
    model = _model(family, tokenizer)
    # Larger weights than usual, or nearly equal logits would make greedy decoding a matter of rounding.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.05 if "embed_tokens" in name else 2.0 / weight[0].numel() ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(0, 0.2)
        for mark in family.marks:  # that a model has no reason to write, and its logits are the embeddings' products
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(mark)] = 0
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(0, len(tokenizer), 16)]
    tiny_model.save(model, _processor(family, tokenizer, INSTRUCT if not thinking else THINKING), folder, "float32")
    return folder


def _model(family: Family, tokenizer: Any) -> Any:
    import transformers

    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in tiny_model.SPECIAL_TOKENS}
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,  # grouped queries, as in every real checkpoint
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "rms_norm_eps": 1e-6,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    wide: dict[str, Any] = {"num_heads": 2, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": HIDDEN}
    if family.model_type == "qwen2_vl":
        name = "Qwen2VL"
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": HIDDEN, "num_heads": 2, "mlp_ratio": 2}
    elif family.model_type == "qwen2_5_vl":
        name = "Qwen2_5_VL"
        vision = {"depth": 2, "window_size": 112, "fullatt_block_indexes": [1], "tokens_per_second": 2, **wide}
    else:
        name = "Qwen3VL"
        vision = {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64, **wide}
        text["head_dim"] = HIDDEN // HEADS
        text["rope_parameters"] |= {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = getattr(transformers, f"{name}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[family.image],
        video_token_id=ids[family.video],
        vision_start_token_id=ids[family.vision[0]],
        vision_end_token_id=ids[family.vision[1]],
        tie_word_embeddings=True,
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def _processor(family: Family, tokenizer: Any, qwen3_template: str) -> Any:
    import transformers

    low, high = limits_of(family)
    size = {"shortest_edge": low, "longest_edge": high}
    images = transformers.Qwen2VLImageProcessor(size=size, patch_size=family.patch, merge_size=family.merge)
    newer = family.model_type == "qwen3_vl"
    videos = transformers.Qwen3VLVideoProcessor() if newer else transformers.Qwen2VLVideoProcessor()
    name = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}
    return getattr(transformers, name[family.model_type])(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=videos,
        chat_template=qwen3_template if newer else tiny_model.CHAT_TEMPLATE,
    )
