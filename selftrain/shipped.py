"""The configurations and the tiny model that come with the package, found from any working directory.

A checkout keeps them in `configs/` and `models/`; a wheel carries the same folders in `selftrain/shipped/` (setup.py).
A file below the working directory wins, so a copy that was edited is the one that is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent


def find(path: Path) -> Path:
    """`path` if it exists or nothing of that name ships, otherwise the shipped file or folder."""
    exists = os.path.exists  # unlike Path's, False for a name that is too long, which whoever opens it says
    if path.is_absolute() or exists(path) or path.parts[:1] not in (("configs",), ("models",)):
        return path
    return ROOT / path if exists(ROOT / path) else path


def find_config(path: Path) -> Path:
    """As `find`; "demo" alone means `configs/demo.yaml`."""
    named = Path("configs", f"{path}.yaml")
    if len(path.parts) == 1 and not path.suffix and not os.path.exists(path) and os.path.exists(find(named)):
        return find(named)
    return find(path)


def portable_name(path: Path) -> str:
    """The path that `find` was given. Run folders store it, so they survive a new installation of the package."""
    if path.is_relative_to(ROOT):
        name = path.relative_to(ROOT)
        if find(name) == path:
            return str(name)
    return str(path)


# A setting: found from any working directory, stored as it was written.
ShippedPath = Annotated[Path, AfterValidator(find), PlainSerializer(portable_name, str, when_used="json")]
