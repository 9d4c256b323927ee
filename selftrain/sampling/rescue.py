"""Looks through a whole bank, and copies what is intact into a new one."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.outputs import check_outputs
from selftrain.sampling.bank import ALL_CHECKED, Bank, BankError, checksum, completion_of

_AT_ONCE = 1000  # rows of a query; a damaged page costs the rows of that page and no others
_COLUMNS = "key, idx, seed, text, token_ids, n_prompt_tokens, finish, mean_logprob, engine, created, forcing, checksum"
_PROMPTS = "key, weights, prompt, image, params"


@dataclass(frozen=True)
class Examined:
    """What a bank holds."""

    intact: int  # samples whose checksum is right
    unchecked: int  # samples of earlier versions, which have none, with values that can be
    damaged: Counter[str]  # samples, or ranges of rows, that cannot be served, by reason
    saved: int  # samples copied into the new bank


def examine(path: Path, rescue: Path | None = None, on_progress: Callable[[int], None] = lambda n: None) -> Examined:
    """Look at every sample of a bank; with `rescue`, write a new bank with those that can be served.

    The file is only read. BankError if it is no bank at all; DataError if `rescue` would overwrite something.
    """
    check_outputs({"--rescue": rescue}, [path])
    if rescue is not None and rescue.exists():
        raise BankError(f"{rescue} exists; name a new file, which becomes the bank")
    if not path.is_file():
        raise BankError(f"{path} does not exist; name the file that `bank:` names")
    counts, damaged, seen = Counter[str](), Counter[str](), set[tuple[str, int]]()
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source:
            source.text_factory = _text
            all_checked = source.execute("PRAGMA application_id").fetchone() == (ALL_CHECKED,)
            new = Bank(rescue) if rescue is not None else None
            try:
                for part in _rows(source, "samples", _COLUMNS, damaged):
                    good = [row for row in part if _usable(row, all_checked, counts, damaged, seen)]
                    if new is not None:
                        _copy(new, source, good, damaged)
                        counts["saved"] += len(good)
                    on_progress(counts["intact"] + counts["unchecked"])
            finally:
                if new is not None:
                    new.close()
    except sqlite3.Error as error:
        raise BankError(f"{path} cannot be read as a bank: {error}; restore it from a copy") from error
    return Examined(counts["intact"], counts["unchecked"], damaged, counts["saved"])


def _text(raw: bytes) -> str | bytes:
    """Text, or its bytes where they are no UTF-8: the row is then seen to be damaged, and the query goes on."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _usable(
    row: tuple[Any, ...], all_checked: bool, counts: Counter[str], damaged: Counter[str], seen: set[tuple[str, int]]
) -> bool:
    key, index, seed, text, ids, prompt_tokens, finish, logprob, engine, created, forcing, stored = row
    try:
        completion_of((key, index, text, ids, prompt_tokens, finish, logprob, forcing, stored), all_checked)
        if not isinstance(seed, int) or not isinstance(engine, str) or not isinstance(created, float):
            raise ValueError("a value of another type")
    except ValueError as error:
        damaged[str(error)] += 1
        return False
    if (key, index) in seen:  # found again by another way through the damage
        return False
    seen.add((key, index))
    counts["unchecked" if stored is None else "intact"] += 1
    return True


def _rows(
    source: sqlite3.Connection, table: str, columns: str, damaged: Counter[str]
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a table in parts; of damaged pages only those that can be reached."""
    try:
        [(last,)] = source.execute(f"SELECT max(rowid) FROM {table}").fetchall()
        start = 0
    except sqlite3.OperationalError:  # a table of the first versions, which has no row ids
        yield from _from_both_ends(source, table, columns, damaged)
        return
    except sqlite3.DatabaseError:
        pages, size = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        last, start = pages * size // 64, 0  # no row is smaller
    while start < (last or 0):
        end = start + _AT_ONCE
        yield from _range(source, table, columns, start, end, damaged)
        start = end


def _range(
    source: sqlite3.Connection, table: str, columns: str, start: int, end: int, damaged: Counter[str]
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows whose id is in (start, end], by halves where a page of them is damaged."""
    query = f"SELECT {columns} FROM {table} WHERE rowid > ? AND rowid <= ?"
    try:
        found = source.execute(query, (start, end)).fetchall()
    except sqlite3.DatabaseError as error:
        if end - start == 1:
            damaged[str(error)] += 1
            return
        middle = (start + end) // 2
        yield from _range(source, table, columns, start, middle, damaged)
        yield from _range(source, table, columns, middle, end, damaged)
        return
    if found:
        yield found


def _from_both_ends(
    source: sqlite3.Connection, table: str, columns: str, damaged: Counter[str]
) -> Iterator[list[tuple[Any, ...]]]:
    for order in ("", " DESC"):
        rows = source.execute(f"SELECT {columns} FROM {table} ORDER BY key{order}")
        try:
            while part := rows.fetchmany(_AT_ONCE):
                yield part
            return
        except sqlite3.DatabaseError as error:
            damaged[str(error)] += 1


def _copy(new: Bank, source: sqlite3.Connection, rows: list[tuple[Any, ...]], damaged: Counter[str]) -> None:
    """Samples with their prompts; rows without a checksum get one."""
    prompts = []
    for key in dict.fromkeys(row[0] for row in rows):
        try:
            prompts += source.execute(f"SELECT {_PROMPTS} FROM prompts WHERE key = ?", (key,)).fetchall()
        except sqlite3.DatabaseError as error:  # the prompt's text is for people; samples are found without it
            damaged[f"prompt: {error}"] += 1
    prompts = [row for row in prompts if all(isinstance(value, str | None) for value in row)]
    whole = []
    for *row, stored in rows:
        key, index, _, text, ids, prompt_tokens, finish, logprob, *_, forcing = row
        logprob = None if stored is None and logprob is not None and logprob > 0 else logprob
        row[7] = logprob
        whole.append((*row, checksum(key, index, text, ids, prompt_tokens, finish, logprob, forcing)))
    new.insert(prompts, whole)
