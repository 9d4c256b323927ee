"""Settings that no person writes: a typed error, in time, that repeats little of them."""

from __future__ import annotations

import time

import pytest

from selftrain.config import Config, ConfigError, build_config, load_config
from selftrain.config.yaml_text import parse_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(9)
)
# fmt: off
TEXTS = {
    "a list as a key": "? [a, b]\n: c", "a mapping as a key": "? {a: b}\n: c", "a number as a key": "data: {1: 2}",
    "a date as a key": "2001-01-01: 3", "a map of a list": "data: !!map [1,2]", "a date": "name: 2001-01-01",
    "no date": "name: 2001-99-99", "no number": "seed: !!int abc", "no float": "seed: !!float abc",
    "brackets": "name: " + "[" * 3000 + "]" * 3000, "braces": "{a: " * 3000, "flow": "- " * 3000 + "a",
    "binary": "name: !!binary aGk=", "a set": "name: !!set {a, b}", "pairs": "name: !!pairs [a: b]",
    "omap": "name: !!omap [a: b]", "an object": "name: !!python/object/apply:os.system ['true']",
    "an alias of itself": "training: {overrides: &x {a: *x}}", "a list of itself": "plugins: &x [*x]",
    "an alias bomb": BOMB, "half of a character": 'name: "\\ud800"', "a null character": 'data: {train: "a\\0b"}',
    "a null character in extends": 'extends: "a\\0b"', "10**21": "sampling: {n: 1000000000000000000000}",
    "5,000 digits": "seed: " + "9" * 5000, "hex": "seed: 0x" + "f" * 5000, "base 60": "seed: " + "9:" * 5000 + "1",
    "infinity": "sampling: {temperature: .inf}", "nan": "sampling: {temperature: .nan}", "a tab": "a:\n\t- b",
    "bytes": "\x00\x01", "a long text": "name: " + "a" * 200_000, "a merge": "<<: 3",
}
# fmt: on


@pytest.mark.parametrize("name", TEXTS)
def test_files(tmp_path, name):
    (tmp_path / "a.yaml").write_bytes(TEXTS[name].encode("utf-8", "surrogatepass"))
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "a.yaml")
    assert time.monotonic() - started < 10
    assert len(str(caught.value)) < 1500


OVERRIDES = [
    "seed=2001-99-99", "seed=" + "9" * 5000, "name=" + "a" * 10**6, "seed=!!int x", "plugins=&x [*x]", "name=\0",
    "name=\ud800", "seed=" + "[" * 5000, "a" * 10**6, "sampling.n=" + "9" * 30,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text", OVERRIDES, ids=lambda text: repr(text[:30]))
def test_overrides(text):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [text])
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("value", [3, None, [], {"seed": 2**70}, {"name": "\ud800"}, {"seed": {"a": 1}}, {"data": []}])
def test_a_stored_configuration_that_was_edited(value):
    with pytest.raises(ConfigError):
        build_config(value, "config.json")


def test_ordinary_yaml_is_read():
    text = "a: &x {b: [1, 2.5, true, null, 'c']}\nd:\n  <<: *x\n  e: 1.0e-4\n"
    assert parse_yaml(text)["d"] == {"b": [1, 2.5, True, None, "c"], "e": 1e-4}
    assert isinstance(load_config(None, ["seed=3"]), Config)
