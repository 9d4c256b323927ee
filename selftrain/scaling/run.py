"""The whole of `selftrain scale`: measure, conclude, write. Samples are in the bank, so the same command resumes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_process.io import write_jsonl
from data_process.judging import JUDGE_VERSION
from data_process.outputs import check_outputs
from data_process.prompts import prompt_set
from selftrain.config import Config, ConfigError, load_config
from selftrain.engines.base import EngineError
from selftrain.environment import prepare_environment, share_cores
from selftrain.families import check_weights_family, family_of
from selftrain.files import write_json, write_whole
from selftrain.progress import Progress
from selftrain.reward.model import load_reward
from selftrain.reward.rater import Rater
from selftrain.runs import readings
from selftrain.runs.run_dir import run_config
from selftrain.runs.splits import canonical_images, image_store
from selftrain.sampling import budgets
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, open_engine, sampling_params
from selftrain.sampling.engine_reuse import keeping
from selftrain.sampling.sampler import Picture
from selftrain.sampling.weights import sampler_of
from selftrain.scaling import page, plots, report, targets
from selftrain.scaling.analysis import findings
from selftrain.scaling.fit import Fit, demo_grid, is_demo, missing
from selftrain.scaling.fit import fit as fit_grid
from selftrain.scaling.grid import ScaleConfig, Setting, grid
from selftrain.scaling.measure import Measured, measure, rows
from selftrain.scaling.records import ModelResult, RawResult, ScaleResult
from selftrain.scaling.targets import ModelUnderTest
from selftrain.test_time import ContextLimit
from selftrain.test_time.strategy_config import selecting_params


@dataclass(frozen=True)
class FileTarget:
    """Questions and a model without a run folder."""

    problems: Path
    dev: Path | None
    images: Path
    config: Path | None  # settings of sampling, as of run.py
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """What is measured: a run folder's weights on its questions, or a model on files."""

    run: Path | None = None
    weights: Sequence[str] = ("base", "accepted")  # with files: NAME=FOLDER alone, beside the base
    files: FileTarget | None = None

    @property
    def name(self) -> str:
        return str(self.run) if self.run is not None else self.config().model.path.name

    def config(self) -> Config:
        if self.run is not None:
            return run_config(self.run)
        if self.files is None:
            raise ConfigError("nothing to measure: give a run folder, or questions and a model")
        return load_config(self.files.config, list(self.files.overrides))

    def models(self, config: Config) -> list[ModelUnderTest]:
        if self.run is not None:
            return targets.models_of(self.run, self.weights)
        if other := [name for name in self.weights if "=" not in name]:
            raise ConfigError(f"--weights {other[0]!r}: with --problems write NAME=FOLDER; the base is always measured")
        return [ModelUnderTest(config.model.path.name, None, 0), *targets.models_of(Path(), self.weights)]


def scale(
    settings: ScaleConfig,
    output: Path,
    target: Target,
    *,
    processes: int = 1,
    progress: Progress | None = None,
    opener: Opener = open_engine,
) -> ScaleResult:
    """Measure the grid and write scale.json, scale.md, scale.html, the figures and the raw results into `output`.

    `processes` models are sampled at once, each by an engine of its own; they share the bank. ConfigError, DataError or
    RunError before anything is sampled where something cannot work; EngineError later: samples stay in the bank.
    """
    if processes < 1:
        raise ConfigError(f"--processes {processes}: at least one process measures")
    progress = progress or Progress()
    started = time.monotonic()
    config = target.config()
    check_outputs({"--output": output}, [config.data.folder, config.model.path], owner=target.run, resumes=True)
    models = target.models(config)
    if config.engine.reads_checkpoint(config.model.path):
        for weights in filter(None, (model.weights for model in models)):
            check_weights_family(family_of(config.model.path), weights)
    if processes > 1 and len(models) > 1:
        with _bench(settings, target, progress, opener):
            pass  # refuses here, once and readably, what would fail in every process
        try:
            workers, numbers = min(processes, len(models)), range(len(models))
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), share_cores, (workers,)) as pool:
                try:
                    for future in [pool.submit(_fill, settings, target, k, progress.quiet, opener) for k in numbers]:
                        future.result()
                except BaseException:  # the pool would wait until they are done, also after SIGTERM
                    for worker in multiprocessing.active_children():
                        worker.terminate()
                    raise
        except BrokenProcessPool as error:
            raise EngineError(
                "a process that was sampling was killed, most often for memory; lower --processes or engine.batch_size"
            ) from error
    with _bench(settings, target, progress, opener) as bench, keeping(config, opener) as get_engine:
        records: list[ModelResult] = []
        raw: list[RawResult] = []
        for model in models:
            measured, drawn = bench.measure(model, progress, get_engine)
            for split, several in measured.items():
                raw += rows(several, model.name, split)
            records.append(_model_result(model, config, measured, drawn))
            progress.say(report.answer(records[-1]))
        result = ScaleResult(
            name=target.name, questions=bench.questions.about, n_dev=len(bench.questions.dev),
            n_test=len(bench.questions.test), judge=JUDGE_VERSION, seed=config.seed, settings=bench.fit.settings,
            sampling=sampling_params(config.evaluation).to_json(), subjects=tuple(records),
            untrained=targets.untrained_ignores(config, bench.points) if target.run is not None else (),
            seconds=round(time.monotonic() - started, 1), trained_prompt=bench.trained_prompt,
            fitted=bench.fit.made_from,
        )  # fmt: skip
    write_jsonl(output / "results.jsonl.gz", (row.to_json() for row in raw))
    write_json(output / "scale.json", result)
    write_whole(output / "scale.md", report.markdown(result))
    page.write(result, output / "scale.html")
    plots.draw(result, output)
    return result


@dataclass(frozen=True)
class _Bench:
    """Everything that is open while models are measured."""

    config: Config
    questions: targets.Questions
    bank: Bank
    points: Sequence[Setting]
    picture: Callable[[str], Picture]
    trained_prompt: int | None
    fit: Fit
    rater: Rater | None

    def measure(
        self, model: ModelUnderTest, progress: Progress, opener: Opener
    ) -> tuple[dict[str, list[Measured]], int]:
        """Every setting on dev and test, and how many samples had to be drawn for it."""
        splits = {"dev": self.questions.dev, "test": self.questions.test}
        everything, measured = [*splits["dev"], *splits["test"]], {}
        weights = (model.weights, model.iteration)
        with sampler_of(self.config, self.bank, self.picture, everything, *weights, opener) as sampler:
            if self.rater is not None:
                self.rater.make_room = sampler.release
            for split, problems in splits.items():
                with progress.stage(f"{model.name}, {split}, {len(problems)} problems", "settings") as told:
                    measured[split] = measure(self.points, problems, sampler, told)
        return measured, sampler.drawn


@contextmanager
def _bench(settings: ScaleConfig, target: Target, progress: Progress, opener: Opener) -> Iterator[_Bench]:
    config = target.config()
    images = config.data.folder if target.files is None else target.files.images
    with Bank(config.bank) as bank:
        store = image_store(config, images)
        picture = canonical_images(store)
        if target.run is not None:
            questions = targets.run_questions(target.run, config, store, bank, progress)
        else:
            assert target.files is not None  # config() saw to it
            questions = targets.file_questions(target.files.problems, target.files.dev, images, store, config)
        if settings.problems is not None:
            k = settings.problems
            questions = replace(questions, dev=questions.dev[:k], test=questions.test[:k])
        plain, selecting = sampling_params(config.evaluation), selecting_params(config.evaluation)
        processor = budgets.processor_of(config)
        limit = targets.context_limit_of(config, picture, processor) if processor is not None else None
        selection = targets.selection_of(config, settings.select_format, target.run)
        if limit is not None:
            trained = settings.trained_prompt or targets.trained_prompt_of(target.models(config), limit)
            limit = replace(limit, trained=trained)
            if trained is not None:
                progress.say(f"selection prompts longer than {trained} tokens, the longest in training, are cut")
        elif settings.trained_prompt is not None:
            raise ConfigError(
                "trained_prompt counts tokens, and there is no checkpoint here with a tokenizer; leave it out"
            )
        fit = _fit(settings, target, config, bank, picture, questions, processor, limit, progress, opener)
        reward, everything = load_reward(config, bank), [*questions.dev, *questions.test]
        rater = None if reward is None else Rater(config, reward, bank, picture, everything, opener=opener)
        points = grid(fit.settings, plain, selecting, prompt_set(config.prompts), limit, config.seed, selection, rater)
        if not config.engine.gives_logprobs:
            points = [point for point in points if not point.strategy.endswith("_logprob")]
            progress.say("engine.logprobs is false: settings that weigh answers by their likelihood are left out")
        targets.check_letters(points, everything)
        if processor is not None:
            targets.check_budgets(points, processor)
        if target.run is not None:
            reading = readings.Reading(
                by="scale", weights=tuple(model.name for model in target.models(config)), splits=("test",),
                settings=config.digest(), strategies=tuple(point.name for point in points),
            )  # fmt: skip
            readings.record(target.run, reading)
        yield _Bench(config, questions, bank, points, picture, limit.trained if limit is not None else None, fit, rater)


def _fit(
    settings: ScaleConfig, target: Target, config: Config, bank: Bank, picture: Callable[[str], Picture],
    questions: targets.Questions, processor: Any, limit: ContextLimit | None, progress: Progress, opener: Opener,
) -> Fit:  # fmt: skip
    """The grid's settings: what is missing is chosen for the first model, whose greedy answers on dev are looked at."""
    everything = [*questions.dev, *questions.test]
    if not missing(settings):
        return Fit(settings)
    if is_demo(config):
        return Fit(demo_grid(settings, config, [problem.choices for problem in everything]))
    first, plain, prompts = target.models(config)[0], sampling_params(config.evaluation), prompt_set(config.prompts)
    with (
        sampler_of(config, bank, picture, everything, first.weights, first.iteration, opener) as sampler,
        progress.stage(f"{first.name}, dev: how long it usually thinks", "samples") as sampler.on_progress,
    ):
        found = fit_grid(settings, config, plain, prompts, questions.dev, everything, sampler, processor, limit)
    progress.say(f"the grid was made from {found.made_from}")
    return found


def _fill(settings: ScaleConfig, target: Target, which: int, quiet: bool, opener: Opener) -> None:
    """In a process of its own: put one model's samples into the bank."""
    config = target.config()
    prepare_environment(config.engine.threads)
    progress = Progress(quiet=quiet, live=False)
    with _bench(settings, target, progress, opener) as bench:
        bench.measure(target.models(config)[which], progress, opener)


def _model_result(
    model: ModelUnderTest, config: Config, measured: dict[str, list[Measured]], drawn: int
) -> ModelResult:
    return ModelResult(
        name=model.name,
        model=str(config.model.path),
        adapter=str(model.weights) if model.weights else None,
        samples_drawn=drawn,
        settings={split: tuple(m.record for m in several) for split, several in measured.items()},
        findings=findings(measured["dev"], measured["test"], config.seed),
    )
