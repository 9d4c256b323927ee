"""The grid of a model that nobody made one for: from its tags, its usual length and the problems."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_process.prompts import PROMPT_SETS, SHORT
from data_process.schema import Problem, to_json
from selftrain.config import ConfigError, load_config
from selftrain.engine_settings.budget import Budget, BudgetSettings
from selftrain.engines.base import Completion, SamplingParams
from selftrain.engines.budget_forcing.tags import ThinkingTags
from selftrain.engines.scripted import ScriptedEngine
from selftrain.progress import Progress
from selftrain.scaling import fit, plots
from selftrain.scaling import run as scale_run
from selftrain.scaling.fit import QUICK_SHARES, SHARES, demo_grid, is_demo, lengths, tagged, usual_length
from selftrain.scaling.grid import ScaleConfig, grid, load_scale_config
from selftrain.scaling.run import FileTarget, Target, scale
from selftrain.test_time import ContextLimit
from tests.selftrain.test_time.helpers import problems, sampler

ROOT = Path(__file__).parents[3]
PLAIN = SamplingParams(0.9, 110, 0.95, 50)
CHOICES, FREE = problems(6), [Problem(f"n{k}", f"How much is {k}?", "5", answer_type="number") for k in range(6)]
# What takes time and is no length.
SMALL = {
    "n": 2, "sizes": (1, 2), "select_sizes": (), "audit_size": 2, "variants": False, "rounds": 0, "combine_ignores": (),
    "ignores": (0, 1), "reject_tries": 2,
}  # fmt: skip


def test_the_demo_keeps_its_grid():
    """A usual length of 32 gives it, but for the steps, of which a tiny model takes few, and the least lengths."""
    default, config = ScaleConfig(), load_config(None)
    assert demo_grid(default, config, [("1", "2")]) == default
    found = lengths(fit.DEMO_LENGTH, SHARES)
    same = [name for name in found if found[name] == getattr(default, name)]
    assert set(found) - set(same) == {"condition_steps", "min_tokens"}
    quick = demo_grid(load_scale_config(None, [], True), config, [("1", "2")])
    assert (quick.limits, quick.reject, quick.min_tokens) == ((16, 32, 64), (32,), ())
    kept = demo_grid(load_scale_config(None, ["limits=[5]"], True), config, [("1", "2")])
    assert (kept.limits, kept.reject) == ((5,), (32,))
    assert demo_grid(default, config, [("1", "2"), ()]).budget.budget().answers == ()
    assert demo_grid(ScaleConfig(budget="s1-m"), config, [()]).budget == BudgetSettings(preset="s1-m")
    own = load_config(None, ["evaluation.budget={end: so, ignore: [Hm], min_tokens: 2, answer_tokens: 4}"])
    assert demo_grid(default, own, [()]).budget.budget() == Budget(end="so", ignore=("Hm",), answer_tokens=4)


def test_which_models_are_the_demos(tmp_path):
    for name in ("copy", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "copy/tokenizer.json").write_bytes((fit.DEMO_MODEL / "tokenizer.json").read_bytes())
    (tmp_path / "other/tokenizer.json").write_text("{}")
    cases = {"copy": True, "other": False, "nowhere": False}
    assert {name: is_demo(load_config(None, [f"model.path={tmp_path / name}"])) for name in cases} == cases
    assert is_demo(load_config(None))
    assert is_demo(load_config(None, ["engine.kind=scripted", f"model.path={tmp_path / 'other'}"]))


@pytest.mark.parametrize("usual", [1, 3, 32, 410, 5200])
@pytest.mark.parametrize("shares", [SHARES, QUICK_SHARES])
def test_lengths_of_any_usual_length(usual, shares):
    found = lengths(usual, shares)
    assert set(found) == {*SHARES, "condition_steps"}
    for several in found.values():
        assert list(several) == sorted(set(several))
        assert several[0] >= 1
    assert usual in found["limits"]


@pytest.mark.parametrize(
    ("texts", "usual"),
    [
        (["aaaa</t>bb"], 4),  # 10 tokens, 4 of 10 characters before the end
        (["aaaaaaaaaa"], 10),
        (["a</t>" + "b" * 95, "x" * 100, "y" * 30], 30),
        (["x" * 1234], 1200),
        (["</t>b"], 1),
    ],
)
def test_usual_length(texts, usual):
    answers = [Completion(text, tuple(range(len(text))), 5, "stop", None) for text in texts]
    assert usual_length(answers, "</t>") == usual


def test_a_template_that_opens_the_thinking_is_not_doubled():
    for opened, start in ((False, "<think>"), (True, "")):
        budget = tagged(ThinkingTags("<think>", "</think>", opened), "ABC").budget()
        assert (budget.start, budget.opener, budget.answers) == (start, "", ("A", "B", "C"))


def thinks(request, seed):
    """About 40 words of thought between tags."""
    return "<think>" + "so it is " * 12 + f"clear {seed % 9}</think>\nAnswer: {'ABCD'[seed % 4]}"


def fitted(folder, settings=None, dev=CHOICES, prompts="think", limit=None, more=()):
    with sampler(folder, thinks) as held:
        return fit.fit(
            settings or ScaleConfig(), load_config(None, [f"prompts={prompts}", *more]), PLAIN, PROMPT_SETS[prompts],
            dev, dev, held, None, limit,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("dev", "prompts", "more", "budget", "source"),
    [
        (CHOICES, "think", (), {"start": "<think>", "end": "</think>", "answers": ("A", "B", "C", "D")},
         "<think> </think> that the prompts ask for; forced answers are letters up to D"),
        (FREE, "think", (), {"start": "<think>", "answers": ()}, "</think> that the prompts ask for"),
        ([*CHOICES, *FREE], "think", (), {"answers": ()}, "</think> that the prompts ask for"),
        (CHOICES, "short", (), {"start": "", "end": "\nFinal answer:", "answers": (" A", " B", " C", " D")},
         "no thinking tags"),
        (CHOICES, "think", ('evaluation.budget={preset: s1-m, start: "<think>", min_tokens: 3}',),
         {"start": "<think>", "opener": "<think>", "answers": (), "min_tokens": 0}, "the run's evaluation"),
    ],
)  # fmt: skip
def test_the_budget_is_that_of_the_model_and_the_problems(tmp_path, dev, prompts, more, budget, source):
    found = fitted(tmp_path, dev=dev, prompts=prompts, more=more)
    made = found.settings.budget.budget()
    assert {name: getattr(made, name) for name in budget} == budget
    assert source in found.made_from
    assert not made.num_ignore


def test_lengths_are_those_of_the_model(tmp_path):
    found = fitted(tmp_path)
    assert found.made_from.startswith("a usual length of 35 tokens (median of 6 greedy answers on dev)")
    assert found.settings.limits == (9, 18, 26, 35, 52, 70)
    assert found.settings.min_tokens == (35, 70)
    assert found.settings.max_tokens == 8 * 35 + 512 + 64
    given = fitted(tmp_path, ScaleConfig(limits=(600,), budget="s1"))
    assert (given.settings.limits, str(given.settings.budget)) == ((600,), "s1")
    assert given.settings.max_tokens == 2 * 600 + 100 + 64
    short = fitted(tmp_path, limit=ContextLimit(800, lambda prompt, images: 100))
    assert short.settings.max_tokens == 800 - 100 - 64
    assert short.settings.limits == (9, 18, 26, 35, 52)  # 636 - 512 - 64 are left for the thinking


@pytest.mark.parametrize("settings", [ScaleConfig(), load_scale_config(None, [], True)])
def test_the_whole_grid_can_be_made(tmp_path, settings):
    names = [s.name for s in grid(fitted(tmp_path, settings).settings, PLAIN, PLAIN, SHORT)]
    assert len(set(names)) == len(names)
    assert "greedy, at least 70" in names


def files(folder: Path, tasks, *more: str) -> Target:
    for name, several in (("dev", tasks[:2]), ("test", tasks[2:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(to_json(p)) + "\n" for p in several))
    overrides = ("engine.kind=scripted", f"bank={folder / 'bank.sqlite'}", "prompts=think", *more)
    return Target(weights=(), files=FileTarget(folder / "test.jsonl", folder / "dev.jsonl", folder, None, overrides))


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """measure(settings, problems): `scale` over a scripted model that is not the demo's."""
    monkeypatch.setattr(plots, "draw", lambda result, folder: [])
    monkeypatch.setattr(scale_run, "is_demo", lambda config: False)

    def run(settings: ScaleConfig, tasks=CHOICES, *more: str):
        return scale(
            settings, tmp_path / "out", files(tmp_path, tasks, *more), progress=Progress(quiet=True),
            opener=lambda *what: ScriptedEngine(thinks),
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_a_model_without_a_grid_is_measured_with_its_own(measure, tmp_path):
    found = measure(ScaleConfig(**SMALL))
    text = (tmp_path / "out/scale.md").read_text()
    assert "The grid was made from a usual length of 35 tokens (median of 2 greedy answers on dev)" in text
    assert found.settings.limits == (9, 18, 26, 35, 52, 70)
    (subject,) = found.subjects
    by_name = {s.name: s for s in subject.settings["test"]}
    least = by_name["greedy, at least 70"]
    assert (least.least, least.thinking.idle, by_name["greedy"].thinking.idle) == (70, 0, None)
    assert least.thinking.median >= 70
    assert subject.findings.scaling["least lengths"].control == 1
    assert by_name["greedy, at most 70"].thinking.idle == 4
    assert by_name["greedy +1"].thinking.idle == 0
    assert subject.findings.scaling["ignores"].runs == 2
    assert "changed nothing: greedy, at most 52 (100%), greedy, at most 70 (100%)" in text
    assert "greedy +1 (" not in text


def test_a_condition_that_does_nothing_is_in_the_first_lines(measure, tmp_path):
    settings = ScaleConfig(**SMALL, budget={"preset": "s1-m", "opener": "<reason>"}, conditions=(), reject=())
    measure(settings)
    lines = (tmp_path / "out/scale.md").read_text().splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith("## "))
    assert "In more than half of their samples these settings changed nothing: greedy +1 (100%)" in lines[place + 2]


def test_letters_are_not_forced_on_numbers(measure):
    assert measure(ScaleConfig(**SMALL, conditions=(), reject=()), FREE).settings.budget.budget().answers == ()
    with pytest.raises(ConfigError, match=r"does not go with these problems: .*6 of 6 problems have no choices"):
        measure(ScaleConfig(**SMALL, budget="tiny"), FREE)


@pytest.mark.parametrize(
    ("budget", "match"),
    [
        ({"preset": "tiny", "min_tokens": 4}, r"min_tokens comes from the grid's `min_tokens`"),
        ({"preset": "tiny", "num_ignore": 4}, r"num_ignore comes from the grid's `ignores`"),
        ({"preset": "tiny", "ends": "x"}, r"unknown key 'budget.ends'; did you mean 'budget.end'"),
    ],
)
def test_budgets_of_a_grid(budget, match):
    with pytest.raises(ConfigError, match=match):
        load_scale_config(None, [f"budget={json.dumps(budget)}"], False)
    whole = load_scale_config(None, ['budget={preset: s1-m, start: "<think>", max_tokens: 90}', "ignores=[2]"], False)
    budgets = {s.name: s.plan.sampling.budget for s in grid(whole, replace(PLAIN, max_tokens=2000), PLAIN, SHORT)}
    assert (budgets["greedy +2"].start, budgets["greedy +2"].max_tokens) == ("<think>", 90)
    assert budgets["greedy, at most 8"].max_tokens == 8
