"""The stages that measure weights, and the choice between iterations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_process import prompts as wording
from data_process.io import each_record, each_row, write_jsonl
from data_process.prompts import prompt_set
from data_process.schema import judged_from_json
from selftrain.engines.base import EngineError, GivesPromptIds, Request, StatesFacts
from selftrain.engines.opening import open_by_settings
from selftrain.engines.parity import Reference, compare, expectations
from selftrain.files import write_json
from selftrain.runs import dynamics, readings
from selftrain.runs.acceptance import Decision, decide, reason_to_stop
from selftrain.runs.metrics import rows_of
from selftrain.runs.run_dir import called, folder_of
from selftrain.sampling.engine_factory import engine_job
from selftrain.stages.context import LoopStopped, RunContext, problems_for
from selftrain.stages.sampling import train_problems
from selftrain.test_time.evaluate import evaluate

FIRST_LOOK = 96  # problems of dev that the first number on screen is measured on


def first_look(run: RunContext) -> None:
    """Show the base model's greedy accuracy on a part of dev, before the whole of dev is measured.

    The part is a seeded draw. Its samples stay in the bank, where the evaluation of dev finds them.
    """
    if run.folder.done(f"{folder_of(run.base)}/dev"):
        return
    config = run.config
    problems = problems_for(run.splits["dev"], FIRST_LOOK, config.seed, 0)
    greedy = config.evaluation.model_copy(update={"strategies": ("greedy",)})
    sampler = run.sampler(run.base)
    with run.progress.stage("first look at the base model", "samples") as sampler.on_progress:
        found = evaluate(problems, sampler, greedy, prompt_set(config.prompts), run.base, config.seed)
    score = found.split.strategies["greedy"]
    run.progress.say(
        f"  base model, greedy, on {len(problems)} of {len(run.splits['dev'])} dev problems: "
        f"{100 * score.accuracy:.1f}% [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    )


def evaluate_stage(run: RunContext, iteration: int, split: str) -> None:
    """Every strategy on a split; `rows.jsonl` holds each problem's samples and verdicts, `split.json` the totals."""

    def make(folder: Path) -> None:
        sampler = run.sampler(iteration)
        with run.progress.stage(f"{called(iteration)}: evaluating on {split}", "samples") as sampler.on_progress:
            config = run.config
            prompts = prompt_set(config.prompts)
            settings, selection = config.evaluation.on(split), run.selecting(iteration)
            result = evaluate(
                run.splits[split], sampler, settings, prompts, iteration, config.seed, selection, run.rater()
            )
        write_jsonl(folder / "rows.jsonl", (row.to_json() for row in result.rows))
        write_json(folder / "split.json", result.split)
        scores = ", ".join(f"{k} {100 * s.accuracy:.1f}" for k, s in result.split.strategies.items())
        run.progress.say(f"  {split}: {scores}")

    run.folder.stage(f"{folder_of(iteration)}/{split}", make, after=run.weights_stage(iteration))


def test_stages(run: RunContext, iterations: Sequence[int]) -> None:
    """Read test, and the second test split if there is one, for these iterations; first write down that it is read."""
    splits, path = [split for split in readings.HELD_OUT if split in run.splits], run.folder.path
    missing = [(k, split) for k in iterations for split in splits if not run.folder.done(f"{folder_of(k)}/{split}")]
    if missing:
        reading = readings.Reading(
            by="run", iters=run.config.iters, weights=tuple(dict.fromkeys(k for k, _ in missing)),
            splits=tuple(split for split in splits if split in {name for _, name in missing}),
            settings=run.config.digest(), strategies=run.config.evaluation.on("test").strategies,
        )  # fmt: skip
        readings.record(path, reading)
    for iteration in iterations:
        for split in splits:
            evaluate_stage(run, iteration, split)
    readings.close(path)


def dynamics_stage(run: RunContext, iteration: int) -> None:
    """What the iteration's candidates say about the weights that wrote them; see `selftrain.runs.dynamics`."""

    def make(folder: Path) -> None:
        path = run.folder.path / f"iter{iteration}"
        items = each_record(path / "judge/judged.jsonl", judged_from_json)
        judged = (item for item in items if item.candidate.guide is None)  # what is solved without help
        tally = dynamics.measure(judged, [*train_problems(run, iteration).values()])
        write_jsonl(folder / "rates.jsonl", (rate.to_json() for rate in tally.rates()))
        rows = dynamics.rows_by_iteration(each_row(path / "build/examples.jsonl"))
        write_json(folder / "dynamics.json", tally.dynamics(dynamics.earlier_rates(run.folder.path, iteration), rows))

    before = [f"iter{k}/dynamics" for k in range(1, iteration)]
    run.folder.stage(
        f"iter{iteration}/dynamics", make, after=[f"iter{iteration}/judge", f"iter{iteration}/build", *before]
    )


def parity_stage(run: RunContext, iteration: int) -> None:
    """Compare the engine with transformers on a few dev problems, if its settings ask for it.

    Raises EngineError if they differ further than rounding explains. The report is `parity.json` of the stage.
    """
    config, check = run.config, run.config.engine.parity_check
    if check is None:
        return

    def make(folder: Path) -> None:
        weights = run.weights(iteration)
        prompts = prompt_set(config.prompts)
        requests = [
            Request(p.id, wording.cot(p, prompts), tuple(run.picture(image).path for image in wording.images(p)), (0,))
            for p in run.splits["dev"][: check.problems]
        ]
        run.progress.say(f"  {called(iteration)}: comparing {config.engine.kind} with transformers")
        run.close_engine()  # one model on the device at a time
        with open_by_settings(check.reference, engine_job(config, weights, iteration, ())) as reference:
            if not isinstance(reference, Reference):
                raise EngineError(f"{reference!r} cannot be compared with: it gives neither prompt ids nor runners-up")
            expected = expectations(reference, requests, config.evaluation.max_tokens)
        engine = run.sampler(iteration).engine
        if not (isinstance(engine, GivesPromptIds) and isinstance(engine, StatesFacts)):
            raise EngineError(f"{engine!r} cannot be compared with transformers: it does not give its prompt ids")
        report = compare(engine, expected, config.evaluation.max_tokens, engine.facts().dtype)
        write_json(folder / "parity.json", report)

    run.folder.stage(f"{folder_of(iteration)}/parity", make, after=run.weights_stage(iteration))


def decisions(run: RunContext, finished: Sequence[int]) -> list[Decision]:
    """What dev decided about the finished iterations."""
    dev = {k: rows_of(run.folder.path, k, "dev") for k in finished}
    return decide(dev, run.config.acceptance, run.config.seed)


def accept_stage(run: RunContext, iteration: int) -> None:
    """In a run that rolls back worse iterations: the decision about one, which its successor goes by."""
    if not run.config.acceptance.rollback:
        return
    measured = range(run.base, iteration + 1)

    def make(folder: Path) -> None:
        write_json(folder / "decision.json", decisions(run, measured)[-1])

    run.folder.stage(f"{folder_of(iteration)}/accept", make, after=[f"{folder_of(k)}/dev" for k in measured])


def stop_without_gain(run: RunContext, iteration: int) -> None:
    """Say what dev decided about an iteration; LoopStopped if the settings end the run here."""
    config, dev = run.config, {k: rows_of(run.folder.path, k, "dev") for k in range(run.base, iteration + 1)}
    found = decide(dev, config.acceptance, config.seed)
    if config.acceptance.rule == "interval":
        run.progress.say(f"  {found[-1]}")
    if why := reason_to_stop(dev, found, config.acceptance, config.seed):
        raise LoopStopped(why)
