"""s1's control baselines in the grid: each with and without forcing, and thinking counted alike in all of them."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data_process.prompts import SHORT
from data_process.sources import minigeo
from selftrain import stats
from selftrain.config import ConfigError
from selftrain.engines.base import SamplingParams
from selftrain.engines.budget import Budget
from selftrain.progress import Progress
from selftrain.scaling import plots
from selftrain.scaling.analysis import findings
from selftrain.scaling.grid import ScaleConfig, Setting, counting_params, grid, load_scale_config
from selftrain.scaling.measure import measure
from selftrain.scaling.report import markdown
from selftrain.scaling.run import FileTarget, Target, scale
from selftrain.test_time import thinking_tokens
from tests.selftrain.test_time.helpers import problems, sampler

ROOT = Path(__file__).parents[3]
PLAIN = SamplingParams(0.9, 110, 0.95, 50)
SELECTING = SamplingParams(0.0, 64)
# The control baselines, and what `findings` cannot do without.
CONTROL = {
    "n": 2, "sizes": (1, 2), "select_sizes": (), "audit_size": 2, "variants": False, "rounds": 0, "ignores": (0,),
    "limits": (), "combine_ignores": (), "condition_tokens": (16,), "condition_steps": (2,), "condition_short": (6,),
    "condition_long": (30,), "reject": (14,), "reject_tries": 4,
}  # fmt: skip


def settings_of(config: ScaleConfig) -> dict[str, Setting]:
    return {setting.name: setting for setting in grid(config, PLAIN, SELECTING, SHORT)}


@pytest.mark.parametrize(
    ("free", "forced", "at_most", "at_least"),
    [
        ("asked: token 16", "asked: token 16, forced", 16, 0),
        ("asked: step 2", "asked: step 2, forced", 200, 0),
        ("asked: short", "asked: short, forced to at most 6", 6, 0),
        ("asked: long", "asked: long, forced to at least 30", None, 30),
        ("reject above 14", "reject above 14, forced", 14, 0),
    ],
)
def test_each_baseline_is_tried_with_and_without_forcing(free, forced, at_most, at_least):
    settings = settings_of(ScaleConfig(**CONTROL))
    loose, held = settings[free], settings[forced]
    assert (loose.forced, held.forced) == (False, True)
    assert (loose.num_ignore, held.num_ignore) == (None, 0)
    assert loose.plan.condition == held.plan.condition
    assert replace(loose.plan.sampling, budget=None) == PLAIN
    assert not loose.plan.sampling.budget.acts
    budget = held.decodings[-1].budget
    assert (budget.max_tokens, budget.min_tokens) == (at_most, at_least)
    assert (held.limit, held.least) == (at_most, at_least or None)
    assert loose.limit == (held.limit if loose.plan.rejection else None)


def test_what_is_shared_with_other_runs_has_no_ledger():
    """A ledger changes no text but the key: greedy answers and votes are those of every run without a grid."""
    for config in (ScaleConfig(), load_scale_config(None, [], True), ScaleConfig(**CONTROL)):
        for setting in settings_of(config).values():
            if setting.family in ("single", "vote", "select", "refine", "oracle"):
                assert setting.plan.sampling == PLAIN, setting.name
            if setting.strategy == "reject":  # all limits, with forcing or without, draw from one stream
                assert setting.plan.sampling == counting_params(config, PLAIN), setting.name


@pytest.mark.parametrize(("conditions", "counted"), [(("token", "step"), False), (("short",), True), (("long",), True)])
def test_the_default_of_the_classes_is_counted_where_it_is_needed(conditions, counted):
    greedy = settings_of(ScaleConfig(**{**CONTROL, "conditions": conditions}))["greedy"]
    assert (greedy.counted is not None) == counted


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["condition_short=[0]"], "greater than or equal to 1"),
        (["condition_short=[9, 9]"], "a setting stands twice"),
        (["condition_long=[-1]"], "greater than or equal to 1"),
        (["condition_classes=[1]"], "unknown key 'condition_classes'"),
    ],
)
def test_bad_class_lengths(overrides, match):
    with pytest.raises(ConfigError, match=match):
        grid(load_scale_config(None, overrides, False), PLAIN, SELECTING, SHORT)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"condition_short": ()}, {"asked: short", "asked: long", "asked: long, forced to at least 30"}),
        ({"condition_long": (30, 60), "conditions": ("long",)},
         {"asked: long", "asked: long, forced to at least 30", "asked: long, forced to at least 60"}),
        ({"conditions": ("short",)}, {"asked: short", "asked: short, forced to at most 6"}),
        ({"conditions": ()}, set()),
    ],
)  # fmt: skip
def test_an_empty_list_leaves_its_part_out(changes, names):
    settings = settings_of(ScaleConfig(**{**CONTROL, **changes}))
    assert {name for name in settings if name.startswith(("asked: short", "asked: long"))} == names


def thinks(request, seed):
    """Obeys "short" and "long" a little and instructed numbers not at all; the answer is two tokens."""
    words = 12 + seed % 8 + ("long" in request.prompt) * 9 - ("short amount" in request.prompt) * 4
    steps = " ".join(f"step{k}" for k in range(words))  # all different: the budget would close a loop
    return f"{steps} </think>\nAnswer: ({'B' if words >= 16 else 'A'})"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Every setting on 8 questions by name, the same on 8 others, and what was told of the first."""
    told: list[tuple[int, int, str]] = []
    settings = list(settings_of(ScaleConfig(**CONTROL)).values())
    with sampler(tmp_path_factory.mktemp("control"), thinks) as held:
        found = measure(settings, problems(8), held, lambda *what: told.append(what))
        others = measure(settings, problems(16)[8:], held)
    return {m.setting.name: m for m in found}, others, told


def test_thinking_is_counted_alike_with_and_without_forcing(measured):
    by_name, *_ = measured
    for name in ("greedy", "asked: token 16", "asked: step 2", "asked: short", "asked: long", "reject above 14"):
        assert set(by_name[name].thinking.status) == {"unforced"}, name
    assert by_name["greedy"].lengths == (12,) * 8  # seed 0; `</think>`, `Answer:` and the letter are no thinking
    assert by_name["asked: long"].lengths == (21,) * 8
    assert by_name["asked: step 2, forced"].lengths == by_name["asked: step 2"].lengths
    assert by_name["asked: token 16, forced"].lengths == by_name["asked: token 16"].lengths == (12,) * 8
    assert by_name["asked: short, forced to at most 6"].lengths == (6,) * 8
    assert min(by_name["asked: long, forced to at least 30"].lengths) >= 30
    assert by_name["asked: long, forced to at least 30"].thinking.ignores > 0


def test_rejection_counts_every_try(measured):
    by_name, *_ = measured
    free, forced = by_name["reject above 14"], by_name["reject above 14, forced"]
    for m in (free, forced):
        assert m.lengths == tuple(thinking_tokens(a.completion) for o in m.outcomes for a in o.texts)
        assert m.thinking.completions == m.totals.completions
    assert all(outcome.abstain == 0 for outcome in forced.outcomes)
    assert max(thinking_tokens(o.texts[-1].completion) for o in forced.outcomes) <= 14
    for a, b in zip(free.outcomes, forced.outcomes, strict=True):
        if thinking_tokens(a.texts[-1].completion) <= 14 and len(a.texts) < 4:
            assert a == b  # nothing had to be forced


def test_control_is_reported_with_and_without_forcing(measured):
    by_name, others, _ = measured
    ways = findings(others, list(by_name.values()), 0).scaling
    names = {"asked: token", "asked: step", "asked: class", "reject"}
    assert set(ways) - {"ignores"} == names | {f"{name}, forced" for name in names}
    for name in names:
        assert (ways[f"{name}, forced"].control, ways[f"{name}, forced"].sample_control) == (1, 1), name
    # "short" and "long" against the 12 tokens of a greedy answer
    classes = [by_name["asked: short"].lengths, by_name["asked: long"].lengths]
    assert ways["asked: class"].sample_control == stats.sample_control(classes, [(None, 12), (12, None)])
    (tries,) = ways["reject, forced"].tries.values()
    (free,) = ways["reject"].tries.values()
    assert (tries.exhausted, free.forced) == (0, 0)
    assert tries.most <= 4


def test_progress_names_the_setting_and_its_samples(measured):
    by_name, _, told = measured
    assert {total for _, total, _ in told} == {len(by_name)}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[:2] == [(0, len(by_name), "greedy"), (0, len(by_name), "greedy: 0/8 samples")]
    assert told[-1] == (len(by_name), len(by_name), "")
    for k, name in enumerate(by_name):
        notes = [note for done, _, note in told if done == k]
        assert all(note.partition(": ")[0] == name.partition(": ")[0] and note.startswith(name) for note in notes)
        assert notes


@pytest.mark.slow
def test_on_the_tiny_model(tmp_path, monkeypatch):
    """Counting changes no text; forcing keeps to its lengths and loses no question."""
    monkeypatch.setattr(plots, "draw", lambda result, folder: [])
    data, bank = tmp_path / "data", tmp_path / "bank.sqlite"
    minigeo.write(data, {"train": 1, "dev": 2, "test": 10}, seed=0)
    overrides = (f"model.path={ROOT / 'models/tiny-qwen2vl'}", f"bank={bank}")
    files = FileTarget(data / "test.jsonl", data / "dev.jsonl", data, ROOT / "configs/demo.yaml", overrides)
    config = ScaleConfig(**{**CONTROL, "condition_short": (24,), "condition_long": (48,), "reject": (24,)})
    result = scale(config, tmp_path / "out", Target(weights=(), files=files), progress=Progress(quiet=True))

    counting = json.loads(json.dumps(asdict(Budget(end="</think>"))))
    greedy = defaultdict(dict)
    with closing(sqlite3.connect(bank)) as db:
        for prompt, image, params, ids in db.execute(
            "SELECT prompt, image, params, token_ids FROM prompts JOIN samples USING (key)"
        ):
            params = json.loads(params)
            budget = params.pop("budget", None)
            if params["temperature"] == 0 and (budget is None or budget == counting):
                greedy[prompt, image, json.dumps(params)][budget is None] = ids
    pairs = [texts for texts in greedy.values() if len(texts) == 2]
    assert len(pairs) == 12
    assert all(texts[True] == texts[False] for texts in pairs)

    (subject,) = result.subjects
    thinking = {s.name: s.thinking for s in subject.settings["test"]}
    abstain = {s.name: s.totals.abstain for s in subject.settings["test"]}
    assert all("plain" not in t.status for name, t in thinking.items() if name.startswith(("asked", "reject")))
    assert thinking["asked: short, forced to at most 24"].max <= 24
    assert thinking["asked: token 16, forced"].max <= 16
    assert thinking["asked: long, forced to at least 48"].median >= 48
    assert abstain["reject above 24, forced"] == 0
    for way, found in subject.findings.scaling.items():
        if way.endswith(", forced"):
            assert found.control == 1, way
    assert "reject above 24, forced: " in markdown(result)
