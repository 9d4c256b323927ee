"""YAML as settings need it: text, numbers, truth values, lists and mappings, of bounded size and depth, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from data_process.errors import printable
from data_process.schema import shown

MAX_FILE = 1_000_000  # bytes
MAX_DEPTH = 30
MAX_VALUES = 50_000  # aliases counted as often as they are used
MAX_INTEGER = 2**63
MAX_STRING = 100_000  # characters


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error: PyYAML would take the last without a word."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                message = f"key {shown(key.value)} stands twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of YAML text. ValueError, whose message is short, for anything that settings cannot be."""
    if len(text) > MAX_FILE:
        raise ValueError(f"it has {len(text):,} characters, more than {MAX_FILE:,}")
    try:
        value = yaml.load(text, _Loader)
        check_values(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # PyYAML's constructors raise what Python's own conversions do: dates, tags, numbers of 5,000 digits.
        said = printable(str(error))
        raise ValueError(said if len(said) <= 600 else f"{said[:600]} ...") from error
    return value


def read_yaml_file(path: Path) -> Any:
    """As `parse_yaml`, of a file. OSError if it cannot be read."""
    with path.open("rb") as file:
        raw = file.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise ValueError(f"it has more than {MAX_FILE:,} bytes, so it is no settings")
    return parse_yaml(raw.decode("utf-8"))


def check_values(value: Any) -> None:
    """ValueError for a value that YAML can write and no setting can be, and for an alias that repeats itself."""
    left = MAX_VALUES
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"more than {MAX_VALUES:,} values; aliases count as often as they are used")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep, or an alias inside of what it names")
        if isinstance(item, dict):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise ValueError(f"key {shown(key)}: keys are words, and this is a {type(key).__name__}; quote it")
                _check_string(key)
                waiting.append((inner, depth + 1))
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]
        elif isinstance(item, str):
            _check_string(item)
        elif isinstance(item, int) and abs(item) >= MAX_INTEGER:
            raise ValueError("a whole number of more than 64 bits")
        elif item is not None and not isinstance(item, int | float | bool):
            raise ValueError(f"{shown(item)} is a {type(item).__name__}; put it in quotes if it is a text")


def _check_string(text: str) -> None:
    if len(text) > MAX_STRING:
        raise ValueError(f"a text of {len(text):,} characters")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"the text {shown(text)} holds a null character or half of a character")
