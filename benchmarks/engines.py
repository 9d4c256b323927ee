"""All engines on the same requests in one run, beside `LLM.generate` and `model.generate` as scripts use them.

    python -m benchmarks.engines --vllm-python .venv-vllm/bin/python --json out.json

Every round runs all ways in turn, so that a busy spell of the machine hits all alike, and the fastest run of each
counts. Prefix and picture caches of vLLM are emptied before each run, its processor's cache of pixels is not. Besides:
what budget forcing costs per token decoded (tokens that were taken out again included) against plain texts of
the same lengths and against stopping, appending and sending again, all with seeds and log-probabilities; and what other
weights cost against a start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import machine, show, table
from benchmarks.sampling import make_requests, with_engine, with_generate
from selftrain.engine_settings import HFSettings, VLLMSettings
from selftrain.engines.base import Completion, Request, SamplingParams
from selftrain.engines.budget import TINY
from selftrain.engines.hf import HFEngine
from selftrain.engines.vllm_offline import VLLMEngine

CPU_OPTIONS = {  # as the engine has it, for a fair comparison
    "enforce_eager": True,
    "block_size": 16,
    "enable_chunked_prefill": False,
    "max_num_batched_tokens": 8192,
    "dtype": "float32",
}


@dataclass(frozen=True)
class Ran:
    """The fastest run of one way."""

    name: str
    seconds: float
    samples: int
    tokens: int  # decoded, those that were taken out again included

    @property
    def per_token_ms(self) -> float:
        return 1000 * self.seconds / self.tokens


class Raw:
    """`vllm_raw.py` in its own process."""

    def __init__(self, python: Path, model: Path, options: dict[str, Any], log: Path) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment |= {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1"}
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        script = Path(__file__).with_name("vllm_raw.py")
        with log.open("wb") as sink:
            self._child = subprocess.Popen(
                [str(python), "-P", str(script), str(model), json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
                text=True,
            )
        self._log = log
        self.start_s: float = self._answer()["start_s"]

    def __call__(self, do: str, requests: Sequence[Request], **more: Any) -> tuple[float, int, int]:
        asked = [{"prompt": request.prompt, "image": str(request.images[0])} for request in requests]
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": do, "asked": asked, **more}) + "\n")
        self._child.stdin.flush()
        found = self._answer()
        return found["seconds"], found["samples"], found["tokens"]

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"vllm_raw.py ended; see {self._log}:\n{self._log.read_text()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


def decoded(answers: Sequence[Sequence[Completion]]) -> tuple[int, int]:
    """(samples, tokens decoded)."""
    flat = [c for of_one in answers for c in of_one]
    return len(flat), sum(len(c.token_ids) + (c.forcing.discarded if c.forcing else 0) for c in flat)


def with_vllm(engine: VLLMEngine, requests: Sequence[Request], params: SamplingParams) -> tuple[float, int, int]:
    engine.load(None)  # empties the caches
    started = time.perf_counter()
    answers = engine.generate(requests, params)
    return time.perf_counter() - started, *decoded(answers)


def clocked(way: Callable[[], tuple[int, int, int]]) -> tuple[float, int, int]:
    started = time.perf_counter()
    samples, tokens, _ = way()
    return time.perf_counter() - started, samples, tokens


def run_all(ways: dict[str, Callable[[], tuple[float, int, int]]], rounds: int) -> dict[str, Ran]:
    best: dict[str, Ran] = {}
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            ran = Ran(name, *way())
            print(f"  round {number}: {name}: {ran.samples / ran.seconds:.1f} samples/s", flush=True)
            if name not in best or ran.per_token_ms < best[name].per_token_ms:
                best[name] = ran
    return best


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny-qwen2vl"))
    parser.add_argument("--vllm-python", type=Path, required=True, help="Python that has vLLM, on a CPU")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--n", type=int, default=8, help="samples per problem")
    parser.add_argument("--ignores", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generate-problems", type=int, default=16, help="of them, for the slow seed procedure")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    import torch

    torch.set_num_threads(1)
    params = SamplingParams(temperature=0.9, top_k=50, top_p=0.95, max_tokens=args.max_tokens)
    forced = replace(params, budget=replace(TINY, num_ignore=args.ignores))
    plain = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "max_tokens": args.max_tokens}
    options = {"max_model_len": 1024, "max_num_seqs": args.batch_size, **CPU_OPTIONS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        requests = make_requests(folder, args.problems, args.n, "test", "short")
        hf = stack.enter_context(HFEngine(args.model, settings=HFSettings(device="cpu", batch_size=args.batch_size)))
        raw = Raw(args.vllm_python, args.model, options, folder / "raw.log")
        stack.callback(raw.close)
        started = time.perf_counter()
        vllm = stack.enter_context(
            VLLMEngine(
                args.model,
                settings=VLLMSettings(interpreter=args.vllm_python, batch_size=args.batch_size, max_model_len=1024),
            )
        )
        start_s = time.perf_counter() - started
        started = time.perf_counter()
        vllm.rest()
        vllm.load(None)
        again_s = time.perf_counter() - started

        few = requests[: args.generate_problems]
        ways: dict[str, Callable[[], tuple[float, int, int]]] = {
            "model.generate, one prompt and one sample a call": lambda: clocked(
                lambda: with_generate(hf, few, params, batch=1, per_call=1, passes=args.n)
            ),
            "model.generate, batches of 64": lambda: clocked(
                lambda: with_generate(hf, requests, params, batch=64 // args.n, per_call=args.n, passes=1)
            ),
            "hf": lambda: clocked(lambda: with_engine(hf, requests, params)),
            "LLM.generate": lambda: raw("sample", requests, n=args.n, **plain),
            "LLM.generate, with seeds and log-probabilities": lambda: raw(
                "sample", requests, n=args.n, seed=0, logprobs=0, **plain
            ),
            "vllm": lambda: with_vllm(vllm, requests, params),
        }
        best = run_all(ways, args.rounds)
        # Tokens of each forced text, those that were taken out again included: the same work without forcing.
        texts = vllm.generate(requests, forced)
        lengths = [[len(c.token_ids) + c.forcing.discarded for c in of_one if c.forcing] for of_one in texts]
        as_kept = {**{key: value for key, value in plain.items() if key != "max_tokens"}, "logprobs": 0}
        force = {
            "LLM.generate, plain texts of the same lengths": lambda: raw("exact", requests, lengths=lengths, **as_kept),
            f"vllm, {args.ignores} ignores": lambda: with_vllm(vllm, requests, forced),
            f"LLM.generate, {args.ignores} ignores by sending again": lambda: raw(
                "force",
                requests,
                n=args.n,
                end="</think>",
                ignore=" Wait,",
                ignores=args.ignores,
                max_tokens=args.max_tokens,
                **as_kept,
            ),
        }
        forcing = run_all(force, args.rounds)
        facts = asdict(vllm.facts())

    first, usual = (best[name] for name in list(ways)[:2])
    sent = best["LLM.generate"]
    same = best["LLM.generate, with seeds and log-probabilities"]

    def rate(ran: Ran) -> float:
        return ran.samples / ran.seconds

    sampling = table(
        [
            "way",
            "samples/s",
            "tokens/s",
            "x seed procedure",
            "x batched generate",
            "x LLM.generate",
            "x the same seeded",
        ],
        [
            [
                name,
                f"{rate(ran):.1f}",
                f"{ran.tokens / ran.seconds:.0f}",
                *(f"{rate(ran) / rate(other):.2f}" for other in (first, usual, sent, same)),
            ]
            for name, ran in best.items()
        ],
    )
    base = forcing["LLM.generate, plain texts of the same lengths"]
    costs = table(
        ["way", "seconds", "tokens decoded", "ms per token", "x plain"],
        [
            [
                name,
                f"{ran.seconds:.2f}",
                str(ran.tokens),
                f"{ran.per_token_ms:.3f}",
                f"{ran.per_token_ms / base.per_token_ms:.2f}",
            ]
            for name, ran in forcing.items()
        ],
    )
    starts = table(
        ["", "seconds", "share"],
        [
            ["start of vllm", f"{start_s:.1f}", "1"],
            ["other weights in its place", f"{again_s:.2f}", f"{again_s / start_s:.3f}"],
        ],
    )
    numbers = {
        "sampling": {name: asdict(ran) for name, ran in best.items()},
        "forcing": {name: asdict(ran) for name, ran in forcing.items()},
        "start_s": start_s,
        "other_weights_s": again_s,
    }
    show(machine(torch=torch.__version__, **facts), [sampling, costs, starts], numbers, args.json)


if __name__ == "__main__":
    main()
