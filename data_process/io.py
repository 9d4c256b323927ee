"""Reading and writing JSON Lines and problems. A file is written whole or not at all; errors name file and line.

Rows pass through `jsonlines` with a strict codec of the standard library: orjson, which `jsonlines` takes by default
where it is installed, would turn whole numbers above 64 bits into floats.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import jsonlines

from data_process.errors import naming
from data_process.images.marks import check_marks
from data_process.json_files import BOM
from data_process.judging import check_gold
from data_process.limits import (
    MAX_NUMBER,
    Readable,
    check_precision,
    check_text,
    check_tolerances,
    lines_of,
    read_whole,
)
from data_process.row_fields import choices_of, gold_letter, image_field, origin_of, text_field
from data_process.schema import (
    ANSWER_TYPES,
    MAX_IMAGES,
    PLACEHOLDERS,
    AnswerType,
    DataError,
    Example,
    Problem,
    example_from_json,
    images_of,
    shown,
    wrong,
)

if TYPE_CHECKING:
    from jsonlines.jsonlines import LoadsCallable

Row = dict[str, Any]
Record = TypeVar("Record")


@contextlib.contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Pauses Python's cyclic garbage collector while many records are made.

    It would walk through all of them again and again as they grow. They form no cycles, so reference counting alone
    still frees what is no longer used.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # Python reads NaN and Infinity, but other readers of the file do not


class _TwiceError(ValueError):
    """A key stands twice in one object; Python would take the last without a word."""


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        [(name, times)] = Counter(name for name, _ in pairs).most_common(1)
        raise _TwiceError(f"key {shown(name)} stands {times} times in one object; keep one of them")
    return row


# Made once: json.loads and json.dumps make one for every row when they are given options. The check for circular
# references takes a quarter of the time, and a circular row ends in RecursionError all the same.
_DECODER = json.JSONDecoder(parse_constant=_not_json)  # of files that this program wrote
_UNIQUE_DECODER = json.JSONDecoder(parse_constant=_not_json, object_pairs_hook=_unique)
# For files of others: pandas writes a missing value as NaN.
_NAN_DECODER = json.JSONDecoder(
    parse_constant=lambda name: None if name == "NaN" else _not_json(name), object_pairs_hook=_unique
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False)
_ASCII_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False)


def _parse(data: bytes, path: Path, line: int | None, decoder: json.JSONDecoder) -> Any:
    """The JSON value of a line, or of a whole file where `line` is None. Raises DataError."""
    try:
        return decoder.decode(data.removeprefix(BOM).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{_where(path, line)}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{_where(path, line)}: nested too deeply; correct the line") from error
    except _TwiceError as error:
        raise DataError(f"{_where(path, line)}: {error}") from error
    except ValueError as error:
        raise DataError(
            f"{_where(path, line)}: not complete JSON ({error}); a file whose writing was interrupted ends like "
            "this: write it again, or remove the line"
        ) from error


def _where(path: Path, number: int | None, unit: str = "line") -> str:
    return str(path) if number is None else f"{path}, {unit} {number}"


def numbered_rows(
    path: Path, *, nan_is_null: bool = False, bad: Callable[[DataError], Row] | None = None
) -> Iterator[tuple[str, Row]]:
    """(where, row) of every row; `where` names the file and the line for messages. `nan_is_null`: as pandas writes.

    `bad` makes the row that stands for a line that cannot be read; without it, such a line is a DataError. So is one
    in which a key stands twice.
    """
    rows = _rows(path, _NAN_DECODER if nan_is_null else _UNIQUE_DECODER, bad)
    return ((_where(path, number, unit), row) for unit, number, row in rows)


def _rows(
    path: Path, decoder: json.JSONDecoder = _DECODER, bad: Callable[[DataError], Row] | None = None
) -> Iterator[tuple[str, int, Row]]:
    """("line" or, in a JSON array, "item"; its number; the row) of every row."""
    loads = cast("LoadsCallable", decoder.decode)  # the reader decodes bytes first, so it only ever passes text
    number, line = 0, b""

    def lines(file: Readable) -> Iterator[bytes]:
        # Lines end at \n only: str.splitlines would also split at U+2028, which JSON allows inside a string.
        nonlocal number, line
        try:
            for line in lines_of(file, path):
                number += 1
                if not line.isspace():
                    yield line
        except EOFError as error:  # a truncated gzip file; the reader would take it for the end of the rows
            raise gzip.BadGzipFile(str(error)) from error

    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            rest = lines(file)
            first = next(rest, None)
            if first is None:
                return
            if first.removeprefix(BOM).lstrip().startswith(b"["):  # one JSON array, as GeoQA is shipped
                for item, row in enumerate(_parse(first + read_whole(file, path), path, None, decoder), start=1):
                    yield "item", item, _object(row, path, item, "item")
                return
            unread: Iterable[bytes] = itertools.chain([first], rest)
            while True:
                try:
                    for row in jsonlines.Reader(unread, loads=loads).iter(type=dict):
                        yield "line", number, row
                    return
                except (jsonlines.InvalidLineError, RecursionError):
                    error = _bad_line(line, path, number, decoder)
                    if bad is None:
                        raise error from error.__cause__
                yield "line", number, bad(error)
                unread = rest
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path, or create the file first") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:  # EOFError: from the rest of an array
        raise DataError(f"{path}: damaged gzip file ({error}); fetch or write it again") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from error


def _bad_line(line: bytes, path: Path, number: int, decoder: json.JSONDecoder) -> DataError:
    """The error that says what is wrong with a line."""
    try:
        _object(_parse(line, path, number, decoder), path, number, "line")
    except DataError as error:
        return error
    return DataError(f"{_where(path, number)}: not a row of JSON; correct the line")


def _object(row: Any, path: Path, number: int, unit: str) -> Row:
    if not isinstance(row, dict):
        where = _where(path, number, unit)
        wrong(where, f"a row must be a JSON object, this is a {type(row).__name__}")
    return row


def read_jsonl(path: str | Path) -> list[Row]:
    """The rows of a JSON Lines file, plain or `.gz`, or of a file that holds one JSON array of objects.

    Blank lines are skipped. `each_row` yields the rows one at a time. DataError for an unreadable file and a bad row.
    """
    return list(each_row(path))


def each_row(path: str | Path) -> Iterator[Row]:
    """Yields the rows of `read_jsonl` one at a time, for files that need not be held in memory. DataError as there."""
    return (row for _, _, row in _rows(Path(path)))


def each_record(path: str | Path, from_json: Callable[[Row], Record]) -> Iterator[Record]:
    """Yields `from_json` of each row. DataError as in `read_jsonl`; one that `from_json` raises names file and line."""
    path = Path(path)
    for unit, number, row in _rows(path):
        try:
            yield from_json(row)
        except DataError as error:
            raise DataError(f"{_where(path, number, unit)}: {error}") from error


@paused_garbage_collection()
def read_examples(path: str | Path) -> list[Example]:
    """Training examples that were written with `to_json`. DataError as in `each_record`."""
    return list(each_record(path, example_from_json))


def _check_id(row: Row, where: str, first: dict[str, str]) -> None:
    value = row.get("id")
    if not isinstance(value, str) or not value:
        wrong(where, f"'id' must be a non-empty string, found {shown(value)}")
    check_text(value, "id", where)
    if value in first:
        wrong(where, f"id {shown(value)} was already used ({first[value]}); ids must be unique")
    first[value] = where


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[IO[bytes]]:
    """A file object whose bytes appear at `path` together when the block ends, or not at all if it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path), open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # so that the rename survives a power cut too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any, *, indent: int = 1) -> None:
    """Write one JSON value as UTF-8, whole or not at all; half of a surrogate pair becomes its escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    with write_aside(path) as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON Lines (gzip for `.gz`), all or none; the same rows give the same bytes.

    Returns the number of rows. If a row is not JSON (NaN included), it raises DataError and leaves the file as it was.
    """
    path = Path(path)
    count = 0
    with write_aside(path) as raw, contextlib.ExitStack() as stack:
        file = raw
        if path.suffix == ".gz":  # without name and time in the header, so that equal rows give equal bytes
            zipped = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
            file = cast("IO[bytes]", stack.enter_context(zipped))
        writer = jsonlines.Writer(file, dumps=_ENCODER.encode)
        ascii_writer = jsonlines.Writer(file, dumps=_ASCII_ENCODER.encode)
        for row in rows:
            count += 1
            try:
                try:
                    writer.write(row)
                except UnicodeEncodeError:  # half of a surrogate pair can only be written as an escape
                    ascii_writer.write(row)
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(f"{path}: a row cannot be written as JSON ({error}): {shown(row, 200)}") from error
    return count


_FIELDS = (
    "id", "question", "answer", "choices", "image", "images", "answer_type", "precision", "unit", "tolerance",
    "meta", "alternatives", "origin", "absolute_tolerance", "context", "choices_in_image",
)  # fmt: skip


def refuse_file(folder: Path) -> None:
    """DataError for a file where a folder of problems should be."""
    if folder.is_file():
        raise DataError(
            f"{folder} is a file, and the folder of the problems is needed; make one with `selftrain prepare table "
            f"--raw {folder} --out data/{folder.name.partition('.')[0]}`, and set data.folder to it"
        )


def load_problems(path: str | Path, image_root: str | Path, *, unlabelled: bool = False) -> list[Problem]:
    """The problems of a JSON Lines file, every field checked. Images are relative to `image_root` and may be missing.

    A row has `id`, `question`, `answer` and, where they apply, `choices`, `image` or `images`, `answer_type`,
    `precision`, `unit`, `tolerance` or `absolute_tolerance`, `alternatives` (other accepted answers), `origin`,
    `context`, `choices_in_image`, `meta`. Without `answer_type`, a row with choices is a choice problem and any other a
    number problem. Other fields go to `meta`. With `unlabelled`, `answer` may be null. Raises DataError naming the row.
    """
    root = Path(image_root).resolve()
    refuse_file(Path(image_root))
    first: dict[str, str] = {}
    problems = []
    for where, row in numbered_rows(Path(path)):
        _check_id(row, where, first)
        problems.append(problem_from_row(row, f"{where}, problem {shown(row['id'])}", root, unlabelled=unlabelled))
    return problems


def problem_from_row(row: Mapping[str, Any], where: str, root: Path, *, unlabelled: bool = False) -> Problem:
    """The problem of a row with the fields of `load_problems`; `where` names it in errors, `root` has its image."""
    question = text_field(row, "question", where)
    known = not unlabelled or row.get("answer") is not None
    if known and "answer" in row and row["answer"] is None:
        wrong(where, "'answer' is null; only training problems may lack it, with labels.source=vote")
    answer = text_field(row, "answer", where) if known else ""
    choices = choices_of(row.get("choices"), where)
    others = row.get("alternatives") or ()
    if not isinstance(others, list | tuple) or not all(isinstance(other, str) and other.strip() for other in others):
        wrong(where, f"'alternatives' must be a list of texts, found {shown(others)}")
    answer_type: AnswerType = row.get("answer_type") or ("choice" if choices else "number")
    if answer_type not in ANSWER_TYPES:
        wrong(where, f"unknown answer_type {shown(answer_type)}; known: {', '.join(ANSWER_TYPES)}")
    if answer_type == "choice":
        if not choices:
            wrong(where, "a choice problem needs 'choices'")
        answer = gold_letter(answer, choices, where) if known else ""
        others = [gold_letter(other, choices, where) for other in others]
    elif choices:
        wrong(where, f"a {answer_type} problem cannot have 'choices'; remove them or the answer_type")
    meta = row.get("meta")
    if meta is not None and not isinstance(meta, dict):
        wrong(where, f"'meta' must be an object, found {type(meta).__name__}")
    unit, tolerance, absolute = row.get("unit"), row.get("tolerance"), row.get("absolute_tolerance")
    precision = check_precision(row.get("precision"), where)
    check_tolerances(tolerance, absolute, where)
    if answer_type == "float" and precision is None:
        wrong(where, "a float problem needs 'precision', the decimals of its answer")
    if unit is not None and not isinstance(unit, str):
        wrong(where, f"'unit' must be text, found {shown(unit)}")
    check_text(row["id"], "id", where)
    check_text(unit or "", "unit", where)
    for other in others:
        check_text(other, "alternatives", where)
    if answer_type in ("integer", "float", "number") and len(answer) > MAX_NUMBER:
        wrong(where, f"'answer' has {len(answer):,} characters, and a number at most {MAX_NUMBER} ({shown(answer)})")
    context = text_field(row, "context", where) if row.get("context") else None
    drawn = row.get("choices_in_image") or False
    if not isinstance(drawn, bool) or (drawn and not choices):
        wrong(where, f"'choices_in_image' must be true or false, and needs 'choices'; found {shown(drawn)}")
    meta = {key: value for key, value in row.items() if key not in _FIELDS} | (meta or {})
    images = tuple(image_field(image, where, root) for image in images_of(row, where))
    if len(images) > MAX_IMAGES:
        wrong(where, f"{len(images)} images; a problem has at most {MAX_IMAGES}")
    check_marks((*((context,) if context else ()), question, *choices), len(images), where)
    others = tuple(other for other in dict.fromkeys(others) if other != answer)
    problem = Problem(
        row["id"], question, answer, choices, images, answer_type, precision, unit or None, tolerance, meta, others,
        origin=origin_of(row.get("origin"), where), absolute_tolerance=absolute, context=context,
        choices_in_image=drawn,
    )  # fmt: skip
    if not known:
        if answer_type not in PLACEHOLDERS or others:
            wrong(
                where,
                f"a {answer_type} problem without an answer cannot be labelled by a vote; only "
                f"{', '.join(PLACEHOLDERS)} problems can, without 'alternatives'",
            )
        return problem
    try:
        check_gold(problem)
    except DataError as error:
        message = str(error).removeprefix(f"problem {problem.id}: ")
        for gold in (answer, *others):
            message = message.replace(repr(gold), shown(gold))
        raise DataError(f"{where}: {re.sub('^gold ', 'answer ', message)}") from error
    return problem
