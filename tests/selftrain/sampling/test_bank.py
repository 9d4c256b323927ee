"""The sample bank: topped up and never repeated, keyed by all that matters, readable after a kill at any moment."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selftrain.engines.base import Completion, SamplingParams
from selftrain.engines.budget import TINY, ForcingRecord
from selftrain.sampling.bank import SCHEMA, Bank, BankError, PromptKey, sample_seed, whole_characters

ROOT = Path(__file__).parents[3]
PARAMS = SamplingParams(temperature=0.9, max_tokens=20, top_p=0.95, top_k=50, repetition_penalty=1.1)
KEY = PromptKey("weights", "What is x?", ("image",), PARAMS, 0)


def completion(text: str, *ids: int, logprob: float = -0.5) -> Completion:
    return Completion(text, ids or (1,), 7, "stop", logprob)


def rows(key: PromptKey, indices, text: str = "sample {}"):
    return [(key, key.digest(), i, completion(text.format(i))) for i in indices]


def test_topping_up_adds_only_what_is_missing(tmp_path):
    with Bank(tmp_path / "bank.sqlite") as bank:
        assert bank.write(rows(KEY, range(4)), "hf") == 4
        assert bank.missing([KEY.digest()], 4) == {}
        assert bank.missing([KEY.digest()], 6) == {KEY.digest(): [4, 5]}
        assert bank.write(rows(KEY, range(16)), "hf") == 12
        assert bank.write(rows(KEY, range(16), "another {}"), "hf") == 0  # what is there stays
        assert bank.count() == 16
    with Bank(tmp_path / "bank.sqlite") as bank:
        assert [c.text for c in bank.read([KEY.digest()], 16)[KEY.digest()]] == [f"sample {i}" for i in range(16)]
        assert [c.text for c in bank.read([KEY.digest()], 2)[KEY.digest()]] == ["sample 0", "sample 1"]
        with pytest.raises(KeyError, match="16 of 17"):
            bank.read([KEY.digest()], 17)
        with pytest.raises(KeyError, match="0 of 1"):
            bank.read(["unknown"], 1)
        assert bank.missing(["unknown"], 3) == {"unknown": range(3)}
        assert bank.missing([], 3) == {}


def test_more_keys_than_one_query_takes(tmp_path):
    keys = [dataclasses.replace(KEY, prompt=f"question {i}") for i in range(1203)]
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.write([row for key in keys for row in rows(key, range(2), key.prompt + " {}")], "hf")
        digests = [key.digest() for key in keys]
        found = bank.read(digests, 2)
        assert [[c.text for c in found[d]] for d in digests] == [[f"{k.prompt} 0", f"{k.prompt} 1"] for k in keys]
        assert bank.missing(digests, 2) == {}
        assert bank.missing([*digests, "unknown"], 3) == {**{key: [2] for key in digests}, "unknown": range(3)}


def test_equal_token_ids_are_one_object(tmp_path):
    """Most of the memory of a hundred thousand samples would be token ids, nearly all of them equal to others."""
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.write([(KEY, KEY.digest(), i, completion("x", 100_000, 100_001 + i)) for i in range(2)], "hf")
        bank.write([(KEY, KEY.digest(), 2, completion("one", 100_000)), (KEY, KEY.digest(), 3, NOTHING)], "hf")
        kept = bank.read([KEY.digest()], 4)[KEY.digest()]
        assert [c.token_ids for c in kept] == [(100_000, 100_001), (100_000, 100_002), (100_000,), ()]
        assert kept[0].token_ids[0] is kept[1].token_ids[0]
        assert bank.read([KEY.digest()], 4, keep=False)[KEY.digest()] == kept


NOTHING = Completion("", (), 7, "stop", -0.5)
OTHER_KEYS = [
    dataclasses.replace(KEY, weights="other"),
    dataclasses.replace(KEY, prompt="What is y?"),
    dataclasses.replace(KEY, images=("other",)),
    dataclasses.replace(KEY, images=()),
    dataclasses.replace(KEY, seed=1),
    dataclasses.replace(KEY, prefix="Let x"),
    *(
        dataclasses.replace(KEY, params=dataclasses.replace(PARAMS, **{name: value}))
        for name, value in [
            ("temperature", 0.8),
            ("max_tokens", 21),
            ("top_p", 0.9),
            ("top_k", 49),
            ("repetition_penalty", 1.0),
            ("budget", TINY),
            ("budget", dataclasses.replace(TINY, num_ignore=1)),
        ]
    ),
]


def test_a_key_depends_on_every_field():
    digests = {key.digest() for key in [KEY, *OTHER_KEYS]}
    assert len(digests) == 1 + len(OTHER_KEYS)
    # A field that is added later must come into this table, and so into the digest.
    changed = {f.name for f in dataclasses.fields(PARAMS) if any(_differ(f.name, k.params) for k in OTHER_KEYS)}
    assert changed == {f.name for f in dataclasses.fields(PARAMS)}
    fields = {f.name for f in dataclasses.fields(KEY)}
    assert {name for name in fields if any(getattr(k, name) != getattr(KEY, name) for k in OTHER_KEYS)} == fields
    assert KEY.digest() == dataclasses.replace(KEY).digest()


def _differ(name: str, params: SamplingParams) -> bool:
    return getattr(params, name) != getattr(PARAMS, name)


@pytest.mark.slow
def test_a_key_is_the_same_everywhere():
    """In every process, and in every version: a change here makes the samples of every bank out there unfindable."""
    assert KEY.digest() == _digest_in_another_process() == "440a452015920f4e9a8699eb3eb6ab52"


def _digest_in_another_process() -> str:
    code = "from tests.selftrain.sampling.test_bank import KEY; print(KEY.digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True,
                          check=True).stdout.strip()  # fmt: skip


def test_seeds_are_named_by_key_and_index():
    seeds = [sample_seed(key.digest(), i) for key in [KEY, *OTHER_KEYS] for i in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


FAILURES = {
    "NaN": (completion("x", logprob=float("nan")), "mean log-probability is nan"),
    "infinite": (completion("x", logprob=float("-inf")), "mean log-probability is -inf"),
    "negative id": (completion("x", -1), "token id"),
    "long id": (completion("x", 2**32), "token id"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_never_stored(tmp_path, name):
    """None of the transaction stays, and the bank goes on working."""
    broken, message = FAILURES[name]
    with Bank(tmp_path / "bank.sqlite") as bank:
        with pytest.raises(ValueError, match=message):
            bank.write([*rows(KEY, [0]), (KEY, KEY.digest(), 1, broken)], "hf")
        assert bank.count() == 0
        assert bank.write(rows(KEY, [0, 1]), "hf") == 2


def test_an_interrupt_in_a_write_leaves_nothing_open(tmp_path, monkeypatch):
    import selftrain.sampling.bank as module

    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.write(rows(KEY, [0]), "hf")
        with monkeypatch.context() as patch:
            patch.setattr(module, "sample_seed", lambda key, index: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                bank.write(rows(KEY, [1]), "hf")
        assert bank.write(rows(KEY, [1, 2]), "hf") == 2
        assert bank.count() == 3


texts = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\0\n\r\u2028\ufeff🜁\ud83d\ude00"))
places = st.integers(0, 2**20)
forcings = st.builds(
    ForcingRecord,
    thinking_tokens=places,
    answer_tokens=places,
    ignores=places,
    ignored_at=st.lists(places, max_size=3).map(tuple),
    closed_by=st.sampled_from(["model", "budget", "loop", "end_of_turn", None]),
    closed_at=st.none() | places,
    forced=st.lists(st.tuples(places, places), max_size=3).map(tuple),
    discarded=places,
)
completions = st.builds(
    Completion,
    forcing=st.none() | forcings,
    text=texts,
    token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=8).map(tuple),
    n_prompt_tokens=st.integers(0, 2**40),
    finish=st.sampled_from(["stop", "length"]),
    mean_logprob=st.none() | st.floats(max_value=0, allow_nan=False, allow_infinity=False),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(completions, texts, texts)
def test_round_trip(shared_bank, answer, prompt, other):
    """What was written is read, halves of surrogate pairs as U+FFFD; text and ids are not touched otherwise."""
    key = dataclasses.replace(KEY, prompt=prompt)
    assert (key.digest() == dataclasses.replace(KEY, prompt=other).digest()) == (prompt == other)
    unique = f"{key.digest()}-{shared_bank.count()}"
    shared_bank.write([(key, unique, 0, answer)], "hf")
    [got] = shared_bank.read([unique], 1)[unique]
    assert got == dataclasses.replace(answer, text=whole_characters(answer.text))
    got.text.encode()


@pytest.fixture(scope="module")
def shared_bank(tmp_path_factory):
    with Bank(tmp_path_factory.mktemp("bank") / "bank.sqlite") as bank:
        yield bank


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("plain é 🜁", "plain é 🜁"),
        ("\ud800", "\ufffd"),
        ("a\udc00b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),  # a pair that was cut in two
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("", ""),
    ],
)
def test_whole_characters(text, whole):
    assert whole_characters(text) == whole


WRITER = """
import dataclasses, itertools, sys
from pathlib import Path
from tests.selftrain.sampling.test_bank import KEY, rows
from selftrain.sampling.bank import Bank
with Bank(Path(sys.argv[1])) as bank:
    print("ready", flush=True)
    for number in itertools.count(int(sys.argv[2])):
        bank.write(rows(dataclasses.replace(KEY, prompt=f"unit {number}"), range(25), "text " * 40 + "{}"), "hf")
"""


@pytest.mark.slow
def test_killed_while_writing(tmp_path):
    """SIGKILL at six random moments on one file: it opens, it is sound, and every unit is there whole or not at all."""
    path, rng = tmp_path / "bank.sqlite", random.Random(0)
    seen = 0
    for turn in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(1000 * turn)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.005, 0.08))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        with Bank(path) as bank:
            assert bank.count() % 25 == 0
            assert bank.count() >= seen
            seen = bank.count()
        database = sqlite3.connect(path)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        whole = database.execute("SELECT COUNT(*) FROM samples GROUP BY key").fetchall()
        assert set(whole) <= {(25,)}
        assert database.execute("SELECT COUNT(*) FROM prompts").fetchone() == (len(whole),)
        database.close()
    assert seen > 0


def test_two_processes_may_share_a_bank(tmp_path):
    """Two runs with one bank: the later writer of a sample reads the earlier one's."""
    with Bank(tmp_path / "b.sqlite") as one, Bank(tmp_path / "b.sqlite") as two:
        assert one.write(rows(KEY, [0, 1], "one {}"), "hf") == 2
        assert two.write(rows(KEY, [1, 2], "two {}"), "hf") == 1
        both = [[c.text for c in bank.read([KEY.digest()], 3)[KEY.digest()]] for bank in (one, two)]
    assert both[0] == both[1] == ["one 0", "one 1", "two 2"]


def test_a_newer_bank_is_refused(tmp_path):
    path = tmp_path / "bank.sqlite"
    Bank(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version={SCHEMA + 1}")
    database.close()
    with pytest.raises(BankError, match=f"bank format {SCHEMA + 1}, this version reads {SCHEMA}"):
        Bank(path)


OLD_TABLES = """
CREATE TABLE prompts (
    key TEXT PRIMARY KEY, weights TEXT NOT NULL, prompt TEXT NOT NULL, image TEXT, params TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE samples (
    key TEXT NOT NULL, idx INTEGER NOT NULL, seed INTEGER NOT NULL, text TEXT NOT NULL, token_ids BLOB NOT NULL,
    n_prompt_tokens INTEGER NOT NULL, finish TEXT NOT NULL, mean_logprob REAL NOT NULL, engine TEXT NOT NULL,
    created REAL NOT NULL, PRIMARY KEY (key, idx)
) WITHOUT ROWID;
CREATE TABLE digests (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL
) WITHOUT ROWID;
PRAGMA user_version=1;
"""


def test_a_bank_from_before_budgets(tmp_path):
    """Its samples are found under the same keys, and it takes new ones of both kinds; no second opening is needed."""
    path = tmp_path / "bank.sqlite"
    database = sqlite3.connect(path)
    database.executescript(OLD_TABLES)
    database.execute(
        "INSERT INTO samples VALUES (?, 0, 5, 'old', ?, 7, 'stop', -0.5, 'hf', 0)",
        (KEY.digest(), (1).to_bytes(4, "little")),
    )
    database.commit()
    database.close()
    forced = dataclasses.replace(KEY, params=dataclasses.replace(PARAMS, budget=TINY))
    new = dataclasses.replace(completion("new"), forcing=ForcingRecord(1, 2, 0, (), "budget", 1, ((1, 3),), 4))
    for expected in (2, 0):
        with Bank(path) as bank:
            assert bank.read([KEY.digest()], 1)[KEY.digest()] == [completion("old")]
            added = bank.write([*rows(KEY, [0, 1]), (forced, forced.digest(), 0, new)], "hf")
            assert added == expected
            assert bank.read([forced.digest()], 1)[forced.digest()] == [new]
            assert bank.count() == 3


def test_a_bank_from_before_unknown_log_probabilities_were_null(tmp_path):
    """Schema 2 stored 1.0 for them in a column that was NOT NULL: read as None, and the same file takes NULL now."""
    path = tmp_path / "bank.sqlite"
    database = sqlite3.connect(path)
    database.executescript(OLD_TABLES.replace("PRIMARY KEY (key, idx)", "forcing TEXT, PRIMARY KEY (key, idx)"))
    database.execute("PRAGMA user_version=2")
    for index, logprob in enumerate((1.0, -0.5)):
        values = (KEY.digest(), index, (1).to_bytes(4, "little"), logprob)
        database.execute("INSERT INTO samples VALUES (?, ?, 5, 'old', ?, 7, 'stop', ?, 'server', 0, NULL)", values)
    database.commit()
    database.close()
    unknown = dataclasses.replace(completion("new"), mean_logprob=None)
    for _ in range(2):
        with Bank(path) as bank, Bank(path) as other:  # the second sees the changed table as well
            bank.write([(KEY, KEY.digest(), 2, unknown)], "server")
            other.write([(KEY, KEY.digest(), 3, unknown)], "server")
            found = bank.read([KEY.digest()], 4)[KEY.digest()]
            assert [c.mean_logprob for c in found] == [None, -0.5, None, None]
            stored = [row[0] for row in bank._db.execute("SELECT mean_logprob FROM samples ORDER BY idx")]
            assert stored == [1.0, -0.5, None, None]
            assert bank._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_not_a_bank(tmp_path):
    (tmp_path / "text").write_text("no database at all, just a text that is long enough to be looked at" * 20)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "text", tmp_path / "folder", tmp_path / "text" / "below"):
        with pytest.raises(BankError, match=r"cannot be used as the sample bank.*--set bank="):
            Bank(path)
    (tmp_path / "empty").write_bytes(b"")  # as a killed creation leaves it
    with Bank(tmp_path / "empty") as bank:
        assert bank.count() == 0


def test_a_damaged_bank_says_so(tmp_path):
    path = tmp_path / "bank.sqlite"
    with Bank(path) as bank:
        bank.write(rows(KEY, range(2000), "some text " * 10 + "{}"), "hf")
    content = bytearray(path.read_bytes())
    for start in range(8192, len(content) - 4096, 4096):
        content[start : start + 100] = b"\xff" * 100
    path.write_bytes(content)
    with Bank(path) as bank, pytest.raises(BankError, match="malformed"):
        bank.read([KEY.digest()], 2000)


def test_full_disk(tmp_path):
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.write(rows(KEY, range(4)), "hf")
        (pages,) = bank._db.execute("PRAGMA page_count").fetchone()
        bank._db.execute(f"PRAGMA max_page_count={pages}")  # SQLite's own full disk
        with pytest.raises(BankError, match=r"full; samples up to the last batch are kept"):
            bank.write(rows(dataclasses.replace(KEY, prompt="other"), range(200), "long " * 200), "hf")
        assert bank.count() == 4
        bank._db.execute("PRAGMA max_page_count=1000000")
        assert bank.write(rows(KEY, range(8)), "hf") == 4


def test_known_digest_follows_the_file(tmp_path, monkeypatch):
    import selftrain.runs.run_dir as module

    file = tmp_path / "weights"
    file.write_bytes(b"one")
    with Bank(tmp_path / "bank.sqlite") as bank:
        first = bank.known_digest(file)
        with monkeypatch.context() as patch:
            patch.setattr(module, "file_digest", lambda path: pytest.fail("hashed twice"))
            assert bank.known_digest(file) == first
        file.write_bytes(b"two")
        os.utime(file, ns=(1, 1))
        assert bank.known_digest(file) != first
        with pytest.raises(OSError, match="weights2") as caught:
            bank.known_digest(tmp_path / "weights2")
        assert caught.value.errno == errno.ENOENT


def test_keys_of_one_image_or_none_are_those_of_before():
    """Banks that were made when a prompt could have one image at most stay of use."""
    params = SamplingParams(temperature=0.9, max_tokens=64)
    prompt = "Which angle <x?\nChoices:\n(A) 30°\n(B) 40 < 50\nAnswer the question with Chain-of-Thought."
    assert PromptKey("w", prompt, (), params, 7).digest() == "ac3acebc6c810b4be2c9ecf217bf9d91"
    assert PromptKey("w", prompt, ("f00d",), params, 7).digest() == "a46ebfb964d475dac05644f97e67a544"


def test_images_count_in_their_order():
    images = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "a"), ("a", "b", "a")]
    assert len({dataclasses.replace(KEY, images=shown).digest() for shown in images}) == len(images)
