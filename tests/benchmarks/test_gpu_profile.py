"""The GPU profile: its table, what it does when a part fails, and a whole run of the smallest size on a CPU."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import device_memory, fullsize, gpu_profile, profile_parts
from benchmarks import profile_table as table
from benchmarks.profile_estimate import compare
from benchmarks.profile_parts import Job, Notes
from benchmarks.profile_table import Report, Row
from data_process.schema import DataError
from tests.selftrain.engines.contract import VLLM_PYTHON, needs_vllm

MACHINE = {"gpus": ["H9"], "driver": "1.2", "commit": None, "here": ["torch 2"]}
MODEL = {"family": "qwen2_vl", "size": "7b", "weights": "random", "parameters": 8_291_375_616}
WORK = {"problems": 64, "n": 8, "new_tokens": 512, "picture": 448, "temperature": 0.9, "top_k": 50, "top_p": 0.95}
ROWS = [
    Row(table.HF, "192 rows", 12.0, 20_000.0, 100.0, 512, 250_000, memory_gib=40.04),
    Row(table.HF_FORCED, "192 rows", None, None, 104.0, 512, 250_000, note="4.00 ignores"),
    Row(table.GENERATE, "64 rows", None, None, 200.0, 512, 250_000),
    Row(table.GENERATE, "192 rows", None, None, 125.0, 512, 250_000),
    Row(table.VLLM, "256 rows", 50.0, None, 40.0, 512, 250_000),
    Row(table.SECOND, "adapter of rank 64", 5.0),
    Row(table.LORA, "64 rows a step", seconds=8.0, samples=64, tokens=40_000, step_s=8.0),
]


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch) -> None:
    """The profile sets these for its children; they are as before after a test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def report_of(rows=(), failures=(), finished=True, machine=MACHINE) -> Report:
    return Report(machine, MODEL, {**WORK, "ignores": 4}, list(rows), list(failures), finished)


# ---- the table -----------------------------------------------------------------------------------------------------


def test_ratios_are_of_the_best_setting_and_of_what_was_measured():
    assert table.ratios(ROWS) == pytest.approx(
        {
            "hf engine / model.generate, tokens per second": 1.25,
            "hf engine, seconds per token: forcing / plain": 1.04,
            "vllm engine / hf engine, tokens per second": 2.5,
            "vllm engine, seconds to sampling: second iteration / first": 0.1,
        }
    )
    assert table.ratios([]) == {}


def test_table():
    failure = {"part": "LLM.generate", "error": "EngineError: a | b"}
    text = table.render([report_of(ROWS, [failure]), report_of(ROWS[:1], finished=False, machine={"gpus": []})])
    lines = text.splitlines()
    assert "| 1 x H9 | qwen2_vl 7b | hf engine | 192 rows | 12 | 20,000 | 2,500 | 18,432 |  | 40 |" in lines
    assert "| 1 x H9 | qwen2_vl 7b | LoRA training | 64 rows a step |  |  | 5,000 | 28,800 | 8 |  |" in lines
    assert any("**LLM.generate failed** | EngineError: a \\| b |" in line for line in lines)
    assert sum(line.startswith("| none | qwen2_vl 7b | hf engine |") for line in lines) == 1
    rows = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {len(table.COLUMNS) + 1}
    assert text.count("Stopped before its end") == 1
    assert "driver 1.2" in text
    assert "commit" not in text  # not known, so not told


def test_a_report_is_read_as_it_was_written(tmp_path):
    report = report_of(ROWS, [{"part": "hf", "error": "E: x"}], finished=False)
    report = replace(report, estimates=(table.Comparison(table.LORA, "step, s", 9.0, 8.0),))
    assert "* LoRA training, step, s: estimated 9, measured 8, ratio 1.12" in table.render([report])
    gpu_profile.write_report(report, tmp_path / "sub" / "a.json")
    assert table.read_report(tmp_path / "sub" / "a.json") == report
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": {}, "model": {}, "workload": {}, "rows": [{"x": 1}]}'])
def test_a_file_that_is_no_report(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json holds no result of benchmarks\.gpu_profile"):
        table.read_report(tmp_path / "a.json")


# ---- parts that fail -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failed_part_is_noted_and_what_was_measured_stays(tmp_path, capsys):
    notes = Notes(tmp_path / "notes.jsonl")
    with notes.part("one"):
        notes.row(ROWS[0])
        raise ValueError("first line\nsecond line")
    with notes.part("two"):
        notes.row(ROWS[1])
    rows, failures = notes.read()
    assert rows == ROWS[:2]
    assert failures == [{"part": "one", "error": "ValueError: first line"}]
    assert "second line" in capsys.readouterr().err  # the whole of it is told where it happened


def test_an_interrupt_travels_on(tmp_path):
    notes = Notes(tmp_path / "notes.jsonl")
    with pytest.raises(KeyboardInterrupt), notes.part("one"):
        raise KeyboardInterrupt
    assert notes.read() == ([], [])


# ---- memory --------------------------------------------------------------------------------------------------------

ALLOCATE = (
    "import sys; x = bytearray(int(sys.argv[1])); x[::4096] = b'1' * len(x[::4096]); print(1, flush=True); input()"
)


@pytest.mark.slow
def test_memory_of_processes_that_were_started():
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}, '{200 * 2**20}'])"
    before = device_memory.resident_bytes(os.getpid(), itself=False)
    with device_memory.peak_of_children([]) as peak:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        assert device_memory.resident_bytes(os.getpid(), itself=False) - before > 200 * 2**20
        assert device_memory.resident_bytes(child.pid, itself=False) > 200 * 2**20
        time.sleep(2 * device_memory.EVERY)
        child.communicate(b"\n")
    assert 200 / 1024 < peak.gib < 1


def test_a_peak_is_above_what_was_there_before():
    found = iter([5, 9, 6] + [6] * 1000)
    with device_memory.Peak(lambda: next(found) * 2**30, 4 * 2**30) as peak:
        while peak.gib < 5:
            pass
    assert peak.gib == 5


def test_a_look_that_fails_is_raised_where_the_number_is_asked_for(monkeypatch):
    monkeypatch.setattr(device_memory, "EVERY", 0.01)

    def look() -> int:
        raise DataError("no driver")

    with device_memory.Peak(look) as peak:
        time.sleep(0.1)
    with pytest.raises(DataError, match="no driver"):
        _ = peak.gib


@pytest.fixture
def two_gpus(tmp_path, monkeypatch) -> Path:
    """A stand-in for nvidia-smi with two GPUs; it honours -i as the real one does. Gives the file of its calls."""
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        'case "$1" in\n'
        "  --query-gpu=index) printf '0\\n1\\n' ;;\n"
        "  --query-gpu=memory.used) case \"$4\" in 1) echo 300 ;; *) printf '100\\n300\\n' ;; esac ;;\n"
        "  --query-gpu=name,memory.total,driver_version) printf 'NVIDIA H9, 81559, 550.1\\n%.0s' 1 2 ;;\n"
        "  *) echo unknown >&2; exit 2 ;;\n"
        "esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "calls"


@pytest.mark.parametrize(
    ("visible", "gpus"), [(None, ["0", "1"]), ("1", ["1"]), ("1,0", ["1", "0"]), ("", []), ("-1", [])]
)
def test_visible_gpus(two_gpus, monkeypatch, visible, gpus):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_memory.visible_gpus() == gpus


@pytest.mark.parametrize(("gpus", "mebibytes"), [(["1"], 300), (["0", "1"], 400)])
def test_memory_of_gpus(two_gpus, gpus, mebibytes):
    assert device_memory.gpu_bytes(gpus) == mebibytes * 2**20
    assert f"-i {','.join(gpus)}" in two_gpus.read_text()


def test_the_machine_is_told(two_gpus):
    about = gpu_profile.machine(["0", "1"], {"here": Path(sys.executable)})
    assert about["gpus"] == ["NVIDIA H9"] * 2
    assert about["gpu_memory_mib"] == [81559] * 2
    assert about["driver"] == "550.1"
    assert any(text.startswith("torch ") for text in about["here"])
    assert gpu_profile.machine([], {})["driver"] is None


def test_an_nvidia_smi_that_fails(two_gpus):
    with pytest.raises(DataError, match=r"nvidia-smi --query-gpu=temperature .* failed"):
        device_memory.ask(["temperature"], [])


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--model and --out are needed"),
        (["--model", "m", "--out", "o", "--engines", "hf,llama"], "unknown engine 'llama'; known: hf, vllm"),
        (["--model", "m", "--out", "o", "--picture", "450"], "must be a multiple of 28"),
        (["--model", "m", "--out", "o", "--problems", "0"], "must be 1 at least, not 0"),
        (["--model", "m", "--out", "o", "--train-steps", "1"], "must be 2 at least"),
        (["--model", "m", "--out", "o", "--engines", "", "--no-training"], "nothing is left to measure"),
        (["--model", "m", "--out", "o", "--device", "cuda"], "no GPU is visible"),
        (["--model", "m", "--out", "o", "--vllm-python", "/no/python"], "cannot ask /no/python"),
        (["--model", "m", "--out", "o", "--engines", "hf"], "m holds no model"),
        (["--table", "none"], "none holds no results yet"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        gpu_profile.main(options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_children_see_the_gpus_that_are_measured(tmp_path, monkeypatch, two_gpus):
    for share, visible in ((1, "0"), (2, "0,1")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        job = job_for(tmp_path / "m", tmp_path, ["--tensor-parallel", str(share)])
        assert (job.gpus, os.environ["CUDA_VISIBLE_DEVICES"]) == (tuple(visible.split(",")), visible)
    assert "vllm_python" not in job.workload


def job_for(model: Path, folder: Path, options: list[str]) -> Job:
    found: list[Job] = []

    def stop(job, *_):
        found.append(job)
        raise DataError("stopped")

    line = ["--model", str(model), "--out", str(folder / "o.json"), *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_profile, "profile", stop)
        with pytest.raises(SystemExit):
            gpu_profile.main(line)
    return replace(found[0], folder=folder)


# ---- estimates -----------------------------------------------------------------------------------------------------


def test_estimates_stand_beside_what_was_measured(tmp_path):
    """As on an A100, with rows that are as long as they may be; another GPU has no data sheet, so no times."""
    job = job_for(tmp_path / "Qwen2-VL-7B", tmp_path, ["--vllm-batch-size", "64"])
    job = replace(job, model=Path("Qwen2-VL-7B"), gpus=("0",))
    machine = {"gpus": ["NVIDIA A100-SXM4-80GB"], "gpu_memory_mib": [81920]}
    found = compare(job, machine, ROWS, [64 * 340, 64 * 340])
    named = {(one.way, one.what): one for one in found}
    assert [*named] == [
        (table.HF, "peak memory, GiB"), (table.HF, "run, s"), (table.VLLM, "run, s"), (table.LORA, "step, s"),
    ]  # fmt: skip
    memory = named[table.HF, "peak memory, GiB"]
    assert memory.measured == 40.04
    # weights, keys of 24 prompts and 192 answers and of the 340 x 24 tokens that are read, their activations, logits
    token, read = 2 * 2 * 28 * 512, 24 * 340
    activations = read * 2 * (3 * 18944 + 10 * 3584)
    expected = 2 * 8_291_375_616 + token * (2 * read + 192 * 512) + activations + 16 * 192 * 152064
    assert memory.estimated == pytest.approx(expected / 2**30)
    assert named[table.HF, "run, s"].measured == 100.0
    assert named[table.LORA, "step, s"].estimated == pytest.approx(64 * 625 * 6 * 7.07e9 / (0.35 * 312e12), rel=0.1)
    unknown = compare(job, {**machine, "gpus": ["H9"]}, ROWS, [64 * 340])
    assert [one.what for one in unknown] == ["peak memory, GiB"]


# ---- the whole -----------------------------------------------------------------------------------------------------

SMALL = [
    *("--device", "cpu", "--threads", "1", "--problems", "3", "--n", "2", "--new-tokens", "64", "--picture", "56"),
    *("--rounds", "1", "--batch-size", "8", "--generate-rows", "4", "--usual-batches", "1", "--vllm-batch-size", "8"),
    *("--max-model-len", "1024", "--train-steps", "3", "--train-batch", "2", "--per-device-batch", "2"),
]


@pytest.fixture(scope="module")
def nano(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("profile") / "nano"
    fullsize.write_checkpoint("qwen2_5_vl", "nano", folder)
    return folder


@pytest.mark.slow
def test_no_picture_is_in_two_sets(nano, tmp_path):
    job = job_for(nano, tmp_path, [*SMALL, "--rounds", "2"])
    prompts = profile_parts.make_prompts(job)
    sets = [prompts.warm, *prompts.read, *prompts.plain, *prompts.forced]
    assert [len(requests) for requests in sets] == [3] * 7
    assert len(prompts.train) == 2
    pictures = [image for requests in sets for request in requests for image in request.images]
    pictures += [tmp_path / image for example in prompts.train for image in example.images]
    with pytest.raises(DataError, match=r"MiniGeo has \d+ .*; lower --problems"):
        profile_parts.make_prompts(replace(job, problems=10**6))
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures}) == len(pictures)


@pytest.mark.slow
@needs_vllm
def test_a_whole_profile(nano, tmp_path, capsys):
    out = tmp_path / "results" / "cpu.json"
    line = ["--model", str(nano), "--out", str(out), "--vllm-python", VLLM_PYTHON or "", *SMALL]
    assert gpu_profile.main(line) == 0, capsys.readouterr().err
    report = table.read_report(out)
    assert report.finished
    assert report.failures == []
    assert report.model["size"] == "nano"
    rows = {row.way: row for row in report.rows}
    ways = [table.HF, table.HF_FORCED, table.GENERATE, table.USUAL, table.VLLM, table.VLLM_FORCED, table.SECOND]
    assert list(rows) == [*ways, table.LLM, table.LORA]
    for way in (table.HF, table.HF_FORCED, table.GENERATE, table.VLLM, table.VLLM_FORCED, table.LLM):
        assert (rows[way].samples, rows[way].tokens) == (6, 6 * 64), way  # all texts are of one length
    assert rows[table.USUAL].tokens == 3 * 64
    for way in (table.HF_FORCED, table.VLLM_FORCED):
        assert float(rows[way].note.split()[0]) > 0.5
    assert all(rows[way].prompt_tokens_per_s > 0 for way in (table.HF, table.VLLM, table.LLM))
    assert all(row.memory_gib > 0.1 for row in report.rows)
    assert rows[table.LORA].step_s > 0
    assert len(table.ratios(report.rows)) == 8
    assert any(text.startswith("vllm") for text in report.machine["for vllm"])
    capsys.readouterr()
    assert gpu_profile.main(["--table", str(out.parent)]) == 0
    assert capsys.readouterr().out.strip() == table.render([report])


@pytest.mark.slow
def test_the_parts_that_fail_are_named_and_the_status_says_so(nano, tmp_path, capsys):
    """This environment's Python has no vLLM. A picture beyond the trainer's limit on tokens fails there alone."""
    out = tmp_path / "cpu.json"
    line = ["--model", str(nano), "--out", str(out), "--engines", "vllm", "--vllm-python", sys.executable, *SMALL]
    assert gpu_profile.main([*line, "--max-model-len", "64"]) == 1
    report = table.read_report(out)
    assert report.rows == []
    assert [failure["part"] for failure in report.failures] == ["vllm: start-up", "LLM.generate", "LoRA training"]
    errors = [failure["error"] for failure in report.failures]
    assert "has no vLLM" in errors[0]
    assert "process ended with status 1" in errors[1]
    assert errors[2].startswith("DataError: 2 of 2 rows cannot be trained on")
    assert "**vllm: start-up failed**" in capsys.readouterr().out


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_is_killed_is_a_failed_part(tmp_path, monkeypatch):
    """And the next parts run, each leaving what there is so far."""
    killed = gpu_profile.in_own_process

    def die(*_):
        return killed(kill_this_process)

    monkeypatch.setattr(gpu_profile, "in_own_process", die)
    monkeypatch.setattr(gpu_profile, "machine", lambda *_: MACHINE)
    monkeypatch.setattr(gpu_profile, "about_model", lambda _: MODEL)
    monkeypatch.setattr(gpu_profile, "make_prompts", lambda _: None)
    monkeypatch.setattr(gpu_profile, "profile_training", lambda job, prompts, notes: notes.row(ROWS[-1]))
    kept: list[Report] = []
    job = job_for(tmp_path / "m", tmp_path, SMALL)
    last = gpu_profile.profile(job, ["hf"], training=True, keep=kept.append)
    assert [(len(report.rows), report.finished) for report in kept] == [(0, False), (1, True)]
    assert last.failures[0]["part"] == "hf"
    assert last.failures[0]["error"].startswith("BrokenProcessPool")
    assert json.loads(json.dumps(asdict(last)))["rows"][0]["way"] == table.LORA
