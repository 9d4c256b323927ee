"""Self-improvement of vision-language models from their own reasoning.

    from selftrain import Problem, judge, load

Importing this package is cheap on purpose: nothing here imports torch (see tests/test_light_imports.py), and the names
above are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_process.judging import judge
    from data_process.schema import Problem, Verdict
    from selftrain.runs.stored import load

__version__ = "0.1.0"
__all__ = ["Problem", "Verdict", "judge", "load"]
_HOMES = {
    "Problem": "data_process.schema",
    "Verdict": "data_process.schema",
    "judge": "data_process.judging",
    "load": "selftrain.runs.stored",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
