"""Reward heads: what an engine makes of one, their rows and calibration, and LLaMA-Factory's own training of one."""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from PIL import Image

from data_process import prompts as wording
from data_process.images.store import ImageStore
from data_process.io import read_jsonl
from data_process.prompts import prompt_set
from data_process.schema import DataError, Example
from data_process.sources import minigeo
from selftrain.cli.main import main
from selftrain.config import Config, ConfigError, load_config
from selftrain.engine_settings import EngineSettings, HFSettings, RaySettings, VLLMSettings
from selftrain.engine_settings.budget import Budget
from selftrain.engines.base import Completion, EngineError, Request, SamplingParams
from selftrain.engines.decoding import lora_merge, reward_head
from selftrain.engines.decoding.inputs import prepare
from selftrain.engines.scripted import ScriptedEngine
from selftrain.families import FAMILIES
from selftrain.files import read_json
from selftrain.progress import Progress
from selftrain.reward import rows
from selftrain.reward.calibrate import LIMIT, READING_SCALE, calibrate, log_odds
from selftrain.reward.labels import StepLabel
from selftrain.reward.model import FILE, RewardModel, load_reward, manifest_of
from selftrain.reward.rater import JUDGEMENT, Rater, probability
from selftrain.reward.train import for_reward, labels_of, make_reward
from selftrain.runs.run_dir import RunDir
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_reuse import keeping
from selftrain.sampling.sampler import Ask, Picture
from selftrain.sampling.weights import weights_digest
from selftrain.scaling.targets import models_of
from selftrain.training.adapter import AdapterError, check_head, read_tensors
from selftrain.training.hyperparameters import HyperparameterError, TrainingError, TrainingSettings, resolve
from selftrain.training.llamafactory import train
from tests.selftrain import nano_models
from tests.selftrain.engines.adapters import random_adapter

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs/llamafactory"
QUIET = Progress(quiet=True)


class PluginSettings(EngineSettings):
    """A kind that says nothing of reward heads."""

    opener: ClassVar[str] = "nowhere:opener"
    kind: Literal["plugin"] = "plugin"


# ---- the engine and LLaMA-Factory -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def store(family, tmp_path_factory) -> ImageStore:
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate([(112, 112), (140, 112), (100, 90), (300, 80)]):
        Image.frombytes("L", size, random.Random(i).randbytes(size[0] * size[1])).save(folder / f"{i}.png")
    low, high = nano_models.limits_of(family)
    return ImageStore(folder / "store", folder, min_pixels=low, max_pixels=high, patch=family.token_side)


def pairs(n: int) -> list[Example]:
    words = nano_models.WORDS.split()

    def text(seed: object) -> str:
        return " ".join(random.Random(str(seed)).choices(words, k=5 + n % 7))

    return [
        Example(f"e{i}", "cot", f"p{i}", text(i), f"{text((i, 0))} right.\n", (f"{i % 4}.png",) if i % 5 else (),
                rejected=f"{text((i, 1))} wrong.")
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def base(family, tmp_path_factory) -> Path:
    return nano_models.write(family.model_type, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def trained(base, store, tmp_path_factory) -> Path:
    """A reward head of two steps through the real LLaMA-Factory."""
    overrides = {"global_batch_size": 8, "lora_rank": 4, "lora_alpha": 8, "max_steps": 2, "warmup_steps": 0}
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", overrides=overrides, per_device_batch=4)
    limits = (store.limits[0], store.limits[1])
    out = tmp_path_factory.mktemp("trained") / "out"
    result = train(
        pairs(16), settings=settings, base_model=base, image_path=store.path, image_limits=limits, out=out, head=True
    )
    assert (result.steps, result.rows, result.rewards) == (2, 16, None)
    assert result.resolved["stage"] == "rm"
    return result.weights


@pytest.mark.slow
def test_the_engine_reads_what_was_trained(family, base, store, trained):
    """The value is TRL's own, with LLaMA-Factory's adapter, at the last token of the row that it makes of a text."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import AutoModelForCausalLMWithValueHead

    from selftrain.engines.hf import HFEngine

    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    # TRL looks for the width where LLaMA-Factory puts it.
    model.config.hidden_size = model.config.get_text_config().hidden_size
    model = AutoModelForCausalLMWithValueHead.from_pretrained(PeftModel.from_pretrained(model, str(trained)))
    model.v_head.load_state_dict(
        {name.removeprefix("v_head."): value for name, value in load_file(trained / reward_head.FILE).items()}
    )
    model.eval()
    processor = AutoProcessor.from_pretrained(base)
    requests, wanted = [], []
    for row in pairs(12):
        images = [store.path(image) for image in row.images]
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": row.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        for answer in (row.target, row.rejected):
            turn = f"{text}{answer}<|im_end|>\n"
            shown = [Image.open(path).convert("RGB") for path in images] or None
            inputs = processor(text=[turn], images=shown, return_tensors="pt")
            with torch.inference_mode():
                wanted.append(float(model(**inputs)[2][0, -1]))
            requests.append(Request(f"{row.id} {answer}", row.prompt, tuple(images), (0,), answer))
    with HFEngine(base, trained, HFSettings(device="cpu", batch_size=7)) as engine:
        found = [probability(completion) for [completion] in engine.generate(requests, JUDGEMENT)]
    assert found == pytest.approx([1 / (1 + math.exp(-value)) for value in wanted], abs=2e-5)
    assert max(found) - min(found) > 0.01


@pytest.fixture
def headed(tiny_model_path, tmp_path) -> Path:
    """An adapter of the tiny model that does nothing, with a head whose value is a constant 2."""
    folder = random_adapter(tiny_model_path, tmp_path / "headed", size=0)
    save_head(folder, np.zeros((1, hidden_of(tiny_model_path))), [2.0])
    return folder


def hidden_of(model: Path) -> int:
    config = read_json(model / "config.json")
    return config.get("text_config", config)["hidden_size"]


def save_head(folder: Path, weight: object, bias: object, name: str = reward_head.WEIGHT) -> None:
    from safetensors.numpy import save_file

    parts = {name: weight, reward_head.BIAS: bias}
    save_file({name: np.asarray(part, dtype="f4") for name, part in parts.items()}, folder / reward_head.FILE)


@pytest.mark.slow
def test_what_a_head_says_and_refuses(tiny_model_path, headed):
    from selftrain.engines.hf import HFEngine

    with HFEngine(tiny_model_path, headed, HFSettings(device="cpu")) as engine:
        [[said]] = engine.generate([Request("a", "Is it?", (), (0,), "So it is.")], JUDGEMENT)
        assert (said.text, len(said.token_ids)) == ("+", 1)
        assert probability(said) == pytest.approx(1 / (1 + math.exp(-2)))
        whole = said.n_prompt_tokens
        assert whole > engine.count_prompt_tokens("Is it?", ())
        for params in (
            SamplingParams(0, 2),
            SamplingParams(0.7, 1),
            SamplingParams(0, 1, repetition_penalty=1.1),
            SamplingParams(0, 1, budget=Budget("So")),
        ):
            with pytest.raises(
                EngineError, match=r"is a reward head: .* under reward\.model the folder that has reward\.json"
            ):
                engine.generate([Request("a", "Is it?", (), (0,))], params)
        with pytest.raises(EngineError, match="its text holds the mark"):
            engine.generate([Request("a", "Is it?", (), (0,), "<|image_pad|>")], JUDGEMENT)
    save_head(headed, np.zeros((1, hidden_of(tiny_model_path))), [-3.0])
    with HFEngine(tiny_model_path, headed, HFSettings(device="cpu")) as engine:
        [[said]] = engine.generate([Request("a", "Is it?", (), (0,), "So it is.")], JUDGEMENT)
        assert said.text == "-"
        assert probability(said) == pytest.approx(1 / (1 + math.exp(3)))
    for damage, message in (
        (lambda file: file.write_bytes(file.read_bytes()[:50]), "holds no reward head .*train it again"),
        (lambda file: save_head(headed, np.zeros((1, 3)), [0.0]), "is for a model of width 3"),
    ):
        damage(headed / reward_head.FILE)
        with pytest.raises(EngineError, match=message):
            HFEngine(tiny_model_path, headed, HFSettings(device="cpu"))


def test_a_head_is_part_of_the_weights(tiny_model_path, headed, tmp_path):
    """Another head is another digest, and what cannot use a head does not take its adapter for a model."""
    with Bank(tmp_path / "bank.sqlite") as bank:
        first = weights_digest(bank, tiny_model_path, headed)
        save_head(headed, np.zeros((1, hidden_of(tiny_model_path))), [1.0])
        assert weights_digest(bank, tiny_model_path, headed) != first
        (headed / reward_head.FILE).unlink()
        without = weights_digest(bank, tiny_model_path, headed)
        assert without != first
    names, _ = lora_merge.reader(tiny_model_path, headed)
    assert names
    save_head(headed, np.zeros((1, 4)), [1.0])
    with pytest.raises(EngineError, match="is a reward head, which cannot be part of the weights"):
        lora_merge.reader(tiny_model_path, headed)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "left no reward head"),
        (([[1.0, math.nan]], [0.0]), "holds NaN or infinity"),
        (([[1.0, 2.0]], [math.inf]), "holds NaN or infinity"),
        (([[1.0, 2.0]], [0.0], "v_head.weight"), r"holds v_head\.summary\.bias, v_head\.weight, not"),
    ],
)
def test_what_training_may_leave(tmp_path, head, message):
    if head is not None:
        save_head(tmp_path, *head)
    with pytest.raises(AdapterError, match=message):
        check_head(tmp_path)


def test_a_turn_is_tokenized_as_in_training(tiny_model_path):
    """Apart from its prompt: a line break at its beginning does not melt into the one before it."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model_path)
    tokenizer = processor.tokenizer
    for text in ("", "\n\nSo it is.", " So", "It is.\n"):
        [bare] = prepare(processor, [Request("a", "Is it?", (), (0,))])
        [whole] = prepare(processor, [Request("a", "Is it?", (), (0,), text)], "<|im_end|>\n")
        assert list(whole.ids) == [*bare.ids, *tokenizer(text + "<|im_end|>\n")["input_ids"]]


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems():
    return [problem for problem, _ in minigeo.generate("base", 40)]


def settings(*more: str) -> Config:
    return load_config(ROOT / "configs/rehearsal.yaml", ["reward.form=head", *more])


def test_what_is_asked(problems):
    """A head reads the prompt of a chain of thought and the turn so far, in which marks are broken up."""
    prompts = prompt_set("r3v-qwen2vl-untrained")  # whose base model is asked in another wording
    ask = rows.ask_about("a", problems[0], "<|image_pad|> Step.", prompts, head=True)
    assert ask == Ask("a", wording.cot(problems[0], prompts), problems[0].images, "< |image_pad| > Step.")
    ask = rows.ask_about("a", problems[0], "<|image_pad|> Step.", prompts, head=False)
    assert "< |image_pad| > Step." in ask.prompt
    assert ask.prefix == ""


def labels_for(problems, draw: random.Random) -> list[StepLabel]:
    found = []
    for problem in problems:
        kind = draw.choice(["mixed", "mixed", "mixed", "good", "bad"])
        for k in range(draw.randrange(1, 8)):
            right = {"mixed": draw.randrange(5), "good": 4, "bad": 0}[kind]
            found.append(StepLabel(problem.id, k // 3, k % 3, f"Step {k} of {problem.id}.", right, 4))
    return found


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("seed", range(20))
def test_pairs(problems, kind, seed):
    """Of one problem, a good step first; every step of a problem that has both kinds once or more; the rest counted."""
    config = settings(f"reward.labels={kind}", f"seed={seed}")
    labels = labels_for(problems, random.Random(seed))
    apart = rows.held_out(labels, config)
    assert len(apart) == len({one.problem_id for one in labels}) // rows.HELD_OUT
    made, left_out = rows.pairs(labels, problems, config, apart)
    assert (made, left_out) == rows.pairs(labels, problems, config, apart)
    good = {(one.problem_id, one.steps): rows.is_good(one, config) for one in labels}
    seen = Counter()
    for row in made:
        assert good[row.problem_id, row.target]
        assert not good[row.problem_id, row.rejected]
        assert row.images
        assert row.problem_id not in apart
        seen.update([(row.problem_id, row.target), (row.problem_id, row.rejected)])
    assert len(seen) + left_out.total() == len(labels)
    assert len({row.id for row in made}) == len(made)
    for name in {row.problem_id for row in made}:
        steps = [is_good for (problem, _), is_good in good.items() if problem == name]
        assert sum(row.problem_id == name for row in made) == max(sum(steps), len(steps) - sum(steps))


def test_no_pairs(problems):
    labels = [StepLabel(problem.id, 0, 0, "A step.", 4, 4) for problem in problems]
    with pytest.raises(DataError, match=r"'only good ones': 38.*nothing to compare; raise reward\.problems") as error:
        rows.pairs(labels, problems, settings(), {labels[0].problem_id, labels[1].problem_id})
    assert "'held out': 2" in str(error.value)
    with pytest.raises(DataError, match=r"one labelled problem in 5, and there are 4; raise reward\.problems"):
        rows.held_out(labels[:4], settings())
    with pytest.raises(DataError, match=r"the 1 steps of the 1 problems .* are all good; raise .* another --output"):
        rows.held_out(labels[:5], settings())
    bad = [replace(one, right=0) for one in labels]
    with pytest.raises(DataError, match=r"the 8 steps of the 8 problems that are held out for it are all bad"):
        rows.held_out(bad, settings())


# ---- calibration ----------------------------------------------------------------------------------------------------


class Judge:
    """A sampler that says what a head of these raw values would, as `calibrate` reads them."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def draw(self, asks, params, n):
        assert (params, n) == (JUDGEMENT, 1)
        found = {}
        for ask in asks:
            value = self.values[ask.prefix] * READING_SCALE
            logprob = float(np.float32(-np.logaddexp(0, -abs(value))))
            found[ask.id] = [Completion("+" if value >= 0 else "-", (1,), 1, "stop", logprob)]
        return found


@pytest.fixture
def steps(problems):
    """400 steps, good with the chance sigmoid(v / 8 - 9) where v is their raw value: a head that has drifted far."""
    draw = random.Random(0)
    values = [draw.gauss(72, 16) for _ in range(400)]
    right = [draw.random() < 1 / (1 + math.exp(9 - value / 8)) for value in values]
    labels = [StepLabel(problems[0].id, k, 0, f"Step {k}", 4 * r, 4) for k, r in enumerate(right)]
    return labels, dict(zip((one.steps for one in labels), values, strict=True))


def test_calibration_finds_the_zero_and_the_unit(problems, steps, headed, tmp_path):
    labels, values = steps
    opened = []

    def judging(weights):
        opened.append(weights)
        assert read_tensors(weights / reward_head.FILE)[reward_head.BIAS] == pytest.approx(2 * READING_SCALE)
        assert (weights / "adapter_model.safetensors").is_file()
        return contextlib.nullcontext(Judge(values))

    found = calibrate(headed, labels, problems, settings(), judging, tmp_path / "out")
    assert found["steps"] == 400
    assert found["good"] == sum(one.right > 0 for one in labels)
    assert found["scale"] == pytest.approx(1 / 8, rel=0.25)
    assert found["offset"] == pytest.approx(-9, rel=0.25)
    chances = [1 / (1 + math.exp(-found["scale"] * values[one.steps] - found["offset"])) for one in labels]
    assert sum(chances) / 400 == pytest.approx(found["good"] / 400, abs=0.01)
    head = read_tensors(tmp_path / "out" / reward_head.FILE)
    assert head[reward_head.BIAS] == pytest.approx(2 * found["scale"] + found["offset"], rel=1e-5)
    assert not opened[0].exists()
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (headed, tmp_path / "out")]
    assert weights[0] == weights[1]


def test_a_head_that_is_no_use(problems, steps, headed, tmp_path):
    labels, values = steps
    values = {text: -value for text, value in values.items()}
    with pytest.raises(TrainingError, match=r"higher values go with bad steps \(Platt's scale -0\.1\d+, AUC 0\.1"):
        calibrate(headed, labels, problems, settings(), lambda _: contextlib.nullcontext(Judge(values)), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_log_odds_have_limits():
    assert log_odds(0.5) == 0
    assert log_odds(0.2) == pytest.approx(-log_odds(0.8))
    assert (log_odds(0.0), log_odds(1.0), log_odds(1e-30)) == (-LIMIT, LIMIT, -LIMIT)


# ---- the whole of it ------------------------------------------------------------------------------------------------


def test_the_settings_of_a_head(tmp_path):
    config = settings(f"reward.model={tmp_path}", "training.save_steps=5", "training.method=dpo", "engine={kind: hf}")
    assert for_reward(config, None).training.save_steps is None
    assert for_reward(config, None).training.method == "sft"
    assert for_reward(
        load_config(ROOT / "configs/rehearsal.yaml", ["training.save_steps=5"]), tmp_path
    ).training.save_steps
    engine = PluginSettings()
    with pytest.raises(ConfigError, match=r"engine\.kind plugin cannot judge .* set engine\.kind to hf, vllm or ray"):
        for_reward(settings().model_copy(update={"engine": engine}), tmp_path)
    with pytest.raises(ConfigError, match=r"engine\.kind ray cannot judge"):
        for_reward(settings().model_copy(update={"engine": RaySettings.model_construct(engine=engine)}), tmp_path)
    for kind in ("hf", "ray", "scripted", "vllm"):
        assert for_reward(settings(f"engine={{kind: {kind}}}"), tmp_path)
    with pytest.raises(ConfigError, match=r"trains adapters alone; make it apart, .* reward\.make to false"):
        for_reward(settings("training.finetuning_type=full"), tmp_path)
    with pytest.raises(HyperparameterError, match=r"training\.save_steps cannot be used for a reward head"):
        resolve({"global_batch_size": 8}, TrainingSettings(save_steps=3), tmp_path, tmp_path, 9, (1, 2), stage="rm")


def test_hyperparameters_are_checked_before_anything_is_sampled(tmp_path):
    config = settings(
        "engine={kind: hf}", "reward.overrides={packing: true}", f"model.path={ROOT / 'models/tiny-qwen2vl'}"
    )
    with pytest.raises(HyperparameterError, match=r"A reward head's training does not read packing"):
        make_reward(for_reward(config, tmp_path / "out"), progress=QUIET, opener=lambda *_: pytest.fail("an engine"))
    assert not (tmp_path / "out").exists()


def test_the_plan_of_a_head(tmp_path, capsys):
    given = ["--config", str(ROOT / "configs/demo_reward.yaml"), "--dry-run", "--output", str(tmp_path / "out")]
    assert main(["reward", *given, "--set", "reward.form=head"]) == 0
    told = capsys.readouterr().out
    assert "# Train a reward head on" in told
    assert "LLaMA-Factory cannot resume a reward head's training" in told
    assert "form: head" in told
    assert main(["reward", *given, "--set", "reward.form=head", "reward.overrides={packing: true}"]) == 2
    assert "does not read packing" in capsys.readouterr().err
    assert main(["reward", *given, "--set", "reward.form=Head"]) == 2
    assert "reward.form" in capsys.readouterr().err
    given = ["--config", str(ROOT / "configs/demo_reward.yaml"), "--dry-run"]
    assert main(["run", *given, "--set", "reward.form=head", "training.finetuning_type=full"]) == 2
    assert "trains adapters alone" in capsys.readouterr().err


def test_a_head_writes_no_texts(headed, tmp_path):
    """Refused before anything is sampled, wherever weights are named."""
    with pytest.raises(
        ConfigError, match=r"is a reward head, which writes no texts; .* the folder that has reward\.json"
    ):
        models_of(tmp_path, [f"h={headed}"])
    config = for_reward(settings(), tmp_path / "out")
    with pytest.raises(ConfigError, match="is a reward head"):
        make_reward(config, headed, QUIET)


@pytest.mark.parametrize(
    ("engine", "judge"),
    [
        (HFSettings(dtype="float32"), HFSettings(dtype="float32")),
        (VLLMSettings(dtype="float32", threads=3, logprobs=False), HFSettings(dtype="float32", threads=3)),
        (
            RaySettings(actors=2, engine=VLLMSettings(batch_size=7)),
            RaySettings(actors=2, engine=HFSettings(batch_size=7)),
        ),
    ],
)
def test_which_engine_judges(problems, tiny_model_path, headed, tmp_path, engine, judge):
    """vLLM reads no heads: the hf engine takes its place, in a loop whose vLLM is kept as well."""
    opened = []

    def opener(config, weights, iteration, problems):
        opened.append((config.engine, weights))
        return ScriptedEngine(lambda request, seed: "+")

    config = settings(f"model.path={tiny_model_path}", f"reward.model={tmp_path}").model_copy(update={"engine": engine})
    with Bank(tmp_path / "bank.sqlite") as bank, keeping(config, opener) as get_engine:
        made = manifest_of(config, bank, headed, tmp_path)
        model = RewardModel(made, headed)
        picture = minigeo_picture(tmp_path)
        rate = Rater(config, model, bank, lambda _: picture, problems, opener=get_engine)
        [rating] = rate([(problems[0], Completion("So it is.", (), 1, "stop", None))])
    assert opened == [(judge, headed)]
    assert rating.score > 0


def minigeo_picture(folder: Path) -> Picture:
    Image.new("RGB", (112, 112)).save(folder / "picture.png")
    return Picture(folder / "picture.png", "a picture")


@pytest.mark.slow
def test_a_reward_head_from_labels_to_rewards(tmp_path):
    """The real model and trainer, a few steps; the same command again opens no engine."""
    minigeo.write(tmp_path / "data", {"train": 40, "dev": 8, "test": 8}, seed=0)
    config = load_config(ROOT / "configs/demo_reward.yaml", [
        f"data.folder={tmp_path / 'data'}", f"bank={tmp_path / 'bank.sqlite'}",
        f"reward.model={tmp_path / 'reward'}", "reward.form=head", "reward.problems=30", "reward.rollouts=2",
        "reward.overrides={max_steps: 3}", "evaluation.n=3", "data.leakage=ignore",
        "data.train_limit=40", "data.dev_limit=8", "data.test_limit=8",
    ])  # fmt: skip
    made = make_reward(for_reward(config, None), progress=QUIET)
    folder = tmp_path / "reward"
    assert read_json(folder / FILE)["head"] is True
    assert made.model.weights == folder / "calibrate/adapter"
    assert made.dev.calibration is not None
    found = read_json(folder / "calibrate/counts.json")
    raw, calibrated = (read_tensors(folder / stage / "adapter" / reward_head.FILE) for stage in ("train", "calibrate"))
    assert calibrated[reward_head.WEIGHT] == pytest.approx(raw[reward_head.WEIGHT] * found["scale"], rel=1e-5)
    labels = labels_of(RunDir(folder))
    apart = rows.held_out(labels, for_reward(config, None))
    assert found["steps"] == sum(one.problem_id in apart for one in labels)
    trained_on = {row["problem_id"] for row in read_jsonl(folder / "rows/examples.jsonl")}
    assert trained_on
    assert not trained_on & apart, "what calibrates a head trains nothing"
    made_from = {name: set(read_json(folder / name / "stage.json")["made_from"]) for name in ("calibrate", "dev")}
    assert made_from == {"calibrate": {"label", "train"}, "dev": {"calibrate"}}
    again = make_reward(for_reward(config, None), progress=QUIET, opener=lambda *_: pytest.fail("an engine was opened"))
    assert again.dev == made.dev
    other = config.model_copy(update={"engine": PluginSettings()})
    with Bank(config.bank) as bank, pytest.raises(ConfigError, match=r"engine\.kind plugin cannot judge"):
        load_reward(other, bank)
