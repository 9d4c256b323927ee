"""The process that holds vLLM: answers what `vllm_offline` asks over a pipe.

Runs under the interpreter that has vLLM, which need not be the one the rest runs under. Of this project it needs only
modules without dependencies of their own. What vLLM prints goes to the log; messages are (word, values...) tuples.
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from data_process.images.opening import canonical
from selftrain.engines.base import Completion, EngineError, EngineFacts, Request, SamplingParams
from selftrain.engines.budget_forcing.segments import LOOK_EVERY, Sample, Segment
from selftrain.engines.budget_forcing.state_machine import TokenBudget, resolve
from selftrain.engines.budget_forcing.tokenizer import TokenizerVocabulary
from selftrain.engines.decoding.inputs import Prompt, check_lengths, known_family, load_processor, prepare
from selftrain.engines.vllm_config import (
    VLLMWorkerConfig,
    cpu_build,
    engine_arguments,
    generation_eos,
    settle_environment,
)

# Read by every weights probe; the words do not matter.
PROBE = "A triangle has angles of 40 and 65 degrees. How large is the third one, and why is that so?"
PROBE_TOP = 20  # of the next token's log-probabilities
BASE_TOLERANCE = 0.01  # nats
AHEAD = 2  # prompts are prepared for so many times the rows that are decoded together


Finished = tuple[int, int, Completion]  # place of the request, place of the seed among its seeds


@dataclass
class _Row:
    """One sample on its way through the engine."""

    place: int  # of its request
    samples: tuple[int, ...]  # places of the seeds that it answers: all of them when greedy
    sample: Sample
    looked: int = 0  # tokens of the running segment that were searched for loops


class Worker:
    """vLLM with one set of weights at a time."""

    def __init__(self, given: VLLMWorkerConfig) -> None:
        cpu = cpu_build()
        settle_environment(given, cpu)
        self._given, self._cpu = given, cpu
        family = known_family(given.model, given.settings.kind)
        self._processor = load_processor(given.model, family, given.min_pixels, given.max_pixels)

        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        try:
            arguments = EngineArgs(**engine_arguments(given, cpu))
        except TypeError as error:
            raise EngineError(f"engine.options: {error}; it takes arguments of vLLM's EngineArgs") from error
        # As `LLM` is: for other uses vLLM has smaller batches, and with them a smaller cache of pictures.
        self._llm: Any = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        config = self._llm.vllm_config
        self._max_model_len: int = config.model_config.max_model_len
        self._rows_at_once: int = config.scheduler_config.max_num_seqs
        eos = config.model_config.hf_config.get_text_config().eos_token_id
        fields = generation_eos(given.model)
        eos = self._processor.tokenizer.eos_token_id if fields is None and eos is None else (fields or eos)
        self._eos = frozenset([eos] if isinstance(eos, int) else eos)
        self._vocab: int = config.model_config.get_vocab_size()
        self._vocabulary: TokenizerVocabulary | None = None
        self._asleep = False
        self._next = 0
        self._base = self._weigh()
        if given.weights is not None:
            self.load(given.weights)

    def facts(self) -> EngineFacts:
        import vllm

        dtype = str(self._llm.vllm_config.model_config.dtype).removeprefix("torch.")
        return EngineFacts(f"vllm {vllm.__version__}", dtype, "cpu" if self._cpu else "gpu", self._max_model_len)

    def load(self, weights: Path | None) -> None:
        """Put an iteration's weights, or the base model's for None, in the place of the present ones; wakes up first.

        EngineError if they do not fit, or if the log-probabilities of a probe are not those of other weights.
        """
        from selftrain.engines.decoding.lora_merge import moves

        if self._asleep:
            self._llm.wake_up(["weights"])
        self._llm.collective_rpc(put_weights, args=(self._given.model, weights))
        if self._asleep:
            self._llm.wake_up(["kv_cache"])
            self._asleep = False
        # Both: what was computed with the old weights would be taken for what the new ones make of the same tokens.
        self._llm.reset_prefix_cache()
        self._llm.reset_encoder_cache()
        apart = max(abs(new - old) for new, old in zip(self._weigh(), self._base, strict=True))
        if weights is not None and moves(weights) and apart == 0:
            raise EngineError(
                f"vLLM was given the weights of {weights}, but answers as the base model does; see its log"
            )
        if weights is None and apart > BASE_TOLERANCE:
            raise EngineError(f"vLLM was given the base model's weights again, but answers differ by {apart:.2g} nats")

    def sleep(self) -> None:
        """Give the GPU's memory back, weights and cache; on a CPU nothing happens."""
        if not self._cpu and self._given.settings.keep_open and not self._asleep:
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

    def prompt_ids(self, prompt: str, images: Sequence[Path]) -> list[int]:
        """The ids that the model is given, image tokens included, as vLLM makes them."""
        (ready,) = prepare(self._processor, [Request("prompt_ids", prompt, tuple(images), ())])
        return list(self._render(ready)["prompt_token_ids"])

    def _render(self, prompt: Prompt) -> dict[str, Any]:
        """A prompt in vLLM's own form, its images processed."""
        if not prompt.pictures:
            return _tokens(prompt.ids)
        one_mark: list[int] = []  # of the tokens of each image
        end, opened = 0, []
        for picture, start in zip(prompt.pictures, prompt.starts, strict=True):
            one_mark += prompt.ids[end : start + 1]
            end = start + picture.n_tokens
            opened.append(canonical(picture.path))
        given = {
            "prompt_token_ids": [*one_mark, *prompt.ids[end:]],
            "multi_modal_data": {"image": opened},
            # The pixel limits are the same for all that this process sees.
            "multi_modal_uuids": {"image": [picture.digest for picture in prompt.pictures]},
        }
        # Its other cache leaves out the pixels of images that were sent before, which would bind the rows of a prompt
        # to the order they are sent in.
        (found,) = self._llm.renderer.render_cmpl([given], skip_mm_cache=True)
        if list(found["prompt_token_ids"]) != list(prompt.ids):
            raise EngineError(
                f"request {prompt.request.id!r}: vLLM makes {len(found['prompt_token_ids'])} tokens of the prompt, "
                f"transformers {len(prompt.ids)}; {prompt.pictures[0].path}, another image or the template is read in "
                "another way, so answers would not be comparable"
            )
        return dict(found)

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, report: Callable[[list[Finished]], None]
    ) -> None:
        """Report every completion, in no order: together all that one step of vLLM has finished."""
        prompts = prepare(self._processor, requests)
        budget, triggers = None, None
        if params.budget is not None:
            budget = self._resolve(params)
            triggers = budget.triggers(self._vocab)
        check_lengths(prompts, params.max_tokens, self._max_model_len, "or raise engine.max_model_len")

        def rows() -> Iterator[_Row]:
            for place, request in enumerate(requests):
                for own in request.groups(params):
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
                done: list[Finished] = []
                for output in self._llm.step():
                    taken = live.get(output.request_id)
                    if taken is None or not self._take(taken, output):
                        continue
                    del live[output.request_id]
                    if not taken.sample.ended:
                        self._start(taken, rendered[taken.place], params, live)
                        continue
                    left[taken.place] -= 1
                    if not left[taken.place]:
                        del rendered[taken.place]
                    completion = self._completion(taken.sample, len(prompts[taken.place].ids))
                    done += [(taken.place, sample, completion) for sample in taken.samples]
                if done:
                    report(done)
        except BaseException:
            self._llm.abort_request(list(live))
            raise

    def _start(self, row: _Row, prompt: dict[str, Any], params: SamplingParams, live: dict[str, _Row]) -> None:
        """Send the row's next segment."""
        segment = row.sample.segment()
        name = str(self._next)
        self._next += 1
        row.looked = 0
        live[name] = row
        given = {**prompt, "prompt_token_ids": [*prompt["prompt_token_ids"], *segment.written]}
        key = self._llm.add_request(name, given, self._params(segment, params))
        if segment.stop and self._given.settings.logprobs:
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
            logprobs=0 if self._given.settings.logprobs else None,
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
            forcing=sample.record(),
        )

    def _resolve(self, params: SamplingParams) -> TokenBudget:
        assert params.budget is not None
        self._vocabulary = self._vocabulary or TokenizerVocabulary(self._processor.tokenizer)
        return resolve(params.budget, self._vocabulary, self._eos, params.max_tokens)


def put_weights(worker: Any, base: Path, weights: Path | None) -> None:
    """Runs in each of vLLM's own workers."""
    from selftrain.engines.decoding.lora_merge import merged

    worker.reload_weights(weights_iterator=merged(base, weights, worker.device))


def _tokens(ids: Sequence[int]) -> dict[str, Any]:
    return {"type": "token", "prompt_token_ids": list(ids)}


def serve(worker: Worker, pipe: Connection) -> None:
    """Answer until the other side closes the pipe."""
    while True:
        try:
            word, *values = pipe.recv()
        except EOFError:
            return
        try:
            if word == "generate":
                requests, params = values
                worker.generate(requests, params, lambda found: pipe.send(("done", found)))
                pipe.send(("end", None))
            else:
                asked: dict[str, Callable[..., Any]] = {
                    "prompt_ids": worker.prompt_ids,
                    "load": worker.load,
                    "sleep": worker.sleep,
                }
                pipe.send(("end", asked[word](*values)))
        except (EngineError, ValueError) as error:
            pipe.send(("error", type(error).__name__ if isinstance(error, EngineError) else "ValueError", str(error)))


def main() -> None:
    """`sys.argv`: the pipe's file descriptor. The first message is ("open", VLLMWorkerConfig)."""
    pipe = Connection(int(sys.argv[1]))
    try:
        _, given = pipe.recv()
        worker = Worker(given)
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
