"""The configuration of a run: its sections and the files that they are read from."""

from selftrain.config.acceptance import AcceptanceConfig
from selftrain.config.layers import (
    build_config,
    build_section,
    differences,
    load_config,
    parse_override,
    read_yaml,
    set_value,
)
from selftrain.config.sampling import DecodingConfig
from selftrain.config.sections import (
    Config,
    ConfigError,
    EvaluationConfig,
    LabelsConfig,
    ModelConfig,
    TrainingConfig,
    TrainingDtype,
)

__all__ = [
    "AcceptanceConfig",
    "Config",
    "ConfigError",
    "DecodingConfig",
    "EvaluationConfig",
    "LabelsConfig",
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
