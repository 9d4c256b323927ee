"""Files written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from data_process.errors import UserError, naming


class RunError(UserError, RuntimeError):
    """The run folder cannot be used; the message says why and what to do."""


class Record(BaseModel):
    """A record that lies in a file as JSON. Keys of a file that the record does not have are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record of a JSON file; RunError names the file and every field that is missing or wrong."""
        return cls.from_json(read_json(path), str(path))

    @classmethod
    def read_rows(cls, path: Path) -> list[Self]:
        """The records of a JSON Lines file; RunError names the file, the line and the fields."""
        from data_process.io import read_jsonl  # not above: vLLM's own environment imports this file, without jsonlines

        return [cls.from_json(row, f"{path}, line {number}") for number, row in enumerate(read_jsonl(path), 1)]

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """The record of a JSON value; RunError names `where` it is from and every field that is missing or wrong."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise RunError(
                f"{where}: {_faults(error)}; restore the file, or delete it and run the command that wrote it again"
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            # Readers of earlier forms look at values before these are checked.
            raise RunError(
                f"{where}: not a record of this program ({type(error).__name__}: {str(error)[:200]}); restore the "
                "file, or delete it and run the command that wrote it again"
            ) from error


class SparseRecord(Record):
    """A record whose `optional` fields are left out of files while they say nothing: the bytes stay as before them."""

    optional: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        return {
            key: value
            for key, value in values.items()
            if key not in self.optional or not (value is None or value is False or value == {})
        }


def _faults(error: ValidationError) -> str:
    """`iterations[1].eval.dev.n is missing`, for every fault found."""
    faults: list[str] = []
    for fault in error.errors(include_url=False, include_input=False):
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
        wrong = f"is wrong ({fault['msg'].removeprefix('Value error, ')})"
        if len(faults) == 10:
            return ", ".join([*faults, "..."])
        faults.append(f"{where or 'the record'} {'is missing' if fault['type'] == 'missing' else wrong}")
    return ", ".join(faults)


def write_json(path: Path, value: Any) -> None:
    """Write as `write_whole` does. `value` is JSON-able, or a `Record`."""
    if isinstance(value, Record):
        value = value.to_json()
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(path, text.encode("utf-8", "backslashreplace"))  # half of a surrogate pair becomes its escape


def read_json(path: Path) -> Any:
    """Raises RunError, naming the file, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run the command that made the folder once more") from None
    except (ValueError, RecursionError, OSError) as error:
        # A stage is made again whole; beside the stages only the one file is in the way.
        broken = path.parent if (path.parent / "stage.json").exists() else path
        raise RunError(f"{path} is damaged ({error}); delete {broken} and run the same command again") from error


def file_digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write aside, flush to the disk, rename: the file is whole or absent. Makes its folder; text becomes UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with naming(path), partial.open("wb") as out:
            # "replace": a model may write half of a surrogate pair, which UTF-8 has no bytes for.
            out.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
            out.flush()
            os.fsync(out.fileno())
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
