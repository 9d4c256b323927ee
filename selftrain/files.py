"""Files written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_process.errors import UserError


class RunError(UserError, RuntimeError):
    """The run folder cannot be used; the message says why and what to do."""


def write_json(path: Path, value: Any) -> None:
    """Write aside, flush to the disk, rename: the file is whole or absent."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        json.dump(value, out, indent=1, sort_keys=True, ensure_ascii=False)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Raises RunError, naming the file, if it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run the command that made the folder once more") from None
    except ValueError as error:
        # A stage is made again whole; beside the stages only the one file is in the way.
        broken = path.parent if (path.parent / "stage.json").exists() else path
        raise RunError(f"{path} is damaged ({error}); delete {broken} and run the same command again") from error


def file_digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write text (UTF-8) or bytes to `path`, making its folder, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    # "replace": a model may write half of a surrogate pair, which UTF-8 has no bytes for.
    partial.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
    return partial.replace(path)
