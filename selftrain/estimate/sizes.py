"""The sizes of models: from a folder's config.json, or the published ones, and how many numbers each part has.

Weights are not read. The counts are exact; tests compare them with the published checkpoints and with transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftrain.families import FAMILIES, FamilyError, family_of, read_model_config

TEMPORAL_PATCH = 2  # frames of a patch; an image is shown as two
COLOURS = 3


@dataclass(frozen=True)
class Size:
    """What tells the sizes of a family apart, from their published config.json."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int  # rows of the embedding
    tied: bool  # whether logits are read off the embedding
    vision: Mapping[str, Any] = field(hash=False)  # as in vision_config
    text_tokens: int = 151643  # ids below this are text; the special tokens follow, then rows without a token
    head: int = 128  # numbers of a query, a key or a value

    @property
    def queries(self) -> int:
        return self.heads * self.head

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the seven matrices of a layer: q, k, v, o, gate, up, down."""
        h, i = self.hidden, self.intermediate
        return ((h, self.queries), (h, self.keys), (h, self.keys), (self.queries, h), (h, i), (h, i), (i, h))


@dataclass(frozen=True)
class Parameters:
    """Numbers in the parts of a model."""

    layers: int  # of the language model, its last norm included
    embedding: int
    head: int  # 0 where it is the embedding
    vision: int  # without the projector
    projector: int  # from the vision tower to the language model, those of DeepStack included

    @property
    def total(self) -> int:
        return self.layers + self.embedding + self.head + self.vision + self.projector

    @property
    def language(self) -> int:
        return self.layers + self.embedding + self.head


def parameters(model_type: str, size: Size) -> Parameters:
    """How many numbers a model of this family and size has."""
    h, newer = size.hidden, model_type == "qwen3_vl"
    matrices = sum(into * out for into, out in size.matrices)
    small = 2 * size.head if newer else size.queries + 2 * size.keys  # norms of queries and keys, or their biases
    tower, projector = _vision(model_type, size.vision)
    return Parameters(
        layers=size.layers * (matrices + small + 2 * h) + h,
        embedding=size.vocab * h,
        head=0 if size.tied else size.vocab * h,
        vision=tower,
        projector=projector,
    )


def _vision(model_type: str, vision: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of the vision tower and of its projector."""
    family = FAMILIES[model_type]
    depth, first = vision["depth"], model_type == "qwen2_vl"
    width: int = vision["embed_dim"] if first else vision["hidden_size"]
    out: int = vision["hidden_size"] if first else vision["out_hidden_size"]
    inner: int = int(width * vision["mlp_ratio"]) if first else vision["intermediate_size"]
    patches = COLOURS * TEMPORAL_PATCH * family.patch**2 * width
    attention = 4 * width**2 + 4 * width
    if model_type == "qwen2_5_vl":  # a gated MLP, and norms without biases
        block = attention + 3 * inner * width + 2 * inner + width + 2 * width
        norm = width
    else:
        block = attention + 2 * inner * width + inner + width + 4 * width
        norm = 2 * width
    tower = patches + depth * block
    merged = width * family.merge**2
    joined = merged**2 + merged + merged * out + out
    projector = norm + joined
    if model_type == "qwen3_vl":
        tower += width + vision["num_position_embeddings"] * width
        projector += len(vision["deepstack_visual_indexes"]) * (2 * merged + joined)
    return tower, projector


def lora_parameters(size: Size, rank: int) -> int:
    """Numbers of an adapter of all matrices of the language model."""
    return size.layers * rank * sum(into + out for into, out in size.matrices)


# ---- the published ones ------------------------------------------------------------------------------------------


Numbers = tuple[int, int, int, int, int, int]  # the fields of a Size from `hidden` to `vocab`


def _qwen2_vl(numbers: Numbers, tied: bool = False) -> Size:
    vision = {"depth": 32, "num_heads": 16, "embed_dim": 1280, "hidden_size": numbers[0], "mlp_ratio": 4}
    return Size(*numbers, tied, vision)


def _qwen2_5_vl(numbers: Numbers, tied: bool = False, vision_intermediate: int = 3420) -> Size:
    vision = {
        **{"depth": 32, "num_heads": 16, "hidden_size": 1280, "intermediate_size": vision_intermediate},
        **{"out_hidden_size": numbers[0], "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
        "tokens_per_second": 2,
    }
    return Size(*numbers, tied, vision)


def _qwen3_vl(numbers: Numbers, tied: bool = False) -> Size:
    depth, width, inner, deep = (24, 1024, 4096, [5, 11, 17]) if tied else (27, 1152, 4304, [8, 16, 24])
    vision = {
        **{"depth": depth, "num_heads": 16, "hidden_size": width, "intermediate_size": inner},
        **{"out_hidden_size": numbers[0], "num_position_embeddings": 2304, "deepstack_visual_indexes": deep},
    }
    return Size(*numbers, tied, vision)


PUBLISHED: dict[tuple[str, str], Size] = {
    ("qwen2_vl", "2b"): _qwen2_vl((1536, 8960, 28, 12, 2, 151936), tied=True),
    ("qwen2_vl", "7b"): _qwen2_vl((3584, 18944, 28, 28, 4, 152064)),
    ("qwen2_vl", "72b"): _qwen2_vl((8192, 29568, 80, 64, 8, 152064)),
    ("qwen2_5_vl", "3b"): _qwen2_5_vl((2048, 11008, 36, 16, 2, 151936), tied=True),
    ("qwen2_5_vl", "7b"): _qwen2_5_vl((3584, 18944, 28, 28, 4, 152064)),
    ("qwen2_5_vl", "32b"): _qwen2_5_vl((5120, 27648, 64, 40, 8, 152064), vision_intermediate=3456),
    ("qwen2_5_vl", "72b"): _qwen2_5_vl((8192, 29568, 80, 64, 8, 152064), vision_intermediate=3456),
    ("qwen3_vl", "2b"): _qwen3_vl((2048, 6144, 28, 16, 8, 151936), tied=True),
    ("qwen3_vl", "4b"): _qwen3_vl((2560, 9728, 36, 32, 8, 151936), tied=True),
    ("qwen3_vl", "8b"): _qwen3_vl((4096, 12288, 36, 32, 8, 151936)),
    ("qwen3_vl", "32b"): _qwen3_vl((5120, 25600, 64, 64, 8, 151936)),
}


@dataclass(frozen=True)
class Known:
    """A model whose size is known, and from where."""

    model_type: str
    size: Size
    source: str

    @property
    def parameters(self) -> Parameters:
        return parameters(self.model_type, self.size)


def size_of(model: Path) -> Known:
    """The size of a model folder, or of the published model that the folder is named after where it is not there.

    FamilyError if neither says it.
    """
    if (model / "config.json").is_file():
        return Known(family_of(model).model_type, read_size(read_model_config(model)), f"{model}/config.json")
    name = model.name.lower().replace("_", ".")
    found = re.search(r"(?<![\d.])(\d+b)(?![a-z])", name)
    families = [family for family in FAMILIES.values() if family.name.lower() in name]
    if found is None or not families or (key := (families[0].model_type, found[1])) not in PUBLISHED:
        known = ", ".join(f"{FAMILIES[kind].name}-{size.upper()}" for kind, size in PUBLISHED)
        raise FamilyError(
            f"the size of {model} is not known: it holds no config.json, and its name is none of {known}; set "
            "model.path to a checkpoint folder"
        )
    return Known(key[0], PUBLISHED[key], f"the published {families[0].name}-{found[1].upper()}")


def read_size(config: Mapping[str, Any]) -> Size:
    """The size that a config.json gives, in its newer form with a text_config or in the older flat one.

    FamilyError if it lacks a number.
    """
    text = config.get("text_config") or config
    try:
        heads, hidden = text["num_attention_heads"], text["hidden_size"]
        vision = dict(config["vision_config"])
        if config["model_type"] == "qwen2_vl":  # as transformers' defaults: published files leave them out
            vision = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4} | vision
        elif config["model_type"] == "qwen2_5_vl":
            vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420} | vision
        return Size(
            hidden=hidden,
            intermediate=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text["num_key_value_heads"],
            vocab=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            vision=vision,
            head=text.get("head_dim") or hidden // heads,
        )
    except (KeyError, TypeError) as error:
        raise FamilyError(f"config.json says nothing of {error}; use an original checkpoint") from error
