"""A bank that a disk, a program or a hand has changed: nothing altered is served, and the rest is saved."""

from __future__ import annotations

import dataclasses
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from selftrain.cli.main import main
from selftrain.engines.base import Completion
from selftrain.sampling import bank as module
from selftrain.sampling import bank_lock
from selftrain.sampling.bank import ALL_CHECKED, Bank, BankError, MissingSamples
from selftrain.sampling.rescue import examine
from tests.selftrain.sampling.test_bank import KEY, OLD_TABLES, completion, rows

KEYS = [dataclasses.replace(KEY, prompt=f"question {i}") for i in range(40)]
DIGESTS = [key.digest() for key in KEYS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.sqlite"
    with Bank(path) as bank:
        bank.write([row for key in KEYS for row in rows(key, range(4), key.prompt + " {} " + "words " * 20)], "hf")
    return path


@pytest.fixture(scope="module")
def contents(whole) -> dict[str, list[Completion]]:
    with Bank(whole) as bank:
        return bank.read(DIGESTS, 4)


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "bank.sqlite"))


def sql(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            database.execute(statement)
    database.close()


VALUES = [
    "finish='banana'", "finish='length'", "finish=x'00'", "text=''", "text='other'", "text=x'ff'", "text=5",
    "mean_logprob='x'", "mean_logprob=-0.25", "mean_logprob=NULL", "mean_logprob=1.0", "mean_logprob=9e999",
    "token_ids=x'010203'", "token_ids=x'01000000ffffffff'", "token_ids='abcd'", "token_ids=''",
    "n_prompt_tokens='x'", "n_prompt_tokens=8", "n_prompt_tokens=-1", "n_prompt_tokens=9223372036854775807",
    "forcing='{'", "forcing='{}'", "forcing='[]'", "forcing=x'00'", "forcing=3", "forcing='" + "[" * 5000 + "'",
    "checksum=NULL", "checksum=x'0000000000000000'", "checksum='x'", "idx=77", "idx=-1", "key='other'",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_a_changed_value_is_never_served(copy, value):
    sql(copy, f"UPDATE samples SET {value} WHERE key = '{DIGESTS[3]}' AND idx = 2")
    with Bank(copy) as bank:
        with pytest.raises(BankError) as caught:
            bank.read(DIGESTS, 4)
        assert str(caught.value).startswith(str(copy))
        assert len(str(caught.value)) < 1000
        others = [digest for digest in DIGESTS if digest != DIGESTS[3]]
        assert len(bank.read(others, 4)) == len(others)


def test_swapped_rows_are_noticed(copy):
    texts = [f"(SELECT text FROM samples WHERE key = '{DIGESTS[i]}' AND idx = 0)" for i in (1, 2)]
    sql(copy, f"UPDATE samples SET text = {texts[1]} WHERE key = '{DIGESTS[1]}' AND idx = 0")
    with Bank(copy) as bank, pytest.raises(BankError, match="is not what was written"):
        bank.read(DIGESTS, 1)


@pytest.mark.slow
def test_damaged_bytes(whole, contents, tmp_path):
    """Random bytes changed, cut, or pages exchanged: what was written, or BankError."""
    raw, drawn, refused = whole.read_bytes(), random.Random(5), 0
    path = tmp_path / "bank.sqlite"
    for _ in range(150):
        data = bytearray(raw)
        for _ in range(drawn.choice((1, 1, 3, 30))):
            at = drawn.randrange(len(data))
            data[at] ^= 1 << drawn.randrange(8)
        if drawn.random() < 0.2:
            data = data[: drawn.randrange(len(data))]
        if drawn.random() < 0.2 and len(data) > 3 * 4096:
            a, b = (4096 * drawn.randrange(1, len(data) // 4096) for _ in range(2))
            data[a : a + 4096], data[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]
        for file in tmp_path.iterdir():
            file.unlink()
        path.write_bytes(data)
        try:
            with Bank(path) as bank:
                lacking = bank.missing(DIGESTS, 4)
                found = bank.read([digest for digest in DIGESTS if digest not in lacking], 4)
                bank.known_digest(whole)
        except BankError:
            refused += 1
        else:
            assert all(found[digest] == contents[digest] for digest in found)
    assert refused > 20


def test_the_rest_is_saved(copy, contents, tmp_path, capsys):
    sql(copy, f"UPDATE samples SET text = 'other' WHERE key = '{DIGESTS[0]}' AND idx = 1")
    data = bytearray(copy.read_bytes())
    data[20 * 4096 : 20 * 4096 + 200] = b"\xff" * 200
    copy.write_bytes(data)
    before, new = copy.read_bytes(), tmp_path / "new.sqlite"
    assert main(["bank", str(copy), "--quiet"]) == 1
    assert "--rescue NEW" in capsys.readouterr().out
    assert main(["bank", str(copy), "--quiet", "--rescue", str(new)]) == 1
    assert copy.read_bytes() == before
    saved = 0
    with Bank(new) as bank:
        for digest in DIGESTS:
            for index in range(4):
                if index not in bank.missing([digest], 4).get(digest, ()):
                    saved += 1
        assert 100 < saved < 160
        good = [digest for digest in DIGESTS if not bank.missing([digest], 4)]
        assert bank.read(good, 4) == {digest: contents[digest] for digest in good}
        bank.write(rows(KEYS[0], [1]), "hf")  # and it goes on from there
    assert f"{saved} samples saved" in capsys.readouterr().out
    assert main(["bank", str(new), "--quiet"]) == 0
    for taken in (copy, new):
        assert main(["bank", str(copy), "--quiet", "--rescue", str(taken)]) == 2


@pytest.mark.parametrize("content", [b"", b"text " * 999, b"SQLite format 3\0" + b"\0" * 5000])
def test_what_is_no_bank(tmp_path, content, capsys):
    (tmp_path / "bank").write_bytes(content)
    assert main(["bank", str(tmp_path / "bank"), "--quiet"]) == 2
    assert main(["bank", str(tmp_path / "none"), "--quiet"]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_bank_of_an_earlier_version_is_read_and_gets_checksums(tmp_path):
    path = tmp_path / "bank.sqlite"
    sql(path, *OLD_TABLES.split(";"))
    values = f"'{KEY.digest()}', 0, 5, 'old', x'01000000', 7, 'stop', -0.5, 'hf', 0"
    sql(path, f"INSERT INTO samples VALUES ({values})")
    with Bank(path) as bank:
        bank.write(rows(KEY, [1]), "hf")
        assert [c.text for c in bank.read([KEY.digest()], 2)[KEY.digest()]] == ["old", "sample 1"]
    found = examine(path, tmp_path / "new.sqlite")
    assert (found.intact, found.unchecked, found.saved, found.damaged.total()) == (1, 1, 2, 0)
    with Bank(tmp_path / "new.sqlite") as bank:
        assert bank.read([KEY.digest()], 1)[KEY.digest()] == [completion("old")]
        assert bank._db.execute("PRAGMA application_id").fetchone() == (ALL_CHECKED,)
    sql(path, "UPDATE samples SET finish = 'banana' WHERE idx = 0")
    with Bank(path) as bank, pytest.raises(BankError, match="a value that no sample has"):
        bank.read([KEY.digest()], 2)


def use(path: Path, other: Path | None, writes: bool) -> None:
    with Bank(path) as bank:
        bank.write(rows(KEY, range(2)), "hf")
        path.unlink()
        if other:
            shutil.copy(other, path)
        if writes:
            bank.write(rows(KEY, range(9)), "hf")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_bank_that_is_deleted_while_it_is_open(copy, contents, tmp_path, replaced):
    for writes in (True, False):
        path = Path(shutil.copy(copy, tmp_path / f"{writes}.sqlite"))
        with pytest.raises(BankError, match="was deleted or replaced during this command") as caught:
            use(path, copy if replaced else None, writes)
        saved = Path(str(caught.value).split("saved in ")[1].split(":")[0])
        with Bank(saved) as bank:
            assert bank.read(DIGESTS, 4) == contents
            assert bank.missing([KEY.digest()], 2) == {}


HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(60)
"""


def test_a_locked_bank_says_who_holds_it(copy, monkeypatch, capsys):
    monkeypatch.setattr(bank_lock, "LONGEST", 0.2)
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with (
        Bank(copy) as bank,
        subprocess.Popen([sys.executable, "-c", HOLD, str(copy)], stdout=subprocess.PIPE, text=True) as other,
    ):
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            bank._db.execute("PRAGMA busy_timeout=100")
            with pytest.raises(BankError, match=rf"locked by process {other.pid} \(.*python"):
                bank.write(rows(KEY, [0]), "hf")
            assert f"note: waiting for {copy}, which is locked by process {other.pid}" in capsys.readouterr().err
        finally:
            other.kill()
    with Bank(copy) as bank:
        assert bank.write(rows(KEY, [0]), "hf") == 1


def test_missing_samples_are_a_typed_error(copy):
    with Bank(copy) as bank:
        bank._db.execute("DELETE FROM samples WHERE idx = 2")
        with pytest.raises(MissingSamples, match="no sample 2 of 4"):
            bank.read(DIGESTS[:1], 4)


def test_weights_that_change_are_noticed(tmp_path):
    """Also with the size and the time of modification as before; and a damaged memory of digests is not believed."""
    import os
    import time

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one" * 1000)
    before = file.stat()
    with Bank(tmp_path / "bank.sqlite") as bank:
        first = bank.known_digest(file)
        time.sleep(0.15)
        assert bank.known_digest(file) == first  # remembered now
        assert bank._rows("SELECT count(*) FROM file_digests") == [(1,)]
        file.write_bytes(b"two" * 1000)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_mtime_ns == before.st_mtime_ns
        second = bank.known_digest(file)
        assert second != first
        time.sleep(0.15)
        assert bank.known_digest(file) == second
        for change in ("digest = 'x'", "digest = x'00'", f"digest = '{first}'", "checksum = x''", "stamp = 3"):
            bank._db.execute(f"UPDATE file_digests SET {change}")
            assert bank.known_digest(file) == second
        other = tmp_path / "other"
        other.write_bytes(b"two" * 1000)
        other.replace(file)
        assert bank.known_digest(file) == second
