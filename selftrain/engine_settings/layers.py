"""Layers of `engine:` settings, and the flat form that earlier versions gave all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selftrain.engine_settings.base import DEFAULT_KIND, all_settings, flat_name, owners, settings_class


def _old_names() -> dict[str, str]:
    """Old name -> today's, for every setting that has another name today."""
    pairs = ((flat_name(s, name), name) for s in all_settings() for name in s.model_fields)
    return {"ray_engine": "engine", **{old: new for old, new in pairs if old != new}}


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
    settings = settings_class(layer.get("kind", DEFAULT_KIND))
    before = below.get("kind", DEFAULT_KIND)
    if settings is not None and "kind" in layer and layer["kind"] != before and below:
        old = settings_class(before)
        if "engine" in settings.model_fields and old is not None and old.local_weights:
            below = {"engine": {**below, "kind": before}, "threads": below.get("threads")}
        elif isinstance(below.get("engine"), Mapping):
            return stack_engine(below["engine"], layer, notes, tell_dropped=tell_dropped)
        else:
            dropped = sorted(key for key in below if key not in settings.model_fields)
            below = {key: value for key, value in below.items() if key in settings.model_fields}
            if dropped and tell_dropped:
                named = ", ".join(f"engine.{key}" for key in dropped)
                notes.append(f"engine.kind {layer['kind']} replaces {before} and has no {named}, which is left out")
    merged = {**below, **layer}
    for key, value in layer.items():
        if not isinstance(value, Mapping):
            continue
        under = below.get(key)
        if key == "engine":
            under = under if isinstance(under, Mapping) else {}
            merged[key] = stack_engine(under, value, notes, tell_dropped=tell_dropped)
        elif isinstance(under, Mapping):
            merged[key] = {**under, **value}
    return merged


def _translated(below: Mapping[str, Any], layer: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """A layer with today's names."""
    kind = layer.get("kind", below.get("kind", DEFAULT_KIND))
    settings = settings_class(kind)
    old_names = _old_names()
    if settings is None:
        return dict(layer)
    flat = any(key in old_names and key not in settings.model_fields for key in layer)
    wraps = "engine" in settings.model_fields
    inner: dict[str, Any] = {}
    found: dict[str, Any] = {}
    renamed: list[str] = []
    ignored: list[str] = []
    inner_settings = None
    if wraps:
        under = below.get("engine")
        inner_kind = layer.get("ray_engine", under.get("kind") if isinstance(under, Mapping) else None)
        inner_settings = settings_class(inner_kind or DEFAULT_KIND)
    for key, value in layer.items():
        new = old_names.get(key, key)
        if key in settings.model_fields:
            found[key] = value
        elif wraps and key == "ray_engine":
            inner["kind"] = value
            renamed.append("engine.ray_engine to engine.engine.kind")
        elif new in settings.model_fields:
            found[new] = value
            renamed.append(f"engine.{key} to engine.{new}")
        elif wraps and inner_settings is not None and new in inner_settings.model_fields:
            inner[new] = value
            renamed.append(f"engine.{key} to engine.engine.{new}")
        elif flat and (owners(new) or key in old_names):
            ignored.append(f"engine.{key}")
        else:
            found[key] = value  # unknown, or a key of another kind: refused when the settings are checked
    if inner:
        given = found.get("engine")
        found["engine"] = {**inner, **given} if isinstance(given, Mapping) else inner
    if renamed:
        notes.append(f"rename {', '.join(renamed)}")
    if ignored:
        notes.append(f"remove {', '.join(ignored)}, which engine.kind {kind} does not have")
    return found
