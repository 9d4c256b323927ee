"""The sizes of models: by name, from a config.json in either form, and the numbers of an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selftrain.estimate.sizes import PUBLISHED, lora_parameters, read_size, size_of
from selftrain.families import FamilyError

TINY = Path(__file__).parents[3] / "models/tiny-qwen2vl"


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("models/Qwen2-VL-7B-Instruct", ("qwen2_vl", "7b")),
        ("Qwen/Qwen2.5-VL-32B-Instruct", ("qwen2_5_vl", "32b")),
        ("/gone/qwen2_5-vl-3b", ("qwen2_5_vl", "3b")),
        ("Qwen3-VL-2B-Thinking", ("qwen3_vl", "2b")),
        ("Qwen2-VL-72B", ("qwen2_vl", "72b")),
        ("Qwen2-VL-32B-Instruct", None),  # there is none
        ("Qwen2-VL", None),
        ("llava-7b", None),
        ("Qwen2-VL-7Bit", None),
    ],
)
def test_by_name(name, at):
    if at is None:
        with pytest.raises(FamilyError, match=r"is not known: .*Qwen3-VL-32B; set model\.path"):
            size_of(Path(name))
        return
    found = size_of(Path(name))
    assert (found.model_type, found.size) == (at[0], PUBLISHED[at])
    assert found.source.startswith("the published Qwen")


def test_a_folder_counts_more_than_its_name(tmp_path):
    folder = tmp_path / "Qwen2-VL-7B"
    folder.mkdir()
    (folder / "config.json").write_bytes((TINY / "config.json").read_bytes())
    assert size_of(folder).parameters.total == size_of(TINY).parameters.total < 2e6


def test_the_tiny_model_is_counted_as_its_tensors():
    from selftrain.training.weight_files import header_of, weights_files

    shapes = [entry["shape"] for file in weights_files(TINY) for entry in header_of(file)[1].values()]
    count = 0
    for shape in shapes:
        numbers = 1
        for side in shape:
            numbers *= side
        count += numbers
    assert size_of(TINY).parameters.total == count


# As Qwen publishes them: the older files are flat and leave out defaults, Qwen3-VL's has a text_config.
FLAT = {
    **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
    **{"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}
QWEN2_VISION = {"num_heads": 16, "in_chans": 3, "hidden_size": 3584, "patch_size": 14}
QWEN25_VISION = {"num_heads": 16, "out_hidden_size": 3584, "intermediate_size": 3420}
QWEN3 = {
    "text_config": {
        **{"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 151936, "head_dim": 128},
    },
    "vision_config": dict(PUBLISHED["qwen3_vl", "8b"].vision),
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "at"),
    [
        ({"model_type": "qwen2_vl", **FLAT, "vision_config": QWEN2_VISION}, ("qwen2_vl", "7b")),
        ({"model_type": "qwen2_5_vl", **FLAT, "vision_config": {"depth": 32, **QWEN25_VISION}}, ("qwen2_5_vl", "7b")),
        ({"model_type": "qwen3_vl", **QWEN3}, ("qwen3_vl", "8b")),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_published_config_is_its_published_size(tmp_path, config, at):
    from selftrain.estimate.sizes import parameters

    (tmp_path / "config.json").write_text(json.dumps(config))
    assert size_of(tmp_path).parameters == parameters(at[0], PUBLISHED[at])


def test_a_config_that_lacks_a_number():
    lacking = {key: value for key, value in FLAT.items() if key != "num_hidden_layers"}
    with pytest.raises(FamilyError, match="says nothing of 'num_hidden_layers'"):
        read_size({"model_type": "qwen2_vl", "vision_config": QWEN2_VISION, **lacking})


@pytest.mark.parametrize(
    ("at", "rank", "numbers"),
    [
        (("qwen2_vl", "72b"), 64, 842_137_600),
        (("qwen2_vl", "7b"), 64, 161_480_704),
        (("qwen2_vl", "7b"), 16, 40_370_176),
    ],
)
def test_an_adapter(at, rank, numbers):
    assert lora_parameters(PUBLISHED[at], rank) == numbers
