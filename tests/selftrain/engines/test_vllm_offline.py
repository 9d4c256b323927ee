"""The vLLM engine: against transformers, through changes of weights, and when its process fails.

The tests of a real vLLM run on this machine's CPU and need SELFTRAIN_VLLM_PYTHON, which `make test` sets.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from selftrain.engine_settings import HFSettings, VLLMSettings
from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.budget import TINY, Budget
from selftrain.engines.parity import compare, expectations
from selftrain.engines.vllm_offline import VLLMEngine
from selftrain.processes import supervise
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Ask, Picture, Sampler
from tests.selftrain.engines.adapters import random_adapter
from tests.selftrain.engines.contract import VLLM_PYTHON, needs_vllm

GREEDY = SamplingParams(temperature=0, max_tokens=120)
SAMPLE = SamplingParams(temperature=1.0, max_tokens=120, top_k=50, top_p=0.95)
BUDGETS = {
    "none": None,
    "ledger": TINY,
    "ignores": dataclasses.replace(TINY, num_ignore=3),
    "short": dataclasses.replace(TINY, max_tokens=12),
    "at least": dataclasses.replace(TINY, min_tokens=40),
    "cue": dataclasses.replace(TINY, cue="always"),
    "nothing": dataclasses.replace(TINY, max_tokens=0),
}


# ---- failures to start; no vLLM needed -------------------------------------------------------------------------------


def interpreter(folder: Path, script: str) -> Path:
    """Something that is started as if it were a Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def shell(tmp_path) -> Path:
    """A folder that looks like a model from outside."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_vl"}')
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo torch.OutOfMemoryError: CUDA out of memory; exit 1",
            r"(?s)with status 1\); lower engine\.batch_size.*CUDA",
        ),
        (
            "echo 'Free memory on device cuda:0 is less than desired GPU memory utilization (0.9)'; exit 1",
            r"lower engine\.memory_share, or end what else runs",
        ),
        ("echo 'the max seq len is larger than the available KV cache memory'; exit 1", r"lower engine\.max_model_len"),
        ("kill -9 $$", r"by signal 9\)"),
        ("exit 3", r"(?s)with status 3\).*is empty: it said nothing"),
    ],
)
def test_a_start_that_fails_says_what_to_do(tmp_path, shell, script, message):
    with pytest.raises(EngineError, match=message):
        VLLMEngine(shell, settings=VLLMSettings(interpreter=interpreter(tmp_path, script)))


@pytest.mark.slow
def test_a_start_that_hangs_is_given_up(tmp_path, shell):
    with pytest.raises(EngineError, match=r"not ready after 0\.1 s"):
        VLLMEngine(shell, wait_s=0.1, settings=VLLMSettings(interpreter=interpreter(tmp_path, "sleep 60")))
    assert not [pid for pid in supervise.descendants(os.getpid()) if "sleep" in cmdline(pid)]


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_no_model_no_interpreter_no_vllm(tmp_path, shell):
    with pytest.raises(EngineError, match=r"holds no model \(no config\.json\)"):
        VLLMEngine(tmp_path)
    with pytest.raises(EngineError, match=r"no-such-python.*set engine\.interpreter"):
        VLLMEngine(shell, settings=VLLMSettings(interpreter=tmp_path / "no-such-python"))
    with pytest.raises(EngineError, match=r"has no vLLM; install it there \(requirements-vllm\.txt\)"):
        VLLMEngine(shell, settings=VLLMSettings(interpreter=Path(sys.executable)))


# ---- a real one ------------------------------------------------------------------------------------------------------


def start(model: Path, **options) -> VLLMEngine:
    settings = {"batch_size": 32, "max_model_len": 1024, **options}
    given = {name: settings.pop(name) for name in settings.keys() & {"weights", "min_pixels", "max_pixels", "log"}}
    return VLLMEngine(model, settings=VLLMSettings(interpreter=Path(VLLM_PYTHON or ""), **settings), **given)


@pytest.fixture(scope="module")
def requests(problems_and_pictures) -> list[Request]:
    return [Request(f"r{i}", prompt, images, (1, 2)) for i, (prompt, images) in enumerate(problems_and_pictures)]


@pytest.fixture(scope="module")
def shipped() -> Path:
    return Path(__file__).parents[3] / "models" / "tiny-qwen2vl"


@pytest.fixture(scope="module")
def vllm(shipped):
    with start(shipped) as engine:
        yield engine


@pytest.fixture(scope="module")
def hf(shipped):
    import torch

    from selftrain.engines.hf import HFEngine

    torch.set_num_threads(1)
    with HFEngine(shipped, settings=HFSettings(device="cpu")) as engine:
        yield engine


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_greedy_answers_are_those_of_transformers(vllm, hf, requests, budget):
    params = dataclasses.replace(GREEDY, budget=budget)
    for ours, theirs in zip(vllm.generate(requests, params), hf.generate(requests, params), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=1e-4)
            assert dataclasses.replace(a, mean_logprob=0.0) == dataclasses.replace(b, mean_logprob=0.0)


@needs_vllm
@pytest.mark.slow
def test_sampled_answers_have_the_same_distribution(vllm, hf, requests):
    """Over many seeds of one prompt, beginnings come as often as transformers says."""
    params = dataclasses.replace(SAMPLE, max_tokens=24)  # past the labels, which are read, to the sums, which vary
    many = [dataclasses.replace(requests[0], seeds=tuple(range(1500)))]
    counts = []
    for engine in (vllm, hf):
        (found,) = engine.generate(many, params)
        counts.append(Counter(c.token_ids for c in found))
        assert len(counts[-1]) > 3
    for ids in set(counts[0]) | set(counts[1]):
        a, b = (count.get(ids, 0) / 1500 for count in counts)
        share = max((a + b) / 2, 1 / 1500)
        assert abs(a - b) < 5 * (2 * share * (1 - share) / 1500) ** 0.5  # five standard errors of a difference


@needs_vllm
@pytest.mark.slow
def test_a_sample_follows_its_seed_and_a_budget_acts_on_it(vllm, requests):
    sample = dataclasses.replace(SAMPLE, temperature=1.5)  # so hot that two seeds rarely agree
    plain = vllm.generate(requests, sample)
    ledger = vllm.generate(requests[::-1], dataclasses.replace(sample, budget=TINY))[::-1]
    longer = vllm.generate(requests, dataclasses.replace(sample, budget=BUDGETS["ignores"]))
    for of_plain, of_ledger, of_longer in zip(plain, ledger, longer, strict=True):
        for a, b, c in zip(of_plain, of_ledger, of_longer, strict=True):
            assert (a.text, a.token_ids) == (b.text, b.token_ids)
            first = c.forcing.ignored_at[0]
            assert a.token_ids[:first] == c.token_ids[:first]  # the same thoughts up to the first ignore
            assert c.forcing.ignores == 3 or c.forcing.closed_by != "model"
    assert sum(a.token_ids != b.token_ids for a, b in plain) >= 6


@needs_vllm
@pytest.mark.slow
def test_loops_are_closed_where_transformers_closes_them(tiny_model, mixed, ask):
    from selftrain.engines.hf import HFEngine

    # The random model repeats itself for ever, so most answers would be as long as they may.
    loops = Budget(end="equals so equals so", answer_cue=" is", loop_repeats=4, loop_span=24, answer_tokens=8)
    params = SamplingParams(temperature=0.4, max_tokens=600, budget=loops)
    greedy = dataclasses.replace(params, temperature=0)
    with (
        start(tiny_model, max_model_len=2048) as engine,
        HFEngine(tiny_model, settings=HFSettings(device="cpu")) as reference,
    ):
        ours, theirs = (e.generate(ask(mixed), greedy) for e in (engine, reference))
        assert [of_one[0].token_ids for of_one in ours] == [of_one[0].token_ids for of_one in theirs]
        assert [of_one[0].forcing for of_one in ours] == [of_one[0].forcing for of_one in theirs]
        sampled = [c for of_one in engine.generate(ask(mixed, range(8)), params) for c in of_one]
    closed = [c.forcing.closed_by for c in sampled]
    assert closed.count("loop") > 4
    assert all(c.forcing.closed_by != "loop" or " is" in c.text for c in sampled)


@needs_vllm
@pytest.mark.slow
def test_a_small_cache_and_rows_that_are_put_off(shipped, hf, requests):
    """With room for few samples at a time vLLM drops some and computes them again; nothing may change."""
    params = dataclasses.replace(GREEDY, budget=BUDGETS["ignores"])
    many = [Request(f"{r.id}-{i}", f"{r.prompt} ({i})", r.images, (1,)) for r in requests for i in range(4)]
    with start(shipped, options={"num_gpu_blocks_override": 72}) as engine:  # blocks of 16 tokens
        assert [c[0].token_ids for c in engine.generate(many, params)] == [
            c[0].token_ids for c in hf.generate(many, params)
        ]


@needs_vllm
@pytest.mark.slow
def test_other_weights_without_a_new_start(tiny_model, tmp_path, mixed, several, ask):
    from selftrain.engines.hf import HFEngine
    from selftrain.training.adapter import merge

    mixed = mixed + several
    adapter = random_adapter(tiny_model, tmp_path / "adapter")
    untrained = random_adapter(tiny_model, tmp_path / "untrained", size=0.0)
    whole = merge(tiny_model, adapter, tmp_path / "whole")  # a checkpoint, as full fine-tuning leaves one
    params = dataclasses.replace(GREEDY, max_tokens=24)
    expected = []
    for held in (None, adapter, whole):
        with HFEngine(tiny_model, held, settings=HFSettings(device="cpu")) as reference:
            expected.append(expectations(reference, ask(mixed), 24))
    with start(tiny_model) as engine:
        child = engine._child.pid
        assert compare(engine, expected[0], 24, "float32")["same"] == len(mixed)
        base = engine.generate(ask(mixed), params)
        engine.rest()
        engine.load(adapter)
        assert compare(engine, expected[1], 24, "float32")["same"] == len(mixed)
        engine.load(untrained)
        assert engine.generate(ask(mixed), params) == base
        engine.load(whole)
        assert compare(engine, expected[2], 24, "float32")["same"] == len(mixed)
        engine.load(None)
        assert engine.generate(ask(mixed), params) == base
        assert engine._child.pid == child
        other = random_adapter(shipped_model(), tmp_path / "other")
        with pytest.raises(EngineError, match="does not fit the model"):
            engine.load(other)
        assert engine.closed
    with start(tiny_model, weights=adapter) as engine:
        assert compare(engine, expected[1], 24, "float32")["same"] == len(mixed)


def shipped_model() -> Path:
    return Path(__file__).parents[3] / "models" / "tiny-qwen2vl"


@needs_vllm
@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing_that_was_finished(shipped, requests, tmp_path):
    paths = {request.id: request.images[0] for request in requests}
    asks = [Ask(request.id, request.prompt, (request.id,)) for request in requests]
    with Bank(tmp_path / "bank.sqlite") as bank:

        def sampler(engine: VLLMEngine) -> Sampler:
            return Sampler(
                bank=bank,
                open_engine=lambda: engine,
                engine_name="vllm",
                weights="w",
                picture=lambda name: Picture(paths[name], name),
                seed=0,
                unit_rows=1000,
            )

        first = start(shipped, batch_size=2)

        def kill(n: int) -> None:
            if n and not first.closed and first_done.append(n) is None and len(first_done) == 5:
                for pid in supervise.descendants(first._child.pid):
                    os.kill(pid, signal.SIGKILL)

        first_done: list[int] = []
        first.on_batch = kill
        with pytest.raises(EngineError, match=r"vLLM failed \(its process ended"), sampler(first) as drawing:
            drawing.draw(asks, SAMPLE, 2)
        assert first.closed
        with pytest.raises(EngineError, match="closed"):
            first.generate(requests, SAMPLE)
        (stored,) = bank._db.execute("SELECT count(*) FROM samples").fetchone()
        assert 5 <= stored < 24
        with sampler(start(shipped)) as drawing:
            found = drawing.draw(asks, SAMPLE, 2)
            assert drawing.drawn == 24 - stored
        assert [len(found[request.id]) for request in requests] == [2] * 12


@needs_vllm
@pytest.mark.slow
def test_an_interrupted_call_leaves_no_process(shipped, requests):
    engine = start(shipped)
    below = supervise.descendants(engine._child.pid)
    assert below

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    engine.on_result = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests, SAMPLE)
    assert engine.closed
    until = time.monotonic() + 5
    while any("vllm_worker" in cmdline(pid) for pid in below) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any("vllm_worker" in cmdline(pid) for pid in below)


@needs_vllm
@pytest.mark.slow
def test_what_does_not_fit(vllm, requests):
    long = Request("long", "angle " * 2000, (), (1,))
    with pytest.raises(EngineError, match=r"'long'.*exceed the engine's 1024 positions.*engine\.max_model_len"):
        vllm.generate([*requests, long], SAMPLE)
    assert vllm.count_prompt_tokens(long.prompt, ()) > 2000
    assert vllm.generate(requests[:1], GREEDY)  # and it goes on


@needs_vllm
@pytest.mark.slow
def test_an_unknown_option(shipped):
    with pytest.raises(EngineError, match=r"engine\.options: .*no_such_option"):
        start(shipped, options={"no_such_option": 1})
