"""`selftrain scale`: whole grids over scripted answers; what is concluded is recounted from the raw results."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from data_process.io import read_jsonl, write_jsonl
from data_process.prompts import SHORT
from data_process.schema import DataError
from data_process.sources import minigeo
from selftrain import loop, stats
from selftrain.cli.main import main
from selftrain.config import ConfigError, load_config
from selftrain.engines.base import EngineError, SamplingParams
from selftrain.engines.budget_forcing.tags import ThinkingTags, thinking_tags
from selftrain.families import FamilyError
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.sampling import budgets
from selftrain.sampling.engine_factory import open_engine
from selftrain.scaling import plots, targets
from selftrain.scaling.fit import tagged
from selftrain.scaling.grid import FAMILIES, ScaleConfig, grid, load_scale_config
from selftrain.scaling.records import ScaleResult
from selftrain.scaling.run import FileTarget, Target, scale
from selftrain.scaling.targets import check_budgets, models_of, trained_prompt_of
from selftrain.test_time import STRATEGIES, ContextLimit
from selftrain.tiny_model import CHAT_TEMPLATE

pytestmark = pytest.mark.slow  # two grids over a rehearsed loop

ROOT = Path(__file__).parents[3]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
QUIET = Progress(quiet=True)
PLAIN = SamplingParams(0.9, 110, 0.95, 50)
SELECTING = SamplingParams(0.0, 64)
# A small grid in which every family has a setting.
SMALL = {
    "n": 4, "sizes": (1, 2, 4), "select_sizes": (2, 4), "audit_size": 3, "ignores": (0, 2), "limits": (8,),
    "combine_ignores": (1,), "combine_sizes": (2,), "conditions": ("token", "short"), "condition_tokens": (16,),
    "reject": (12,), "reject_tries": 3, "rounds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished rehearsal."""
    folder = tmp_path_factory.mktemp("scale")
    minigeo.write(folder / "data", {"train": 40, "dev": 12, "test": 20}, seed=0)
    overrides = [
        f"data.folder={folder / 'data'}",
        "data.leakage=ignore",
        f"bank={folder / 'bank.sqlite'}",
        f"output={folder / 'run'}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        run_loop(load_config(REHEARSAL, [*overrides, "iters=1"]), QUIET)
    return folder / "run"


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time, and most tests do not look at it."""
    monkeypatch.setattr(plots, "draw", lambda result, folder: [])


@pytest.fixture(scope="module")
def result(run):
    """What lies in scale.json, which is the record that `scale` returns."""
    found = scale(ScaleConfig(**SMALL), run / "scale", Target(run, ("base", "iter1")), progress=QUIET)
    assert ScaleResult.read(run / "scale/scale.json") == found
    return read_json(run / "scale/scale.json")


def cost(setting) -> float:
    """Tokens per problem."""
    return sum(setting["totals"]["tokens_per_problem"].values())


def test_every_question_is_answered_in_every_setting(result, run):
    rows = read_jsonl(run / "scale/results.jsonl.gz")
    ids = {split: {row["id"] for row in read_jsonl(run.parent / f"data/{split}.jsonl")} for split in ("dev", "test")}
    seen = defaultdict(list)
    for row in rows:
        seen[row["subject"], row["split"], row["setting"]].append(row["id"])
    for subject in result["subjects"]:
        for split in ("dev", "test"):
            for setting in subject["settings"][split]:
                found = seen.pop((subject["name"], split, setting["name"]))
                assert sorted(found) == sorted(ids[split]), setting["name"]
    assert not seen, "raw results of settings that no table shows"


def test_totals_are_those_of_the_raw_results(result, run):
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for row in read_jsonl(run / "scale/results.jsonl.gz"):
        entry = sums[row["subject"], row["split"], row["setting"]]
        for k, value in enumerate((row["credit"], row["generated"], row["prompt"])):
            entry[k] += value
    for subject in result["subjects"]:
        for split, n in (("dev", 12), ("test", 20)):
            for s in subject["settings"][split]:
                credit, generated, prompt = sums[subject["name"], split, s["name"]]
                assert math.isclose(s["totals"]["accuracy"], credit / n, abs_tol=1e-9), s["name"]
                assert math.isclose(cost(s), (generated + prompt) / n), s["name"]


def test_nothing_is_chosen_on_test(result):
    for subject in result["subjects"]:
        dev = {s["name"]: s for s in subject["settings"]["dev"]}
        for family, chosen in subject["findings"]["chosen"].items():
            best = max(s["totals"]["accuracy"] for s in dev.values() if s["family"] == family)
            assert dev[chosen["setting"]]["totals"]["accuracy"] == pytest.approx(best)
            test = next(s for s in subject["settings"]["test"] if s["name"] == chosen["setting"])
            assert chosen["test_accuracy"] == pytest.approx(test["totals"]["accuracy"])
        assert set(subject["findings"]["chosen"]) == set(FAMILIES) - {"oracle"}


def test_budgets_hold_and_grow(result):
    for subject in result["subjects"]:
        dev = {s["name"]: s for s in subject["settings"]["dev"]}
        before = 0.0
        for row in subject["findings"]["budgets"]:
            assert row["tokens"] > before
            before = row["tokens"]
            for record in row["families"].values():
                assert cost(dev[record["setting"]]) <= row["tokens"]


def test_selection_is_compared_with_the_vote_at_equal_n_and_tokens(result):
    for subject in result["subjects"]:
        costs = {s["name"]: cost(s) for s in subject["settings"]["test"]}
        records = subject["findings"]["select_against_vote"]
        assert [record["n"] for record in records] == [2, 4]
        for record in records:
            assert (record["equal_n"]["a"], record["equal_n"]["b"]) == (f"vote@{record['n']}", f"select@{record['n']}")
            vote = record["equal_tokens"]["a"]
            assert costs[vote] <= costs[f"select@{record['n']}"]


def test_the_frontier_is_beaten_by_nothing(result):
    for subject in result["subjects"]:
        points = {
            s["name"]: (cost(s), s["totals"]["accuracy"])
            for s in subject["settings"]["test"]
            if s["family"] != "oracle"
        }
        for name in subject["findings"]["frontier"]:
            tokens, accuracy = points[name]
            assert not any(t <= tokens and a >= accuracy and (t, a) != (tokens, accuracy) for t, a in points.values())


def test_dev_chooses_the_frontier_and_the_combination(result):
    """By dev's numbers alone; within the combination's tokens there."""
    for subject in result["subjects"]:
        dev, test = ({s["name"]: s for s in subject["settings"][split]} for split in ("dev", "test"))
        points = {name: (cost(s), s["totals"]["accuracy"]) for name, s in dev.items() if s["family"] != "oracle"}
        frontier = subject["findings"]["dev_frontier"]
        assert [point["setting"] for point in frontier] == stats.frontier(points)
        for point in frontier:
            assert point["test_accuracy"] == test[point["setting"]]["totals"]["accuracy"]
        combined = subject["findings"]["chosen"]["combined"]["setting"]
        combination = subject["findings"]["combination"]
        single = combination["difference"]["a"]
        assert combination["difference"]["b"] == combined
        assert cost(dev[single]) <= cost(dev[combined])
        rivals = [
            s for s in dev.values() if s["family"] not in ("oracle", "combined") and cost(s) <= cost(dev[combined])
        ]
        assert dev[single]["totals"]["accuracy"] == max(s["totals"]["accuracy"] for s in rivals)


def test_readings_of_test_are_counted(result, run):
    settings = [s for subject in result["subjects"] for s in subject["settings"]["test"]]
    assert f"This command read test {len(settings)} times: once for every setting of 2 models" in (
        (run / "scale/scale.md").read_text()
    )


def test_selection_stands_beside_second_derivations(result, run):
    for subject in result["subjects"]:
        for record in subject["findings"]["select_against_vote"]:
            pairs = [record[name] for name in ("consistent", "refined", "waited")]
            assert [pair and pair["a"] for pair in pairs] == [f"consistent vote@{record['n']}", "refine x1", None]
    assert "− refine x1 | − greedy +1 |" in (run / "scale/scale.md").read_text()  # the grid has no greedy +1


def test_adaptive_votes_cost_what_they_drew(result):
    """The exact rule gives the vote's answers for fewer samples."""
    for subject in result["subjects"]:
        found = {s["name"]: s for s in subject["settings"]["test"]}
        adaptive, vote = found["adaptive vote@4"], found["vote@4"]
        assert adaptive["totals"]["accuracy"] == vote["totals"]["accuracy"]
        assert 3 * 20 <= adaptive["totals"]["completions"] < vote["totals"]["completions"] == 4 * 20
        assert cost(adaptive) < cost(vote)
        assert adaptive["thinking"]["completions"] == adaptive["totals"]["completions"]


def test_prompts_are_cut_to_those_of_training(run, tmp_path, no_figures, monkeypatch):
    """The limit is the longest selection prompt in the rows of the models; `trained_prompt` sets another."""
    words = ContextLimit(10_000, lambda prompt, image: len(prompt.split()))
    rows = [row for row in read_jsonl(run / "iter1/build/examples.jsonl") if row["kind"] == "select"]
    longest = max(len(row["prompt"].split()) for row in rows)
    models = models_of(run, ["base", "iter1"])
    assert trained_prompt_of(models, words) == longest
    assert trained_prompt_of(models[:1], words) is None
    monkeypatch.setattr(budgets, "processor_of", lambda config: "words")
    monkeypatch.setattr(targets, "context_limit_of", lambda config, picture, processor: words)
    monkeypatch.setattr(targets, "check_budgets", lambda points, processor: None)
    found = scale(
        ScaleConfig(**SMALL, trained_prompt=longest - 10), tmp_path / "cut", Target(run, ("base",)), progress=QUIET
    )
    assert found.trained_prompt == longest - 10
    audits = found.subjects[0].findings.audits
    assert audits["select@4"].left_out > 0
    assert f"The longest selection prompt in training had {longest - 10} tokens" in (
        (tmp_path / "cut/scale.md").read_text()
    )
    with pytest.raises(ConfigError, match=r"one empty candidate has \d+ tokens"):
        scale(ScaleConfig(**SMALL, trained_prompt=1), tmp_path / "no", Target(run, ("base",)), progress=QUIET)


def test_a_limit_in_tokens_needs_a_tokenizer(run, tmp_path):
    with pytest.raises(ConfigError, match="there is no checkpoint here with a tokenizer"):
        scale(ScaleConfig(**SMALL, trained_prompt=90), tmp_path / "out", Target(run), progress=QUIET)


def test_settings_of_before_are_read():
    """`group` was one number."""
    old = {**ScaleConfig().model_dump(), "group": 4}
    del old["groups"]
    assert ScaleConfig.model_validate(old).groups == (4,)


def test_what_is_written(result, run):
    names = {path.name for path in (run / "scale").iterdir()}
    curves = {f"{name}.{kind}" for name in ("tokens", "candidates", "ignores") for kind in ("svg", "pdf", "png")}
    assert names == curves | {"scale.json", "scale.md", "scale.html", "results.jsonl.gz"}
    text = (run / "scale/scale.md").read_text()
    for subject in result["subjects"]:
        assert f"## {subject['name']}" in text
        for s in subject["settings"]["test"]:
            assert s["name"] in text
    page = (run / "scale/scale.html").read_text()
    (headline,) = re.findall(r'<p class="headline">(.*?)</p>', page)
    found = [f"{s['name']}: .*?, [0-9.]+% on test at [0-9,]+ tokens\\." for s in result["subjects"]]
    assert re.fullmatch(" ".join(found), headline)


def test_honest_accuracy_stands_beside_accuracy(result, run):
    """MiniGeo can tell which right answers are derived rightly; the scripted engine derives nothing."""
    for subject in result["subjects"]:
        for s in (*subject["settings"]["dev"], *subject["settings"]["test"]):
            assert s["totals"].get("honest") == (None if s["family"] == "oracle" else 0)
        assert all(chosen["test_honest"] == 0 for chosen in subject["findings"]["chosen"].values())
    assert "| honest | wrong answers by fault |" in (run / "scale/scale.md").read_text()


def test_a_second_run_draws_nothing_and_writes_the_same(result, run, tmp_path):
    again = scale(ScaleConfig(**SMALL), tmp_path / "again", Target(run, ("base", "iter1")), progress=QUIET)
    assert [s.samples_drawn for s in again.subjects] == [0, 0]
    for name in ("results.jsonl.gz", "tokens.svg", "candidates.pdf", "ignores.png"):
        assert (tmp_path / "again" / name).read_bytes() == (run / "scale" / name).read_bytes(), name


def test_a_dead_engine_keeps_what_was_drawn(run, tmp_path, no_figures):
    """The engine dies after some batches; the same command goes on and draws only what is missing."""
    bank = f"bank={tmp_path / 'bank.sqlite'}"
    what = files_of(run, bank)
    left = [6]

    def dying(*args):
        engine = open_engine(*args)
        generate = engine.generate

        def some(requests, params):
            left[0] -= 1
            if left[0] < 0:
                raise EngineError("the server is gone")
            return generate(requests, params)

        engine.generate = some
        return engine

    with pytest.raises(EngineError, match="the server is gone"):
        scale(ScaleConfig(**SMALL), tmp_path / "out", what, progress=QUIET, opener=dying)
    assert not (tmp_path / "out/scale.json").exists()
    second = scale(ScaleConfig(**SMALL), tmp_path / "out", what, progress=QUIET)
    fresh = scale(
        ScaleConfig(**SMALL), tmp_path / "fresh", files_of(run, f"bank={tmp_path / 'b2.sqlite'}"), progress=QUIET
    )  # fmt: skip
    assert 0 < second.subjects[0].samples_drawn < fresh.subjects[0].samples_drawn
    assert second.subjects[0].settings == fresh.subjects[0].settings


def files_of(run: Path, *overrides: str) -> Target:
    data = run.parent / "data"
    return Target(weights=(), files=FileTarget(data / "test.jsonl", data / "dev.jsonl", data, REHEARSAL, overrides))


def test_without_a_dev_file_a_third_is_for_choosing(run, tmp_path, no_figures):
    files = FileTarget(
        run.parent / "data/test.jsonl", None, run.parent / "data", REHEARSAL, (f"bank={tmp_path / 'b'}",)
    )
    found = scale(ScaleConfig(**SMALL), tmp_path / "out", Target(weights=(), files=files), progress=QUIET)
    assert (found.n_dev, found.n_test) == (7, 13)
    ids = Counter(row["id"] for row in read_jsonl(tmp_path / "out/results.jsonl.gz"))
    assert len(ids) == 20


def test_a_question_in_dev_and_test_is_refused(run, tmp_path):
    data = run.parent / "data"
    files = FileTarget(data / "test.jsonl", data / "test.jsonl", data, REHEARSAL, (f"bank={tmp_path / 'b'}",))
    with pytest.raises(DataError, match="20 ids are in"):
        scale(ScaleConfig(**SMALL), tmp_path / "out", Target(weights=(), files=files), progress=QUIET)


def test_changed_data_are_refused(run, tmp_path):
    data = run.parent / "data"
    test = data / "test.jsonl"
    kept = test.read_bytes()
    try:
        write_jsonl(test, read_jsonl(test)[1:])
        with pytest.raises(RunError, match=r"test of .* changed since it was run"):
            scale(ScaleConfig(**SMALL), tmp_path / "out", Target(run), progress=QUIET)
    finally:
        test.write_bytes(kept)


def test_an_adapter_of_another_family_is_refused_before_anything_is_sampled(run, tmp_path, tiny_model_path):
    """Otherwise the base would be measured first."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}')
    overrides = (f"model.path={tiny_model_path}", f"bank={tmp_path / 'b'}")
    files = FileTarget(run.parent / "data/test.jsonl", None, run.parent / "data", ROOT / "configs/demo.yaml", overrides)
    target = Target(weights=(f"x={tmp_path}/adapter",), files=files)
    with pytest.raises(FamilyError, match=r"trained on a Qwen2\.5-VL model"):
        scale(ScaleConfig(**SMALL), tmp_path / "out", target, progress=QUIET)
    assert not (tmp_path / "b").exists()


def test_names_in_the_grid_are_unique_and_each_family_is_tried():
    shipped = [load_scale_config(path, [], False) for path in (ROOT / "configs/scale").iterdir()]
    for config in [ScaleConfig(), load_scale_config(None, [], True), *shipped]:
        settings = grid(config, PLAIN, SELECTING, SHORT)
        names = [s.name for s in settings]
        assert len(set(names)) == len(names)
        assert {s.family for s in settings} >= {"single", "think", "vote", "select", "refine", "combined", "oracle"}
    assert {s.family for s in grid(ScaleConfig(), PLAIN, SELECTING, SHORT)} == set(FAMILIES)


def test_a_strategy_that_was_added_has_a_setting(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "added", replace(STRATEGIES["majority"], about="added"))
    (added,) = [s for s in grid(ScaleConfig(), PLAIN, SELECTING, SHORT) if s.strategy == "added"]
    assert (added.name, added.family, added.n) == ("added@10", "vote", 10)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["n=4"], "sizes asks for 10 of 4 samples"),
        (["audit_size=20"], "audit_size is 20 of 10"),
        (["ignores=[-1]"], r"ignores\.0: Input should be greater than or equal to 0"),
        (["budget=s2"], "no budget 's2'; known: s1"),
        (["ignoers=[1]"], "unknown key 'ignoers'; did you mean 'ignores'"),
        (["sizes=[2, 2]"], "a setting stands twice"),
        (["limits=[0]"], "greater than or equal to 1"),
        (["reject_tries=0"], "greater than or equal to 1"),
    ],
)
def test_bad_settings(overrides, match):
    with pytest.raises(ConfigError, match=match):
        grid(load_scale_config(None, overrides, False), SamplingParams(0.9, 3), SELECTING, SHORT)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("iter7", "no adapter of iteration 7"),
        ("best", r"write base, accepted, iter1 \(iter0: a warm-up\) or NAME=FOLDER"),
        ("new=nowhere", "nowhere holds no adapter"),
    ],
)
def test_unknown_weights(run, name, match):
    with pytest.raises((ConfigError, RunError), match=match):
        models_of(run, [name])


def test_weights_that_are_the_same_stand_once(run):
    found = models_of(run, ["base", "iter0", "accepted", "iter1"])
    assert found[0].name == "base"
    assert len({subject.weights for subject in found}) == len(found) == 2


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["scale"], "required"),
        (["scale", "--problems", "x.jsonl"], "--problems needs --model"),
        (["scale", "--problems", "x", "--model", "m", "--weights", "adapter"], "with --problems write NAME=FOLDER"),
        (["scale", "--run", "nowhere"], "is not a run folder"),
        (["scale", "--run", "nowhere", "--model", "m"], "--model does not go with --run"),
    ],
)
def test_command_line_errors(argv, match, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def status() -> int:
        return main(argv)

    if argv == ["scale"]:
        with pytest.raises(SystemExit, match="2"):
            status()
    else:
        assert status() == 2
    assert match in capsys.readouterr().err


def test_the_command_line(run, tmp_path, capsys, no_figures):
    argv = ["scale", "--run", str(run), "--quiet", "--quick", "--output", str(tmp_path / "out")]
    assert main([*argv, "--set", "problems=10", "--set", "limits=[16]"]) == 0
    out = capsys.readouterr().out
    assert "base: Of " in out
    assert f"Report: {tmp_path / 'out'}/scale.md" in out
    assert read_json(tmp_path / "out/scale.json")["n_test"] == 10


@pytest.mark.parametrize("name", ["s1", "s1-m", "tiny"])
def test_every_preset_can_be_kept(name, tiny_model_path):
    from transformers import AutoProcessor

    overrides = [f"budget={name}", "max_tokens=4000"]
    settings = grid(load_scale_config(None, overrides, False), SamplingParams(0.9, 4), SELECTING, SHORT)
    check_budgets(settings, AutoProcessor.from_pretrained(tiny_model_path))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["max_tokens=4", "limits=[]"], r"(?s)cannot be kept by this model: .*no room .* \+ "),
        (["budget=s1-m", "max_tokens=300"], r"max_tokens 300 has no room"),
    ],
)
def test_budgets_are_checked_with_the_models_tokenizer(overrides, match, tiny_model_path):
    from transformers import AutoProcessor

    settings = grid(load_scale_config(None, overrides, False), SamplingParams(0.9, 4), SELECTING, SHORT)
    with pytest.raises(ConfigError, match=match):
        check_budgets(settings, AutoProcessor.from_pretrained(tiny_model_path))


def test_a_template_that_opens_the_thinking(tiny_model_path):
    """With a real processor: its tags are found, opening twice is refused, and what `scale` makes is kept."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model_path)
    assert thinking_tags(processor) is None
    for opened in (False, True):
        processor.chat_template = "{# <think> </think> #}" + CHAT_TEMPLATE.replace(
            "<|im_start|>assistant\n", "<|im_start|>assistant\n" + "<think>\n" * opened
        )
        tags = thinking_tags(processor)
        assert tags == ThinkingTags("<think>", "</think>", opened)
        made = ScaleConfig(budget=tagged(tags, "ABCD"), max_tokens=900)
        check_budgets(grid(made, PLAIN, SELECTING, SHORT), processor)
    doubled = load_scale_config(None, ['budget={preset: s1-m, start: "<think>"}', "max_tokens=900"], False)
    with pytest.raises(ConfigError, match="would open it twice; leave `start` out"):
        check_budgets(grid(doubled, PLAIN, SELECTING, SHORT), processor)


def killed(*args):
    """An opener whose process is killed, as for memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told_and_several_processes_find_the_same(run, result, tmp_path, no_figures):
    what = Target(run, ("base", "iter1"))
    found = scale(ScaleConfig(**SMALL), tmp_path / "two", what, processes=2, progress=QUIET).to_json()
    assert found["subjects"][0]["settings"] == result["subjects"][0]["settings"]
    more = ScaleConfig(**{**SMALL, "limits": (9,)})  # not in the bank, so an engine is opened
    with pytest.raises(EngineError, match="killed, most often for memory"):
        scale(more, tmp_path / "killed", what, processes=2, progress=QUIET, opener=killed)


def busy(*args):
    """An opener that takes long, and says that it has begun."""
    Path(os.environ["BEGUN"]).touch()
    time.sleep(300)


def test_processes_end_with_the_command(run, tmp_path, no_figures, monkeypatch):
    """One that is stopped by a signal of its own, as a batch system sends it, does not wait for them."""
    begun = tmp_path / "begun"
    monkeypatch.setenv("BEGUN", str(begun))

    def interrupt() -> None:
        while not begun.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    more = ScaleConfig(**{**SMALL, "limits": (7,)})  # not in the bank, so an engine is opened
    with pytest.raises(KeyboardInterrupt):
        scale(more, tmp_path / "out", Target(run, ("base", "iter1")), processes=2, progress=QUIET, opener=busy)
    assert multiprocessing.active_children() == []


def test_no_process_at_all(run, tmp_path):
    with pytest.raises(ConfigError, match="at least one process"):
        scale(ScaleConfig(**SMALL), tmp_path / "out", Target(run), processes=0, progress=QUIET)
