"""Reads configurations: YAML files that extend each other, and overrides of the command line.

Layers, later ones win: defaults of the sections, `extends:` of a YAML file, the YAML file, `--set key=value`, named
flags. An unknown key is an error that suggests the nearest name. Paths in a file are relative to the working directory.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from selftrain.config.sections import Config, ConfigError
from selftrain.engine_settings import EngineSettings, HFSettings, Section
from selftrain.engine_settings.layers import stack_engine
from selftrain.plugins import load_plugins
from selftrain.shipped import find_config

AnySection = TypeVar("AnySection", bound=Section)


def _section_at(model: type[BaseModel], values: Any, path: Sequence[str]) -> type[BaseModel] | None:
    """The section at a path, None if there is none; which one an engine's is depends on its `kind` in `values`."""
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        values = values.get(part) if isinstance(values, Mapping) else None
        model = field.annotation
        if issubclass(model, EngineSettings):
            kind = values.get("kind", HFSettings().kind) if isinstance(values, Mapping) else None
            model = EngineSettings.of_kind(kind) or model
    return model


def _unknown_key(model: type[BaseModel], values: Any, path: Sequence[str]) -> str:
    """What to say of a key that a section does not have."""
    *above, key = path
    section = _section_at(model, values, above)
    names = list(section.model_fields) if section else []
    unknown = f"unknown key {'.'.join(path)!r}"
    if section is not None and issubclass(section, EngineSettings) and (others := section.owners(key)):
        where = f"{'.'.join(above)}.kind"
        kind = section.model_fields["kind"].default
        return f"{unknown}: it belongs to {where} {' and '.join(others)}, and {where} is {kind}; leave it out"
    if near := difflib.get_close_matches(key, names, n=1, cutoff=0.5):
        return f"{unknown}; did you mean {'.'.join([*above, near[0]])!r}?"
    return f"{unknown}; known: {', '.join(names)}"


def _explain(error: ValidationError, origin: str, model: type[BaseModel], values: Any) -> ConfigError:
    lines = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        if item["type"] == "extra_forbidden":
            lines.append(_unknown_key(model, values, path))
        else:
            key = ".".join(path) or "configuration"
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r})")
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


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error: PyYAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, notes: list[str] | None = None, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping with its `extends:` (a path relative to the file) resolved.

    `notes` takes advice about settings in the form of earlier versions.
    """
    notes = [] if notes is None else notes
    path = find_config(path).resolve()
    if path in _seen:
        raise ConfigError(f"{path}: extends itself, by way of {' -> '.join(p.name for p in _seen)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; those that ship are in configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, not settings of the form `key: value`")
    parent = values.pop("extends", None)
    if parent is not None and (not isinstance(parent, str) or not parent):
        raise ConfigError(f"{path}: extends must be the path of one YAML file, not {parent!r}")
    below = read_yaml(path.parent / parent, notes, (*_seen, path)) if parent else {}
    return _stack(below, values, notes, tell_dropped=False)


def parse_override(text: str) -> tuple[list[str], Any]:
    """`a.b=value` with the value read as YAML: ("a.b=3") -> (["a", "b"], 3)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write it as key=value, for instance --set sampling.n=4")
    try:
        return key.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not YAML: {error}") from error


def set_value(
    values: Mapping[str, Any], keys: Sequence[str], value: Any, notes: list[str] | None = None
) -> dict[str, Any]:
    """`values` with one setting replaced, by its path: ["sampling", "n"]. `notes` as in `read_yaml`."""
    nested: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        nested = {key: nested}
    return _stack(values, nested, [] if notes is None else notes, into_overrides="overrides" in keys[:-1])


def load_config(
    path: Path | None = None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Config:
    """Build the configuration from its layers; raises ConfigError.

    The first overrides of `plugins` and `engine.kind` come before the others, wherever they stand. Settings in the form
    of earlier versions are read, with one line of advice on standard error.
    """
    notes: list[str] = []
    values = read_yaml(path, notes) if path else {}
    parsed = [parse_override(text) for text in overrides]
    for first in (["engine", "kind"], ["plugins"]):
        places = [place for place, (keys, _) in enumerate(parsed) if keys == first]
        if places:
            parsed.insert(0, parsed.pop(places[0]))
    for keys, value in parsed:
        values = set_value(values, keys, value, notes)
    values = _merge(values, {k: v for k, v in (flags or {}).items() if v is not None})
    origin = str(path) if path else "settings"
    if notes:
        print(f"note: {origin}: {'; '.join(dict.fromkeys(notes))}", file=sys.stderr)
    return build_section(Config, values, origin)


def build_config(values: Any, origin: str) -> Config:
    """Check the settings of a run, those that an earlier version wrote too; raises ConfigError, naming `origin`."""
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
