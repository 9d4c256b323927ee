"""From settings to an open engine. The engine's module is imported here and not before."""

from __future__ import annotations

import importlib

from selftrain.engine_settings import EngineJob, EngineSettings
from selftrain.engines.base import Engine


def open_by_settings(settings: EngineSettings, job: EngineJob) -> Engine:
    """Open the engine that `settings` are for; raises EngineError if it cannot be opened."""
    module, _, function = settings.opener.partition(":")
    engine = getattr(importlib.import_module(module), function)(settings, job)
    if not isinstance(engine, Engine):
        raise TypeError(
            f"{settings.opener} opened a {type(engine).__name__}, which is no selftrain.engines.base.Engine"
        )
    return engine
