"""Reads configurations: YAML files that extend each other, and overrides of the command line.

Layers, later ones win: defaults of the sections, `extends:` of a YAML file (one file or several), the YAML file, files
of `--layer`, `--set key=value`, named flags. An unknown key is an error that suggests the nearest name. Paths in a file
are relative to the working directory.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from data_process.schema import shown
from selftrain.config.hub_ids import cached
from selftrain.config.sections import Config, ConfigError
from selftrain.config.yaml_text import check_values, parse_yaml, read_yaml_file
from selftrain.engine_settings import EngineSettings, HFSettings, Section
from selftrain.engine_settings.layers import stack_engine
from selftrain.plugins import load_plugins
from selftrain.shipped import find_config

AnySection = TypeVar("AnySection", bound=Section)


def section_at(model: type[BaseModel], values: Any, path: Sequence[str]) -> type[BaseModel] | None:
    """The section at a path, None if there is none; which one an engine's is depends on its `kind` in `values`."""
    for part in path:
        if part.isdigit():  # an item of a list of sections
            values = values[int(part)] if isinstance(values, list | tuple) else None
            continue
        field = model.model_fields.get(part)
        section = _section_in(field.annotation) if field else None
        if section is None:
            return None
        values = values.get(part) if isinstance(values, Mapping) else None
        model = section
        if issubclass(model, EngineSettings):
            kind = values.get("kind", HFSettings().kind) if isinstance(values, Mapping) else None
            model = EngineSettings.of_kind(kind) or model
    return model


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section of a field's type: of itself, of "section or none", of a tuple of sections."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _section_in(one))), None)


def unknown_key(model: type[BaseModel], values: Any, path: Sequence[str]) -> str:
    """What to say of a key that a section does not have."""
    *above, key = path
    section = section_at(model, values, above)
    names = list(section.model_fields) if section else []
    unknown = f"unknown key {'.'.join(path)!r}"
    if section is not None and issubclass(section, EngineSettings) and (others := section.owners(key)):
        where = f"{'.'.join(above)}.kind"
        kind = section.model_fields["kind"].default
        return f"{unknown}: it belongs to {where} {' and '.join(others)}, and {where} is {kind}; leave it out"
    meant = {name: ".".join([*above, name]) for name in names}
    if model.__name__ == "Config" and above in ([], ["training"]):
        short = {name: f"training.overrides.{name}" for name in HYPERPARAMETERS}
        names_there = {name: full for name, full in ALIASES.items() if not above or full.startswith("training.")}
        meant = {**short, **names_there, **meant}
    if near := difflib.get_close_matches(key, meant, n=1, cutoff=0.5):
        return f"{unknown}; did you mean {meant[near[0]]!r}?"
    return f"{unknown}; known: {', '.join(names)}"


def _explain(error: ValidationError, origin: str, model: type[BaseModel], values: Any) -> ConfigError:
    lines = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        if item["type"] == "extra_forbidden":
            lines.append(unknown_key(model, values, path))
        else:
            # Of several settings together, the message says which. What may be a secret is not repeated.
            got = "" if not path or {"api_key_env", "overrides"} & set(path) else f" (got {shown(item['input'])})"
            key = ".".join(path) or "configuration"
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}{got}")
    return ConfigError(f"{origin}: " + "; ".join(lines))


def _merge(base: Mapping[str, Any], top: Mapping[str, Any], *, into_overrides: bool = False) -> dict[str, Any]:
    """`top` over `base`, section by section; `training.overrides` is one value, unless a key inside it is meant."""
    merged = dict(base)
    for key, value in top.items():
        whole = key == "overrides" and not into_overrides
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and not whole:
            merged[key] = _merge(merged[key], value, into_overrides=into_overrides)
        else:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def _stack(
    base: Mapping[str, Any],
    top: Mapping[str, Any],
    notes: list[str],
    *,
    into_overrides: bool = False,
    tell_dropped: bool = True,
) -> dict[str, Any]:
    """`_merge` of whole configurations; `engine:` has rules of its own, see `stack_engine`.

    Imports the plugins of `top` first, which may register the kind of its engine. Raises PluginError.
    """
    plugins = top.get("plugins")
    load_plugins([name for name in plugins if isinstance(name, str)] if isinstance(plugins, list | tuple) else [])
    merged = _merge(base, top, into_overrides=into_overrides)
    layer, below = top.get("engine"), base.get("engine")
    if isinstance(layer, Mapping):
        below = below if isinstance(below, Mapping) else {}
        merged["engine"] = stack_engine(below, layer, notes, tell_dropped=tell_dropped)
    return merged


def read_yaml(path: Path, notes: list[str] | None = None, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping with its `extends:` (a path relative to the file) resolved.

    `notes` takes advice about settings in the form of earlier versions.
    """
    notes = [] if notes is None else notes
    path = find_config(path).resolve()
    if path in _seen:
        raise ConfigError(f"{path}: extends itself, by way of {' -> '.join(p.name for p in _seen)}")
    try:
        values = read_yaml_file(path)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; those that ship are in configs/") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, not settings of the form `key: value`")
    parent = values.pop("extends", None)
    parents = parent if isinstance(parent, list) else [] if parent is None else [parent]
    if not all(isinstance(one, str) and one for one in parents):
        raise ConfigError(f"{path}: extends must be the path of a YAML file, or a list of paths, not {shown(parent)}")
    below: dict[str, Any] = {}
    for one in parents:
        below = _stack(below, read_yaml(path.parent / one, notes, (*_seen, path)), notes, tell_dropped=False)
    return _stack(below, values, notes, tell_dropped=False)


# Short names of settings on the command line.
ALIASES = {
    "lr": "training.overrides.learning_rate",
    "epochs": "training.overrides.num_train_epochs",
    "max_steps": "training.overrides.max_steps",
    "batch_size": "training.overrides.global_batch_size",
    "lora_rank": "training.overrides.lora_rank",
    "lora_alpha": "training.overrides.lora_alpha",
    "n": "sampling.n",
    "temperature": "sampling.temperature",
    "max_tokens": "sampling.max_tokens",
    "model": "model.path",
    "data": "data.folder",
    "training.report_to": "report_to",
}
# Hyper-parameters that may stand directly under `training` there.
HYPERPARAMETERS = (
    "learning_rate", "num_train_epochs", "max_steps", "global_batch_size", "warmup_ratio", "warmup_steps",
    "lr_scheduler_type", "weight_decay", "max_grad_norm", "optim", "bf16", "fp16", "deepspeed", "fsdp",
    "run_name", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "neftune_noise_alpha", "pref_beta",
    "pref_loss",
)  # fmt: skip
_SCIENTIFIC = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")  # a number that YAML 1.1 takes for text: 1e-4


def canonical_key(keys: list[str]) -> list[str]:
    """A setting's path in full: ["lr"] and ["training", "learning_rate"] are under training.overrides."""
    if (name := ".".join(keys)) in ALIASES:
        return ALIASES[name].split(".")
    if len(keys) == 2 and keys[0] == "training" and keys[1] in HYPERPARAMETERS:
        return ["training", "overrides", keys[1]]
    return keys


def parse_override(text: str) -> tuple[list[str], Any]:
    """`a.b=value` with the value read as YAML: ("a.b=3") -> (["a", "b"], 3). Keys may be short: see `canonical_key`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {shown(text)}: write it as key=value, for instance --set sampling.n=4")
    try:
        number = float(value) if _SCIENTIFIC.fullmatch(value.strip()) else None
        return key.strip().split("."), parse_yaml(value) if number is None else number
    except ValueError as error:
        raise ConfigError(f"--set {shown(text)}: the value is not YAML: {error}") from error


def set_value(
    values: Mapping[str, Any], keys: Sequence[str], value: Any, notes: list[str] | None = None
) -> dict[str, Any]:
    """`values` with one setting replaced, by its path: ["sampling", "n"]. `notes` as in `read_yaml`."""
    nested: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        nested = {key: nested}
    return _stack(values, nested, [] if notes is None else notes, into_overrides="overrides" in keys[:-1])


def load_config(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    layers: Sequence[Path] = (),
) -> Config:
    """Build the configuration from its layers; raises ConfigError. `layers`: YAML files over the one at `path`.

    The first overrides of `plugins` and `engine.kind` come before the others, wherever they stand. Settings in the form
    of earlier versions are read, with one line of advice on standard error.
    """
    notes: list[str] = []
    values = read_yaml(path, notes) if path else {}
    for layer in layers:
        values = _stack(values, read_yaml(layer, notes), notes, tell_dropped=False)
    parsed = [(canonical_key(keys), value) for keys, value in map(parse_override, overrides)]
    for first in (["engine", "kind"], ["plugins"]):
        places = [place for place, (keys, _) in enumerate(parsed) if keys == first]
        if places:
            parsed.insert(0, parsed.pop(places[0]))
    for keys, value in parsed:
        values = set_value(values, keys, value, notes)
    values = _merge(values, {k: v for k, v in (flags or {}).items() if v is not None})
    origin = " + ".join(map(str, ([path] if path else []) + [*layers])) or "settings"
    if notes:
        print(f"note: {origin}: {'; '.join(dict.fromkeys(notes))}", file=sys.stderr)
    config = build_section(Config, values, origin)
    if config.engine.reads_checkpoint(config.model.path) and (found := cached(config.model.path)) is not None:
        print(f"note: model.path {config.model.path} is {found}", file=sys.stderr)
        config = build_section(Config, set_value(values, ["model", "path"], str(found)), origin)
    return config


def build_config(values: Any, origin: str) -> Config:
    """Check the settings of a run, those that an earlier version wrote too; raises ConfigError, naming `origin`."""
    try:
        check_values(values)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from error
    return build_section(Config, _stack({}, values, []) if isinstance(values, Mapping) else values, origin)


def build_section(model: type[AnySection], values: Any, origin: str) -> AnySection:
    """Check the settings of any section; raises ConfigError, whose message starts with `origin`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, origin, model, values) from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines such as "sampling.n: 3 -> 4" for every value that differs between two nested mappings."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines
