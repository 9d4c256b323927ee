"""The sample bank: every stochastic sample once, for ever.

A prompt's key is the digest of everything that determines its answers: weights, rendered prompt, image content and
pixel limits, sampling parameters and the sampling seed. Sample `index` of a key has a seed derived from both, so asking
for 16 after 4 draws 12. SQLite in WAL mode survives `kill -9` at any byte; one process writes.

Every row has a checksum of what it serves, which is looked at whenever it is read: a file that a disk or a program has
altered gives BankError and never another answer. `selftrain bank FILE --rescue NEW` saves the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_process.errors import UserError
from data_process.schema import shown
from data_process.seeds import seed_for
from selftrain.engines.base import Completion, SamplingParams
from selftrain.engines.budget import forcing_from_json
from selftrain.files import file_digest
from selftrain.sampling.bank_lock import PATIENCE, holders, is_busy, patiently

# 1 had no column `forcing`. 2 stored 1.0 where the engine gave no log-probability, which is NULL since 3; real ones are
# at most 0. Rows have checksums since 4. Older banks are brought up to date when they are opened, without rewriting
# their rows, which stay without a checksum.
SCHEMA = 4
ALL_CHECKED = 0x53544234  # SQLite's application id of a bank in which every row has a checksum
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
    created REAL NOT NULL, forcing TEXT, checksum BLOB, PRIMARY KEY (key, idx)
);
DROP TABLE IF EXISTS digests;
CREATE TABLE IF NOT EXISTS file_digests (
    path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL, checksum BLOB NOT NULL
) WITHOUT ROWID;
"""
SERVED = "key, idx, text, token_ids, n_prompt_tokens, finish, mean_logprob, forcing, checksum"
_MOMENT = 100_000_000  # nanoseconds after which a file system gives a change another time
_CHUNK = 500  # keys per SELECT; SQLite allows 999 parameters in old builds
_SAME_IDS = 2**19  # more than any vocabulary has


class BankError(UserError, RuntimeError):
    """The bank file cannot be used; the message names it and says what to do."""


class MissingSamples(BankError, KeyError):
    """The bank has fewer samples than asked for."""

    def __str__(self) -> str:  # KeyError would show its repr
        return str(self.args[0])


def checksum(
    key: str, index: int, text: str, token_ids: bytes, n_prompt: int, finish: str, logprob: float | None,
    forcing: str | None,
) -> bytes:  # fmt: skip
    """8 bytes over all that a row serves, and under what it does."""
    said = text.encode("utf-8", "surrogatepass")
    fields = (key, index, n_prompt, finish, logprob, forcing, len(said), len(token_ids))
    found = hashlib.blake2b(repr(fields).encode("utf-8", "surrogatepass"), digest_size=8)
    found.update(said)
    found.update(token_ids)
    return found.digest()


def completion_of(row: tuple[Any, ...], all_checked: bool) -> tuple[str, Completion]:
    """(key, completion) of the SERVED columns of a row; ValueError if they are not what was written.

    A row without a checksum is from an earlier version: its values are looked at one by one.
    """
    key, index, text, blob, n_prompt, finish, logprob, note, stored = row
    if not (isinstance(key, str) and type(index) is int and isinstance(text, str) and isinstance(blob, bytes)):
        raise ValueError("a value of another type")
    if type(n_prompt) is not int or not (note is None or isinstance(note, str)) or len(blob) % 4:
        raise ValueError("a value of another type")
    if not (logprob is None or isinstance(logprob, float)):
        raise ValueError("a log-probability that is none")
    if stored is None and all_checked:
        raise ValueError("no checksum")
    if stored is not None and stored != checksum(key, index, text, blob, n_prompt, finish, logprob, note):
        raise ValueError("another checksum")
    if finish not in ("stop", "length") or n_prompt < 0 or index < 0:
        raise ValueError("a value that no sample has")
    mean = None if logprob == _UNKNOWN_BEFORE_3 and stored is None else logprob
    if mean is not None and not mean <= 0:
        raise ValueError("a log-probability above 0")
    try:
        forcing = None if note is None else forcing_from_json(json.loads(note))
    except (TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"a record of budget forcing that is none ({error})") from error
    return key, Completion(text, struct.unpack(f"<{len(blob) // 4}I", blob), n_prompt, finish, mean, forcing)


@dataclass(frozen=True)
class PromptKey:
    """What a prompt's answers depend on."""

    weights: str  # digest of base and adapter
    prompt: str  # the user turn
    images: tuple[str, ...]  # content ids in the image store, in order; pixel limits are part of them
    params: SamplingParams
    seed: int  # the run's sampling seed
    prefix: str = ""  # what the assistant's turn begins with

    @property
    def size(self) -> int:
        """Characters that the model reads."""
        return len(self.prompt) + len(self.prefix)

    def settings(self) -> str:
        """JSON of what the bank keeps beside the weights, the prompt and the images."""
        begun = {"prefix": whole_characters(self.prefix)} if self.prefix else {}
        return json.dumps({**self.params.to_json(), "seed": self.seed, **begun}, sort_keys=True)

    def digest(self) -> str:
        # One image, or none, has the key that it had when a prompt could not have more.
        shown = list(self.images) if len(self.images) > 1 else self.images[0] if self.images else None
        what = [
            self.weights,
            self.prompt,
            shown,
            self.params.to_json(),
            self.seed,
            *([self.prefix] * bool(self.prefix)),
        ]
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
            self._db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            version = patiently(self._db, path, self._open)
            if version > SCHEMA:
                self._db.close()
                raise BankError(f"{path} has bank format {version}, this version reads {SCHEMA}; use another `bank:`")
            if version < SCHEMA:
                patiently(self._db, path, self._prepare)
            self._all_checked = self._db.execute("PRAGMA application_id").fetchone() == (ALL_CHECKED,)
            self._file = self._identity()
        except (sqlite3.Error, OSError, ValueError) as error:
            held = holders(path) if is_busy(error) else ""
            raise BankError(
                f"{path} cannot be used as the sample bank: {error}{held}; change it with --set bank="
            ) from error

    def _open(self) -> int:
        self._db.execute("PRAGMA journal_mode=WAL")
        # NORMAL: a crash of the machine may lose the last commits, never the file; a killed process loses nothing.
        self._db.execute("PRAGMA synchronous=NORMAL")
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _prepare(self) -> None:
        """Make the tables of a new bank, or bring an older one up to SCHEMA."""
        # One transaction that holds the file: two processes may open it at the same time.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            columns = {name for _, name, *_ in self._db.execute("PRAGMA table_info(samples)")}
            for name, kind in (("forcing", "TEXT"), ("checksum", "BLOB")):
                if name not in columns:
                    self._db.execute(f"ALTER TABLE samples ADD COLUMN {name} {kind}")
            if self._db.execute("SELECT 1 FROM samples LIMIT 1").fetchone() is None:
                self._db.execute(f"PRAGMA application_id={ALL_CHECKED}")
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._check_there()
        finally:
            self.close()

    def close(self) -> None:
        self._db.close()

    def _identity(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_dev, status.st_ino

    def _check_there(self) -> None:
        """BankError if the file was deleted or replaced while it is open; what it held is saved beside it."""
        try:
            there = self._identity() == self._file
        except OSError:
            there = False
        if there:
            return
        saved = self.path.with_name(f"{self.path.name}.rescued-{os.getpid()}")
        try:
            with contextlib.closing(sqlite3.connect(saved)) as copy:
                self._db.backup(copy)
        except (sqlite3.Error, OSError) as error:
            raise BankError(
                f"{self.path} was deleted or replaced during this command, and its samples could not be saved ({error})"
            ) from error
        raise BankError(
            f"{self.path} was deleted or replaced during this command; its samples are saved in {saved}: move that to "
            f"{self.path} and run the same command again"
        )

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
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> BankError:
        if is_busy(error):
            return BankError(f"{self.path} is locked{holders(self.path)}; wait for it, and run the same command again")
        return BankError(
            f"{self.path} cannot be read: {error}; restore it, or save the rest with "
            f"`selftrain bank {self.path} --rescue NEW` and name that with --set bank=NEW"
        )

    def read(self, keys: Sequence[str], n: int, *, keep: bool = True) -> dict[str, list[Completion]]:
        """The first `n` samples of each key, in order of index. MissingSamples, a KeyError, if any is missing.

        BankError, naming the sample, for a row that is not what was written.
        `keep`: many are held at a time, so that equal token ids are made one object; it takes half as long again.
        """
        found: dict[str, list[Completion]] = {key: [] for key in keys}
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            rows = self._rows(
                f"SELECT {SERVED} FROM samples WHERE idx < ? AND key IN ({marks}) ORDER BY key, idx", (n, *part)
            )
            for row in rows:
                try:
                    key, completion = completion_of(row, self._all_checked)
                    if row[1] != len(found[key]):
                        raise MissingSamples(f"{self.path}: key {key} has no sample {len(found[key])} of {n}")
                except (ValueError, struct.error) as error:
                    raise self._unreadable(
                        ValueError(f"sample {shown(row[1])} of key {shown(row[0])} is not what was written ({error})")
                    ) from error
                ids = completion.token_ids
                if keep and len(ids) > 1:
                    completion = replace(completion, token_ids=itemgetter(*ids)(self._same))
                found[key].append(completion)
        for key, completions in found.items():
            if len(completions) != n:
                raise MissingSamples(f"{self.path}: key {key} has {len(completions)} of {n} samples")
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
        return self.insert(
            [
                (key, p.weights, whole_characters(p.prompt), " ".join(p.images) or None, p.settings())
                for key, p in prompts.items()
            ],
            [_row(key, index, c, engine, now) for _, key, index, c in rows],
        )

    def insert(self, prompts: Sequence[tuple[Any, ...]], samples: Sequence[tuple[Any, ...]]) -> int:
        """Store rows of both tables in one transaction, all columns given; returns how many samples were new."""
        self._check_there()
        before = self._db.total_changes
        try:
            patiently(self._db, self.path, lambda: self._db.execute("BEGIN IMMEDIATE"))
            # Not OR IGNORE, which would also pass over a row that breaks a NOT NULL.
            self._db.executemany("INSERT INTO prompts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", prompts)
            new_prompts = self._db.total_changes - before
            self._db.executemany(
                "INSERT INTO samples (key, idx, seed, text, token_ids, n_prompt_tokens, finish, mean_logprob, engine, "
                "created, forcing, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                samples,
            )
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:  # also after Ctrl-C: an open transaction would swallow every later one
                self._db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            held = holders(self.path) if is_busy(error) else ""
            raise BankError(
                f"{self.path}: {error}{held}; samples up to the last batch are kept, run the same command again"
            ) from error
        return self._db.total_changes - before - new_prompts

    def count(self) -> int:
        """Number of samples in the bank."""
        return int(self._rows("SELECT COUNT(*) FROM samples")[0][0])

    def known_digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered for as long as nothing about the file changes: 15 GB are hashed once.

        The time of the last change of its metadata is among it, which no program can set back as it can set the time
        of modification. What changed a moment ago is not remembered: another change could bear the same time.
        """
        path = path.resolve()
        stamp = _stamp(path)
        query = "SELECT stamp, digest, checksum FROM file_digests WHERE path = ?"
        for known, digest, stored in self._rows(query, (str(path),)):
            if known == stamp and stored == _stamp_checksum(path, stamp, digest):
                return str(digest)
        changed, started = path.stat().st_ctime_ns, time.time_ns()
        digest = file_digest(path)
        moment = _MOMENT if changed % 1_000_000_000 else 20 * _MOMENT  # some file systems count seconds
        if _stamp(path) == stamp and started - changed > moment:
            values = (str(path), stamp, digest, _stamp_checksum(path, stamp, digest))
            with contextlib.suppress(sqlite3.Error):  # a locked or read-only bank: it is hashed again next time
                self._db.execute("INSERT OR REPLACE INTO file_digests VALUES (?, ?, ?, ?)", values)
        return digest


def _row(key: str, index: int, c: Completion, engine: str, now: float) -> tuple[Any, ...]:
    """All columns of a sample."""
    text, ids = whole_characters(c.text), struct.pack(f"<{len(c.token_ids)}I", *c.token_ids)
    logprob = None if c.mean_logprob is None else float(c.mean_logprob) + 0.0  # SQLite stores no -0.0
    forcing = None if c.forcing is None else json.dumps(asdict(c.forcing))
    prompt_tokens = int(c.n_prompt_tokens)
    check = checksum(key, index, text, ids, prompt_tokens, c.finish, logprob, forcing)
    seed = sample_seed(key, index)
    return key, index, seed, text, ids, prompt_tokens, c.finish, logprob, engine, now, forcing, check


def _stamp(path: Path) -> str:
    found = path.stat()
    return json.dumps([found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns])


def _stamp_checksum(path: Path, stamp: str, digest: object) -> bytes:
    return hashlib.blake2b(repr((str(path), stamp, digest)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
