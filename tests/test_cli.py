"""The command line: exit statuses, messages without tracebacks, and nothing heavy before it is needed."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import model_serializer

from data_process.sources import minigeo
from selftrain import __version__, doctor, loop
from selftrain.cli.errors import EXIT_CLOSED, guarded
from selftrain.cli.main import COMMANDS, build_parser, main
from selftrain.cli.run import run_main
from selftrain.files import Record, read_json
from selftrain.stages import building

ROOT = Path(__file__).parents[1]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
HEAVY = ("torch", "transformers", "peft", "numpy", "PIL", "matplotlib", "pydantic")


def command(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "minigeo"
    minigeo.write(folder, {"train": 24, "dev": 12, "test": 12}, seed=0)
    return folder


def arguments(data: Path, folder: Path, *more: object) -> list[str]:
    return [
        *("--config", str(REHEARSAL), "--output", str(folder / "run"), "--set", f"data.folder={data}"),
        *("--set", f"bank={folder / 'bank.sqlite'}", *map(str, more)),
    ]


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run_main(arguments(data, folder, "--quiet", "--iters", 1)) == 0
    return folder / "run"


def subparsers() -> dict[str, argparse.ArgumentParser]:
    [action] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return action.choices


def test_a_command_is_a_module():
    """Each has a file of its own, and each file a command."""
    assert {module.__name__.rpartition(".")[2].replace("_", "-") for module in COMMANDS} == set(subparsers())
    others = {"__init__", "commands", "errors", "main"}
    files = {path.stem for path in (ROOT / "selftrain/cli").glob("*.py")} - others
    assert files == {name.replace("-", "_") for name in subparsers()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ("run.py", "--help"),
        ("-m", "selftrain", "--help"),
        ("-m", "selftrain", "--version"),
        *(("-m", "selftrain", name, "--help") for name in subparsers()),
    ],
    ids=" ".join,
)
def test_help_is_light(args):
    done = command("-X", "importtime", *args)
    assert done.returncode == 0
    assert ("usage:" in done.stdout) or done.stdout == f"selftrain {__version__}\n"
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported, "importtime printed nothing, so this test sees nothing"
    assert not imported & set(HEAVY)


@pytest.mark.parametrize("name", subparsers())
def test_a_command_explains_itself(name):
    """Every option has a help text, and the example of the help is a command line that parses."""
    parser = subparsers()[name]
    if not parser.add_help:  # its arguments are parsed elsewhere
        return
    assert [action.dest for action in parser._actions if not action.help] == []
    assert parser.epilog is not None
    program, *words = shlex.split(parser.epilog.removeprefix("example: "))
    assert program == "selftrain"
    assert build_parser().parse_args(words).action is parser.get_default("action")


def test_help_names_every_option():
    text = command("run.py", "--help").stdout
    for option in ("--iters", "--config", "--output", "--seed", "--set", "--dry-run", "--quiet", "configs/demo.yaml"):
        assert option in text


BAD = {
    "no iterations": (["--iters", "0"], "0 is out of range; a run has 1 to 999 iterations"),
    "negative": (["--iters", "-1"], "-1 is out of range"),
    "negative, joined": (["--iters=-1"], "-1 is out of range"),
    "text": (["--iters", "abc"], "'abc' is not a whole number; write for instance --iters 3"),
    "half": (["--iters", "1.5"], "'1.5' is not a whole number"),
    "too many": (["--iters", "1000"], "1000 is out of range"),
    "nothing": (["--iters"], "expected one argument"),
    "text seed": (["--seed", "x"], "--seed"),
    "unknown option": (["--itres", "3"], "unrecognized arguments: --itres"),
    "unknown key": (["--set", "samplng.n=3"], "unknown key 'samplng'; did you mean 'sampling'?"),
    "wrong type": (["--set", "sampling.n=many"], "sampling.n: "),
    "no value": (["--set", "sampling.n"], "write it as key=value"),
    "no config": (["--config", "nowhere.yaml"], "there is no configuration file"),
    "config is a folder": (["--config", "configs"], "cannot be read as YAML"),
    "no data": (["--set", "data.source=jsonl", "--set", "data.folder=/nowhere"], "/nowhere/train.jsonl: no such file"),
    "output is a file": (["--output", __file__], "cannot be used as the run folder"),
    "bank is a folder": (["--set", "bank=configs"], "configs cannot be used as the sample bank"),
    "bank is no bank": (["--set", f"bank={__file__}"], "cannot be used as the sample bank"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    args, message = BAD[name]
    monkeypatch.chdir(ROOT)
    defaults = ["--config", str(REHEARSAL)] if "--config" not in args else []
    defaults += ["--output", str(tmp_path / "run")] if "--output" not in args else []
    try:
        status = run_main([*defaults, *args])
    except SystemExit as stopped:  # argparse's own way to end
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_bad_input_from_the_shell():
    done = command("run.py", "--iters", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "out of range" in done.stderr
    done = command("run.py", "--set", "iter=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: configs/demo.yaml: unknown key 'iter'; did you mean 'iters'?")


@pytest.mark.slow
def test_dry_run_shows_everything_and_makes_nothing(tmp_path):
    data = tmp_path / "data"
    before = sorted(tmp_path.rglob("*"))
    done = command("run.py", *arguments(data, tmp_path, "--dry-run", "--iters", 7, "--set", "sampling.n=5"))
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert "Then repeat 7 times:\n#   sample 5 completions for every problem of train at temperature" in done.stdout
    import yaml

    from selftrain.config import build_config

    resolved = build_config(yaml.safe_load(done.stdout), "the plan")  # the plan is itself a configuration
    assert (resolved.iters, resolved.sampling.n, resolved.data.folder) == (7, 5, data)
    assert resolved.engine.kind == "scripted"


def test_score(finished, capsys):
    metrics = read_json(finished / "metrics.json")
    assert main(["score", str(finished), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = {(e["iteration"], e["split"]): e for e in result["evaluations"]}
    expected = {(e["iteration"], split): e["eval"][split] for e in metrics["iterations"] for split in e["eval"]}
    assert set(found) == set(expected)
    for key, totals in expected.items():
        greedy = totals["strategies"]["greedy"]
        assert {name: found[key][name] for name in ("n", "correct", "abstain", "accuracy", "low", "high")} == {
            name: greedy[name] for name in ("n", "correct", "abstain", "accuracy", "low", "high")
        }
        assert found[key]["correct"] + found[key]["wrong"] + found[key]["abstain"] == found[key]["n"] == 12
        assert found[key]["changes"] == []
    assert main(["score", str(finished)]) == 0
    assert "iteration 0 dev: greedy " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("option", [(), ("--json",)])
@pytest.mark.parametrize("errors_too", [False, True])
def test_a_closed_pipe_ends_quietly(finished, option, errors_too):
    """As under `| head`: no traceback, and the status that a shell gives a program that SIGPIPE ended."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "selftrain", "score", finished, *option],
            cwd=ROOT,
            stdout=writer,
            stderr=writer if errors_too else subprocess.PIPE,
            timeout=600,
        )
    finally:
        os.close(writer)
    assert done.returncode == EXIT_CLOSED == 141
    assert not done.stderr


def test_another_broken_pipe_is_a_fault():
    def broken() -> int:
        raise BrokenPipeError("a child process ended")

    with pytest.raises(BrokenPipeError, match="a child process ended"):
        guarded(broken)


def test_score_finds_a_verdict_that_changed(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    path = run / "iter0/dev/rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["strategies"]["greedy"]["texts"][0]["verdict"]["status"] = "abstain"
    rows[4]["samples"][1]["text"] = "Answer: (Z)"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(run), "--json"]) == 0
    [base, *others] = json.loads(capsys.readouterr().out)["evaluations"]
    assert {(c["id"], c["answer"]) for c in base["changes"]} == {
        (rows[2]["id"], "greedy"),
        (rows[4]["id"], "sample 1"),
    }
    assert all(entry["changed"] == 0 for entry in others)


@pytest.mark.slow
def test_report_is_written_again(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "report.md").read_bytes()
    for name in ("report.md", "report.html"):
        (run / name).unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.md").read_bytes() == before
    assert (run / "report.html").is_file()
    assert "Greedy accuracy on test" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["score", "report"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "is missing"),
        (lambda run: (run / "config.json").write_text('{"colour": 1}'), "unknown key 'colour'"),
        (lambda run: (run / "config.json").write_bytes(b""), "is damaged"),
    ],
)
def test_a_folder_that_is_no_run(finished, tmp_path, capsys, verb, spoil, message):
    run = shutil.copytree(finished, tmp_path / "run")
    spoil(run)
    assert main([verb, str(run)]) == 2
    assert message in capsys.readouterr().err


def test_no_verb_and_unknown_verb(capsys):
    for argv in ([], ["repot"]):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 2
    assert "invalid choice: 'repot'" in capsys.readouterr().err


def test_a_run_that_would_fail_is_status_2(data, tmp_path, capsys):
    argv = arguments(data, tmp_path, "--quiet", "--set", "engine.kind=hf", "--set", "model.path=/nowhere")
    assert run_main(argv) == 2
    assert "model: /nowhere holds no config.json" in capsys.readouterr().err


def test_an_engine_that_fails_is_status_4(data, tmp_path, monkeypatch, capsys):
    """Were the weights to go after the checks before a run."""
    monkeypatch.setattr(doctor, "check_before_run", lambda config: None)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen2_vl"}')
    argv = arguments(data, tmp_path, "--quiet", "--set", "engine.kind=hf", "--set", f"model.path={model}")
    assert run_main(argv) == 4
    assert f"engine failed: {model} holds no model weights" in capsys.readouterr().err


def test_failed_training_is_status_4_and_a_bug_keeps_its_traceback(capsys):
    from selftrain.training.hyperparameters import TrainingError

    def fail(error: Exception):
        def action() -> int:
            raise error

        return action

    assert guarded(fail(TrainingError("killed"))) == 4
    assert "training failed: killed" in capsys.readouterr().err
    for bug in (RuntimeError("a bug"), ValueError("a bug"), FileNotFoundError(2, "a bug")):
        with pytest.raises(type(bug), match="a bug"):
            guarded(fail(bug))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "where"),
    [
        (signal.SIGINT, "stage"),
        (signal.SIGTERM, "stage"),
        (signal.SIGHUP, "stage"),
        (signal.SIGINT, "serializer"),
        (signal.SIGTERM, "serializer"),
        (signal.SIGTERM, "nested serializer"),
    ],
)
def test_a_signal_in_process(data, tmp_path, monkeypatch, capsys, number, where):
    """In a stage: the status of the signal, what is saved and how to go on; the lock is free, the same command ends it.

    What a finished run says names the page.
    """
    monkeypatch.setattr(loop, "write_run_report", lambda path: [path / "report.md", path / "report.html"])
    monkeypatch.setattr(sys, "argv", ["run.py", "--config", "a file.yaml"])
    argv = arguments(data, tmp_path, "--iters", 1)

    def stop(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)  # a signal arrives soon after

    class Row(Record):
        """pydantic makes an error of its own of what is raised in a serializer."""

        @model_serializer(mode="wrap")
        def _stopped(self, handler: object) -> None:
            stop()

    class Table(Record):
        row: Row = Row()

        @model_serializer(mode="wrap")
        def _whole(self, handler: Callable[[Record], object]) -> object:
            return handler(self)

    stops = {"stage": stop, "serializer": lambda *_, **__: Row().to_json()}
    stops["nested serializer"] = lambda *_, **__: Table().to_json()
    with monkeypatch.context() as patch:
        patch.setattr(building, "build", stops[where])
        assert run_main(argv) == 128 + number
    said = capsys.readouterr().err
    assert f"Stopped by {number.name}. Finished work is kept; the same command resumes." in said
    n = len(list((tmp_path / "run").rglob("stage.json")))
    assert f"Saved: {n} finished stages in {tmp_path / 'run'}, and every sample drawn so far in {tmp_path}" in said
    assert "To resume: python run.py --config 'a file.yaml'" in said
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert run_main(argv) == 0
    said = capsys.readouterr()
    assert f"resuming: {n} finished stages are reused, of iteration 1: judge, rethink, sample; the bank" in said.err
    assert "building training rows" in said.err
    assert "finished already" not in said.out
    before = (tmp_path / "run/metrics.json").read_bytes()
    assert run_main(argv) == 0
    said = capsys.readouterr()
    assert f"finished already: report at {tmp_path / 'run/report.html'}" in said.out
    assert "building" not in said.err
    assert (tmp_path / "run/metrics.json").read_bytes() == before
    sessions = read_json(tmp_path / "run/sessions.json")
    assert len(sessions) == 3, "an interrupted session's time counts too"


INTERRUPTIBLE = """
import sys, time
from selftrain.stages import building
from selftrain.cli.run import run_main
build = building.build
def slow(*args, **kwargs):
    print("building", flush=True)
    time.sleep(30)
    return build(*args, **kwargs)
building.build = slow
sys.exit(run_main(sys.argv[1:]))
"""


def test_an_ignored_hangup_stays_ignored():
    """`nohup` starts a program so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert guarded(lambda: os.kill(os.getpid(), signal.SIGHUP) or 0) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_run_for_programs(data, tmp_path, monkeypatch, capsys):
    """Every line of standard output is an event, in order; nobody else writes there."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [path / "report.html"])
    argv = arguments(data, tmp_path, "--iters", 1, "--json")
    for already in (False, True):
        assert run_main(argv) == 0
        said = capsys.readouterr()
        assert said.err == ""
        events = [json.loads(line) for line in said.out.splitlines()]
        assert all({"event", "time"} <= {*event} for event in events)
        assert events[0]["text"].startswith("run rehearsal in ")
        assert events[-1]["event"] == "finished"
        assert events[-1]["already"] is already
        assert events[-1]["report"] == str(tmp_path / "run/report.html")
        assert events[-1]["accepted"] == read_json(Path(events[-1]["metrics"]))["accepted"]
        ended = [event["stage"] for event in events if event["event"] == "stage_ended"]
        assert [event["stage"] for event in events if event["event"] == "stage_started"] == ended
        assert ("iteration 1: sampling" in ended) is not already
        if not already:
            last = [e for e in events if e["event"] == "progress" and e["stage"] == "iteration 1: sampling"][-1]
            assert last["done"] == last["total"] == 24 * 3
            assert last["unit"] == "samples"
    assert run_main([*argv, "--seed", "7"]) == 2
    said = capsys.readouterr()
    assert "config.seed: 0 -> 7" in json.loads(said.out.splitlines()[-1])["error"]
    assert "was started with other settings" in said.err
    with pytest.raises(SystemExit):
        run_main([*argv, "--quiet"])


@pytest.mark.slow
def test_ctrl_c(data, tmp_path, finished):
    """A real SIGINT to a real process; what it leaves is continued to the same metrics as those of a run left alone."""
    argv = arguments(data, tmp_path, "--quiet", "--iters", 1)
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout.readline() == b"building\n"
    time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    _, error = child.communicate(timeout=600)
    assert child.returncode == 130
    assert b"the same command resumes" in error
    assert b"Traceback" not in error
    done = command("run.py", *argv)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


def test_compare_pairs_two_runs(finished, tmp_path, data, capsys):
    """A run against itself differs by nothing; against one measured on other problems there are no pairs."""
    assert main(["compare", str(finished), str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    compared = [f"test, {name}{measure}" for name in ("greedy", "majority", "select") for measure in ("", ", honest")]
    assert [line.split(":")[0] for line in lines] == compared
    assert all("+0.0 points" in line for line in lines)

    other = tmp_path / "other"
    shutil.copytree(finished, other)
    accepted = json.loads((other / "metrics.json").read_text())["accepted"]
    rows = other / f"iter{accepted}/test/rows.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[1:]))
    assert main(["compare", str(finished), str(other)]) == 2
    assert "different problems (1 differ)" in capsys.readouterr().err
    rows.unlink()
    assert main(["compare", str(other), str(finished)]) == 2
    assert "run it to its end first" in capsys.readouterr().err
