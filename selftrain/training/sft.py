"""One training with a run's settings, SFT, DPO or a reward head, and the check of what it made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_process.images.store import ImageStore
from data_process.schema import Example
from selftrain.config import Config
from selftrain.progress import Update
from selftrain.runs.tracking import for_trainer
from selftrain.training.continuous import Interval
from selftrain.training.dry_run import settings_of

# Bytes of weights up to which what was trained is also tried on a prompt, on the CPU, before it is trusted. A larger
# model would take minutes; its numbers are checked in any case.
PROBE_LIMIT = 2 * 1024**3


def tune(
    config: Config,
    store: ImageStore,
    examples: Sequence[Example],
    start: Path | None,
    out: Path,
    seed: int,
    update: Update = lambda done, total: None,
    overrides: Mapping[str, Any] | None = None,
    *,
    checkpoints: Path | None = None,
    interval: Interval | None = None,
    head: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """One training with a run's settings, its checked result in `out`/adapter or /weights; returns steps, loss, rows.

    Preference pairs are trained on by DPO; then it returns `llamafactory.mean_rewards` too.
    `start`: the adapter or the checkpoint that is trained on, None for a new adapter or the base model. `overrides` go
    on top of the run's hyper-parameters. `checkpoints`: a folder that outlives `out`, from which an interrupted
    training resumes; None: it starts again. `interval`: this SFT is part of a continuous training; what the next part
    inherits is left in `out`/state. `head`: pairs train a reward head, not a DPO. TrainingError or AdapterError when it
    fails, DataError when rows cannot be trained on.
    """
    from selftrain.training.adapter import verify_weights
    from selftrain.training.llamafactory import train

    chosen, variables = for_trainer(config, out)
    settings = settings_of(config, seed, {**chosen, **config.training.overrides, **(overrides or {})})
    result = train(
        examples, settings=settings.model_copy(update={"environment": variables}), base_model=config.model.path,
        image_path=store.path, out=out, start=start, image_limits=store.limits, checkpoints=checkpoints,
        interval=interval, head=head, say=say,
        on_progress=lambda line: update(int(line.get("current_steps", 0)), int(line.get("total_steps", 0))),
    )  # fmt: skip
    probe = examples[0]
    if sum(file.stat().st_size for file in config.model.path.glob("*.safetensors")) < PROBE_LIMIT:
        verify_weights(config.model.path, result.weights, probe.prompt, [store.path(image) for image in probe.images])
    counts = {"steps": result.steps, "train_loss": result.train_loss, "rows": result.rows}
    masked = {"masked_tokens": result.masked} if result.masked else {}
    state = {"state": result.state} if result.state else {}
    rewards = {"rewards": result.rewards} if result.rewards else {}
    return {**counts, **masked, **rewards, **state, "dropped": dict(result.dropped)}
