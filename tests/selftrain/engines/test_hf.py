"""The transformers engine against transformers itself: same prompts, same tokens, same probabilities."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image

from selftrain.engine_settings import HFSettings
from selftrain.engines import hf
from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.decoding import kv_cache
from selftrain.engines.hf import HFEngine, positions_of
from tests.selftrain.engines.adapters import random_adapter

pytestmark = pytest.mark.slow

GREEDY = SamplingParams(temperature=0, max_tokens=24)
SAMPLE = SamplingParams(temperature=1.0, max_tokens=12)


def processed(engine: HFEngine, pairs) -> dict[str, torch.Tensor]:
    """The pairs as the processor itself would batch them, left-padded."""
    texts, images = [], []
    for prompt, paths in pairs:
        content = [{"type": "image"}] * (len(paths) - prompt.count("<image>"))
        for part in re.split("(<image>)", prompt):
            content.append({"type": "image"} if part == "<image>" else {"type": "text", "text": part})
        images += [Image.open(path).convert("RGB") for path in paths]
        turn = [{"role": "user", "content": content}]
        texts.append(engine._processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    return engine._processor(text=texts, images=images or None, padding=True, padding_side="left", return_tensors="pt")


def teacher_forced(engine: HFEngine, pair, answer: tuple[int, ...]) -> torch.Tensor:
    """Logits for each token of `answer`, [tokens, vocab], from one ordinary forward pass over prompt and answer."""
    inputs = processed(engine, [pair])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    grown = torch.zeros(1, len(answer), dtype=inputs["mm_token_type_ids"].dtype)
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], grown], dim=1)
    with torch.inference_mode():
        return engine._model(**inputs).logits[0, -len(answer) - 1 : -1].float()


def test_importing_needs_no_torch():
    code = (
        "import sys, selftrain.engines.hf, selftrain.engines.scripted\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_prompt_ids_are_the_processors(engine, mixed, several):
    for prompt, images in mixed + several:
        expected = processed(engine, [(prompt, images)])["input_ids"][0].tolist()
        assert engine.prompt_ids(prompt, images) == expected
        assert engine.count_prompt_tokens(prompt, images) == len(expected)


def test_positions_are_the_models(engine, mixed, several):
    for prompt, images in mixed + several:
        inputs = processed(engine, [(prompt, images)])
        expected, _ = engine._model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs.get("image_grid_thw")
        )
        [made] = engine._prepare([Request("x", prompt, images, ())])
        assert torch.equal(positions_of(made), expected[:, 0])


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_equals_generate(engine, mixed, several, ask, penalty):
    mixed = mixed + several
    params = SamplingParams(temperature=0, max_tokens=24, repetition_penalty=penalty)
    # Without a penalty in one left-padded batch; with one alone, since `generate` also penalises the padding token.
    for group in [mixed] if penalty == 1 else [[pair] for pair in mixed]:
        inputs = processed(engine, group)
        out = engine._model.generate(**inputs, do_sample=False, max_new_tokens=24, repetition_penalty=penalty)
        stops = set(engine._is_eos.nonzero().flatten().tolist())
        found = engine.generate(ask(group), params)
        for row, [completion] in zip(out[:, inputs["input_ids"].shape[1] :].tolist(), found, strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
            assert list(completion.token_ids) == row[:end]
            assert completion.finish == ("stop" if row[end - 1] in stops else "length")
            assert completion.text == engine._processor.tokenizer.decode(row[:end], skip_special_tokens=True)


def test_an_answer_that_begins_as_the_greedy_one_goes_on_as_it(engine, mixed, ask):
    """Where the tokenizer cuts the beginning as it was generated."""
    params, tokenizer, seen = SamplingParams(temperature=0, max_tokens=16), engine._processor.tokenizer, 0
    for request, [whole] in zip(ask(mixed), engine.generate(ask(mixed), params), strict=True):
        for n in range(1, 9):
            prefix = tokenizer.decode(whole.token_ids[:n], clean_up_tokenization_spaces=False)
            if tokenizer(prefix)["input_ids"] == list(whole.token_ids[:n]) and len(whole.token_ids) == 16:
                begun = dataclasses.replace(request, prefix=prefix)
                [[rest]] = engine.generate([begun], dataclasses.replace(params, max_tokens=16 - n))
                assert rest.token_ids == whole.token_ids[n:]
                assert rest.n_prompt_tokens == whole.n_prompt_tokens + n
                seen += 1
    assert seen > 3


def test_mean_logprob_is_that_of_a_plain_forward_pass(engine, mixed, several, ask):
    mixed = mixed + several
    params = SamplingParams(temperature=0.7, max_tokens=24, top_k=20, top_p=0.9, repetition_penalty=1.2)
    for pair, found in zip(mixed, engine.generate(ask(mixed, seeds=range(4)), params), strict=True):
        for c in found:
            logprobs = teacher_forced(engine, pair, c.token_ids).log_softmax(-1)
            expected = logprobs[range(len(c.token_ids)), list(c.token_ids)].mean()
            assert c.mean_logprob == pytest.approx(float(expected), abs=1e-4)


def test_first_tokens_follow_the_softmax(engine, mixed, ask):
    """One step with many seeds, against the probabilities of an ordinary forward pass."""
    n, pair = 4000, mixed[0]
    [found] = engine.generate(ask([pair], seeds=range(n)), SamplingParams(temperature=1.0, max_tokens=1))
    p = teacher_forced(engine, pair, (0,))[0].double().softmax(-1)
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in found]), minlength=len(p)).double()
    common = n * p >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([p[common], p[~common].sum()[None]]) * n
    statistic, freedom = float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1
    assert freedom > 20
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def test_a_picture_is_encoded_once(engine, mixed, ask, monkeypatch):
    seen = []
    tower = engine._model.model.get_image_features

    def counting(pixels, grid):
        seen.append(len(grid))
        return tower(pixels, grid)

    monkeypatch.setattr(engine._model.model, "get_image_features", counting)
    engine._encoded.clear()
    engine.generate(ask(mixed, seeds=(1, 2, 3)), SAMPLE)
    assert sum(seen) == 2  # five requests, two files
    engine.generate(ask(mixed), SAMPLE)
    assert sum(seen) == 2
    monkeypatch.setattr("selftrain.engines.hf.PICTURE_CACHE_BYTES", 0)
    engine._encoded.clear()
    engine.generate(ask(mixed), SAMPLE)
    assert sum(seen) == 4
    assert not engine._encoded


def test_batches_follow_from_the_requests(engine, mixed, ask, monkeypatch):
    monkeypatch.setattr(engine, "batch_size", 4)
    prompts = engine._prepare(ask(mixed, seeds=range(3)))
    batches = engine._batches(prompts)
    assert [len(b) for b in batches] == [3, 4, 4, 4]
    lengths = [len(prompts[row.prompt].ids) for b in batches for row in b]
    assert lengths == sorted(lengths, reverse=True)
    assert engine._batches(engine._prepare(ask(mixed, seeds=range(3)))) == batches


def test_dropping_finished_rows_changes_nothing(engine, mixed, ask, monkeypatch):
    params = SamplingParams(temperature=1.0, max_tokens=60)
    requests = [dataclasses.replace(r, seeds=tuple(range(2 * i + 1))) for i, r in enumerate(ask(mixed))]
    kept = []
    keep = kv_cache.SharedPromptCache.keep

    def noting(self, holes, movers, rows):
        keep(self, holes, movers, rows)
        kept.append((rows, self.prompts))

    monkeypatch.setattr(kv_cache.SharedPromptCache, "keep", noting)
    monkeypatch.setattr("selftrain.engines.hf.DROP_SHARE", 2)  # never
    expected = engine.generate(requests, params)
    assert not kept
    monkeypatch.setattr("selftrain.engines.hf.DROP_SHARE", 0.01)
    monkeypatch.setattr("selftrain.engines.decoding.kv_cache.SHRINK_BELOW", 1)
    found = engine.generate(requests, params)
    assert len(kept) >= 3
    assert min(prompts for _, prompts in kept) < len(mixed)  # whole prompts have left as well
    for a, b in zip(chain(*found), chain(*expected), strict=True):
        assert a.token_ids == b.token_ids
        assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=1e-5)


def test_long_prefills_are_split(engine, mixed, ask, monkeypatch):
    expected = engine.generate(ask(mixed, seeds=(1, 2)), SAMPLE)
    monkeypatch.setattr(engine, "_prefill_tokens", 150)
    engine._encoded.clear()
    assert [[c.token_ids for c in o] for o in engine.generate(ask(mixed, seeds=(1, 2)), SAMPLE)] == [
        [c.token_ids for c in o] for o in expected
    ]


# ---- what cannot be served -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(100, 112), (112, 140 + 14), (28, 28), (280, 280)])
def test_a_picture_that_would_be_resized(engine, tmp_path, size):
    path = tmp_path / "odd.png"
    Image.new("RGB", size).save(path)
    with pytest.raises(EngineError, match=r"'q'.*odd\.png.*image store"):
        engine.generate([Request("q", "What?", (path,), (0,))], SAMPLE)


def test_pixel_limits_can_be_replaced(tiny_model, tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (280, 280)).save(path)
    with HFEngine(tiny_model, max_pixels=280 * 280, settings=HFSettings(device="cpu")) as wide:
        assert wide.count_prompt_tokens("What?", (path,)) == wide.count_prompt_tokens("What?", ()) + 100 + 2


def test_too_long(engine, ask):
    with pytest.raises(EngineError, match=r"'r1'.*\d+ prompt tokens and 12 new ones exceed the engine's 4096"):
        engine.generate(ask([("short", ()), ("word " * 5000, ())]), SAMPLE)


def test_an_image_mark_in_the_text(engine, mixed, ask):
    for images in ((), mixed[0][1]):
        with pytest.raises(EngineError, match=r"'r0'.*neutralise"):
            engine.generate(ask([("see <|image_pad|> here", images)]), SAMPLE)
        begun = dataclasses.replace(ask([("see", images)])[0], prefix="so <|image_pad|>")
        with pytest.raises(EngineError, match=r"'r0'.*neutralise"):
            engine.generate([begun], SAMPLE)


def test_no_model(tmp_path):
    for folder, why in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "no config.json")):
        with pytest.raises(EngineError, match=why):
            HFEngine(folder)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match=re.escape(str(tmp_path))):
        HFEngine(tmp_path)


def test_damaged_weights_are_noticed(tiny_model, mixed, ask):
    with HFEngine(tiny_model, settings=HFSettings(device="cpu")) as broken:
        with torch.no_grad():
            broken._model.lm_head.weight[0] = torch.nan
        with pytest.raises(EngineError, match="not numbers"):
            broken.generate(ask(mixed[:1]), GREEDY)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),  # torch.cuda.OutOfMemoryError
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_out_of_memory_halves_the_batch_for_good(tiny_model, mixed, ask, monkeypatch, caplog, error):
    """Every completion is there, the new size is told and kept, also by the engine of the next weights."""
    monkeypatch.setattr(hf, "_fitting", {})
    assert torch.cuda.OutOfMemoryError is torch.OutOfMemoryError

    def poor(engine, sizes):
        decode = engine._decode

        def decode_if_it_fits(prompts, rows, params):
            sizes.append(len(rows))
            if len(rows) > room:
                raise error
            return decode(prompts, rows, params)

        engine._decode = decode_if_it_fits

    def texts(engine):
        return [[c.token_ids for c in several] for several in engine.generate(ask(mixed, seeds=(1, 2)), SAMPLE)]

    settings = HFSettings(device="cpu")
    with HFEngine(tiny_model, settings=settings) as engine:
        expected = texts(engine)
        sizes: list[int] = []
        room = 4
        poor(engine, sizes)
        assert texts(engine) == expected
        assert sizes == [10, 5, 2, 3, 2, 3]
        assert "out of memory with 10 completions at once on cpu: going on with 5" in caplog.text
        assert "set engine.batch_size=3 to begin so" in caplog.text
        sizes.clear()
        assert texts(engine) == expected
        assert sizes == [2, 3, 2, 3]
    with HFEngine(tiny_model, settings=settings) as engine:
        assert engine.batch_size == 3
        room = 0
        poor(engine, sizes)
        with pytest.raises(EngineError, match="does not fit into the memory of cpu even alone"):
            engine.generate(ask(mixed, seeds=(1,)), SAMPLE)
    with HFEngine(tiny_model, settings=HFSettings(device="cpu", batch_size=64)) as engine:
        assert engine.batch_size == 64, "another size was asked for"

        def fails(*args):
            raise RuntimeError("shape mismatch")

        engine._decode = fails
        with pytest.raises(RuntimeError, match="shape mismatch"):
            engine.generate(ask(mixed, seeds=(1,)), SAMPLE)


# ---- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory) -> Path:
    """A LoRA adapter of the language model that changes it noticeably."""
    return random_adapter(tiny_model, tmp_path_factory.mktemp("adapter"))


def test_merging_equals_peft(tiny_model, adapter, engine, mixed, ask):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32)
    unmerged = PeftModel.from_pretrained(base, str(adapter)).eval()
    inputs = processed(engine, mixed)
    with torch.inference_mode():
        plain = engine._model(**inputs).logits
        expected = unmerged(**inputs).logits
    assert (plain - expected).abs().max() > 0.1
    with HFEngine(tiny_model, adapter, settings=HFSettings(device="cpu")) as merged:
        with torch.inference_mode():
            torch.testing.assert_close(merged._model(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
        answers = merged.generate(ask(mixed), GREEDY)
    with HFEngine(tiny_model, adapter, merge_adapter=False, settings=HFSettings(device="cpu")) as layered:
        assert [o[0].token_ids for o in layered.generate(ask(mixed), GREEDY)] == [o[0].token_ids for o in answers]
    assert [o[0].token_ids for o in engine.generate(ask(mixed), GREEDY)] != [o[0].token_ids for o in answers]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_is_merged_in_float32_and_rounded_once(tiny_model, adapter, dtype):
    """The same numbers as by PEFT on a base that was loaded in float32 as a whole."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().to(getattr(torch, dtype)).state_dict()
    with HFEngine(tiny_model, adapter, settings=HFSettings(device="cpu", dtype=dtype)) as engine:
        for name, tensor in engine._model.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


def test_a_whole_checkpoint_takes_the_place_of_the_base(tiny_model, adapter, mixed, ask, tmp_path):
    """With the base's tokenizer and processor, which the trainer may have saved differently."""
    from selftrain.training.adapter import merge

    whole = merge(tiny_model, adapter, tmp_path / "whole")
    with HFEngine(whole, settings=HFSettings(device="cpu")) as alone:
        expected = alone.generate(ask(mixed), GREEDY)
    (whole / "tokenizer.json").unlink()
    with HFEngine(tiny_model, whole, settings=HFSettings(device="cpu")) as engine:
        assert engine.generate(ask(mixed), GREEDY) == expected


def test_adapters_that_do_not_fit(tiny_model, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(EngineError, match="holds no adapter"):
        HFEngine(tiny_model, tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    first = sorted(tensors)[0]
    cases = {
        "another size": {**tensors, first: torch.zeros(4, 99)},
        "a tensor too few": {k: v for k, v in tensors.items() if k != first},
        "a tensor too many": {**tensors, first.replace("layers.0", "layers.7"): tensors[first].clone()},
    }
    for name, content in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(content, folder / "adapter_model.safetensors")
        with pytest.raises(EngineError, match="does not fit the model"):
            HFEngine(tiny_model, folder, settings=HFSettings(device="cpu"))
    other = tmp_path / "other modules"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["c_attn"]}))
    save_file(tensors, other / "adapter_model.safetensors")
    with pytest.raises(EngineError, match="does not fit the model"):
        HFEngine(tiny_model, other, settings=HFSettings(device="cpu"))


# ---- one more model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_bfloat16_runs(tiny_model, mixed, ask, dtype):
    with HFEngine(tiny_model, settings=HFSettings(device="cpu", dtype=dtype)) as engine:
        assert all(len(o) == 2 for o in engine.generate(ask(mixed, seeds=(1, 2)), SAMPLE))


def test_qwen2_5_vl(tiny_model, tmp_path, mixed, ask):
    """Greedy equals generate for Qwen2.5-VL too (same interface, another vision tower), and with grouped queries."""
    from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(tiny_model)
    old = json.loads((tiny_model / "config.json").read_text())
    text = {k: v for k, v in old["text_config"].items() if k not in ("model_type", "dtype")}
    text["num_key_value_heads"] = text["num_attention_heads"] // 2  # grouped queries, as in every real checkpoint
    marks = {k: v for k, v in old.items() if k.endswith("_token_id")}
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": text["hidden_size"], "num_heads": 2, "intermediate_size": 64,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks))
    model.generation_config.eos_token_id = marks.get("eos_token_id", 1)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with HFEngine(tmp_path, settings=HFSettings(device="cpu")) as engine:
        inputs = processed(engine, mixed)
        out = engine._model.generate(**inputs, do_sample=False, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
        params = SamplingParams(temperature=0, max_tokens=8)
        for row, [c] in zip(out.tolist(), engine.generate(ask(mixed), params), strict=True):
            assert list(c.token_ids) == row[: len(c.token_ids)]
