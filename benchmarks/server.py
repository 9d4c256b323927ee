"""What the server engine costs and gains as a client, against a server that answers from a script.

    python -m benchmarks.server --requests 400 --json out.json

The server runs in a process of its own and answers after a set time, so that only the client is compared: the engine,
the usual way (a thread pool, a new connection and a re-encoded picture for every call, as s1-m does it), and httpx
alone with the same bodies. `--url` and `--model` send the same to a real server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import os
import platform
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.sampling import make_requests
from selftrain.engine_settings import ServerSettings
from selftrain.engines.base import Request, SamplingParams
from selftrain.engines.openai_api import chat_completions
from selftrain.engines.openai_server import ServerEngine

PARAMS = SamplingParams(temperature=1.0, max_tokens=200)
JSON = {"Content-Type": "application/json"}
WORDS = 60  # tokens of a scripted answer: about a short chain of thought


def answer(faults: float, latency: float, port: multiprocessing.Queue[int]) -> None:
    """The scripted server: a share `faults` of the calls, evenly spread, gets 503. Runs in a process of its own."""
    tokens = [f" w{i}" for i in range(WORDS)]
    body = {
        "choices": [
            {
                "message": {"role": "assistant", "content": "".join(tokens)},
                "finish_reason": "stop",
                "token_ids": list(range(WORDS)),
                "logprobs": {"content": [{"token": t, "bytes": list(t.encode()), "logprob": -0.5} for t in tokens]},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": WORDS},
    }
    good, models = json.dumps(body).encode(), json.dumps({"data": [{"id": "m", "owned_by": "vllm"}]}).encode()
    lock, count = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, models)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                count[0] += 1
                bad = faults and int(count[0] * faults) > int((count[0] - 1) * faults)
            time.sleep(latency)
            self._send(*(503, b"busy") if bad else (200, good))

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Server(ThreadingHTTPServer):
        request_queue_size = 512
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    port.put(server.server_address[1])
    server.serve_forever()


@contextmanager
def scripted(faults: float, latency: float) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    process = context.Process(target=answer, args=(faults, latency, port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=60)}/v1"
    finally:
        process.terminate()
        process.join()


@dataclass(frozen=True)
class Measured:
    """One client on one kind of server: the fastest of the rounds."""

    client: str
    setting: str
    seconds: float
    cpu_seconds: float  # of the client's process
    samples: int
    failed: int  # samples without an answer

    @property
    def samples_per_s(self) -> float:
        return (self.samples - self.failed) / self.seconds


Way = Callable[[], int]  # answers all requests; the number of failed samples


def bodies(requests: Sequence[Request], model: str, *, reencode: bool) -> Iterator[dict[str, Any]]:
    for request in requests:
        [image] = request.images
        url = "" if reencode else chat_completions.data_url(request.id, image)
        for seed in request.seeds:
            url = _jpeg(image) if reencode else url
            turn = chat_completions.user_turn(request.prompt, [url])
            yield chat_completions.body(
                model, turn, PARAMS, chat_completions.wire_seed(seed), chat_completions.DIALECTS["vllm"], logprobs=True
            )


def _jpeg(path: Path) -> str:
    """As PKU-Alignment/s1-m's budget_forcing.py sends pictures."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(path).convert("RGB").save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def usual(url: str, model: str, requests: Sequence[Request], at_once: int) -> int:
    """Threads, a connection per call, no second try: what fails has no answer."""

    def one(body: dict[str, Any]) -> int:
        call = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), JSON)
        try:
            with urllib.request.urlopen(call, timeout=600) as answer:
                json.loads(answer.read())
        except OSError:
            return 1
        return 0

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(one, bodies(requests, model, reencode=True)))


def bare(url: str, model: str, requests: Sequence[Request], at_once: int) -> int:
    """httpx with open connections, and nothing around it."""
    import httpx

    async def main() -> int:
        waiting = list(bodies(requests, model, reencode=False))
        failed = 0
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=at_once), timeout=600) as client:

            async def work() -> None:
                nonlocal failed
                while waiting:
                    content = json.dumps(waiting.pop()).encode()
                    answer = await client.post(f"{url}/chat/completions", content=content, headers=JSON)
                    if answer.status_code != 200:
                        failed += 1
                    else:
                        answer.json()

            await asyncio.gather(*(work() for _ in range(at_once)))
        return failed

    return asyncio.run(main())


def ours(url: str, model: str, requests: Sequence[Request], at_once: int) -> int:
    with ServerEngine(model, ServerSettings(url=url, max_concurrency=at_once), backoff_s=0.05) as engine:
        engine.generate(requests, PARAMS)
    return 0


CLIENTS: dict[str, Callable[[str, str, Sequence[Request], int], int]] = {
    "threads, new connections": usual,
    "httpx alone": bare,
    "ServerEngine": ours,
}


def measure(setting: str, ways: dict[str, Way], samples: int, rounds: int) -> list[Measured]:
    """Every round runs all clients in turn; the fastest run of each counts, as other work only adds time."""
    best: dict[str, Measured] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            failed = way()
            run = Measured(name, setting, time.perf_counter() - start, time.process_time() - cpu, samples, failed)
            if name not in best or run.seconds < best[name].seconds:
                best[name] = run
    return list(best.values())


def report(rows: Sequence[Measured], about: dict[str, Any]) -> str:
    lines = [
        ", ".join(f"{key} {value}" for key, value in about.items()) + ".",
        "",
        "| server | client | seconds | samples/s | client CPU ms/sample | without an answer | x threads |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        first = next(r for r in rows if r.setting == row.setting)
        lines.append(
            f"| {row.setting} | {row.client} | {row.seconds:.2f} | {row.samples_per_s:.0f} "
            f"| {1000 * row.cpu_seconds / row.samples:.2f} | {row.failed} "
            f"| {row.samples_per_s / first.samples_per_s:.2f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--n", type=int, default=2, help="samples per request")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="a real server instead of the scripted one")
    parser.add_argument("--model", default="m", help="its name for the model")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        requests = make_requests(Path(folder), args.requests, args.n, "base", "short")
        samples = args.requests * args.n

        def ways(url: str) -> dict[str, Way]:
            return {
                name: (lambda run=run: run(url, args.model, requests, args.at_once)) for name, run in CLIENTS.items()
            }

        if args.url is not None:
            rows += measure("real", ways(args.url), samples, args.rounds)
        else:
            for setting, faults, latency in (
                ("answers at once", 0.0, 0.0),
                ("answers after 100 ms", 0.0, 0.1),
                ("after 100 ms, 2% are 503", 0.02, 0.1),
            ):
                with scripted(faults, latency) as url:
                    rows += measure(setting, ways(url), samples, args.rounds)
    about = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "calls at once": args.at_once,
        "samples": samples,
    }
    print(report(rows, about))
    if args.json is not None:
        content = {"machine": about, "rows": [{**asdict(r), "samples_per_s": r.samples_per_s} for r in rows]}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(args.json)


if __name__ == "__main__":
    main()
