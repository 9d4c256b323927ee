"""Code from outside the package: modules that register engines and strategies when they are imported."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from data_process.errors import UserError

GROUP = "selftrain.plugins"  # of entry points: a package that declares one is loaded wherever it is installed


class PluginError(UserError, ImportError):
    """A plugin cannot be imported; the message names it and the reason."""


def load_plugins(modules: Sequence[str]) -> None:
    """Import the installed plugins, then `modules`, also from the working directory. Raises PluginError.

    Loading a plugin again does nothing.
    """
    add_working_directory()
    for plugin in _installed():
        _load(f"plugin {plugin.value} of the entry point {plugin.name}", plugin.module)
    for module in modules:
        _load(f"plugin {module}", module)


def add_working_directory() -> None:
    """Let modules be imported from the working directory. It comes last, so nothing there shadows a package."""
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))


@cache
def _installed() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _load(name: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the code outside raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if last.filename.startswith("<frozen") else f" ({last.filename}, line {last.lineno})"
        raise PluginError(
            f"{name} cannot be imported: {type(error).__name__}: {error}{where}; a plugin must be installed, on "
            "PYTHONPATH or in the working directory"
        ) from error
