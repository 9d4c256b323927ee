"""The package's place below `selftrain`, and the size of its files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "data_process"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_is_small_and_imports_no_selftrain(file):
    """Imports inside functions count too, which importing every module would not see."""
    text = file.read_text("utf-8")
    assert text.count("\n") <= MAX_LINES
    nodes = list(ast.walk(ast.parse(text)))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    assert not {name for name in named if name.partition(".")[0] in ("selftrain", "torch")}
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), "imports are absolute"
