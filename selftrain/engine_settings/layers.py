"""Layers of `engine:` settings, and the flat form that earlier versions gave all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selftrain.engine_settings import DEFAULT_KIND, KINDS, EngineSettings


def stack_engine(
    below: Mapping[str, Any], layer: Mapping[str, Any], notes: list[str], *, tell_dropped: bool = True
) -> dict[str, Any]:
    """One layer of `engine:` settings over those below it, unchecked; adds what the user should know to `notes`.

    A layer that names another kind keeps the settings below that the new kind has too and drops the others, except
    that `ray` takes an engine with weights below it as the one that its actors run. A layer in the flat form of earlier
    versions is translated: settings get today's names, those of the engine in Ray's actors go into `engine`, and those
    of other kinds, which never had an effect, are left out.
    """
    layer = _translated(below, layer, notes)
    before, kind = below.get("kind", DEFAULT_KIND), layer.get("kind")
    old, new = EngineSettings.of_kind(before), EngineSettings.of_kind(kind)
    if new is not None and kind != before and below:
        if "engine" in new.model_fields and old is not None and old.local_weights:
            below = {"engine": {**below, "kind": before}, "threads": below.get("threads")}
        elif isinstance(below.get("engine"), Mapping):
            return stack_engine(below["engine"], layer, notes, tell_dropped=tell_dropped)
        else:
            dropped = sorted(below.keys() - new.model_fields.keys())
            below = {key: value for key, value in below.items() if key in new.model_fields}
            if dropped and tell_dropped:
                named = ", ".join(f"engine.{key}" for key in dropped)
                notes.append(f"engine.kind {kind} replaces {before} and has no {named}, which is left out")
    merged = {**below, **layer}
    for key, value in layer.items():
        if isinstance(value, Mapping):
            under = below[key] if isinstance(below.get(key), Mapping) else {}
            inner = key == "engine"
            merged[key] = stack_engine(under, value, notes, tell_dropped=tell_dropped) if inner else {**under, **value}
    return merged


def _translated(below: Mapping[str, Any], layer: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """A layer with today's names."""
    kind = layer.get("kind", below.get("kind", DEFAULT_KIND))
    settings = EngineSettings.of_kind(kind)
    if settings is None:
        return dict(layer)
    fields = settings.model_fields
    renames = {s.flat_name(name): name for s in KINDS.values() for name in s.model_fields}
    renames = {"ray_engine": "engine.kind", **{old: new for old, new in renames.items() if old != new}}
    flat = any(key in renames and key not in fields for key in layer)
    inner_fields = {"kind"} if "engine" in fields else set()
    if "engine" in fields:
        under = below.get("engine")
        inner_kind = layer.get("ray_engine", under.get("kind") if isinstance(under, Mapping) else None)
        if inner_settings := EngineSettings.of_kind(inner_kind or DEFAULT_KIND):
            inner_fields |= inner_settings.model_fields.keys()
    inner: dict[str, Any] = {}
    found: dict[str, Any] = {}
    renamed, ignored = [], []
    for key, value in layer.items():
        new = key if key in fields else renames.get(key, key)
        inside = new.removeprefix("engine.")
        if new in fields:
            found[new] = value
        elif inside in inner_fields:
            inner[inside], new = value, f"engine.{inside}"
        elif flat and (key in renames or settings.owners(new)):
            ignored.append(f"engine.{key}")
            continue
        else:
            found[key], new = value, key  # unknown, or a key of another kind: refused when the settings are checked
        if new != key:
            renamed.append(f"engine.{key} to engine.{new}")
    if inner:
        given = found.get("engine")
        found["engine"] = {**inner, **given} if isinstance(given, Mapping) else inner
    if renamed:
        notes.append(f"rename {', '.join(renamed)}")
    if ignored:
        notes.append(f"remove {', '.join(ignored)}, which engine.kind {kind} does not have")
    return found
