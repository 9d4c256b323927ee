"""The sample bank: every stochastic sample once, for ever.

A prompt's key is the digest of everything that determines its answers: weights, rendered prompt, image content and
pixel limits, sampling parameters and the sampling seed. Sample `index` of a key has a seed derived from both, so asking
for 16 after 4 draws 12. SQLite in WAL mode survives `kill -9` at any byte; one process writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_process.errors import UserError
from data_process.seeds import seed_for
from selftrain.engines.base import Completion, SamplingParams
from selftrain.engines.budget import forcing_from_json
from selftrain.files import file_digest

# 1 had no column `forcing`. 2 stored 1.0 where the engine gave no log-probability, which is NULL since 3; real ones are
# at most 0. Older banks are brought up to date when they are opened, without rewriting their rows.
SCHEMA = 3
_UNKNOWN_BEFORE_3 = 1.0
# With row ids, although the keys are unique: rows of a kilobyte do not fit into the pages of an index, and cost four
# times the space there. Banks of earlier versions have such tables; the same statements read and fill them.
_TABLES = """
CREATE TABLE IF NOT EXISTS prompts (
    key TEXT NOT NULL PRIMARY KEY, weights TEXT NOT NULL, prompt TEXT NOT NULL, image TEXT, params TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS samples (
    key TEXT NOT NULL, idx INTEGER NOT NULL, seed INTEGER NOT NULL, text TEXT NOT NULL, token_ids BLOB NOT NULL,
    n_prompt_tokens INTEGER NOT NULL, finish TEXT NOT NULL, mean_logprob REAL, engine TEXT NOT NULL,
    created REAL NOT NULL, forcing TEXT, PRIMARY KEY (key, idx)
);
CREATE TABLE IF NOT EXISTS digests (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL
) WITHOUT ROWID;
"""
_CHUNK = 500  # keys per SELECT; SQLite allows 999 parameters in old builds
_SAME_IDS = 2**19  # more than any vocabulary has


class BankError(UserError, RuntimeError):
    """The bank file cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class PromptKey:
    """What a prompt's answers depend on."""

    weights: str  # digest of base and adapter
    prompt: str  # the user turn
    images: tuple[str, ...]  # content ids in the image store, in order; pixel limits are part of them
    params: SamplingParams
    seed: int  # the run's sampling seed

    def settings(self) -> str:
        """JSON of what the bank keeps beside the weights, the prompt and the images."""
        return json.dumps({**self.params.to_json(), "seed": self.seed}, sort_keys=True)

    def digest(self) -> str:
        # One image, or none, has the key that it had when a prompt could not have more.
        shown = list(self.images) if len(self.images) > 1 else self.images[0] if self.images else None
        what = [self.weights, self.prompt, shown, self.params.to_json(), self.seed]
        text = json.dumps(what, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def rejection_reason(completion: Completion) -> str | None:
    """Why a completion must not be stored, or None. Broken weights give NaN, and a bank keeps its samples for ever."""
    if completion.mean_logprob is not None and not math.isfinite(completion.mean_logprob):
        return f"its mean log-probability is {completion.mean_logprob}; the weights or the precision are broken"
    ids = completion.token_ids
    if ids and (min(ids) < 0 or max(ids) >= 2**32):
        return "a token id is not a 32-bit number"
    return None


def sample_seed(key: str, index: int) -> int:
    """The 32-bit seed of sample `index` under a key."""
    return seed_for(key, index)


def whole_characters(text: str) -> str:
    """`text` with U+FFFD for every half of a surrogate pair: no file, tokenizer or terminal takes a half.

    That is also what a tokenizer writes for part of a character; a pair that was cut in two becomes one again.
    """
    try:
        text.encode()  # half the cost of what follows, and nearly every text is whole
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class _Same(dict[int, int]):
    """Equal token ids as one object: those of a hundred thousand answers then take a fifth of the memory."""

    def __missing__(self, token: int) -> int:
        if len(self) < _SAME_IDS:
            self[token] = token
        return token


class Bank:
    """A file of samples. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._same = _Same()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # NORMAL: a crash of the machine may lose the last commits, never the file; a killed process loses nothing.
            self._db.execute("PRAGMA synchronous=NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                self._db.close()
                raise BankError(f"{path} has bank format {version}, this version reads {SCHEMA}; use another `bank:`")
            if version < SCHEMA:
                self._prepare()
        except (sqlite3.DatabaseError, OSError) as error:
            raise BankError(f"{path} cannot be used as the sample bank: {error}; change it with --set bank=") from error

    def _prepare(self) -> None:
        """Make the tables of a new bank, or bring an older one up to SCHEMA."""
        # One transaction that holds the file: two processes may open it at the same time.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            columns = {name for _, name, *_ in self._db.execute("PRAGMA table_info(samples)")}
            if "forcing" not in columns:
                self._db.execute("ALTER TABLE samples ADD COLUMN forcing TEXT")
            self._allow_null_logprobs()
            self._db.execute(f"PRAGMA user_version={SCHEMA}")
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _allow_null_logprobs(self) -> None:
        """Drop a NOT NULL as https://sqlite.org/lang_altertable.html#otheralter says: no row is touched."""
        (version,) = self._db.execute("PRAGMA schema_version").fetchone()
        self._db.execute("PRAGMA writable_schema=ON")
        self._db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'mean_logprob REAL NOT NULL', 'mean_logprob REAL') "
            "WHERE type = 'table' AND name = 'samples'"
        )
        self._db.execute(f"PRAGMA schema_version={version + 1}")
        self._db.execute("PRAGMA writable_schema=OFF")

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def missing(self, keys: Sequence[str], n: int) -> dict[str, Sequence[int]]:
        """Which of the first `n` sample indices are not there, in order, for each key that lacks any."""
        lacking: dict[str, Sequence[int]] = {}
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            found: dict[str, set[int]] = {}
            rows = self._rows(f"SELECT key, idx FROM samples WHERE idx < ? AND key IN ({marks})", (n, *part))
            for key, index in rows:
                found.setdefault(key, set()).add(index)
            for key in part:
                there = found.get(key, ())
                if len(there) < n:
                    lacking[key] = [i for i in range(n) if i not in there] if there else range(n)
        return lacking

    def _rows(self, query: str, values: Sequence[str | int] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            advice = "restore it, or name another with --set bank="
            raise BankError(f"{self.path} cannot be read: {error}; {advice}") from error

    def read(self, keys: Sequence[str], n: int, *, keep: bool = True) -> dict[str, list[Completion]]:
        """The first `n` samples of each key, in order of index. Raises KeyError if any is missing.

        `keep`: many are held at a time, so that equal token ids are made one object; it takes half as long again.
        """
        found: dict[str, list[Completion]] = {key: [] for key in keys}
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            rows = self._rows(
                "SELECT key, text, token_ids, n_prompt_tokens, finish, mean_logprob, forcing FROM samples "
                f"WHERE idx < ? AND key IN ({marks}) ORDER BY key, idx",
                (n, *part),
            )
            for key, text, blob, prompt_tokens, finish, logprob, note in rows:
                ids = struct.unpack(f"<{len(blob) // 4}I", blob)
                if keep and len(ids) > 1:
                    ids = itemgetter(*ids)(self._same)
                forcing = None if note is None else forcing_from_json(json.loads(note))
                mean = None if logprob == _UNKNOWN_BEFORE_3 else logprob
                found[key].append(Completion(text, ids, prompt_tokens, finish, mean, forcing))
        for key, completions in found.items():
            if len(completions) != n:
                raise KeyError(f"{self.path}: key {key} has {len(completions)} of {n} samples")
        return found

    def write(self, rows: Iterable[tuple[PromptKey, str, int, Completion]], engine: str) -> int:
        """Store (prompt, its digest, sample index, completion) rows in one transaction; returns how many were new.

        Halves of surrogate pairs are replaced first, so what `read` gives back may differ from what was written, but
        never from one read to the next. ValueError for a completion that cannot be an answer: see `rejection_reason`.
        """
        rows, now = list(rows), time.time()
        prompts: dict[str, PromptKey] = {}
        for prompt, key, index, completion in rows:
            if reason := rejection_reason(completion):
                raise ValueError(f"sample {index} of {key}: {reason}")
            prompts[key] = prompt
        before = self._db.total_changes
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                # Not OR IGNORE, which would also pass over a row that breaks a NOT NULL.
                "INSERT INTO prompts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (key, p.weights, whole_characters(p.prompt), " ".join(p.images) or None, p.settings())
                    for key, p in prompts.items()
                ],
            )
            new_prompts = self._db.total_changes - before
            self._db.executemany(
                "INSERT INTO samples (key, idx, seed, text, token_ids, n_prompt_tokens, finish, mean_logprob, engine, "
                "created, forcing) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (
                        key,
                        index,
                        sample_seed(key, index),
                        whole_characters(c.text),
                        struct.pack(f"<{len(c.token_ids)}I", *c.token_ids),
                        c.n_prompt_tokens,
                        c.finish,
                        c.mean_logprob,
                        engine,
                        now,
                        None if c.forcing is None else json.dumps(asdict(c.forcing)),
                    )
                    for _, key, index, c in rows
                ],
            )
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:  # also after Ctrl-C: an open transaction would swallow every later one
                self._db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            raise BankError(
                f"{self.path}: {error}; samples up to the last batch are kept, run the same command again"
            ) from error
        return self._db.total_changes - before - new_prompts

    def count(self) -> int:
        """Number of samples in the bank."""
        return int(self._rows("SELECT COUNT(*) FROM samples")[0][0])

    def known_digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered by size and modification time: a 15 GB checkpoint is hashed once."""
        path = path.resolve()
        status = path.stat()
        stamp = (str(path), status.st_size, status.st_mtime_ns)
        query = "SELECT digest FROM digests WHERE path = ? AND size = ? AND mtime_ns = ?"
        if row := self._db.execute(query, stamp).fetchone():
            return str(row[0])
        digest = file_digest(path)
        self._db.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (*stamp, digest))
        return digest
