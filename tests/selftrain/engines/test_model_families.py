"""Every family: the hf engine answers as `generate` does, and vLLM as the hf engine does."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_process.images.store import ImageStore
from data_process.sources import minigeo
from selftrain.engine_settings import HFSettings, VLLMSettings
from selftrain.engines.base import Request, SamplingParams
from selftrain.engines.parity import compare, expectations
from selftrain.families import FAMILIES
from tests.selftrain import nano_models
from tests.selftrain.engines.contract import VLLM_PYTHON, needs_vllm

pytestmark = pytest.mark.slow

TOKENS = 24
SIZES = ((112, 112), (140, 112), (90, 60), (224, 224), (300, 80), (64, 200), (500, 400), (33, 47), (160, 128), (57, 57),
         (128, 256), (40, 400))  # fmt: skip
# What is asked of each image: its prompt, and further images by their number.
SETTINGS = {
    "image first": ("find the angle", ()),
    "image in the text": ("what is <image> and which line", ()),
    "two images": ("is it so <image> step a circle <image> which answer", (1,)),
    "three images, two of them first": ("the sum of a line and <image> so", (3, 0)),
    "a long prompt": ("think step " * 40 + "what is it", ()),
    "repetition penalty": ("find the angle of a triangle", ()),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family, tmp_path_factory) -> Path:
    import torch

    torch.set_num_threads(1)
    return nano_models.write(family.model_type, tmp_path_factory.mktemp(family.model_type) / "model")


@pytest.fixture(scope="module")
def pictures(family, tmp_path_factory) -> list[Path]:
    """12 images in the store's form for the family."""
    folder = tmp_path_factory.mktemp("images")
    low, high = nano_models.limits_of(family)
    store = ImageStore(folder / "store", folder, min_pixels=low, max_pixels=high, patch=family.token_side)
    found = []
    for (problem, image), size in zip(minigeo.generate("base", len(SIZES)), SIZES, strict=True):
        image.resize(size).save(folder / f"{problem.id}.png")
        stored = store.add(f"{problem.id}.png")
        found.append(stored.path)
        assert stored.n_tokens == stored.width * stored.height // family.token_side**2
    return found


@pytest.fixture(scope="module")
def engine(model):
    from selftrain.engines.hf import HFEngine

    with HFEngine(model, settings=HFSettings(device="cpu")) as held:
        yield held


def asked(name: str, pictures: list[Path]) -> list[Request]:
    prompt, others = SETTINGS[name]
    return [
        Request(f"{name} {i}", prompt, (picture, *(pictures[(i + k) % len(pictures)] for k in others)), (0,))
        for i, picture in enumerate(pictures)
    ]


@pytest.mark.parametrize("name", SETTINGS)
def test_hf_equals_generate(engine, pictures, name):
    """Greedy, token for token."""
    from tests.selftrain.engines.test_hf import processed

    penalty = 1.3 if name == "repetition penalty" else 1.0
    requests = asked(name, pictures)
    found = engine.generate(requests, SamplingParams(0, TOKENS, repetition_penalty=penalty))
    stops = set(engine._is_eos.nonzero().flatten().tolist())
    # With a penalty one by one: `generate` also penalises the padding token.
    groups = [requests] if penalty == 1 else [[request] for request in requests]
    rows = []
    for group in groups:
        inputs = processed(engine, [(request.prompt, request.images) for request in group])
        out = engine._model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS, repetition_penalty=penalty)
        rows += out[:, inputs["input_ids"].shape[1] :].tolist()
    for row, [completion] in zip(rows, found, strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        assert list(completion.token_ids) == row[:end]
    assert len(found) == 12
    assert len({completion.token_ids for [completion] in found}) > 6, "the answers depend on the images"


def test_runner_up_is_that_of_a_plain_forward_pass(engine, pictures):
    import torch

    from tests.selftrain.engines.test_hf import teacher_forced

    for request in asked("two images", pictures)[:4]:
        [[answer]] = engine.generate([request], SamplingParams(0, TOKENS))
        logits = teacher_forced(engine, (request.prompt, request.images), answer.token_ids).log_softmax(-1)
        best = logits.topk(2)
        assert tuple(best.indices[:, 0].tolist()) == answer.token_ids
        found = engine.runner_up(request, answer.token_ids)
        assert [token for token, _ in found] == best.indices[:, 1].tolist()
        gaps = best.values[:, 0] - best.values[:, 1]
        torch.testing.assert_close(torch.tensor([gap for _, gap in found]), gaps, atol=1e-3, rtol=0)
    # An image token that the model wrote stands for no image.
    assert len(engine.runner_up(request, (engine._image_id, *answer.token_ids))) == len(answer.token_ids) + 1


@needs_vllm
def test_vllm_answers_as_hf_does(engine, model, pictures, tmp_path):
    """Without and with an adapter."""
    from selftrain.engines.hf import HFEngine
    from selftrain.engines.vllm_offline import VLLMEngine
    from tests.selftrain.engines.adapters import random_adapter

    requests = [request for name in SETTINGS for request in asked(name, pictures)]
    settings = VLLMSettings(interpreter=Path(VLLM_PYTHON or ""), max_model_len=1024, batch_size=32)
    adapter = random_adapter(model, tmp_path / "adapter")
    with VLLMEngine(model, settings=settings) as vllm:
        report = compare(vllm, expectations(engine, requests, TOKENS), TOKENS, "float32")
        assert report["same"] >= 0.9 * len(requests)
        with HFEngine(model, adapter, settings=HFSettings(device="cpu")) as adapted:
            vllm.load(adapter)
            report = compare(vllm, expectations(adapted, requests[:12], TOKENS), TOKENS, "float32")
            assert report["same"] >= 11
