"""Reward heads as a whole: settings, plans, which engine judges, and from labels to rewards."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from PIL import Image

from data_process.io import read_jsonl
from data_process.sources import minigeo
from selftrain.cli.main import main
from selftrain.config import ConfigError, load_config
from selftrain.engine_settings import EngineSettings, HFSettings, RaySettings, VLLMSettings
from selftrain.engines.base import Completion
from selftrain.engines.decoding import reward_head
from selftrain.engines.scripted import ScriptedEngine
from selftrain.files import read_json
from selftrain.progress import Progress
from selftrain.reward import rows
from selftrain.reward.model import FILE, RewardModel, load_reward, manifest_of
from selftrain.reward.rater import Rater
from selftrain.reward.train import for_reward, labels_of, make_reward
from selftrain.runs.run_dir import RunDir
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_reuse import keeping
from selftrain.sampling.sampler import Picture
from selftrain.scaling.targets import models_of
from selftrain.training.adapter import read_tensors
from selftrain.training.hyperparameters import HyperparameterError, TrainingSettings, resolve
from tests.selftrain.reward.heads import settings

ROOT = Path(__file__).parents[3]
QUIET = Progress(quiet=True)


class PluginSettings(EngineSettings):
    """A kind that says nothing of reward heads."""

    opener: ClassVar[str] = "nowhere:opener"
    kind: Literal["plugin"] = "plugin"


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
