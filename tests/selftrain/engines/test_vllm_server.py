"""Starting a server: the command line, health, logs and ends, with a stand-in for vLLM."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from selftrain.engines import vllm_server as serving
from selftrain.engines.base import EngineError
from selftrain.engines.vllm_server import ServerConfig, command, serve

# Takes vLLM's place on the module path: healthy after a second look, with a child of its own as vLLM has.
FAKE = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = sys.argv[1:]
mode = os.environ.get("FAKE_VLLM", "")
print("options", json.dumps(options), flush=True)
print("key", os.environ.get("VLLM_API_KEY"), flush=True)
if mode == "crash":
    sys.exit("ValueError: not enough memory for the cache; lower --max-model-len")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3000)"], start_new_session=True)
print("child", child.pid, flush=True)
looks = 0

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global looks
        looks += 1
        self.send_response(503 if looks < 2 or mode == "never" else 200)
        self.end_headers()
        if mode == "dies" and looks >= 2:
            self.wfile.flush()
            os._exit(7)

    def log_message(self, *_): pass

HTTPServer(("127.0.0.1", int(options[options.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(FAKE)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(serving, "POLL", 0.02)
    monkeypatch.setattr(serving, "STOP_GRACE", 2.0)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


def child_of(log: Path) -> int:
    [line] = [line for line in log.read_text().splitlines() if line.startswith("child ")]
    return int(line.split()[1])


def pairs(line: list[str]) -> dict[str, str]:
    return {a: b for a, b in itertools.pairwise(line) if a.startswith("--")}


def test_the_command_line_says_everything(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 24}')
    line = command(
        ServerConfig(
            model,
            name="qwen",
            adapters={"it1": adapter},
            port=8123,
            max_model_len=4096,
            min_pixels=3136,
            max_pixels=50176,
            memory_share=0.5,
            tensor_parallel=2,
            seed=3,
            interpreter=Path("/opt/vllm/bin/python"),
            extra=("--swap-space", "0"),
        )
    )
    assert line[:3] == ["/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    found = pairs(line)
    expected = {
        "--model": str(model),
        "--served-model-name": "qwen",
        "--port": "8123",
        "--seed": "3",
        "--max-model-len": "4096",
        "--chat-template": str(model / "chat_template.jinja"),
        "--generation-config": "vllm",
        "--gpu-memory-utilization": "0.5",
        "--tensor-parallel-size": "2",
        "--max-lora-rank": "32",
        "--lora-modules": f"it1={adapter}",
        "--swap-space": "0",
    }
    assert {key: found.get(key) for key in expected} == expected
    assert json.loads(found["--mm-processor-kwargs"]) == {"min_pixels": 3136, "max_pixels": 50176}
    assert json.loads(found["--limit-mm-per-prompt"]) == {"image": 16, "video": 0}
    assert {"--enable-lora", "--enable-prefix-caching"} < set(line)


def test_what_is_not_asked_for_is_left_out(model):
    line = command(ServerConfig(model, prefix_caching=False))
    assert "--no-enable-prefix-caching" in line
    for option in ("--enable-lora", "--max-model-len", "--mm-processor-kwargs", "--no-enable-chunked-prefill"):
        assert option not in line
    assert pairs(line)["--served-model-name"] == "model"
    assert "--no-enable-chunked-prefill" in command(ServerConfig(model, cpu=True))


def test_folders_that_cannot_be_served(model, tmp_path):
    with pytest.raises(EngineError, match=r"config\.json"):
        command(ServerConfig(tmp_path))
    with pytest.raises(EngineError, match="no LoRA adapter"):
        command(ServerConfig(model, adapters={"a": tmp_path}))
    (tmp_path / "adapter_config.json").write_text('{"r": 1000}')
    with pytest.raises(EngineError, match="rank 1000"):
        command(ServerConfig(model, adapters={"a": tmp_path}))
    (model / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="chat template"):
        command(ServerConfig(model))
    (model / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert "--chat-template" not in command(ServerConfig(model))


def test_it_runs_until_the_block_ends(model, tmp_path, fake_vllm, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-sesame")
    log = tmp_path / "logs" / "server.log"
    with serve(ServerConfig(model, port=0, api_key_env="A_KEY"), log, wait_s=20) as server:
        assert server.models == ("model",)
        port = int(server.url.removesuffix("/v1").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            pass
        assert "key sk-sesame" in log.read_text()
        [options] = [line for line in log.read_text().splitlines() if line.startswith("options")]
        assert "sesame" not in options  # where every user of the machine can read it
        assert alive(child_of(log))
    assert server.child.wait(0) is not None
    until = time.monotonic() + 5
    while alive(child_of(log)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(child_of(log))


def test_a_crash_shows_the_end_of_the_log(model, tmp_path, fake_vllm, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "crash")
    with (
        pytest.raises(EngineError, match=r"(?s)status 1 before it was ready.*lower --max-model-len"),
        serve(ServerConfig(model, port=0), tmp_path / "log"),
    ):
        pass


@pytest.mark.slow
def test_not_ready_in_time(model, tmp_path, fake_vllm, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "never")
    log = tmp_path / "log"
    with (
        pytest.raises(EngineError, match=r"(?s)not ready after 5 s.*child"),
        serve(ServerConfig(model, port=0), log, wait_s=5),  # its interpreter has to have started
    ):
        pass
    assert not alive(child_of(log))


def test_waiting_for_a_server_that_dies(model, tmp_path, fake_vllm, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "dies")
    log = tmp_path / "log"
    with serve(ServerConfig(model, port=0), log, wait_s=20) as server, pytest.raises(EngineError, match="status 7"):
        server.wait()


def test_a_taken_port_is_not_mistaken_for_ours(model, tmp_path, fake_vllm):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(EngineError, match=rf"127\.0\.0\.1:{port} cannot be used"),
            serve(ServerConfig(model, port=port), tmp_path / "log"),
        ):
            pass


@pytest.mark.slow
def test_an_interpreter_that_is_not_there(model, tmp_path):
    with (
        pytest.raises(EngineError, match=r"(?s)before it was ready"),
        serve(ServerConfig(model, port=0, interpreter=tmp_path / "python"), tmp_path / "log"),
    ):
        pass


def test_the_default_interpreter_is_this_one(model):
    assert command(ServerConfig(model))[0] == sys.executable
