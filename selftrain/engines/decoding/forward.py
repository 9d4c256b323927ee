"""Forward passes over prompts with images: what a vision tower gives, and where it enters the language model.

A family with DeepStack (Meng et al. 2024, arXiv 2406.04334) gives each image token one vector for the embeddings and
one more for each of the first layers, which is added to that layer's output. transformers' models do so only if they
encode the images themselves; given embeddings, they leave the further vectors out. So the language model is called
here directly. torch is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selftrain.engines.base import EngineError
from selftrain.families import Family

if TYPE_CHECKING:
    from torch import Tensor


def features_of(model: Any, family: Family, pixels: Tensor, grid: Tensor) -> list[Tensor]:
    """Of each image, [1 + DeepStack layers, image tokens, hidden]: the embeddings, and what layer 0, 1, ... adds.

    `pixels` and `grid` are the image processor's pixel_values and image_grid_thw. The tensors are copies: parts of the
    batch's own would keep all of it in memory.
    """
    import torch

    out = model.model.get_image_features(pixels, grid)
    layers = getattr(out, "deepstack_features", None) or []
    if bool(layers) != family.deepstack:
        has = "gives no" if family.deepstack else "gives"
        raise EngineError(f"this transformers {has} DeepStack features for {family.name}; install requirements.txt")
    sizes = [len(image) for image in out.pooler_output]
    of_layers = [torch.split(layer, sizes) for layer in layers]
    return [torch.stack(parts) for parts in zip(out.pooler_output, *of_layers, strict=True)]


def read(
    model: Any,
    ids: Tensor,
    place: Tensor,
    mask: Tensor,
    shown: Sequence[Tensor],
    at: Tensor,
    *,
    keep: int,
    cache: Any = None,
) -> Tensor:
    """Logits [rows, keep, vocab] at the last `keep` tokens of `ids` [rows, tokens], read without anything before.

    `place` [3, rows, tokens]: rotary positions. `mask` [rows, 1, tokens, tokens] is added to attention scores. `shown`:
    the features of all images, in the order of their tokens, which are where `at` [rows, tokens] is true. `cache`: a
    DynamicCache that takes keys and values.
    """
    import torch

    embeds = model.get_input_embeddings()(ids)
    deeper: dict[str, Any] = {}
    if shown:
        first, *layers = torch.cat(list(shown), dim=1)
        embeds[at] = first
        if layers:
            deeper = {"visual_pos_masks": at, "deepstack_visual_embeds": layers}
    out = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=place,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
        **deeper,
    )
    logits: Tensor = model.lm_head(out.last_hidden_state[:, -keep:])
    return logits
