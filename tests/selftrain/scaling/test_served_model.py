"""`engine.kind: server` by configuration: a served model is measured, its answers are kept, the loop refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_process.sources import minigeo
from selftrain.config import ConfigError, load_config
from selftrain.engines.base import EngineError, SamplingParams
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import engine_job, open_engine
from selftrain.sampling.sampler import Ask
from selftrain.sampling.weights import sampler_of
from selftrain.scaling import plots
from selftrain.scaling.grid import ScaleConfig
from selftrain.scaling.run import FileTarget, Target, scale
from tests.selftrain.engines.chat_server import ChatServer, Reply

ROOT = Path(__file__).parents[3]
QUIET = Progress(quiet=True)
GRID = {
    "n": 3, "sizes": (1, 3), "select_sizes": (3,), "audit_size": 3, "ignores": (), "limits": (), "combine_ignores": (),
    "conditions": (), "reject": (), "rounds": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "data"
    minigeo.write(folder, {"train": 4, "dev": 4, "test": 8}, seed=0)
    return folder


def overrides(server: ChatServer, folder: Path, *more: str) -> list[str]:
    return [
        *("engine.kind=server", f"engine.url={server.url}", "engine.model_name=m", "engine.retries=0", "prompts=short"),
        *(f"bank={folder / 'bank.sqlite'}", f"model.path={folder / 'nowhere'}", *more),
    ]


@pytest.mark.slow
def test_a_served_model_is_measured(data, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda result, folder: [])
    with ChatServer(lambda request, seed: f"<think>so</think>\nAnswer: ({'ABCD'[seed % 4]})") as server:
        config = tmp_path / "served.yaml"
        config.write_text("prompts: short\n")
        files = FileTarget(data / "test.jsonl", data / "dev.jsonl", data, config, overrides(server, tmp_path))
        found = scale(ScaleConfig(**GRID), tmp_path / "out", Target(weights=(), files=files), progress=QUIET)
        asked = len(server.calls)
        again = scale(ScaleConfig(**GRID), tmp_path / "again", Target(weights=(), files=files), progress=QUIET)
        assert len(server.calls) == asked, "what the bank holds is not asked for again"
    assert again.subjects[0].settings == found.subjects[0].settings
    (subject,) = found.subjects
    assert {s.name: s.totals.n for s in subject.settings["test"]}["vote@3"] == 8


def test_a_failing_call_loses_no_answer_of_the_others(data, tmp_path):
    def fail_third(call, number):
        return Reply(status=400, body=b"no") if number == 4 and "chat" in call.path else None

    with ChatServer(lambda request, seed: "Answer: (A)", misbehave=fail_third) as server:
        config = load_config(None, [*overrides(server, tmp_path), "engine.max_concurrency=1"])
        with Bank(config.bank) as bank:
            sampler = sampler_of(config, bank, None, [], None, 0)
            asks = [Ask(f"q{k}", f"Question {k}?", ()) for k in range(6)]
            with sampler, pytest.raises(EngineError):
                sampler.draw(asks, SamplingParams(0.7, 20), 1)
            with sampler_of(config, bank, None, [], None, 0) as second:
                assert len(second.draw(asks, SamplingParams(0.7, 20), 1)) == 6
                assert 0 < second.drawn < 6


def test_the_loop_refuses_a_server(data, tmp_path):
    config = load_config(None, ["engine.kind=server", f"data.folder={data}", f"output={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="the loop trains the weights it samples from"):
        run_loop(config, QUIET)


def test_an_adapter_is_not_silently_left_out(tmp_path):
    config = load_config(None, ["engine.kind=server"])
    with pytest.raises(EngineError, match=r"not with .*adapter"):
        open_engine(config, tmp_path / "adapter", 1, [])


def test_another_server_is_another_set_of_weights(tmp_path):
    def digest(config):
        return config.engine.samples_digest(engine_job(config, None, 0, []), lambda: pytest.fail("no weights are read"))

    a = load_config(None, ["engine.kind=server", "engine.model_name=a"])
    b = load_config(None, ["engine.kind=server", "engine.model_name=b"])
    assert digest(a) != digest(b)
    assert digest(a) == digest(load_config(None, ["engine.kind=server", "engine.model_name=a"]))
