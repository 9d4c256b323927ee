"""Sampling through the bank: nothing is asked twice, and a resumed run asks as the first one would have."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.engines.base import Completion, EngineError, SamplingParams, StreamsResults
from selftrain.engines.budget import Budget
from selftrain.engines.scripted import ScriptedEngine
from selftrain.sampling import sampler as sampler_module
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Ask, Picture, Sampler
from selftrain.sampling.weights import weights_digest

ROOT = Path(__file__).parents[3]
PARAMS = SamplingParams(temperature=1.0, max_tokens=50)
ASKS = [Ask(f"q{i}", f"question {i}" + " long" * (i % 3), ()) for i in range(10)]


class Killed(BaseException):
    """Stands for SIGKILL: nothing below a test catches it."""


def say(request, seed):
    return f"{request.prompt}: {seed}"


def sampler(bank: Bank, engine: ScriptedEngine | None = None, **changes) -> Sampler:
    settings = {
        "open_engine": lambda: engine if engine is not None else pytest.fail("the engine was opened"),
        "engine_name": "scripted",
        "weights": "w",
        "picture": lambda name: Picture(Path(name), f"content of {name}"),
        "seed": 0,
        "unit_rows": 6,
    }
    return Sampler(bank=bank, **{**settings, **changes})


@pytest.fixture
def bank(tmp_path):
    with Bank(tmp_path / "bank.sqlite") as bank:
        yield bank


def test_what_an_answer_begins_with_is_a_part_of_its_key(bank):
    begun = [dataclasses.replace(ask, id=f"{ask.id}b", prefix="It is") for ask in ASKS[:3]]
    engine = ScriptedEngine(lambda request, seed: f"{request.prefix}: {seed}")
    with sampler(bank, engine) as first:
        drawn = first.draw([*ASKS[:3], *begun], PARAMS, 2)
        assert first.drawn == 12
    assert all(c.text.startswith("It is: ") for ask in begun for c in drawn[ask.id])
    assert all(c.text.startswith(": ") for ask in ASKS[:3] for c in drawn[ask.id])
    with sampler(bank) as second:
        assert second.draw(begun, PARAMS, 2) == {ask.id: drawn[ask.id] for ask in begun}


def test_nothing_is_asked_twice(bank):
    engine = ScriptedEngine(say)
    with sampler(bank, engine) as first:
        drawn = first.draw(ASKS, PARAMS, 4)
        assert first.drawn == 40
    assert engine.closed
    with sampler(bank) as again:  # would fail if it opened an engine
        assert again.draw(ASKS, PARAMS, 4) == drawn
        assert again.draw(list(reversed(ASKS)), PARAMS, 2) == {key: found[:2] for key, found in drawn.items()}
        assert again.drawn == 0
    engine = ScriptedEngine(say)
    with sampler(bank, engine) as more:
        topped_up = more.draw(ASKS, PARAMS, 16)
        assert more.drawn == 120
    assert {key: found[:4] for key, found in topped_up.items()} == drawn
    asked = [seed for call in engine.calls for request in call.requests for seed in request.seeds]
    assert len(set(asked)) == 120


def test_four_then_sixteen_is_sixteen_at_once(tmp_path):
    with Bank(tmp_path / "a") as a, Bank(tmp_path / "b") as b:
        sampler(a, ScriptedEngine(say)).draw(ASKS, PARAMS, 4)
        in_two = sampler(a, ScriptedEngine(say)).draw(ASKS, PARAMS, 16)
        assert in_two == sampler(b, ScriptedEngine(say)).draw(ASKS, PARAMS, 16)


def test_order_and_ids(bank):
    """Each ask gets its own answers, sample 0 first, whatever order the engine was asked in."""
    drawn = sampler(bank, ScriptedEngine(say)).draw(ASKS, PARAMS, 3)
    assert list(drawn) == [ask.id for ask in ASKS]
    for ask in ASKS:
        assert all(completion.text.startswith(ask.prompt + ": ") for completion in drawn[ask.id])
        assert len({completion.text for completion in drawn[ask.id]}) == 3
    with pytest.raises(ValueError, match="unique"):
        sampler(bank).draw([ASKS[0], ASKS[0]], PARAMS, 1)
    assert sampler(bank).draw([], PARAMS, 3) == {}


DIFFERENT = {
    "weights": {"weights": "w2"},
    "seed": {"seed": 1},
    "picture content": {"picture": lambda name: Picture(Path(name), "other content")},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_circumstances_draw_anew(bank, name):
    asks = [Ask("q", "question", ("a.png",))]
    engine = ScriptedEngine(say, check_images=False)
    sampler(bank, engine).draw(asks, PARAMS, 2)
    other = sampler(bank, engine, **DIFFERENT[name])
    other.draw(asks, PARAMS, 2)
    assert other.drawn == 2


def test_identical_prompts_share_samples(bank):
    """Two problems that read the same (and show the same pixels) are one question to a model: asked once."""
    asks = [
        Ask("a", "same", ("1.png",)),
        Ask("b", "same", ("2.png",)),
        Ask("c", "same", ()),
        Ask("d", "other", ("1.png",)),
    ]
    engine = ScriptedEngine(say, check_images=False)
    same_pixels = {"picture": lambda name: Picture(Path(name), "pixels")}
    with sampler(bank, engine, **same_pixels) as shared:
        drawn = shared.draw(asks, PARAMS, 2)
        assert shared.drawn == 6
    assert drawn["a"] == drawn["b"]
    assert drawn["a"] != drawn["c"]
    assert sorted(r.id for call in engine.calls for r in call.requests) == ["a", "c", "d"]


def units(engine: ScriptedEngine) -> list[tuple]:
    return [tuple((request.prompt, request.seeds) for request in call.requests) for call in engine.calls]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    killed_after=st.integers(0, 8),
    unit_rows=st.integers(1, 13),
    n=st.integers(1, 5),
    shuffle=st.permutations(range(len(ASKS))),
)
def test_a_killed_run_puts_the_same_rows_together(tmp_path_factory, killed_after, unit_rows, n, shuffle):
    """Batches of the interrupted and the resumed run together are those of a run left alone, also in another order."""
    folder = tmp_path_factory.mktemp("units")
    alone, before, after = ScriptedEngine(say), ScriptedEngine(say), ScriptedEngine(say)
    asks = [ASKS[i] for i in shuffle]
    with Bank(folder / "a") as bank:
        expected = sampler(bank, alone, unit_rows=unit_rows).draw(ASKS, PARAMS, n)
    with Bank(folder / "b") as bank:
        interrupted = sampler(bank, before, unit_rows=unit_rows)
        generate, calls = before.generate, []

        def killed(requests, params):
            calls.append(1)
            if len(calls) > killed_after:
                raise Killed
            return generate(requests, params)

        before.generate = killed
        try:
            interrupted.draw(asks, PARAMS, n)
        except Killed:
            assert bank.count() == sum(len(seeds) for unit in units(before) for _, seeds in unit)
        assert sampler(bank, after, unit_rows=unit_rows).draw(asks, PARAMS, n) == {a.id: expected[a.id] for a in asks}
    assert units(before) + units(after) == units(alone)
    assert all(sum(len(seeds) for _, seeds in unit) <= max(unit_rows, n) for unit in units(alone))


@pytest.mark.parametrize("present", [[0], [1, 4, 7], [9, 8, 7, 6, 5, 4, 3]])
def test_units_are_fixed_by_the_asks(tmp_path, present):
    """What another run left in the bank is taken out of its unit; nothing moves up into the gap."""
    alone, rest = ScriptedEngine(say), ScriptedEngine(say)
    with Bank(tmp_path / "a") as bank:
        sampler(bank, alone).draw(ASKS, PARAMS, 2)
    with Bank(tmp_path / "b") as bank:
        sampler(bank, ScriptedEngine(say)).draw([ASKS[i] for i in present], PARAMS, 2)
        sampler(bank, rest).draw(ASKS, PARAMS, 2)
    there = {ASKS[i].prompt for i in present}
    expected = [tuple(row for row in unit if row[0] not in there) for unit in units(alone)]
    assert units(rest) == [unit for unit in expected if unit]


def test_an_engine_error_keeps_earlier_units(bank):
    """fail_at falls into the third unit of two prompts: two units stay, the third leaves nothing."""
    broken = sampler(bank, ScriptedEngine(say, fail_at=6))
    with pytest.raises(EngineError, match="request 6"):
        broken.draw(ASKS, PARAMS, 3)
    assert bank.count() == broken.drawn == 12
    resumed = sampler(bank, ScriptedEngine(say))
    resumed.draw(ASKS, PARAMS, 3)
    assert resumed.drawn == 18


def test_a_stream_is_a_draw(bank, monkeypatch):
    """In the order of the asks, read a few at a time; what is missing is drawn before the first is handed out."""
    monkeypatch.setattr(sampler_module, "READ_AT_ONCE", 3)
    asks = [*ASKS, Ask("again", ASKS[4].prompt, ())]
    first = sampler(bank, ScriptedEngine(say))
    streamed = first.stream(asks, PARAMS, 3)
    assert first.drawn == bank.count() == 30
    found = list(streamed)
    assert [ask_id for ask_id, _ in found] == [ask.id for ask in asks]
    assert dict(found) == sampler(bank).draw(asks, PARAMS, 3)


class Telling(ScriptedEngine, StreamsResults):
    """Tells each answer as it comes, the last request first, and may be stopped after so many."""

    on_result = None

    def __init__(self, stop_after: int | None = None, stop=None) -> None:
        super().__init__(say)
        self.stop_after, self.stop, self.told = stop_after, stop, 0

    def generate(self, requests, params):
        answers = super().generate(requests, params)
        for request, completions in reversed(list(zip(requests, answers, strict=True))):
            for sample, completion in enumerate(completions):
                if self.told == self.stop_after:
                    self.stop()
                self.on_result(request, sample, completion)
                self.told += 1
        return answers


def test_answers_that_are_told_are_stored_once(tmp_path, monkeypatch):
    """Not again with their unit; and what is found is what an engine that tells nothing would have left."""
    with Bank(tmp_path / "a") as bank:
        expected = sampler(bank, ScriptedEngine(say)).draw(ASKS, PARAMS, 3)
    written = []
    with Bank(tmp_path / "b") as bank:
        write = bank.write
        monkeypatch.setattr(bank, "write", lambda rows, engine: written.append(len(rows)) or write(rows, engine))
        telling = sampler(bank, Telling())
        assert telling.draw(ASKS, PARAMS, 3) == expected
        assert telling.drawn == bank.count() == 30
    assert written == [1] * 30


@pytest.mark.parametrize("stop_after", [0, 1, 7, 29])
def test_answers_that_were_told_survive_a_failing_call(bank, stop_after):
    def fail():
        raise EngineError("gone")

    with pytest.raises(EngineError, match="gone"):
        sampler(bank, Telling(stop_after, fail)).draw(ASKS, PARAMS, 3)
    assert bank.count() == stop_after
    resumed = sampler(bank, Telling())
    drawn = resumed.draw(ASKS, PARAMS, 3)
    assert resumed.drawn == 30 - stop_after
    assert drawn == sampler(bank).draw(ASKS, PARAMS, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
from selftrain.sampling.bank import Bank
from tests.selftrain.sampling.test_sampler import ASKS, PARAMS, Telling, sampler
with Bank(Path(sys.argv[1])) as bank:
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    sampler(bank, Telling(int(sys.argv[2]), kill)).draw(ASKS, PARAMS, 3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 8])
def test_answers_that_were_told_survive_a_kill(tmp_path, stop_after):
    """SIGKILL between two answers of a unit: every one that was told is there."""
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "bank.sqlite", str(stop_after)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    with Bank(tmp_path / "bank.sqlite") as bank:
        assert bank.count() == stop_after


class Wrong(ScriptedEngine):
    def __init__(self, spoil) -> None:
        super().__init__(say)
        self.spoil = spoil

    def generate(self, requests, params):
        return self.spoil(super().generate(requests, params))


BROKEN = Completion("x", (1,), 1, "stop", float("nan"))
SPOILT = {
    "one short": (lambda answers: [answers[0][:-1], *answers[1:]], "other numbers of completions"),
    "a request short": (lambda answers: answers[:-1], "other numbers of completions"),
    "one too many": (lambda answers: [*answers[:-1], [*answers[-1], answers[-1][0]]], "other numbers"),
    "nothing": (lambda answers: [], "other numbers of completions"),
    "NaN": (lambda answers: [*answers[:-1], [*answers[-1][:-1], BROKEN]], "no answer to request 'q.*log-probability"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_an_engine_that_breaks_its_contract(bank, name):
    spoil, message = SPOILT[name]
    with pytest.raises(EngineError, match=message):
        sampler(bank, Wrong(spoil)).draw(ASKS, PARAMS, 3)
    assert bank.count() == 0


FORCED = dataclasses.replace(PARAMS, budget=Budget(end="</think>", max_tokens=3, answer_tokens=4))


def test_samples_under_a_budget_are_samples_of_their_own(bank):
    with sampler(bank, ScriptedEngine(say)) as first:
        plain = first.draw(ASKS, PARAMS, 2)
        forced = first.draw(ASKS, FORCED, 2)
        assert first.drawn == 40
    assert all(c.forcing is None for found in plain.values() for c in found)
    assert all(c.forcing.thinking_tokens <= 3 for found in forced.values() for c in found)
    with sampler(bank) as again:
        assert again.draw(ASKS, FORCED, 2) == forced


@pytest.mark.parametrize(("asked", "given"), [(FORCED, PARAMS), (PARAMS, FORCED)])
def test_an_engine_that_keeps_to_no_budget(bank, asked, given):
    """A plain completion would be stored as a forced one for ever."""

    class Deaf(ScriptedEngine):
        def generate(self, requests, params):
            return super().generate(requests, given)

    with sampler(bank, Deaf(say)) as deaf, pytest.raises(EngineError, match="scripted does not keep to budgets"):
        deaf.draw(ASKS, asked, 1)
    assert bank.count() == 0


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\0", "", "\u2028"])
def test_odd_text_from_an_engine(bank, text):
    """A server may send half of a surrogate pair: the first draw and every later one give the same, writable text."""
    odd = Wrong(lambda answers: [[dataclasses.replace(c, text=text) for c in of_one] for of_one in answers])
    first = sampler(bank, odd).draw(ASKS[:1], PARAMS, 2)
    assert first == sampler(bank).draw(ASKS[:1], PARAMS, 2)
    # What came back is fit for the next prompt, as self-select needs it.
    sampler(bank, ScriptedEngine(say)).draw([Ask("s", f"which? {first['q0'][0].text}", ())], PARAMS, 1)


def test_progress_counts_what_is_there(bank):
    sampler(bank, ScriptedEngine(say)).draw(ASKS[:4], PARAMS, 2)
    told = []
    sampler(bank, ScriptedEngine(say), on_progress=lambda *t: told.append(t)).draw(ASKS, PARAMS, 2)
    assert (told[0], told[-1]) == ((8, 20), (20, 20))
    assert sorted(set(told)) == told


# ---- weights ------------------------------------------------------------------------------------------------------


def model(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in {"model.safetensors": "weights", "config.json": "{}", **files}.items():
        (folder / name).write_text(text)
    return folder


def adapter(folder: Path, weights: str = "lora", **config) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(weights)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 16, **config}))
    return folder


MATTERS = [
    *("model.safetensors", "model-00002-of-00002.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"),
    *("preprocessor_config.json", "special_tokens_map.json", "generation_config.json"),
]


@pytest.mark.parametrize("name", MATTERS)
def test_files_of_a_model_that_matter(bank, tmp_path, name):
    base = model(tmp_path / "m")
    before = weights_digest(bank, base, None)
    model(tmp_path / "m", **{name: "something else"})
    assert weights_digest(bank, base, None) != before
    (base / "README.md").write_text("does not matter")
    model(tmp_path / "copy", **{name: "something else"})
    assert weights_digest(bank, tmp_path / "copy", None) == weights_digest(bank, base, None)


def test_an_adapter_is_its_weights_and_its_scale(bank, tmp_path):
    base = model(tmp_path / "m")
    folders = [
        adapter(tmp_path / "a"),
        adapter(tmp_path / "b", "other"),
        adapter(tmp_path / "c", lora_alpha=32),
        adapter(tmp_path / "d", use_rslora=True),
        adapter(tmp_path / "e", alpha_pattern={"q_proj": 3}),
    ]
    digests = [weights_digest(bank, base, None), *(weights_digest(bank, base, folder) for folder in folders)]
    assert len(set(digests)) == len(digests)
    moved = adapter(tmp_path / "moved", base_model_name_or_path="/elsewhere")
    assert weights_digest(bank, base, moved) == digests[1]


def test_a_trained_checkpoint_takes_the_place_of_the_base(bank, tmp_path):
    base, trained = model(tmp_path / "m"), model(tmp_path / "t", **{"model.safetensors": "trained"})
    assert weights_digest(bank, base, trained) == weights_digest(bank, trained, None)
    assert weights_digest(bank, base, trained) != weights_digest(bank, base, None)


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_missing_files(bank, tmp_path, missing):
    base, tuned = model(tmp_path / "m"), adapter(tmp_path / "a")
    (tuned / missing).unlink()
    with pytest.raises(EngineError, match=r"holds no adapter.*to train it again"):
        weights_digest(bank, base, tuned)
    (base / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="holds no model weights"):
        weights_digest(bank, base, None)
