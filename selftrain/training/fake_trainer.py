"""A trainer that trains nothing, for `engine.kind: scripted`: the whole loop on one's own data in seconds, no model.

What it leaves is a record of the rows it was given, so that stages, digests and resuming behave as in a real run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_process.building.sharegpt import write_dataset
from data_process.schema import Example, to_json
from selftrain.engines.decoding.reward_head import REHEARSED
from selftrain.training.continuous import Interval, state_digests

STATE = "optimizer.rehearsal"


def rehearse(
    examples: Sequence[Example],
    out: Path,
    image_path: Callable[[str], Path],
    result: str,
    interval: Interval | None = None,
    *,
    head: bool = False,
) -> dict[str, Any]:
    """Write the dataset as for LLaMA-Factory and a stand-in for what is trained, `out`/`result`; returns the record.

    Of a continuous training, what is trained and its state are digests of all rows so far. `head`: the rows train a
    reward head, which the scripted engine then judges with.
    """
    history = any(example.history for example in examples)
    written = write_dataset(out / "data", "selftrain", examples, image_path, history)
    trained = out / result
    trained.mkdir(parents=True)
    digest = hashlib.sha256(json.dumps([to_json(e) for e in examples], sort_keys=True).encode()).hexdigest()
    state = {}
    if interval is not None and interval.inherited is not None:
        digest = hashlib.sha256(f"{(interval.inherited / STATE).read_text()} {digest}".encode()).hexdigest()
    if interval is not None and interval.kept:
        (out / "state").mkdir()
        (out / "state" / STATE).write_text(digest)
        state = {"state": state_digests(out / "state")}
    (trained / "adapter_model.rehearsal").write_text(digest + "\n")
    (trained / "adapter_config.json").write_text(json.dumps({"r": 0, "lora_alpha": 0}) + "\n")
    if head:
        (trained / REHEARSED).write_text(digest + "\n")
    rows = written.pop("written")
    dropped = {k: n for k, n in written.items() if n}
    return {"steps": 0, "train_loss": None, "rows": rows, **state, "dropped": dropped}
