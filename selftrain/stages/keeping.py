"""What stays on the disk: weights after a full fine-tuning (`training.keep_weights`), and optimizers for a rollback.

Nothing that a stage still reads is removed: the last iteration's weights or the accepted ones sample the next one, and
those that are best on dev are measured on test at the end. A later iteration is accepted only if it is better, so
weights that were overtaken are never accepted. The choice follows from finished stages, so a resumed run removes the
same.
"""

from __future__ import annotations

from collections.abc import Sequence

from selftrain.runs.acceptance import accepted_of
from selftrain.runs.run_dir import STATE
from selftrain.stages.context import RunContext
from selftrain.stages.evaluating import decisions
from selftrain.training.checkpoints import discard


def after_iteration(run: RunContext, iteration: int) -> None:
    """Remove what nothing reads any more once an iteration has been measured on dev."""
    config = run.config
    states = config.acceptance.rollback and config.training.restart == "continuous"
    if config.training.keep_weights == "all" and not states:
        return
    wanted = {accepted_of(decisions(run, range(run.base, iteration + 1)), run.base), iteration}
    if config.training.keep_weights != "all":
        _keep_only(run, iteration, wanted)
    if states:
        for k in range(1, iteration + 1):
            if k not in wanted or iteration == config.iters:
                discard(run.folder.path / f"iter{k}" / "train" / STATE)


def after_run(run: RunContext, finished: Sequence[int], accepted: int) -> None:
    """Remove what is not to be kept once test has been measured."""
    kept = run.config.training.keep_weights
    if kept != "all":
        _keep_only(run, finished[-1], {finished[-1], *([accepted] if kept == "accepted" else [])})


def _keep_only(run: RunContext, newest: int, wanted: set[int]) -> None:
    if run.config.training.restart == "warmup":
        wanted = wanted | {0}  # where each iteration's training starts
    for k in range(run.base + 1, newest + 1):
        if k not in wanted and run.folder.done(f"iter{k}/train"):
            if (run.folder.path / f"iter{k}/train" / run.config.training.result).exists():
                run.progress.say(f"  removing the weights of iteration {k} (training.keep_weights)")
            run.folder.discard(f"iter{k}/train", run.config.training.result)
