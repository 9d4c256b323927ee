"""Settings of every kind of engine, and the registry of kinds.

A kind of engine is a settings class. Its fields are the keys under `engine:`, its class attributes and properties say
what the rest of the program may expect of such an engine, and `opener` names the function that opens one. Everything
else asks the settings and never compares kinds. Reading settings imports no engine.

To add a kind, register its settings class when a module is imported (`plugins:` in the configuration names it):

    @register_engine
    class EchoSettings(EngineSettings):
        opener: ClassVar[str] = "my_module:open_echo"  # open_echo(settings: EchoSettings, job: EngineJob) -> Engine
        kind: Literal["echo"] = "echo"
"""

from selftrain.engine_settings.base import (
    DEFAULT_KIND,
    KINDS,
    AnyEngine,
    EngineJob,
    EngineSettings,
    FlatName,
    Fraction,
    FreeToChange,
    ParityCheck,
    Positive,
    Requirement,
    Section,
    register_engine,
)
from selftrain.engine_settings.kinds import HFSettings, RaySettings, ScriptedSettings, ServerSettings, VLLMSettings

__all__ = [
    "DEFAULT_KIND", "KINDS", "AnyEngine", "EngineJob", "EngineSettings", "FlatName", "Fraction", "FreeToChange",
    "HFSettings", "ParityCheck", "Positive", "RaySettings", "Requirement", "ScriptedSettings", "Section",
    "ServerSettings", "VLLMSettings", "register_engine",
]  # fmt: skip
