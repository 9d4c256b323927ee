"""Training rows from files: examples as the loop writes them, or ShareGPT rows as LLaMA-Factory reads them.

A ShareGPT row has `messages` (role, content) or `conversations` (from, value): one turn of the user and one of the
assistant. `images`, a list, or `image` names its pictures, which stand where the text has `<image>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_process.io import numbered_rows
from data_process.schema import DataError, Example, example_from_json, shown, wrong

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
_FIELDS = ("id", "kind", "problem_id", "prompt", "target", "sources")  # of an example


def read_given(files: Sequence[Path], images: Path) -> tuple[list[Example], Counter[str]]:
    """The examples of files, and reason -> rows of those that one prompt and one target cannot hold.

    Paths of images may be absolute if they lie in the folder `images`; in examples they are relative to it. DataError,
    with file and line, for a row of neither form, and if no row is left.
    """
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    for file in files:
        for number, (where, row) in enumerate(numbered_rows(file), 1):
            found = _read(row, where, f"{file.stem}-{number:06d}")
            if isinstance(found, str):
                dropped[found] += 1
            else:
                examples.append(_with_images_in(found, images, where))
    if not examples:
        reasons = ", ".join(f"{name} {n}" for name, n in dropped.items()) or "the files are empty"
        raise DataError(f"there is no row to train on in {', '.join(map(str, files))} ({reasons})")
    return examples, dropped


def _read(row: Mapping[str, Any], where: str, name: str) -> Example | str:
    """An example, or the reason why a row is left out."""
    if "prompt" in row and "target" in row:
        missing = [field for field in _FIELDS if field not in row]
        if missing:
            wrong(where, f"an example needs {', '.join(map(repr, missing))} as well; see docs/files.md")
        for field in ("id", "kind", "problem_id", "prompt", "target"):
            _text(row[field], where, field)
        try:
            return example_from_json(row)
        except DataError as error:
            raise DataError(f"{where}: not an example ({error}); see docs/files.md") from error
    turns = row.get("messages", row.get("conversations"))
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        wrong(where, "neither an example ('prompt', 'target') nor a ShareGPT row ('messages' or 'conversations')")
    texts = [(_role(turn, where), _text(turn.get("content", turn.get("value")), where, "content")) for turn in turns]
    if any(role == "system" for role, _ in texts):
        return "system_prompt"
    if [role for role, _ in texts] != ["user", "assistant"]:
        return "several_turns" if len(texts) > 2 else "no_answer"
    named = row.get("images", row.get("image"))
    pictures = [] if named is None else [named] if isinstance(named, str) else named
    if not isinstance(pictures, list) or not all(isinstance(picture, str) for picture in pictures):
        wrong(where, f"'images' must be a list of paths, found {shown(named)}")
    (_, prompt), (_, target) = texts
    given = row.get("id")
    name = given if isinstance(given, str) and given else name
    return Example(name, "cot", name, prompt, target, tuple(pictures))


def _role(turn: Mapping[str, Any], where: str) -> str:
    named = turn.get("role", turn.get("from"))
    if not isinstance(named, str) or named not in _ROLES:
        wrong(where, f"a turn is of {shown(named)}; known: {', '.join(_ROLES)}")
    return _ROLES[named]


def _text(value: object, where: str, field: str) -> str:
    if not isinstance(value, str):
        wrong(where, f"{field!r} must be a text, found {shown(value)}")
    return value


def _with_images_in(example: Example, folder: Path, where: str) -> Example:
    """The example with paths relative to a folder. DataError for an absolute one that leads elsewhere."""
    if not any(Path(image).is_absolute() for image in example.images):
        return example
    found = []
    for image in example.images:
        path = Path(image)
        if path.is_absolute() and not path.is_relative_to(folder.absolute()):
            wrong(where, f"image {shown(image)} is not in {folder.absolute()}; name its folder with --images")
        found.append(str(path.relative_to(folder.absolute())) if path.is_absolute() else image)
    fields = {name: getattr(example, name) for name in Example.__dataclass_fields__}
    return Example(**{**fields, "images": tuple(found)})
