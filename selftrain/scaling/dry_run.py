"""What `scale` and `select-data` would do: checked as far as that needs no model, and printed. Nothing is sampled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import yaml

from data_process.io import load_problems, read_jsonl
from data_process.prompts import prompt_set
from selftrain.config import Config, ConfigError
from selftrain.doctor import not_ready
from selftrain.runs.run_dir import run_config
from selftrain.sampling.engine_factory import sampling_params
from selftrain.scaling import targets
from selftrain.scaling.fit import demo_grid, is_demo, missing
from selftrain.scaling.grid import ScaleConfig, grid
from selftrain.scaling.run import Target
from selftrain.scaling.select_sft import SelectData, cot_rows, pool_of_run
from selftrain.test_time.strategy_config import selecting_params
from selftrain.training.dry_run import training_plan


def scale_plan(settings: ScaleConfig, target: Target) -> list[str]:
    """The models, the problems and the grid. Raises as `scale` does for a model, a run or a file that is not there."""
    config = target.config()
    models = target.models(config)
    if target.files is None:
        files = [config.data.folder / config.data.dev, config.data.folder / config.data.test]
        counts = [f"{len(load_problems(file, config.data.folder)):,} problems of {file}" for file in files]
    else:
        files = [file for file in (target.files.dev, target.files.problems) if file is not None]
        counts = [f"{len(read_jsonl(file)):,} problems of {file}" for file in files]
        counts += [] if target.files.dev else ["a seeded third of which is for choosing"]
    first = f", of each split the first {settings.problems}" if settings.problems is not None else ""
    lines = [
        f"# Measure {', '.join(model.name for model in models)} on {', '.join(counts)}{first}.",
        f"# Samples are stored in {config.bank}; the same command resumes.",
        *_grid_lines(settings, target, config),
        *_not_ready(config),
        "",
    ]
    return [*lines, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False).rstrip()]


def _grid_lines(settings: ScaleConfig, target: Target, config: Config) -> list[str]:
    lines = []
    if missing(settings) and is_demo(config):
        settings = demo_grid(settings, config, [])
    elif missing(settings):
        named = ", ".join(missing(settings))
        lines.append(f"# The first model's greedy answers on dev decide {named}; below are their defaults.")
    plain, selecting = sampling_params(config.evaluation), selecting_params(config.evaluation)
    selection = targets.selection_of(config, settings.select_format, target.run)
    points = grid(settings, plain, selecting, prompt_set(config.prompts), None, config.seed, selection)
    if not config.engine.gives_logprobs:
        points = [point for point in points if not point.strategy.endswith("_logprob")]
    families = ", ".join(f"{family} {n}" for family, n in Counter(point.family for point in points).items())
    lines.append(f"# {len(points)} settings ({families}), from {settings.n} samples of each problem and more:")
    lines.append(f"#   {'; '.join(point.name for point in points)}")
    return lines


def select_plan(run: Path, settings: SelectData) -> list[str]:
    """The candidates, the sizes and the training. Raises as `select_data` does where it cannot start."""
    config = run_config(run)
    targets.models_of(run, ["accepted"])
    if not config.engine.has_model:
        raise ConfigError(f"{run} was a rehearsal without a model: there is nothing to train")
    judged = pool_of_run(run)
    right = sum(item.verdict.correct for item in judged)
    most = "all" if settings.max_rows is None else f"at most {settings.max_rows:,}"
    return [
        f"# Build selections among {', '.join(map(str, settings.sizes))} candidates in the form {settings.form} from "
        f"{len(judged):,} candidates of {run}, {right:,} of them correct; keep {most}.",
        f"# Add {settings.cot_share:g} self-CoT rows for each, of {len(cot_rows(run)):,} in the run, and train from "
        f"the {settings.start} weights:",
        *(f"#   {line}" for line in training_plan(config, "train", 1)),
        *_not_ready(config),
    ]


def _not_ready(config: Config) -> list[str]:
    return [f"# Not ready: {line}" for line in not_ready(config)]
