"""Settings: what is refused and in which words, how the layers stack, and what a run folder is bound to."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from selftrain.config import Config, ConfigError, build_config, differences, load_config, parse_override, read_yaml
from selftrain.engine_settings.budget import S1_M, Budget, BudgetSettings

ROOT = Path(__file__).parents[2]

REFUSED = {
    "near name": (["sampling.temprature=1"], "unknown key 'sampling.temprature'; did you mean 'sampling.temperature'"),
    "near hyper-parameter": (["lerning_rate=1"], "did you mean 'training.overrides.learning_rate'"),
    "near hyper-parameter in its section": (["training.lr=1"], "did you mean 'training.overrides.learning_rate'"),
    "near short name": (["epoch=1"], "did you mean 'training.overrides.num_train_epochs'"),
    "near section": (["sampeling.n=1"], "did you mean 'sampling'"),
    "near nested": (["build.parts.refin=1"], "did you mean 'build.parts.refine'"),
    "nothing near": (["data.zzz=1"], "unknown key 'data.zzz'; known: source, folder"),
    "empty part": (["sampling..n=4"], "unknown key 'sampling.'"),
    "no iterations": (["iters=0"], "iters: .*greater than or equal to 1"),
    "negative": (["iters=-1"], "iters: "),
    "text": (["iters=abc"], r"iters: .*valid integer.*'abc'"),
    "text that looks whole": (['iters="3"'], "iters: "),
    "half a sample": (["sampling.n=1.5"], "sampling.n: "),
    "whole float": (["sampling.n=2.0"], "sampling.n: "),
    "yes": (["sampling.n=true"], "sampling.n: "),
    "cold": (["sampling.temperature=0"], "sampling.temperature: .*greater than 0"),
    "NaN": (["engine.kind=scripted", "engine.gain=.nan"], "engine.gain: .*finite"),
    "infinite": (["sampling.temperature=.inf"], "sampling.temperature: .*finite"),
    "top_p": (["sampling.top_p=1.2"], "sampling.top_p: "),
    "section is a number": (["sampling=3"], "sampling: .*dictionary"),
    "section is empty": (["sampling="], "sampling: .*dictionary"),
    "through a value": (["iters.n=3"], "iters: "),
    "pixels": (["model.min_pixels=9999999"], r"min_pixels 9999999 is above max_pixels"),
    "no such engine": (["engine.kind=tgi"], "engine.kind: .*'hf'"),
    "share": (["data.max_dropped_share=2"], "data.max_dropped_share: "),
    "a pool": (["build.pool=[newest, window@2]"], "build.pool: one pool policy chooses the iterations"),
    "a number as a pool": (["build.pool=3"], "build.pool: "),
    "shares of everything": (["sampling.disjoint=true"], "sampling: disjoint needs problems"),
    "rolled back without an interval": (["acceptance.rollback=true"], "acceptance: rollback .* set rule: interval"),
    "continuous DPO": (["training.restart=continuous", "training.method=dpo"], "continuous is for training.method sft"),
    "rows' policies for pairs": (
        ["build.pool=[newest, cap@2]", "training.method=dpo"],
        "build.pool cap@2 chooses right solutions for rows, but training.method dpo builds pairs",
    ),
    "a restart": (["training.restart=best"], "training.restart: .*'continuous'"),
    "two at once": (["iters=0", "nmae=x"], "iters: .*; unknown key 'nmae'; did you mean 'name'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    overrides, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


BUDGETS = {
    "no such preset": ("s2", r"no budget 's2'; known: s1, s1-m, tiny"),
    "no such field": (
        "{preset: s1-m, strat: a}",
        r"unknown key '\w+\.budget\.strat'; did you mean '\w+\.budget\.start'",
    ),
    "a number for a text": ("{preset: s1-m, start: 3}", r"budget\.start: .*valid string \(got 3\)"),
    "a text for a list": ("{preset: tiny, ignore: Wait}", r"budget\.ignore: .*valid tuple \(got 'Wait'\)"),
    "a number in a list": ("{preset: tiny, answers: [1]}", r"budget\.answers\.0: .*valid string"),
    "half a token": ("{preset: tiny, loop_span: 1.5}", r"budget\.loop_span: .*valid integer"),
    "no such cue": ("{preset: tiny, cue: never}", r"budget\.cue: .*'always'"),
    "no end": ('{start: "<think>"}', "names a preset .* or says what ends the thinking"),
    "an empty end": ('{end: ""}', "needs `end`"),
    "no room for an answer": ("{preset: tiny, answer_tokens: 0}", "must keep room for the answer"),
    "ignore strings twice": ("{preset: tiny, num_ignore: 1}", "num_ignore comes from .*; leave it out of the budget"),
    "a list": ("[1]", "the name of a preset, or a mapping"),
    "nothing": ("null", "the name of a preset, or a mapping"),
}


@pytest.mark.parametrize("section", ["evaluation", "rethink"])
@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_that_are_refused(name, section):
    value, message = BUDGETS[name]
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"{section}.budget={value}"])


def test_budgets_as_data():
    settings = ["evaluation.budget={preset: s1-m, start: <think>, ignore: [Hm], max_tokens: null, loop_repeats: 4}"]
    config = load_config(None, settings)
    budget = config.evaluation.budget.budget(num_ignore=2)
    assert budget == replace(S1_M, start="<think>", ignore=("Hm",), max_tokens=None, loop_repeats=4, num_ignore=2)
    given = {"preset": "s1-m", "start": "<think>", "ignore": ["Hm"], "max_tokens": None, "loop_repeats": 4}
    assert config.identity()["evaluation"]["budget"] == given
    assert build_config(config.model_dump(mode="json"), "saved") == config
    assert load_config(None, ["rethink.budget={end: so}"]).rethink.budget.budget() == Budget(end="so")
    assert set(BudgetSettings.model_fields) == {"preset"} | {field.name for field in fields(Budget)}


@pytest.mark.parametrize("value", ["tiny", "{preset: tiny}"])
def test_a_preset_alone_is_its_name(value):
    config = load_config(None, [f"evaluation.budget={value}", f"rethink.budget={value}", "build.parts.reflect=1"])
    assert config.model_dump(mode="json")["evaluation"]["budget"] == "tiny"
    assert config.identity()["rethink"]["budget"] == "tiny"
    assert config.digest() == load_config(None, ["build.parts.reflect=1"]).digest()


OVERRIDES = {
    "a.b=3": (["a", "b"], 3),
    "a=1.5": (["a"], 1.5),
    "a=null": (["a"], None),
    "a=": (["a"], None),
    "a=x=y": (["a"], "x=y"),
    " a.b = [1, 2]": (["a", "b"], [1, 2]),
    "a={b: 1}": (["a"], {"b": 1}),
    "path=/a b/c": (["path"], "/a b/c"),
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_override(text):
    assert parse_override(text) == OVERRIDES[text]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a", "write it as key=value"), ("=3", "write it as"), ("", "write it as"), ("a=[1", "not YAML")],
)
def test_override_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_override(text)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_layers(tmp_path):
    """Defaults, the parent, the file, --set, flags: each wins over those before, key by key."""
    path = write(
        tmp_path,
        child="extends: parent.yaml\nsampling: {n: 5}\ndata: {train_limit: 7}\n",
        parent="iters: 7\nseed: 4\nsampling: {n: 4, max_tokens: 11}\nname: parent\n",
    )
    config = load_config(path, ["seed=9", "iters=8", "data.train_limit=null"], {"iters": 2, "output": None})
    assert (config.name, config.seed, config.iters) == ("parent", 9, 2)
    assert (config.sampling.n, config.sampling.max_tokens, config.sampling.top_k) == (5, 11, 50)
    assert config.data.train_limit is None
    assert config.output == Config().output


def test_several_parents_and_layers_over_the_file(tmp_path):
    """Later ones win: of the parents the last, then the file, the layers in their order, --set."""
    path = write(
        tmp_path,
        child="extends: [one.yaml, two.yaml]\nsampling: {n: 5}\n",
        one="iters: 7\nseed: 1\nsampling: {n: 1, max_tokens: 11}\nengine: {batch_size: 3}\n",
        two="seed: 2\nsampling: {n: 2}\n",
        first="seed: 3\nengine: {kind: ray, actors: 2}\n",
        second="seed: 4\ngpu: {memory_gib: 24}\n",
    )
    config = load_config(path)
    assert (config.iters, config.seed, config.sampling.n, config.sampling.max_tokens) == (7, 2, 5, 11)
    layers = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    config = load_config(path, layers=layers)
    assert (config.seed, config.sampling.n, config.gpu and config.gpu.memory_gib) == (4, 5, 24)
    assert config.engine.rows_at_once == 3, "the engine below is the one that Ray's actors run"
    assert load_config(path, ["seed=5"], layers=layers).seed == 5
    with pytest.raises(ConfigError, match=r"child\.yaml \+ .*bad\.yaml: unknown key 'iter'"):
        load_config(path, layers=[write(tmp_path, bad="iter: 3")])


def test_training_overrides_are_one_value_unless_a_key_is_named(tmp_path):
    path = write(
        tmp_path,
        child="extends: parent.yaml\ntraining: {overrides: {b: 2}}\n",
        parent="training: {overrides: {a: 1}, per_device_batch: 2}\n",
    )
    assert load_config(path).training.overrides == {"b": 2}
    assert load_config(path).training.per_device_batch == 2
    # Naming one key must not silently lose those of the file.
    assert load_config(path, ["training.overrides.c=3"]).training.overrides == {"b": 2, "c": 3}
    assert load_config(path, ["training.overrides={c: 3}"]).training.overrides == {"c": 3}


BAD_FILES = {
    "self": ({"a": "extends: a.yaml"}, "extends itself"),
    "circle": ({"a": "extends: b.yaml", "b": "extends: c.yaml", "c": "extends: a.yaml"}, r"extends itself.*b\.yaml"),
    "no parent": ({"a": "extends: gone.yaml"}, r"no configuration file .*gone\.yaml"),
    "parent is a number": ({"a": "extends: 3"}, "extends must be the path"),
    "parents that are numbers": ({"a": "extends: [b.yaml, 3]"}, "extends must be the path"),
    "list": ({"a": "- iters: 3"}, "holds a list"),
    "text": ({"a": "iters"}, "holds a str"),
    "false": ({"a": "false"}, "holds a bool"),
    "torn": ({"a": "sampling: {n: 3"}, "cannot be read as YAML"),
    "twice": ({"a": "sampling: {n: 3}\nseed: 1\nsampling: {top_k: 3}\n"}, "'sampling' stands twice"),
    "unknown": ({"a": "iter: 3"}, r"a\.yaml: unknown key 'iter'; did you mean 'iters'"),
    "number as a key": ({"a": "3: 4"}, "key 3: keys are words"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path, name):
    files, message = BAD_FILES[name]
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, **files))


def test_not_utf8(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "extends:\n"])
def test_empty_file_is_the_defaults(tmp_path, text):
    assert load_config(write(tmp_path, a=text)) == Config()


def test_extends_is_relative_to_the_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "parent.yaml").write_text("seed: 5")
    (tmp_path / "deep" / "child.yaml").write_text("extends: ../parent.yaml")
    assert read_yaml(tmp_path / "deep" / "child.yaml") == {"seed": 5}


SHIPPED = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config(name):
    config = load_config(ROOT / "configs" / name)
    assert (ROOT / config.training.hyperparameters).is_file()
    assert config == build_config(config.model_dump(mode="json"), "its own dump")


def test_shipped_configs_do_not_share_a_run_folder():
    outputs = [load_config(ROOT / "configs" / name).output for name in SHIPPED]
    assert len(set(outputs)) == len(outputs)


FREE = {
    "hf": [
        *("output=elsewhere", "bank=b.sqlite", "iters=9", "name=x", "engine.threads=3"),
        *("training.threads=2", "training.save_steps=5", "training.launcher=[srun]", "training.master=a:1"),
    ],
    "vllm": [
        *("engine.parity=0", "engine.keep_open=false", "engine.interpreter=vllm/bin/python"),
        *("engine.memory_share=0.5", "engine.tensor_parallel=2"),
    ],
    "ray": [
        *("engine.actors=2", "engine.cpus=2", "engine.gpus=1", "engine.address=auto"),
        *("engine.engine.threads=2", "engine={engine: {kind: hf}}"),
    ],
    "server": ["engine.url=http://other/v1", "engine.retries=0", "engine.timeout_s=1", "engine.api_key_env=KEY"],
}
BOUND = {
    "hf": [
        *("seed=1", "prompts=short", "data.seed=3", "data.train_limit=5", "data.folder=x", "model.max_pixels=60000"),
        *("engine.kind=scripted", "engine.dtype=bfloat16", "engine.batch_size=3", "training.processes=2"),
        *("sampling.n=4", "sampling.top_k=0", "build.parts.qa=0", "build.max_rows=3", "training.overrides={a: 1}"),
        *("build.pool=newest", "build.pool=[all, cap@2]", "sampling.allocation=head_tail"),
        *("training.restart=previous", "evaluation.n=4", "evaluation.select_max_tokens=9", "evaluation.test=none"),
    ],
    "vllm": ["engine.options={a: 1}", "engine.max_model_len=9", "engine.logprobs=false"],
    "ray": ["engine.engine.dtype=bfloat16", "engine.engine={kind: vllm}"],
    "server": ["engine.model_name=m", "engine.dialect=vllm", "engine.logprobs=false"],
    "scripted": ["engine.accuracy=0.6", "engine.gain=0", "engine.abstain=0"],
}


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(kind, override) for kind, overrides in table.items() for override in overrides]


@pytest.mark.parametrize(("kind", "override"), cases(FREE))
def test_settings_that_change_no_result(kind, override):
    before = load_config(None, [f"engine.kind={kind}"])
    changed = load_config(None, [f"engine.kind={kind}", override])
    assert changed != before or override == "engine={engine: {kind: hf}}"
    assert changed.identity() == before.identity()
    assert changed.digest() == before.digest()


OLD_KEYS = {  # under which a run folder holds what has another name today
    **{f"engine.{name}": f"engine.script_{name}" for name in ("accuracy", "gain", "abstain")},
    **{"engine.options": "engine.vllm_options", "engine.engine": "engine.ray_engine"},
    "engine.engine.dtype": "engine.dtype",
}


@pytest.mark.parametrize(("kind", "override"), cases(BOUND))
def test_settings_that_bind_a_run(kind, override):
    before = load_config(None, [f"engine.kind={kind}"])
    changed = (
        load_config(None, [f"engine.kind={kind}", override])
        if "kind=" not in override
        else load_config(None, [override])
    )
    assert changed.digest() != before.digest()
    key = override.split("=")[0]
    lines = differences(before.identity(), changed.identity())
    assert len(lines) == 1
    assert lines[0].startswith(OLD_KEYS.get(key, key))


DIFFERENCES = [
    ({}, {}, []),
    ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, []),
    ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 1 -> 2"]),
    ({"a": 1}, {"b": 1}, ["a: 1 -> None", "b: None -> 1"]),
    ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] -> [2, 1]"]),
    ({"a": None}, {}, []),  # a new setting whose default is "not set" does not lock old run folders
    ({"a": {"b": 1}}, {"a": 3}, ["a: {'b': 1} -> 3"]),
]


@pytest.mark.parametrize(("old", "new", "lines"), DIFFERENCES)
def test_differences(old, new, lines):
    assert differences(old, new) == lines


def test_frozen_and_saved_config_of_another_version():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3
    with pytest.raises(ConfigError, match=r"^config\.json: unknown key 'colour'"):
        build_config({"colour": 1}, "config.json")
    with pytest.raises(ConfigError, match=r"^config\.json: configuration: "):
        build_config([], "config.json")
