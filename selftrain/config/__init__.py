"""The configuration of a run: its sections and the files that they are read from."""

from selftrain.config.layers import (
    build_config,
    build_section,
    differences,
    load_config,
    parse_override,
    read_yaml,
    set_value,
)
from selftrain.config.sections import (
    Config,
    ConfigError,
    DecodingConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
    TrainingDtype,
)

__all__ = [
    "Config",
    "ConfigError",
    "DecodingConfig",
    "EvaluationConfig",
    "ModelConfig",
    "TrainingConfig",
    "TrainingDtype",
    "build_config",
    "build_section",
    "differences",
    "load_config",
    "parse_override",
    "read_yaml",
    "set_value",
]
