"""A tiny random Qwen2-VL, its pictures and its requests, built once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_process import prompts
from data_process.sources import minigeo
from selftrain.engine_settings import HFSettings
from selftrain.engines.base import Request

Pair = tuple[str, tuple[Path, ...]]  # a prompt and its pictures


@pytest.fixture(scope="session")
def problems_and_pictures(tmp_path_factory) -> list[Pair]:
    """(prompt, pictures) of 12 problems, some 112 x 112 and some 140 x 112 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for problem, image in minigeo.generate("base", 12):
        path = folder / f"{problem.id}.png"
        image.save(path)
        found.append((prompts.cot(problem, prompts.SHORT), (path,)))
    return found


@pytest.fixture(scope="session")
def sizes(problems_and_pictures) -> dict[tuple[int, int], Pair]:
    """One (prompt, pictures) for each picture size."""
    from PIL import Image

    return {Image.open(path).size: (prompt, (path,)) for prompt, (path,) in problems_and_pictures}


@pytest.fixture(scope="session")
def mixed(sizes) -> list[Pair]:
    """Two picture sizes, text only, and prompts of very different lengths."""
    small, wide = sizes[112, 112], sizes[140, 112]
    return [small, ("2 + 2 = ?", ()), wide, (small[0] + " Be careful." * 5, small[1]), ("Why?", wide[1])]


@pytest.fixture(scope="session")
def several(sizes) -> list[Pair]:
    """Prompts of two and three pictures of two sizes: in the middle, at the end, one first, all first, one twice."""
    (_, (small,)), (_, (wide,)) = sizes[112, 112], sizes[140, 112]
    return [
        ("find the angle of <image> and of <image> so what is it", (small, wide)),
        ("is it so <image> step a circle line <image> which answer", (wide, small, wide)),
        ("what is the sum of a line and <image>", (wide, wide)),
        ("which of the 3?", (small, wide, small)),
        ("a <image><image>\n<image>", (small, small, wide)),
    ]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random tiny Qwen2-VL with more stop tokens than usual, so that some completions stop and some are cut."""
    import torch

    from selftrain import tiny_model

    torch.set_num_threads(1)
    # Fixed words, not the prompts: a change of wording must not make another model.
    words = "find the angle of a triangle circle line what which answer step think sum is and so it equals"
    tokenizer = tiny_model.build_tokenizer([words] * 3, vocab_size=384)
    # heads of 32: the smallest that vLLM takes on a CPU
    model = tiny_model.build_model(tokenizer, hidden=128, layers=3, vision_hidden=32, vision_depth=1)
    # Weights of our own, larger than usual: nearly equal logits would make greedy decoding a matter of rounding, and
    # what these tests see must not change with how the real tiny model starts.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.25 if "embed_tokens" in name else 1.2 / weight[0].numel() ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(0, 0.2)
    # Every 16th token ends a completion: random weights would hardly reach the real end tokens.
    model.generation_config.eos_token_id = [*model.generation_config.eos_token_id, *range(0, len(tokenizer), 16)]
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model.save(model, tiny_model.build_processor(tokenizer), folder)
    return folder


@pytest.fixture(scope="session")
def engine(tiny_model):
    """One HFEngine for tests that do not need their own."""
    from selftrain.engines.hf import HFEngine

    with HFEngine(tiny_model, settings=HFSettings(device="cpu")) as held:
        yield held


@pytest.fixture(scope="session")
def ask() -> Callable[..., list[Request]]:
    """ask(pairs, seeds): requests r0, r1, ... for (prompt, pictures) pairs."""

    def make(pairs, seeds=(0,)) -> list[Request]:
        return [Request(f"r{i}", prompt, images, tuple(seeds)) for i, (prompt, images) in enumerate(pairs)]

    return make
