"""The folder of published outputs beside the repository. Where it is absent a test that needs it skips by name."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1].parent / "shared" / "data"


def shared(name: str) -> Path:
    """The path of a shared file; the calling test skips where there is none."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"needs the published outputs: ../shared/data/{name} is absent")
    return path
