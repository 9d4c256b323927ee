"""Whether the engine in use answers as transformers does, asked once for each iteration's weights."""

from __future__ import annotations

from pathlib import Path

from data_process import prompts as wording
from data_process.prompts import prompt_set
from selftrain.engines.base import Request
from selftrain.engines.parity import compare, expectations
from selftrain.files import write_json
from selftrain.sampling.weights import inner_kind
from selftrain.stages import RunContext, weights_stage


def parity_stage(run: RunContext, iteration: int) -> None:
    """Compare the engine with transformers on a few dev questions; nothing to do where transformers is the engine.

    Raises EngineError if they part further than rounding explains. The report is `parity.json` of the stage.
    """
    config = run.config
    if inner_kind(config) != "vllm" or not config.engine.parity:
        return

    def make(folder: Path) -> None:
        from selftrain.engines.hf import HFEngine

        problems = run.splits["dev"][: config.engine.parity]
        prompts = prompt_set(config.prompts)
        requests = [
            Request(p.id, wording.cot(p, prompts), run.picture(p.image).path if p.image else None, (0,))
            for p in problems
        ]
        run.progress.say(f"  iteration {iteration}: comparing {config.engine.kind} with transformers")
        run.close_engine()  # one model on the device at a time
        with HFEngine(
            config.model.path,
            run.adapter(iteration),
            batch_size=config.engine.batch_size,
            dtype=config.engine.dtype,
            device=config.engine.device,
            threads=config.engine.threads,
            min_pixels=config.model.min_pixels,
            max_pixels=config.model.max_pixels,
        ) as reference:
            expected = expectations(reference, requests, config.evaluation.max_tokens)
        engine = run.sampler(iteration).engine
        report = compare(engine, expected, config.evaluation.max_tokens, engine.facts["dtype"])
        write_json(folder / "parity.json", report)

    run.folder.stage(f"iter{iteration}/parity", make, after=weights_stage(iteration))
