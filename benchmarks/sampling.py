"""How fast candidates are sampled: the usual evaluation script, the best of `model.generate`, and this engine.

    python -m benchmarks.sampling --model PATH --problems 64 --n 3 --json out.json

All three answer the same requests in one process with the same sampling parameters, the same stop tokens and the same
limit. A random model never stops early, a trained one does: what is compared is completions per second, with the number
of generated tokens beside it. They draw different random numbers, so on a trained model their lengths differ a little.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_process import prompts as wording
from data_process.seeds import seed_for
from data_process.sources import minigeo
from selftrain.engine_settings import HFSettings
from selftrain.engines.base import Request, SamplingParams
from selftrain.engines.hf import HFEngine

SEED_BATCH = 4  # batch size of the published script (Liac-li/MM-self-improve-qwen2vl, eval_distributed.py)
GENERATE_ROWS = (32, 64, 128, 192)

Way = Callable[[], tuple[int, int, int]]  # runs everything once: samples, generated tokens, token positions computed


@dataclass(frozen=True)
class Measured:
    """One way of sampling: the fastest of the runs."""

    name: str
    setting: str
    seconds: float
    samples: int
    tokens: int  # generated, the end token included, padding after it not
    decoded: int  # token positions computed, padding after the end included; 0 where not known

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def make_requests(folder: Path, n_problems: int, n: int, split: str, prompt_set: str) -> list[Request]:
    """`n` seeds for each of the first problems of a MiniGeo split; pictures are written to `folder`."""
    chosen = wording.prompt_set(prompt_set)
    requests = []
    for problem, picture in minigeo.generate(split, n_problems):
        path = folder / f"{problem.id}.png"
        picture.save(path)
        seeds = tuple(seed_for("benchmark", problem.id, sample) for sample in range(n))
        requests.append(Request(problem.id, wording.cot(problem, chosen), (path,), seeds))
    return requests


def with_generate(
    engine: HFEngine, requests: Sequence[Request], params: SamplingParams, *, batch: int, per_call: int, passes: int
) -> tuple[int, int, int]:
    """`passes` passes over the requests, `batch` prompts and `per_call` samples of each a call.

    As the usual scripts do it: template, processor, `model.generate`, decoding. Returns (samples, tokens, token
    positions computed).
    """
    import torch
    from PIL import Image

    processor, model = engine._processor, engine._model
    samples = tokens = decoded = 0
    for _ in range(passes):
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            texts, images = [], []
            for request in part:
                turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request.prompt}]}
                texts.append(processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
                images.append(Image.open(request.images[0]).convert("RGB"))
            inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
            with torch.inference_mode():
                out = model.generate(
                    **inputs.to(engine.device),
                    do_sample=params.temperature > 0,
                    temperature=params.temperature or None,
                    top_k=params.top_k,
                    top_p=params.top_p,
                    repetition_penalty=params.repetition_penalty,
                    max_new_tokens=params.max_tokens,
                    num_return_sequences=per_call,
                )
            new = out[:, inputs["input_ids"].shape[1] :]
            processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            stops = engine._is_eos[new].int()
            # a row is as long as the end token is far; after it comes padding
            lengths = torch.where(stops.any(-1), stops.argmax(-1) + 1, new.shape[1])
            samples += len(new)
            tokens += int(lengths.sum())
            decoded += new.numel()
    return samples, tokens, decoded


def with_engine(engine: HFEngine, requests: Sequence[Request], params: SamplingParams) -> tuple[int, int, int]:
    engine._encoded.clear()  # every run starts without pictures from the one before
    answers = [c for of_one in engine.generate(requests, params) for c in of_one]
    return len(answers), sum(len(c.token_ids) for c in answers), 0


def measure(ways: Sequence[tuple[str, str, Way]], rounds: int) -> list[Measured]:
    """The fastest run of each (name, setting, way).

    Every round runs all of them in turn, so that a busy spell of the machine hits all alike; and the fastest counts,
    since other work only ever adds time.
    """
    best: list[Measured | None] = [None] * len(ways)
    for number in range(1, rounds + 1):
        for index, (name, setting, way) in enumerate(ways):
            start = time.perf_counter()
            samples, tokens, decoded = way()
            run = Measured(name, setting, time.perf_counter() - start, samples, tokens, decoded)
            print(f"  round {number}: {name}, {setting}: {run.samples_per_s:.1f} samples/s", flush=True)
            if (known := best[index]) is None or run.seconds < known.seconds:
                best[index] = run
    return [run for run in best if run is not None]


def machine(engine: HFEngine) -> dict[str, Any]:
    import torch
    import transformers

    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else cpu
    return {
        "device": device,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": sum(p.numel() for p in engine._model.parameters()),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def report(rows: Sequence[Measured], about: dict[str, Any], params: SamplingParams, n_problems: int, n: int) -> str:
    """A Markdown table; ratios are of samples per second, against the first row and against the best `generate`."""
    first = rows[0]
    raw = max((r for r in rows if r.name == "model.generate"), key=lambda r: r.samples_per_s)
    lines = [
        f"{n_problems} problems x {n} samples; temperature {params.temperature}, top-k {params.top_k}, "
        f"top-p {params.top_p}, at most {params.max_tokens} tokens.",
        ", ".join(f"{key} {value}" for key, value in about.items()) + ".",
        "",
        "| way | setting | seconds | samples/s | tokens/s | tokens | x usual script | x best generate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.setting} | {row.seconds:.2f} | {row.samples_per_s:.1f} | {row.tokens_per_s:.0f} "
            f"| {row.tokens} | {row.samples_per_s / first.samples_per_s:.2f} "
            f"| {row.samples_per_s / raw.samples_per_s:.2f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder; a trained one stops by itself")
    parser.add_argument("--adapter", type=Path, help="LoRA adapter to merge")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--n", type=int, default=3, help="samples per problem")
    parser.add_argument("--split", default="base", help="MiniGeo split the problems come from")
    parser.add_argument("--prompts", default="short", help="prompt set: short or r3v-qwen2vl")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-tokens", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=192, help="rows of the engine")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1, help="more than one only helps on cores without other work")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way; the fastest counts")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    params = SamplingParams(args.temperature, args.max_tokens, top_p=args.top_p, top_k=args.top_k)
    settings = HFSettings(device=args.device, dtype=args.dtype, threads=args.threads, batch_size=args.batch_size)
    with tempfile.TemporaryDirectory() as folder, HFEngine(args.model, args.adapter, settings) as engine:
        requests = make_requests(Path(folder), args.problems, args.n, args.split, args.prompts)
        with_engine(engine, requests[:4], params)  # the first call allocates and compiles
        with_generate(engine, requests[:4], params, batch=4, per_call=1, passes=1)

        def generate(batch: int, per_call: int) -> Way:
            passes = args.n // per_call
            return lambda: with_generate(engine, requests, params, batch=batch, per_call=per_call, passes=passes)

        ways: list[tuple[str, str, Way]] = [
            ("usual script", f"batch {SEED_BATCH}, {args.n} passes", generate(SEED_BATCH, 1))
        ]
        for per_call in sorted({1, args.n}):
            for batch in sorted({min(max(size // per_call, 1), args.problems) for size in GENERATE_ROWS}):
                ways.append(("model.generate", f"{batch} prompts x {per_call}", generate(batch, per_call)))
        ways.append(("HFEngine", f"{args.batch_size} rows", lambda: with_engine(engine, requests, params)))
        rows = measure(ways, args.rounds)
        about = machine(engine)
    print("\n" + report(rows, about, params, args.problems, args.n))
    if args.json is not None:
        content = {
            "machine": about,
            "params": asdict(params),
            "problems": args.problems,
            "n": args.n,
            "rows": [{**asdict(r), "samples_per_s": r.samples_per_s, "tokens_per_s": r.tokens_per_s} for r in rows],
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(args.json)


if __name__ == "__main__":
    main()
