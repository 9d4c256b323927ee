"""The stage that chooses the temperature of the iterations to come: `sampling.adaptive`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_process.io import write_jsonl
from data_process.prompts import prompt_set
from data_process.schema import Problem
from selftrain.config import Config, ConfigError, DecodingConfig, EvaluationConfig
from selftrain.files import write_json
from selftrain.runs.run_dir import folder_of
from selftrain.runs.temperature import choice_of, choose, decision_iteration
from selftrain.stages.context import RunContext, problems_for
from selftrain.test_time.evaluate import check_strategies, evaluate
from selftrain.test_time.strategy_config import Rate
from selftrain.test_time.variants import strategy_of


def measuring(config: Config, temperature: float) -> EvaluationConfig:
    """How a temperature is measured: dev is sampled as train is."""
    adaptive = config.sampling.adaptive
    assert adaptive is not None
    decoding = config.sampling.model_dump(include=set(DecodingConfig.model_fields))
    measured = {"temperature": temperature, "strategies": (adaptive.maximise,), "test_strategies": ()}
    return config.evaluation.model_copy(update=decoding | measured)


def check(config: Config, dev: Sequence[Problem], rate: Rate | None = None) -> None:
    """ConfigError, before anything is sampled, if `sampling.adaptive` names nothing that can be maximised."""
    adaptive = config.sampling.adaptive
    if adaptive is None:
        return
    name, strategy = adaptive.maximise, strategy_of(adaptive.maximise)
    if strategy is not None and strategy.family != "oracle":
        raise ConfigError(
            f"sampling.adaptive.maximise is {name}, which chooses an answer; how useful samples are for training is "
            "said by pass@N"
        )
    measured = measuring(config, adaptive.temperatures[0])
    check_strategies(measured, dev, prompt_set(config.prompts), config.seed, rate=rate)


def temperature_stage(run: RunContext, iteration: int) -> None:
    """Measure each temperature of the grid on dev, and choose; only where an interval between choices begins.

    The weights are those that sample the iteration. Samples come from the bank first; the evaluation of dev left some
    there. `rows.jsonl` has the credit of each problem at each temperature.
    """
    config, adaptive = run.config, run.config.sampling.adaptive
    if adaptive is None or decision_iteration(iteration, adaptive.every) != iteration:
        return
    weights = run.predecessor(iteration)

    def make(folder: Path) -> None:
        problems = problems_for(run.splits["dev"], adaptive.problems, config.seed, 0)
        sampler, prompts = run.sampler(weights), prompt_set(config.prompts)
        measured = {}
        for t in adaptive.temperatures:
            what = f"iteration {iteration}: {adaptive.maximise} on dev at temperature {t:g}"
            with run.progress.stage(what, "samples") as sampler.on_progress:
                settings = measuring(config, t)
                found = evaluate(problems, sampler, settings, prompts, weights, config.seed, rate=run.rater())
            measured[t] = found.split, found.rows
        used = config.sampling.temperature
        if iteration > 1:
            used = choice_of(run.folder.path, iteration - 1, adaptive.every).chosen
        choice = choose(measured, adaptive.maximise, used, iteration, weights, config.seed)
        credits = {t: [row.strategies[adaptive.maximise].credit for row in rows] for t, (_, rows) in measured.items()}
        rows = (
            {"id": problem.id, "credits": {f"{t:g}": credits[t][k] for t in adaptive.temperatures}}
            for k, problem in enumerate(problems)
        )
        write_jsonl(folder / "rows.jsonl", rows)
        write_json(folder / "decision.json", choice)
        run.progress.say(f"  iteration {iteration}: {choice}")

    before = [f"{folder_of(iteration - adaptive.every)}/temperature"] if iteration > 1 else []
    run.folder.stage(f"iter{iteration}/temperature", make, after=[*run.predecessor_stages(iteration), *before])
