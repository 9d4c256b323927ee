"""`selftrain reward`: label steps, train a reward model on them, and measure it on dev.

Its folder is a run folder of the stages `label`, `rows`, `train`, for a reward head `calibrate`, and `dev`, so the same
command resumes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.io import each_record, write_jsonl
from data_process.prompts import prompt_set
from data_process.schema import stored_row, to_json
from data_process.seeds import seed_for
from selftrain.config import Config, ConfigError
from selftrain.config.preferences import DPOConfig
from selftrain.config.sampling import DecodingConfig
from selftrain.files import file_digest, read_json, write_json
from selftrain.progress import Progress
from selftrain.reward.calibrate import calibrate
from selftrain.reward.labels import StepLabel, label_steps
from selftrain.reward.model import FILE, RewardModel, judging, load_reward, manifest_of
from selftrain.reward.rater import Rater
from selftrain.reward.rows import examples, held_out, pairs
from selftrain.runs.run_dir import RunDir
from selftrain.runs.splits import canonical_images, image_store, inputs, load_splits
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, open_engine
from selftrain.sampling.sampler import Sampler
from selftrain.sampling.weights import refuse_head, sampler_of, weights_digest
from selftrain.stages.context import problems_for
from selftrain.test_time.evaluate import evaluate
from selftrain.test_time.results import SplitResult
from selftrain.training.dry_run import training_plan
from selftrain.training.given_rows import training_stage
from selftrain.training.precision import settle

SECTIONS = ("seed", "prompts", "model", "engine", "training")  # that a reward model depends on, beside its own
MEASURED = ("greedy", "majority", "best_reward", "vote_reward", "reward_pass", "pass")


@dataclass(frozen=True)
class MadeReward:
    """A trained reward model: what its labels were made of, and what it is worth on dev."""

    model: RewardModel
    labels: dict[str, Any]
    dev: SplitResult


def for_reward(config: Config, folder: Path | None) -> Config:
    """The settings with the training of a reward model in place of the run's, in its folder.

    ConfigError without a folder, and for an engine that cannot train, or cannot read the model's form.
    """
    folder = folder or config.reward.model
    if folder is None:
        raise ConfigError("a reward model needs a folder; give --output DIR, or set reward.model")
    if config.engine.why_no_loop is not None:
        raise ConfigError(config.engine.why_no_loop)
    if config.reward.form == "head":
        judging(config, head=True)
        if config.training.full:
            raise ConfigError(
                "reward.form head trains adapters alone; make it apart, with `selftrain reward` and "
                "training.finetuning_type=lora, and set reward.make to false"
            )
    own = {
        "hyperparameters": config.reward.hyperparameters or config.training.hyperparameters,
        "overrides": {**config.training.overrides, **config.reward.overrides},
        "restart": "base",
        "method": "sft",
        "dpo": DPOConfig(),
        "save_steps": None if config.reward.form == "head" else config.training.save_steps,
    }
    reward = config.reward.model_copy(update={"model": folder})
    training = config.training.model_copy(update=own)
    return config.model_copy(update={"output": folder, "reward": reward, "training": training})


def make_reward(
    config: Config, weights: Path | None = None, progress: Progress | None = None, opener: Opener = open_engine
) -> MadeReward:
    """Make, or resume, the reward model of settings from `for_reward`, in `config.output`.

    `weights`: an adapter or a checkpoint that writes the solutions and the roll-outs; None: the base model. Raises
    ConfigError if that is a reward head, DataError, RunError, BankError, EngineError or TrainingError; whatever was
    finished before stays and is reused.
    """
    progress = progress or Progress()
    head = config.reward.form == "head"
    refuse_head(weights)
    if config.engine.has_model:
        training_plan(config, "train", 1, head=head)  # wrong hyper-parameters before anything is sampled
        config, precision = settle(config)
        progress.say(str(precision))
    with RunDir(config.output) as folder, Bank(config.bank) as bank:
        store = image_store(config)
        picture = canonical_images(store)
        splits, _ = load_splits(config, store, progress)
        everything = [problem for split in splits.values() for problem in split]
        bare = config.model_copy(update={"reward": config.reward.model_copy(update={"model": None})})
        known = inputs(bare, {name: splits[name] for name in ("train", "dev")}, store, bank)
        known["prompts"] = prompt_set(config.prompts).verify_digest
        if weights is not None and config.engine.has_model:
            known["weights"] = weights_digest(bank, config.model.path, weights)
        if config.engine.has_model:
            known["hyperparameters"] = file_digest(config.training.hyperparameters)[:16]
        folder.claim(identity(config), known)
        labelled = [p for p in splits["train"] if p.labelled]
        problems = problems_for(labelled, config.reward.problems, config.seed, 0)

        def label(into: Path) -> None:
            with (
                sampler_of(config, bank, picture, everything, weights, int(weights is not None), opener) as sampler,
                progress.stage(f"labelling steps of {len(problems)} problems", "samples") as sampler.on_progress,
            ):
                found = label_steps(problems, sampler, config, trained=weights is not None)
            write_jsonl(into / "labels.jsonl", (one.to_json() for one in found.labels))
            write_json(into / "counts.json", found.counts)

        def rows(into: Path) -> None:
            labels = labels_of(folder)
            if head:
                made, left_out = pairs(labels, problems, config, held_out(labels, config))
                counts = {"examples": {"pairs": len(made)}, "left_out": left_out}
            else:
                made = examples(labels, problems, config)
                counts = {"examples": Counter(row.target for row in made)}
            write_jsonl(into / "examples.jsonl", map(to_json, made))
            write_json(into / "counts.json", counts)

        folder.stage("label", label)
        counts = read_json(folder.path / "label/counts.json")
        made = read_json(folder.stage("rows", rows, after=["label"]) / "counts.json")
        tokens = sum(part["generated"] for part in counts["tokens"].values())
        progress.say(
            f"  {counts['steps']} steps of {counts['solutions']} solutions, {counts['rollouts']} roll-outs, {tokens:,} "
            f"generated tokens; rows: {told(made['examples'])}"
            + (f"; steps left out: {told(made['left_out'])}" if head else "")
        )
        seed = seed_for(config.seed, "train", "reward")
        left_out, last = Counter(counts["left_out"]), "train"
        trained = training_stage(folder, config, store, seed, progress, left_out, head=head)

        def calibrated(into: Path) -> None:
            apart = held_out(labels := labels_of(folder), config)
            held = [one for one in labels if one.problem_id in apart]

            with progress.stage("calibrating the reward head", "judgements") as update:

                def judge_with(weights: Path) -> Sampler:
                    sampler = sampler_of(judging(config, head), bank, picture, everything, weights, 0, opener)
                    sampler.on_progress = update
                    return sampler

                found = calibrate(trained, held, problems, config, judge_with, into / trained.name)
            write_json(into / "counts.json", found)

        if head and config.engine.has_model:  # made-up judgements have nothing to calibrate
            last = "calibrate"
            done = folder.stage(last, calibrated, after=["label", "train"])
            found, trained = read_json(done / "counts.json"), done / trained.name
            progress.say(f"  calibrated on {found['steps']} steps of held-out problems: AUC {found['auc']:.3f}")
        write_json(folder.path / FILE, manifest_of(config, bank, trained, folder.path))
        model = load_reward(config, bank)
        assert model is not None

        def dev(into: Path) -> None:
            settings = config.evaluation.model_copy(update={"strategies": MEASURED, "test_strategies": ()})
            with sampler_of(config, bank, picture, everything, None, 0, opener) as sampler:
                rater = Rater(config, model, bank, picture, everything, opener=opener, make_room=sampler.release)
                with progress.stage("the base model on dev, with rewards", "samples") as update:
                    sampler.on_progress = rater.on_progress = update
                    prompts = prompt_set(config.prompts)
                    found = evaluate(splits["dev"], sampler, settings, prompts, 0, config.seed, rate=rater)
            write_jsonl(into / "rows.jsonl", (row.to_json() for row in found.rows))
            write_json(into / "split.json", found.split)

        split = SplitResult.read(folder.stage("dev", dev, after=[last]) / "split.json")
        return MadeReward(model, counts, split)


def told(counts: Mapping[str, int]) -> str:
    """Counts in a line of output."""
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


def labels_of(folder: RunDir) -> list[StepLabel]:
    """The labels of a reward model's folder."""
    return list(each_record(folder.path / "label/labels.jsonl", stored_row(lambda row: StepLabel(**row))))


def identity(config: Config) -> dict[str, Any]:
    """The settings that a reward model and its measurement depend on."""
    values = {name: value for name, value in config.identity().items() if name in SECTIONS}
    decoding = set(DecodingConfig.model_fields)
    values["sampling"] = config.sampling.model_dump(mode="json", include=decoding)
    values["evaluation"] = config.evaluation.model_dump(mode="json", include={*decoding, "n"})
    values["reward"] = config.reward.model_dump(mode="json", exclude={"model", "max_dropped_share"})
    if config.reward.form == "verifier":
        values["reward"].pop("form")  # so that folders from before there was a choice can be resumed
    return values
