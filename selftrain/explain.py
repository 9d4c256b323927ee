"""What a setting means, from the comments beside its field; hyper-parameters from the help of LLaMA-Factory.

The meaning of a field is the comment above it and the one behind it. A field without either is explained by its
section's docstring. Nothing is imported but the modules of the settings.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from selftrain.config.layers import canonical_key, section_at, unknown_key
from selftrain.config.sections import Config, ConfigError


@dataclass(frozen=True)
class Explanation:
    """One setting, or a section with its settings."""

    key: str
    meaning: str
    type: str = ""  # as the source has it
    default: Any = None
    value: Any = None  # in the configuration at hand
    inside: tuple[str, ...] = ()  # of a section: the keys in it


def explain(config: Config, key: str) -> Explanation:
    """The setting of a configuration under a key or its short name. ConfigError, with the nearest name, if unknown."""
    path = canonical_key(key.strip().split("."))
    values = config.model_dump(mode="json")
    if path[:2] == ["training", "overrides"] and len(path) == 3:
        return _hyperparameter(config, path)
    section, name = section_at(Config, values, path[:-1]), path[-1]
    if section is None or name not in section.model_fields:
        raise ConfigError(unknown_key(Config, values, path))
    value: Any = values
    for part in path:
        if isinstance(value, list) and part.isdigit():
            value = value[int(part)]
        else:  # a section that is off, or written as the name of a preset, holds nothing
            value = value.get(part) if isinstance(value, Mapping) else None
    field = section.model_fields[name]
    inner = section_at(Config, values, path)
    meaning, kind = _documented(section, name)
    meaning = meaning or _about(inner or section)
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    inside = tuple(f"{'.'.join(path)}.{one}" for one in inner.model_fields) if inner else ()
    return Explanation(".".join(path), meaning, kind, default, value, inside)


def _documented(section: type[BaseModel], name: str) -> tuple[str, str]:
    """(the meaning of a field, the source of its type)."""
    owner = next(base for base in section.__mro__ if name in vars(base).get("__annotations__", {}))
    source = textwrap.dedent(inspect.getsource(owner))
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt")
    }
    lines = source.splitlines()
    [tree] = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            said: list[str] = []
            above = node.lineno - 1
            while above in comments and lines[above - 1].lstrip().startswith("#"):
                said.insert(0, comments[above])
                above -= 1
            said += [comments[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in comments]
            return " ".join(said), _readable(node.annotation)
    raise AssertionError(f"{owner.__name__} has no field {name}")


def _about(section: type[BaseModel]) -> str:
    """The first paragraph of a section's docstring."""
    return (inspect.getdoc(section) or "").partition("\n\n")[0].replace("\n", " ")


def _readable(annotation: ast.expr) -> str:
    """A type as people write it: `Annotated[float, Field(gt=0)]` is "float > 0"."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        kind, *marks = annotation.slice.elts
        limits = [key for mark in marks if isinstance(mark, ast.Call) for key in mark.keywords if key.arg in SIGNS]
        return " ".join([_readable(kind), *(f"{SIGNS[str(key.arg)]} {ast.unparse(key.value)}" for key in limits)])
    kind_of = ast.unparse(annotation)
    for name, words in TYPES.items():
        kind_of = re.sub(rf"\b{name}\b", words, kind_of)
    return kind_of


def _hyperparameter(config: Config, path: list[str]) -> Explanation:
    """A setting of LLaMA-Factory. The file of hyper-parameters gives its value, unless an override does."""
    from selftrain.training.hyperparameters import documented_fields, read_hyperparameters

    name = path[-1]
    overrides = {**config.training.overrides}
    held: Mapping[str, Any] = read_hyperparameters(config.training.hyperparameters, overrides, _python(config))
    documented = {**documented_fields(_python(config)), "global_batch_size": ROWS_OF_A_STEP}
    if name not in documented:
        read_hyperparameters(config.training.hyperparameters, {name: None}, _python(config))  # says which is near
    about, kind = documented[name]
    return Explanation(".".join(path), about, kind, None, held.get(name))


SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
TYPES = {"Positive": "whole number >= 1", "Fraction": "number > 0, <= 1", "ShippedPath": "path"}
ROWS_OF_A_STEP = ("Rows of one optimizer step, over all processes and steps of gradient accumulation.", "int")


def _python(config: Config) -> Path:
    from selftrain.training.precision import interpreter_of

    return interpreter_of(config.training)
