"""vLLM as scripts use it, `LLM.generate`, for comparison with the engine. Runs in the interpreter that has vLLM.

    python benchmarks/vllm_raw.py MODEL OPTIONS     (OPTIONS: JSON, for vLLM's LLM)

Reads one JSON command a line and answers each with one JSON line on the descriptor that standard output had at first;
what vLLM prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    from PIL import Image
    from transformers import AutoProcessor
    from vllm import LLM, SamplingParams

    started = time.perf_counter()
    llm: Any = LLM(model=sys.argv[1], **json.loads(sys.argv[2]))
    processor = AutoProcessor.from_pretrained(sys.argv[1])

    def prompts(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for item in asked:
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": item["prompt"]}]}
            text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
            image = Image.open(item["image"]).convert("RGB")
            found.append({"prompt": text, "multi_modal_data": {"image": image}})
        return found

    def cold() -> None:
        llm.reset_prefix_cache()
        llm.llm_engine.reset_encoder_cache()

    def sample(asked: list[dict[str, Any]], n: int, **params: Any) -> dict[str, Any]:
        cold()
        begun = time.perf_counter()
        outputs = llm.generate(prompts(asked), SamplingParams(n=n, **params), use_tqdm=False)
        seconds = time.perf_counter() - begun
        found = [one for output in outputs for one in output.outputs]
        return {"seconds": seconds, "samples": len(found), "tokens": sum(len(one.token_ids) for one in found)}

    def exact(asked: list[dict[str, Any]], lengths: list[list[int]], **params: Any) -> dict[str, Any]:
        """Texts of given lengths: how they end is ignored."""
        cold()
        begun = time.perf_counter()
        texts = [item for item, own in zip(prompts(asked), lengths, strict=True) for _ in own]
        wanted = [length for own in lengths for length in own]
        settings = [SamplingParams(max_tokens=n, ignore_eos=True, seed=i, **params) for i, n in enumerate(wanted)]
        outputs = llm.generate(texts, settings, use_tqdm=False)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        return {"seconds": time.perf_counter() - begun, "samples": len(texts), "tokens": tokens}

    def force(
        asked: list[dict[str, Any]], n: int, end: str, ignore: str, ignores: int, max_tokens: int, **params: Any
    ) -> dict[str, Any]:
        """Stop at the end, append the ignore string, send all of it again: s1's procedure, rounds in lock step."""
        cold()
        begun = time.perf_counter()
        texts = [item for item in prompts(asked) for _ in range(n)]
        left = [max_tokens] * len(texts)
        going = list(range(len(texts)))
        tokens = 0
        for number in range(ignores + 1):
            last = number == ignores
            settings = [
                SamplingParams(
                    max_tokens=left[i], stop=None if last else [end], skip_special_tokens=False, seed=i, **params
                )
                for i in going
            ]
            outputs = llm.generate([texts[i] for i in going], settings, use_tqdm=False)
            stopped = []
            for i, output in zip(going, outputs, strict=True):
                (one,) = output.outputs
                tokens += len(one.token_ids)
                left[i] -= len(one.token_ids)
                if not last and one.stop_reason == end and left[i] > 1:
                    texts[i] = {**texts[i], "prompt": texts[i]["prompt"] + one.text + ignore}
                    stopped.append(i)
            going = stopped
        return {"seconds": time.perf_counter() - begun, "samples": len(texts), "tokens": tokens}

    print(json.dumps({"start_s": time.perf_counter() - started}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        found = {"sample": sample, "exact": exact, "force": force}[command.pop("do")](**command)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
