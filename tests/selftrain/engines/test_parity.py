"""An engine is trusted only if it reads and writes as transformers does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from selftrain.engine_settings import HFSettings
from selftrain.engines.base import Completion, EngineError, Request
from selftrain.engines.parity import Expected, compare, expectations

ASKED = Request("p1", "What is x?", (), (0,))
EXPECTED = Expected(ASKED, (1, 2, 3), (10, 11, 12), ((20, 5.0), (21, 0.004), (22, 3.0)))


class Fake:
    """Answers with fixed ids."""

    def __init__(self, token_ids, prompt_ids=(1, 2, 3)):
        self.token_ids, self.ids = tuple(token_ids), list(prompt_ids)

    def prompt_ids(self, prompt, image):
        return self.ids

    def generate(self, requests, params):
        assert params.temperature == 0
        return [[Completion("", self.token_ids, len(self.ids), "stop", -1.0)] for _ in requests]


@pytest.mark.parametrize(
    ("found", "dtype", "same", "at"),
    [
        ((10, 11, 12), "float32", 1, None),
        ((10, 21, 99), "float32", 0, 1),  # 0.004 nats behind: rounding
        ((10, 21), "bfloat16", 0, 1),
    ],
)
def test_explained(found, dtype, same, at):
    report = compare(Fake(found), [EXPECTED], 64, dtype)
    assert (report["problems"], report["same"], report["dtype"]) == (1, same, dtype)
    assert [parting["at"] for parting in report["parted"]] == ([] if at is None else [at])
    json.dumps(report)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((20, 11, 12), r"token 0: transformers has 10, the engine 20, which transformers has 5 nats behind"),
        ((10, 33, 12), r"token 1: .* the engine 33, .*further behind than its second best"),
        ((10, 11), r"token 2: transformers has 12, the engine None"),
        ((10, 11, 12, 13), r"token 3: transformers has None, the engine 13"),
    ],
)
def test_not_explained(found, message):
    with pytest.raises(EngineError, match=message) as error:
        compare(Fake(found), [EXPECTED, replace(EXPECTED, request=replace(ASKED, id="p2"))], 64, "float32")
    assert "2 of 2 greedy texts" in str(error.value)
    assert "'p1'" in str(error.value)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((1, 9, 3), r"token 1 is 9 instead of 2, from token 1 on; likely the template"),
        ((1, 2), "2 tokens instead of 3"),
    ],
)
def test_prompts(ids, message):
    with pytest.raises(EngineError, match=message):
        compare(Fake((10, 11, 12), ids), [EXPECTED], 64, "float32")


@pytest.mark.slow
def test_transformers_against_itself(engine, mixed, ask):
    asked = ask(mixed)
    expected = expectations(engine, asked, 24)
    report = compare(engine, expected, 24, "float32")
    assert (report["problems"], report["same"]) == (len(mixed), len(mixed))
    # What it says of second best tokens is what a plain forward pass says.
    from tests.selftrain.engines.test_hf import teacher_forced

    for item, pair in zip(expected, mixed, strict=True):
        logits = teacher_forced(engine, pair, item.token_ids).log_softmax(-1)
        best = logits.topk(2)
        assert [token for token, _ in item.second] == best.indices[:, 1].tolist()
        gaps = (best.values[:, 0] - best.values[:, 1]).tolist()
        assert [gap for _, gap in item.second] == pytest.approx(gaps, abs=1e-3)


@pytest.mark.slow
def test_another_model_is_refused(engine, mixed, ask, tiny_model, tmp_path):
    from selftrain.engines.hf import HFEngine
    from tests.selftrain.engines.adapters import random_adapter

    expected = expectations(engine, ask(mixed), 24)
    other = random_adapter(tiny_model, tmp_path / "adapter")
    with (
        HFEngine(tiny_model, other, settings=HFSettings(device="cpu")) as engine,
        pytest.raises(EngineError, match="same weights and"),
    ):
        compare(engine, expected, 24, "bfloat16")
