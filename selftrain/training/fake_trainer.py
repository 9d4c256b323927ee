"""A trainer that trains nothing, for `engine.kind: scripted`: the whole loop on one's own data in seconds, no model.

Its "adapter" is a record of the rows it was given, so that stages, digests and resuming behave as in a real run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_process.building.sharegpt import write_dataset
from data_process.schema import Example, to_json


def rehearse(examples: Sequence[Example], out: Path, image_path: Callable[[str], Path]) -> dict[str, Any]:
    """Write the dataset as for LLaMA-Factory and a stand-in adapter under `out`; returns the result record."""
    history = any(example.history for example in examples)
    written = write_dataset(out / "data", "selftrain", examples, image_path, history)
    adapter = out / "adapter"
    adapter.mkdir(parents=True)
    digest = hashlib.sha256(json.dumps([to_json(e) for e in examples], sort_keys=True).encode()).hexdigest()
    (adapter / "adapter_model.rehearsal").write_text(digest + "\n")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 0, "lora_alpha": 0}) + "\n")
    rows = written.pop("written")
    return {"steps": 0, "train_loss": None, "rows": rows, "dropped": {k: n for k, n in written.items() if n}}
