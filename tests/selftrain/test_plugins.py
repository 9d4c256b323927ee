"""Plugins are imported before the settings are checked, and a plugin that fails says which and why."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from selftrain import plugins
from selftrain.config import ConfigError, build_config
from selftrain.plugins import PluginError, load_plugins

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, where plugins are looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'my_plugin'; a plugin must be installed, on PYTHONPATH or in the"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library' "),
        ("x = 1\nraise ValueError('a name twice')", "ValueError: a name twice ({file}, line 2)"),
        ("def f(:", "SyntaxError: "),
    ],
)
def test_a_plugin_that_fails(folder, text, reason):
    file = folder / "my_plugin.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PluginError) as caught:
        load_plugins(["my_plugin"])
    assert str(caught.value).startswith("plugin my_plugin cannot be imported: " + reason.format(file=file))


def test_plugins_come_before_the_settings_are_checked(folder):
    (folder / "my_plugin.py").write_text("import pathlib\npathlib.Path('loaded').touch()")
    with pytest.raises(ConfigError, match="unknown key 'sed'; did you mean 'seed'"):
        build_config({"plugins": ["my_plugin"], "sed": 1}, "settings")
    assert Path("loaded").exists()
    Path("loaded").unlink()
    config = build_config({"plugins": ["my_plugin"]}, "settings")
    assert not Path("loaded").exists(), "a module is imported once"
    assert config.plugins == ("my_plugin",)
    assert config.digest() == build_config({}, "settings").digest()


@pytest.mark.parametrize("value", [7, "my_plugin", [3], [None]])
def test_plugins_of_the_wrong_type(folder, value):
    with pytest.raises(ConfigError, match="plugins"):
        build_config({"plugins": value}, "settings")


def test_an_entry_point(folder, monkeypatch):
    point = importlib.metadata.EntryPoint("mine", "my_plugin", plugins.GROUP)
    monkeypatch.setattr(plugins, "_installed", lambda: (point,))
    with pytest.raises(PluginError, match="plugin my_plugin of the entry point mine cannot be imported"):
        build_config({}, "settings")
    (folder / "my_plugin.py").write_text("")
    build_config({}, "settings")
    assert "my_plugin" in sys.modules


def test_the_working_directory_shadows_nothing(folder):
    (folder / "yaml.py").write_text("raise RuntimeError('the wrong one')")
    load_plugins(["yaml"])
    assert sys.path[-1] == str(folder)


@pytest.mark.slow
def test_from_the_shell(tmp_path):
    """In a folder of its own, where only the working directory has the plugin."""
    (tmp_path / "broken.py").write_text("import no_such_library")
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "--set", "plugins=[broken]", "--dry-run"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: plugin broken cannot be imported: ModuleNotFoundError: No module named 'no_")
    assert "Traceback" not in done.stderr
