"""Names of models on the Hugging Face hub. Only the local cache is looked at: a run downloads nothing."""

from __future__ import annotations

import re
from pathlib import Path


def hub_id(path: Path) -> str | None:
    """The hub id that a path is, "Qwen/Qwen2-VL-2B-Instruct"; None for a folder that is here and for other paths."""
    text = str(path)
    looks = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) and path.parts[0] not in ("models", "outputs")
    return text if looks and not path.exists() else None


def cached(path: Path) -> Path | None:
    """The folder in the local cache of the model that a path names by its hub id; None if it is not there."""
    if (name := hub_id(path)) is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None
