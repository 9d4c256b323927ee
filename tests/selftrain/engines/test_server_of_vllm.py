"""The server engine against a real vLLM on this machine's CPU. Needs SELFTRAIN_VLLM_PYTHON, a Python that has vLLM."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from data_process import prompts
from data_process.sources import minigeo
from selftrain.engine_settings import HFSettings, ServerSettings
from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.budget import TINY
from selftrain.engines.openai_server import ServerEngine
from selftrain.engines.vllm_server import ServerConfig, serve
from tests.selftrain.engines.contract import VLLM_PYTHON, needs_vllm

MODEL = Path(__file__).parents[3] / "models" / "tiny-qwen2vl"

pytestmark = [
    pytest.mark.slow,
    needs_vllm,
    pytest.mark.skipif(not (MODEL / "model.safetensors").is_file(), reason="models/tiny-qwen2vl is not there"),
]

GREEDY = SamplingParams(temperature=0, max_tokens=120)
SAMPLE = SamplingParams(temperature=1.0, max_tokens=120, top_k=50, top_p=0.95)


@pytest.fixture(scope="module")
def requests(tmp_path_factory) -> list[Request]:
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for problem, picture in minigeo.generate("base", 12):
        path = folder / f"{problem.id}.png"
        picture.save(path)
        found.append(Request(problem.id, prompts.cot(problem, prompts.SHORT), (path,), (1, 2)))
    (a,), (b,) = found[0].images, found[1].images
    found.append(Request("several", f"In <image>, not <image>: {found[0].prompt}", (a, b, a), (1, 2)))
    return found


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    serving = ServerConfig(
        MODEL,
        port=0,
        max_model_len=1024,
        dtype="float32",  # "auto" would turn it into bfloat16, and greedy answers into others
        min_pixels=56 * 56,
        max_pixels=224 * 224,
        memory_share=0.2,
        cpu=True,
        interpreter=Path(VLLM_PYTHON or ""),
    )
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with (
        serve(serving, log, wait_s=300) as server,
        ServerEngine(server.models[0], ServerSettings(url=server.url)) as held,
    ):
        yield held


@pytest.fixture(scope="module")
def hf():
    import torch

    from selftrain.engines.hf import HFEngine

    torch.set_num_threads(1)
    with HFEngine(MODEL, min_pixels=56 * 56, max_pixels=224 * 224, settings=HFSettings(device="cpu")) as held:
        yield held


def test_it_is_known_for_what_it_is(engine):
    assert engine.dialect.name == "vllm"
    assert engine.served.max_model_len == 1024


@pytest.mark.parametrize(
    "budget",
    [
        None,
        TINY,
        dataclasses.replace(TINY, num_ignore=2),
        dataclasses.replace(TINY, max_tokens=12),
        dataclasses.replace(TINY, max_tokens=12, answers=("A", "B", "C", "D")),
        dataclasses.replace(TINY, min_tokens=40),
    ],
)
def test_greedy_answers_are_those_of_transformers(engine, hf, requests, budget):
    params = dataclasses.replace(GREEDY, budget=budget)
    for ours, theirs in zip(engine.generate(requests, params), hf.generate(requests, params), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.text, a.token_ids, a.n_prompt_tokens, a.finish) == (
                b.text,
                b.token_ids,
                b.n_prompt_tokens,
                b.finish,
            )
            if budget is None:
                assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=1e-4)
            else:  # forced tokens differ where a closing text begins with what the model had written itself
                same = ("ignores", "ignored_at", "closed_by", "closed_at", "thinking_tokens", "answer_tokens")
                assert [getattr(a.forcing, name) for name in same] == [getattr(b.forcing, name) for name in same]


def test_a_sample_follows_its_seed(engine, requests):
    first = engine.generate(requests, SAMPLE)
    assert [[c.token_ids for c in of_one] for of_one in engine.generate(requests[::-1], SAMPLE)][::-1] == [
        [c.token_ids for c in of_one] for of_one in first
    ]
    assert sum(a.token_ids != b.token_ids for a, b in first) >= 6


def test_a_prompt_that_is_too_long_is_told_and_the_others_are_answered(engine, requests):
    kept = []
    engine.on_result = lambda request, sample, completion: kept.append(request.id)
    try:
        with pytest.raises(EngineError, match=r"'long'.*400.*maximum context length is 1024"):
            engine.generate([*requests, Request("long", "angle " * 2000, (), (1,))], SAMPLE)
    finally:
        engine.on_result = None
    assert sorted(kept) == sorted(2 * [request.id for request in requests])


def test_a_model_that_is_not_served(engine):
    with pytest.raises(EngineError, match=r"set engine\.model_name to one that is: tiny-qwen2vl"):
        ServerEngine("other", ServerSettings(url=engine.url))
