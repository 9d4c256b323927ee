"""The stage that trains an iteration's weights."""

from __future__ import annotations

from pathlib import Path

from data_process.io import read_examples
from data_process.seeds import seed_for
from selftrain.files import read_json, write_json
from selftrain.runs.run_dir import STATE
from selftrain.stages.context import RunContext
from selftrain.training.checkpoints import discard
from selftrain.training.continuous import Interval, check_state
from selftrain.training.sft import tune


def check_start(run: RunContext, iteration: int) -> None:
    """RunError, before an iteration samples, if its training could not start: see `check_state`."""
    interval = interval_of(run, iteration)
    if interval is not None and interval.inherited is not None and not run.folder.done(f"iter{iteration}/train"):
        before = interval.inherited.parent
        check_state(interval.inherited, read_json(before / "result.json").get("state"))


def interval_of(run: RunContext, iteration: int) -> Interval | None:
    """An iteration's part of a continuous training; None where its training is its own, as a warm-up's always is."""
    if run.config.training.restart != "continuous" or not iteration:
        return None
    before = run.predecessor(iteration)
    inherited = run.folder.path / f"iter{before}" / "train" / STATE if before > 0 else None
    return Interval(run.config.iters, inherited, kept=iteration < run.config.iters)


def train_stage(run: RunContext, iteration: int) -> None:
    """One SFT or DPO through LLaMA-Factory, its result checked to change an answer's logits. 0 is the warm-up."""
    config = run.config if iteration else run.config.for_warmup
    settings = config.training
    interval = interval_of(run, iteration)
    started_from = starting_weights(run, iteration)
    overrides = settings.dpo.overrides if settings.prefers(iteration) else None

    def make(folder: Path) -> None:
        examples = read_examples(run.folder.path / f"iter{iteration}/build/examples.jsonl")
        check_start(run, iteration)
        start = run.weights(started_from)  # None: the base model (R3V)
        run.close_engine()
        if not config.engine.has_model:
            from selftrain.training.fake_trainer import rehearse

            result = rehearse(examples, folder / "work", run.store.path, settings.result, interval)
        else:
            kept = checkpoints if settings.save_steps else None
            seed, say, work = seed_for(config.seed, "train", iteration), run.progress.say, folder / "work"
            with run.progress.stage(f"iteration {iteration}: training on {len(examples)} rows", "steps") as update:
                result = tune(
                    config, run.store, examples, start, work, seed, update, overrides,
                    checkpoints=kept, interval=interval, say=say,
                )  # fmt: skip
        for made in (settings.result, *([STATE] if interval is not None and interval.kept else [])):
            (folder / "work" / made).replace(folder / made)
        write_json(folder / "result.json", result)

    # Beside the stage, because a half-done stage is cleared away.
    checkpoints = run.folder.path / f"iter{iteration}" / "train.checkpoints"
    after = [f"iter{iteration}/build", *run.weights_stage(started_from)]
    run.folder.stage(f"iter{iteration}/train", make, after=after)
    discard(checkpoints)
    # A rollback may need it again: `keeping.after_iteration` then says when it goes.
    if interval is not None and interval.inherited is not None and not run.config.acceptance.rollback:
        discard(interval.inherited)


def starting_weights(run: RunContext, iteration: int) -> int:
    """The iteration whose weights an iteration trains on."""
    restart = run.config.training.starts_from(iteration)
    if restart in ("previous", "continuous"):
        return max(run.base, run.predecessor(iteration))
    return 0 if restart == "warmup" and iteration else run.base
