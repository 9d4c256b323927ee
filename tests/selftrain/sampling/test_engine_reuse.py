"""An engine that is kept is opened once, and never lent to two."""

from __future__ import annotations

from pathlib import Path

import pytest

from selftrain.config import Config
from selftrain.engine_settings import HFSettings, VLLMSettings
from selftrain.engines.base import EngineError, EngineFacts, ReloadsWeights, Request, SamplingParams
from selftrain.engines.scripted import ScriptedEngine
from selftrain.sampling.engine_reuse import keeping

KEPT = Config(engine=VLLMSettings())
PARAMS = SamplingParams(temperature=0, max_tokens=1)
FACTS = EngineFacts("vllm 0", "float32", "cpu", 1024)
ASKED = [Request("a", "b", (), (1,))]


class Fake(ReloadsWeights):
    """Writes down what is done to it."""

    def __init__(self, log: list, adapter):
        self.log, self.closed, self.broken, self.on_result = log, False, False, None
        log.append(("open", adapter))

    def generate(self, requests, params):
        self.log.append(("generate", self.on_result))
        if self.broken:
            self.closed = True
            raise EngineError("it failed")
        return [[]]

    def load(self, adapter):
        if adapter == Path("bad"):
            raise EngineError("does not fit")
        self.log.append(("load", adapter))

    def rest(self):
        self.log.append("rest")

    def prompt_ids(self, prompt, image):
        return [1, 2]

    def count_prompt_tokens(self, prompt, image):
        return 2

    def facts(self):
        return FACTS

    def close(self):
        self.closed = True
        self.log.append("close")


@pytest.fixture
def log() -> list:
    return []


@pytest.fixture
def opener(log):
    return lambda config, adapter, iteration, problems: Fake(log, adapter)


def test_opened_once_and_given_other_weights(log, opener):
    with keeping(KEPT, opener) as get:
        with get(KEPT, None, 0, []) as first:
            first.on_result = print
            first.generate(ASKED, PARAMS)
            assert first.count_prompt_tokens("x", ()) == 2
            assert first.facts() == FACTS
        with pytest.raises(EngineError, match="closed"):
            first.generate(ASKED, PARAMS)
        first.close()  # twice does no harm
        with get(KEPT, Path("one"), 1, []) as second:
            second.generate(ASKED, PARAMS)
    assert log == [
        ("open", None), ("generate", print), "rest", ("load", Path("one")), ("generate", None), "rest", "close",
    ]  # fmt: skip


def test_one_user_at_a_time(opener):
    with keeping(KEPT, opener) as get, get(KEPT, None, 0, []), pytest.raises(EngineError, match="one set of weights"):
        get(KEPT, None, 1, [])


def test_one_that_failed_is_opened_anew(log, opener):
    with keeping(KEPT, opener) as get:
        with get(KEPT, None, 0, []) as engine:
            engine._held.broken = True
            with pytest.raises(EngineError, match="it failed"):
                engine.generate(ASKED, PARAMS)
        with get(KEPT, Path("one"), 1, []):
            pass
    assert [entry for entry in log if entry != "rest" and entry[0] != "generate"] == [
        ("open", None), ("open", Path("one")), "close",
    ]  # fmt: skip


def test_weights_that_do_not_fit_end_it(log, opener):
    with keeping(KEPT, opener) as get:
        get(KEPT, None, 0, []).close()
        with pytest.raises(EngineError, match="does not fit"):
            get(KEPT, Path("bad"), 1, [])
        assert log[-1] == "close"
        get(KEPT, None, 0, []).close()
        assert log[-2:] == [("open", None), "rest"]


def test_other_settings_open_another(log, opener):
    other = Config(engine=VLLMSettings(batch_size=7))
    with keeping(KEPT, opener) as get:
        get(KEPT, None, 0, []).close()
        get(other, None, 0, []).close()
    assert log == [("open", None), "rest", "close", ("open", None), "rest", "close"]


@pytest.mark.parametrize("engine", [HFSettings(), VLLMSettings(keep_open=False)])
def test_not_kept(opener, engine):
    with keeping(Config(engine=engine), opener) as get:
        assert get is opener


def test_an_engine_that_cannot_be_given_weights_is_refused():
    engine = ScriptedEngine(lambda request, seed: "x")
    with keeping(KEPT, lambda *_: engine) as get, pytest.raises(EngineError, match=r"set engine\.keep_open to false"):
        get(KEPT, None, 0, [])
    assert engine.closed
