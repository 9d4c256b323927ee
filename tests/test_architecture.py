"""What the packages may import, and how large they may grow. Imports inside functions count as well."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("selftrain", "data_process")
MAX_LINES = 450  # of one file of product code
MAX_LOOSE = 12  # modules of selftrain/ that are in no subpackage


def name_of(file: Path) -> str:
    """`selftrain/cli/main.py` -> "selftrain.cli.main"; a package goes by its own name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def imports_of(tree: ast.Module, module: str, modules: set[str]) -> set[str]:
    """The modules of `modules` that a parsed module names in an import, anywhere but under `if TYPE_CHECKING:`."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write imports absolutely"
            assert node.module is not None
            for alias in node.names:  # `from package import module` or `from module import name`
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules - {module}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return {name: imports_of(ast.parse(file.read_text("utf-8")), name, set(FILES)) for name, file in FILES.items()}


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def circle(graph: dict[str, set[str]]) -> str | None:
    """One circle of a graph of imports, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return None


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("selftrain.config", "selftrain.engines"),
        ("selftrain.engines", "selftrain.config"),
        ("data_process", "selftrain"),
    ],
)
def test_an_arrow_points_one_way(imports, source, target):
    """Also not by way of a third module."""
    assert any(inside(name, source) for name in imports), f"there is no {source}"
    reached = [name for name in imports if inside(name, source)]
    for name in reached:
        reached += sorted(imports[name] - set(reached))
    assert [name for name in reached if inside(name, target)] == []


def test_no_circle_of_modules(imports):
    assert circle(imports) is None


def test_few_loose_modules():
    loose = [name for name in FILES if name.count(".") == 1 and FILES[name].name != "__init__.py"]
    loose = [name for name in loose if inside(name, "selftrain") and not name.endswith(".__main__")]
    assert len(loose) <= MAX_LOOSE, loose


def test_no_file_is_too_long():
    lines = {str(file): file.read_text(encoding="utf-8").count("\n") for file in (*FILES.values(), ROOT / "run.py")}
    assert {file: n for file, n in lines.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import b", {"b"}),
        ("from b import name", {"b"}),
        ("from p import c", {"p.c"}),
        ("from p import name", {"p"}),
        ("def f():\n    from b import name", {"b"}),
        ("if TYPE_CHECKING:\n    import b\nelse:\n    import p.c", {"p.c"}),
        ("import json, a", set()),
    ],
)
def test_imports_of(text, found):
    assert imports_of(ast.parse(text), "a", {"a", "b", "p", "p.c"}) == found


def test_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set((circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) or "").split(" <- ")) == {"a", "b", "c"}
