"""Checkpoints of published sizes with random weights."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fullsize
from data_process.schema import DataError
from selftrain.engine_settings import HFSettings, VLLMSettings
from selftrain.engines.base import Request, SamplingParams
from selftrain.engines.budget import Budget
from selftrain.estimate.sizes import parameters
from tests.selftrain.engines.contract import VLLM_PYTHON, needs_vllm

# Of the published checkpoints' weights, vision tower included.
PUBLISHED = {
    ("qwen2_vl", "2b"): 2_208_985_600,
    ("qwen2_vl", "7b"): 8_291_375_616,
    ("qwen2_vl", "72b"): 73_405_560_320,
    ("qwen2_5_vl", "3b"): 3_754_622_976,
    ("qwen2_5_vl", "7b"): 8_292_166_656,
    ("qwen2_5_vl", "32b"): 33_452_718_336,
    ("qwen2_5_vl", "72b"): 73_410_777_344,
    ("qwen3_vl", "2b"): 2_127_532_032,
    ("qwen3_vl", "4b"): 4_437_815_808,
    ("qwen3_vl", "8b"): 8_767_123_696,
    ("qwen3_vl", "32b"): 33_357_390_064,
}
SAMPLE = SamplingParams(0.9, 96, top_k=50, top_p=0.95)
STOPS = Budget(end="\nAnswer:", until=(".",), ignore=(" Wait,",), num_ignore=4, answer_tokens=8)


@pytest.fixture(scope="module", params=list(fullsize.FAMILIES))
def nano(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fullsize") / request.param
    fullsize.write_checkpoint(request.param, "nano", folder)
    return folder


def family_of(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["family"])


# ---- shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("family", "size"), PUBLISHED)
def test_parameters_are_the_published_ones(family, size):
    config = fullsize.build_config(family, fullsize.SIZES[family, size])
    assert fullsize.count(fullsize.shapes_of(config)) == PUBLISHED[family, size]


@pytest.mark.parametrize("at", fullsize.SIZES, ids="-".join)
def test_parameters_are_counted_without_a_model(at):
    counted = parameters(at[0], fullsize.SIZES[at])
    assert counted.total == PUBLISHED.get(at, counted.total)
    assert min(counted.layers, counted.embedding, counted.vision, counted.projector) > 0


def test_every_published_size_is_counted():
    assert {at for at in fullsize.SIZES if at[1] != "nano"} == PUBLISHED.keys()


@pytest.mark.slow
@pytest.mark.parametrize("at", fullsize.SIZES, ids="-".join)
def test_configuration(at):
    family, name = at
    size = fullsize.SIZES[at]
    config = fullsize.build_config(family, size)
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    assert config.model_type == family
    assert text.num_key_value_heads < text.num_attention_heads
    assert head == size.head
    newer = family == "qwen3_vl"
    sections = {False: ([4, 6, 6], [16, 24, 24]), True: ([6, 5, 5], [24, 20, 20])}[newer]
    assert text.rope_parameters["mrope_section"] == sections[name != "nano"]
    assert text.rope_parameters.get("mrope_interleaved", False) == newer
    assert 2 * sum(text.rope_parameters["mrope_section"]) == head
    assert config.tie_word_embeddings == text.tie_word_embeddings == (name in ("nano", "2b", "3b", "4b"))
    if name != "nano":
        assert (config.image_token_id, text.eos_token_id, text.pad_token_id) == (151655, 151645, 151643)
        assert head == 128


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 100))
def test_shards_hold_every_tensor_once_and_in_order(sizes, limit):
    shapes = {f"t{place}": (size,) for place, size in enumerate(sizes)}
    parts = fullsize.shards(shapes, limit)
    assert [name for part in parts for name in part] == list(shapes)
    for part in parts:
        assert len(part) == 1 or fullsize.BYTES * fullsize.count({name: shapes[name] for name in part}) <= limit


# ---- the folder ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_transformers_finds_every_weight(nano):
    from transformers import AutoModelForImageTextToText

    model, told = AutoModelForImageTextToText.from_pretrained(nano, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    manifest = json.loads((nano / "manifest.json").read_text())
    numbers = sum(p.numel() for p in model.parameters())
    family = family_of(nano)
    assert numbers == manifest["parameters"] == parameters(family, fullsize.SIZES[family, "nano"]).total
    assert str(model.dtype) == "torch.bfloat16"


@pytest.mark.slow
def test_weights(nano):
    from safetensors import safe_open

    with safe_open(nano / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    assert "lm_head.weight" not in tensors
    for name, tensor in tensors.items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif tensor.ndim == 1:
            assert (tensor == 1).all(), name
        else:
            assert tensor.float().std().item() == pytest.approx(0.02, rel=0.1), name
    (table,) = (tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight"))
    drawn = table.any(dim=1)
    special = len(fullsize.tokens_of(family_of(nano)))
    assert (~drawn).nonzero().flatten().tolist() == list(range(1000, 1000 + special))


@pytest.mark.slow
def test_shards_hold_the_same_weights_as_one_file(nano, tmp_path):
    from safetensors.torch import load_file

    family = family_of(nano)
    fullsize.write_checkpoint(family, "nano", tmp_path / "parts", shard_bytes=300_000)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert [file.name for file in files] == sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    whole, parts = load_file(nano / "model.safetensors"), {}
    for file in files:
        held = load_file(file)
        assert {index["weight_map"][name] for name in held} == {file.name}
        parts |= held
    assert parts.keys() == whole.keys()
    assert all((parts[name] == whole[name]).all() for name in whole)
    assert index["metadata"]["total_size"] == sum(2 * tensor.numel() for tensor in whole.values())


@pytest.mark.slow
def test_a_seed_gives_the_same_bytes(nano, tmp_path):
    family = family_of(nano)
    digests = []
    for name, seed in (("same", 0), ("other", 1)):
        fullsize.write_checkpoint(family, "nano", tmp_path / name, seed=seed)
        digests.append(digest(tmp_path / name / "model.safetensors"))
    assert [found == digest(nano / "model.safetensors") for found in digests] == [True, False]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_what_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match=r"there exists; remove it"):
        fullsize.write_checkpoint("qwen2_vl", "nano", tmp_path / "there")
    with pytest.raises(DataError, match=r"no size '3b'; known: nano, 2b, 7b, 72b"):
        fullsize.write_checkpoint("qwen2_vl", "3b", tmp_path / "new")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fullsize.shutil, "disk_usage", lambda _: usage(10, 10, 1_000_000))
    with pytest.raises(DataError, match=r"needs 4\.4 GB, 0\.0 GB are free"):
        fullsize.write_checkpoint("qwen2_vl", "2b", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_folder_is_whole_or_absent(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fullsize, "build_tokenizer", stopped)
        with pytest.raises(KeyboardInterrupt):
            fullsize.write_checkpoint("qwen2_vl", "nano", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    fullsize.write_checkpoint("qwen2_vl", "nano", tmp_path / "new")  # over what the first one left
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


# ---- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ids_of_tokens():
    size = fullsize.SIZES["qwen2_vl", "2b"]
    tokenizer = fullsize.build_tokenizer(size)
    assert len(tokenizer) == 151657
    found = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"])
    assert found == [151643, 151644, 151645, 151655]
    assert tokenizer.convert_ids_to_tokens(151656) == "<|video_pad|>"
    later = fullsize.build_tokenizer(fullsize.SIZES["qwen3_vl", "8b"], "qwen3_vl")
    assert len(later) == 151669
    assert later.convert_tokens_to_ids(["<|video_pad|>", "<think>", "</think>"]) == [151656, 151667, 151668]
    assert later.decode([151667, 151668], skip_special_tokens=True) == "<think></think>"
    names = tokenizer.convert_ids_to_tokens(range(size.text_tokens))
    assert len(set(names)) == size.text_tokens
    closing = sum(name.startswith(".") for name in names) / size.text_tokens
    assert closing == pytest.approx(1 / fullsize.SENTENCE, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["How large is angle B?\nAnswer: (A)", " Wait, <think> é 你", " aaaab aaaac.aaaap"])
def test_text_is_never_split_into_made_up_words(nano, text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nano)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    made_up = set(itertools.islice(fullsize.made_up_words(), 1000))
    assert made_up & set(tokenizer.get_vocab())
    assert made_up.isdisjoint(tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.slow
def test_ids_without_a_token_are_written_as_nothing(nano):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nano)
    assert len(tokenizer) == 1000 + len(fullsize.tokens_of(family_of(nano)))
    so, it = tokenizer("so")["input_ids"], tokenizer("it")["input_ids"]
    assert tokenizer.decode([*so, len(tokenizer), 1279, *it]) == "soit"


@pytest.fixture
def requests(nano, tmp_path) -> list[Request]:
    from PIL import Image

    side = 256 if family_of(nano) == "qwen3_vl" else 112  # within the processor's limits, in whole tokens
    for shade in range(3):
        Image.new("RGB", (side, side), (80 * shade,) * 3).save(tmp_path / f"{shade}.png")
    return [Request(f"r{shade}", "How large is B?", (tmp_path / f"{shade}.png",), (0, 1, 2, 3)) for shade in range(3)]


def check_samples(engine, requests, first: int) -> None:
    """Every sample is as long as its limit, ids without a token among them, and full stops are ends of thinking.

    `first`: the first id without a token.
    """
    plain = [completion for of_one in engine.generate(requests, SAMPLE) for completion in of_one]
    forced = [
        completion for of_one in engine.generate(requests, replace(SAMPLE, budget=STOPS)) for completion in of_one
    ]
    for completions in (plain, forced):
        assert {len(completion.token_ids) for completion in completions} == {SAMPLE.max_tokens}
        assert {completion.finish for completion in completions} == {"length"}
        ids = {token for completion in completions for token in completion.token_ids}
        assert max(ids) >= first
        assert ids.isdisjoint(range(1000, first))  # special tokens
    assert len({completion.text for completion in plain}) == len(plain)
    ledgers = [completion.forcing for completion in forced]
    assert sum(ledger.ignores for ledger in ledgers) > len(ledgers)
    for completion in forced:
        assert completion.text.count(" Wait,") >= completion.forcing.ignores


@pytest.mark.slow
def test_samples_of_hf(nano, requests):
    from selftrain.engines.hf import HFEngine

    with HFEngine(nano, settings=HFSettings(device="cpu", threads=1)) as engine:
        check_samples(engine, requests, 1000 + len(fullsize.tokens_of(family_of(nano))))


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("nano", ["qwen2_5_vl", "qwen3_vl"], indirect=True)
def test_samples_of_vllm(nano, requests, tmp_path):
    """And new weights, from an adapter that was made without reading the old ones."""
    from selftrain.engines.vllm_offline import VLLMEngine

    limits = {"min_pixels": 56 * 56, "max_pixels": 256 * 256}
    adapter = fullsize.random_adapter(nano, tmp_path / "adapter", rank=8)
    with VLLMEngine(
        nano, **limits, settings=VLLMSettings(interpreter=Path(VLLM_PYTHON or ""), threads=1, max_model_len=512)
    ) as engine:
        check_samples(engine, requests, 1000 + len(fullsize.tokens_of(family_of(nano))))
        greedy = replace(SAMPLE, temperature=0)
        before = engine.generate(requests, greedy)
        engine.load(adapter)
        assert engine.generate(requests, greedy) != before


@pytest.mark.slow
def test_an_adapter_fits_its_model(nano, tmp_path):
    from selftrain.engines.decoding.lora_merge import merged, moves
    from selftrain.engines.hf import HFEngine
    from selftrain.training.adapter import check_adapter

    adapter = fullsize.random_adapter(nano, tmp_path / "adapter", rank=8)
    check_adapter(adapter)
    assert moves(adapter)
    old, new = dict(merged(nano, None)), dict(merged(nano, adapter))
    changed = {name for name in old if (old[name] != new[name]).any()}
    assert len(changed) == 3 * 7  # layers x matrices
    assert all(name.startswith(("model.layers.", "model.language_model.layers.")) for name in changed)
    with HFEngine(nano, adapter, settings=HFSettings(device="cpu", threads=1)):  # PEFT takes it too
        pass
