"""What must be set before torch is imported."""

from __future__ import annotations

import os


def prepare_environment(threads: int | None) -> None:
    """Set before torch is imported: waiting threads sleep instead of spinning, and nothing asks a hub."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
