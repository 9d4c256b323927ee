"""Writes the judge as one file: the functions of `reward_functions.py` with the source of all modules they need.

A trainer's environment then needs nothing of this package, and rewards stay those of the judge that was exported. The
modules go by another name there, so that another version in the same process is not disturbed.
"""

from __future__ import annotations

import ast
import hashlib
import re
from importlib import metadata
from pathlib import Path

import data_process
from data_process.judging import JUDGE_VERSION
from data_process.schema import Problem, to_json
from selftrain import __version__
from selftrain.files import write_whole

ROOT = Path(data_process.__file__).parents[1]
FUNCTIONS = Path(__file__).with_name("reward_functions.py")
# Not needed to judge a response, and long: the trainer has the prompt and the images.
_LEFT_OUT = ("image", "images", "meta", "origin", "context", "choices_in_image")

_LOADER = '''
class _Loader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules of SOURCES."""

    def find_spec(self, name, path=None, target=None):
        if name not in SOURCES:
            return None
        is_package = any(other.startswith(name + ".") for other in SOURCES)
        return importlib.machinery.ModuleSpec(name, self, is_package=is_package)

    def get_source(self, name):
        return SOURCES[name]


sys.meta_path.insert(0, _Loader())
if importlib.util.find_spec("math_verify") is None:
    raise ImportError("the judge needs math-verify: pip install math-verify=={math_verify}")
'''


def ground_truth(problem: Problem) -> str:
    """A problem as the reward functions read it."""
    return _dumps({key: value for key, value in to_json(problem).items() if key not in _LEFT_OUT and value is not None})


def _dumps(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def write_reward(out: Path) -> Path:
    """Write the file; the same version of this package gives the same bytes."""
    return write_whole(out, reward_source())


def reward_source() -> str:
    """The text of the file."""
    sources = {name: file.read_text(encoding="utf-8") for name, file in sorted(_needed("data_process.judging").items())}
    digest = hashlib.sha256(_dumps(sources).encode()).hexdigest()[:8]
    package = f"selftrain_judge_{digest}"

    def renamed(text: str) -> str:
        return re.sub(r"\bdata_process\b", package, text)

    tree = ast.parse(FUNCTIONS.read_text(encoding="utf-8"))
    lines = FUNCTIONS.read_text(encoding="utf-8").splitlines(keepends=True)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    own = next(node for node in imports if isinstance(node, ast.ImportFrom) and "data_process" in (node.module or ""))
    before, after = "".join(lines[: own.lineno - 1]), "".join(lines[own.lineno - 1 :])
    modules = "".join(
        f"    {renamed(name)!r}: (\n" + "".join(f"        {line!r}\n" for line in _lines(renamed(text))) + "    ),\n"
        for name, text in sources.items()
    )
    about = f"# Written by selftrain {__version__}: judge version {JUDGE_VERSION}, sources {digest}. Apache-2.0.\n"
    loader = _LOADER.replace("{math_verify}", metadata.version("math-verify"))
    imported = "import importlib.abc\nimport importlib.machinery\nimport importlib.util\nimport sys\n\n"
    return f"{before}{imported}{about}SOURCES = {{\n{modules}}}\n\n{loader}\n{renamed(after)}"


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True) or [""]


def _needed(name: str) -> dict[str, Path]:
    """A module of `data_process` and all that it imports there, anywhere in its code, by name."""
    found: dict[str, Path] = {}
    todo = [name]
    while todo:
        name = todo.pop()
        file = _file(name)
        if file is None or name in found:
            continue
        found[name] = file
        todo += [name.rpartition(".")[0]] if "." in name else []
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("data_process"):
                todo += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names if alias.name.startswith("data_process")]
    return found


def _file(name: str) -> Path | None:
    """The file of a module; None if the name is that of something in a module."""
    folder = ROOT.joinpath(*name.split("."))
    return next((file for file in (folder / "__init__.py", folder.with_suffix(".py")) if file.is_file()), None)
