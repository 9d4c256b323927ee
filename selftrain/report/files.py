"""One way to write a file: aside, then renamed, so that a reader never sees half of one."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write text (UTF-8) or bytes to `path`, making its folder, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    # "replace": a model may write half of a surrogate pair, which UTF-8 has no bytes for.
    partial.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
    return partial.replace(path)
