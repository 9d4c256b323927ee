"""What the hf engine makes of a reward head that LLaMA-Factory trained, and of damaged ones."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_process.images.store import ImageStore
from data_process.schema import Example
from selftrain.engine_settings import HFSettings
from selftrain.engine_settings.budget import Budget
from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.decoding import lora_merge, reward_head
from selftrain.engines.decoding.inputs import prepare
from selftrain.families import FAMILIES
from selftrain.reward.rater import JUDGEMENT, probability
from selftrain.sampling.bank import Bank
from selftrain.sampling.weights import weights_digest
from selftrain.training.adapter import AdapterError, check_head
from selftrain.training.hyperparameters import TrainingSettings
from selftrain.training.llamafactory import train
from tests.selftrain import nano_models
from tests.selftrain.reward.heads import hidden_of, save_head

CONFIGS = Path(__file__).parents[3] / "configs/llamafactory"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def store(family, tmp_path_factory) -> ImageStore:
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate([(112, 112), (140, 112), (100, 90), (300, 80)]):
        Image.frombytes("L", size, random.Random(i).randbytes(size[0] * size[1])).save(folder / f"{i}.png")
    low, high = nano_models.limits_of(family)
    return ImageStore(folder / "store", folder, min_pixels=low, max_pixels=high, patch=family.token_side)


def pairs(n: int) -> list[Example]:
    words = nano_models.WORDS.split()

    def text(seed: object) -> str:
        return " ".join(random.Random(str(seed)).choices(words, k=5 + n % 7))

    return [
        Example(f"e{i}", "cot", f"p{i}", text(i), f"{text((i, 0))} right.\n", (f"{i % 4}.png",) if i % 5 else (),
                rejected=f"{text((i, 1))} wrong.")
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def base(family, tmp_path_factory) -> Path:
    return nano_models.write(family.model_type, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def trained(base, store, tmp_path_factory) -> Path:
    """A reward head of two steps through the real LLaMA-Factory."""
    overrides = {"global_batch_size": 8, "lora_rank": 4, "lora_alpha": 8, "max_steps": 2, "warmup_steps": 0}
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", overrides=overrides, per_device_batch=4)
    limits = (store.limits[0], store.limits[1])
    out = tmp_path_factory.mktemp("trained") / "out"
    result = train(
        pairs(16), settings=settings, base_model=base, image_path=store.path, image_limits=limits, out=out, head=True
    )
    assert (result.steps, result.rows, result.rewards) == (2, 16, None)
    assert result.resolved["stage"] == "rm"
    return result.weights


@pytest.mark.slow
def test_the_engine_reads_what_was_trained(family, base, store, trained):
    """The value is TRL's own, with LLaMA-Factory's adapter, at the last token of the row that it makes of a text."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import AutoModelForCausalLMWithValueHead

    from selftrain.engines.hf import HFEngine

    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    # TRL looks for the width where LLaMA-Factory puts it.
    model.config.hidden_size = model.config.get_text_config().hidden_size
    model = AutoModelForCausalLMWithValueHead.from_pretrained(PeftModel.from_pretrained(model, str(trained)))
    model.v_head.load_state_dict(
        {name.removeprefix("v_head."): value for name, value in load_file(trained / reward_head.FILE).items()}
    )
    model.eval()
    processor = AutoProcessor.from_pretrained(base)
    requests, wanted = [], []
    for row in pairs(12):
        images = [store.path(image) for image in row.images]
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": row.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        for answer in (row.target, row.rejected):
            turn = f"{text}{answer}<|im_end|>\n"
            shown = [Image.open(path).convert("RGB") for path in images] or None
            inputs = processor(text=[turn], images=shown, return_tensors="pt")
            with torch.inference_mode():
                wanted.append(float(model(**inputs)[2][0, -1]))
            requests.append(Request(f"{row.id} {answer}", row.prompt, tuple(images), (0,), answer))
    with HFEngine(base, trained, HFSettings(device="cpu", batch_size=7)) as engine:
        found = [probability(completion) for [completion] in engine.generate(requests, JUDGEMENT)]
    assert found == pytest.approx([1 / (1 + math.exp(-value)) for value in wanted], abs=2e-5)
    assert max(found) - min(found) > 0.01


@pytest.mark.slow
def test_what_a_head_says_and_refuses(tiny_model_path, headed):
    from selftrain.engines.hf import HFEngine

    with HFEngine(tiny_model_path, headed, HFSettings(device="cpu")) as engine:
        [[said]] = engine.generate([Request("a", "Is it?", (), (0,), "So it is.")], JUDGEMENT)
        assert (said.text, len(said.token_ids)) == ("+", 1)
        assert probability(said) == pytest.approx(1 / (1 + math.exp(-2)))
        whole = said.n_prompt_tokens
        assert whole > engine.count_prompt_tokens("Is it?", ())
        for params in (
            SamplingParams(0, 2),
            SamplingParams(0.7, 1),
            SamplingParams(0, 1, repetition_penalty=1.1),
            SamplingParams(0, 1, budget=Budget("So")),
        ):
            with pytest.raises(
                EngineError, match=r"is a reward head: .* under reward\.model the folder that has reward\.json"
            ):
                engine.generate([Request("a", "Is it?", (), (0,))], params)
        with pytest.raises(EngineError, match="its text holds the mark"):
            engine.generate([Request("a", "Is it?", (), (0,), "<|image_pad|>")], JUDGEMENT)
    save_head(headed, np.zeros((1, hidden_of(tiny_model_path))), [-3.0])
    with HFEngine(tiny_model_path, headed, HFSettings(device="cpu")) as engine:
        [[said]] = engine.generate([Request("a", "Is it?", (), (0,), "So it is.")], JUDGEMENT)
        assert said.text == "-"
        assert probability(said) == pytest.approx(1 / (1 + math.exp(3)))
    for damage, message in (
        (lambda file: file.write_bytes(file.read_bytes()[:50]), "holds no reward head .*train it again"),
        (lambda file: save_head(headed, np.zeros((1, 3)), [0.0]), "is for a model of width 3"),
    ):
        damage(headed / reward_head.FILE)
        with pytest.raises(EngineError, match=message):
            HFEngine(tiny_model_path, headed, HFSettings(device="cpu"))


def test_a_head_is_part_of_the_weights(tiny_model_path, headed, tmp_path):
    """Another head is another digest, and what cannot use a head does not take its adapter for a model."""
    with Bank(tmp_path / "bank.sqlite") as bank:
        first = weights_digest(bank, tiny_model_path, headed)
        save_head(headed, np.zeros((1, hidden_of(tiny_model_path))), [1.0])
        assert weights_digest(bank, tiny_model_path, headed) != first
        (headed / reward_head.FILE).unlink()
        without = weights_digest(bank, tiny_model_path, headed)
        assert without != first
    names, _ = lora_merge.reader(tiny_model_path, headed)
    assert names
    save_head(headed, np.zeros((1, 4)), [1.0])
    with pytest.raises(EngineError, match="is a reward head, which cannot be part of the weights"):
        lora_merge.reader(tiny_model_path, headed)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "left no reward head"),
        (([[1.0, math.nan]], [0.0]), "holds NaN or infinity"),
        (([[1.0, 2.0]], [math.inf]), "holds NaN or infinity"),
        (([[1.0, 2.0]], [0.0], "v_head.weight"), r"holds v_head\.summary\.bias, v_head\.weight, not"),
    ],
)
def test_what_training_may_leave(tmp_path, head, message):
    if head is not None:
        save_head(tmp_path, *head)
    with pytest.raises(AdapterError, match=message):
        check_head(tmp_path)


def test_a_turn_is_tokenized_as_in_training(tiny_model_path):
    """Apart from its prompt: a line break at its beginning does not melt into the one before it."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model_path)
    tokenizer = processor.tokenizer
    for text in ("", "\n\nSo it is.", " So", "It is.\n"):
        [bare] = prepare(processor, [Request("a", "Is it?", (), (0,))])
        [whole] = prepare(processor, [Request("a", "Is it?", (), (0,), text)], "<|im_end|>\n")
        assert list(whole.ids) == [*bare.ids, *tokenizer(text + "<|im_end|>\n")["input_ids"]]
