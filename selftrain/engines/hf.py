"""A supported model through transformers, with a decode loop of its own.

`model.generate` encodes the image and the prompt once per sample and decodes padding until the longest row ends. Here
an image is encoded once, a prompt is read once and its cache shared by its seeds, and finished rows leave the batch.
A budget is kept within the same loop: a forced token is one step like a drawn one, with rows at different stages.
torch and transformers are imported inside the functions: `import selftrain.engines.hf` stays cheap.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.images.opening import canonical
from data_process.schema import Finish
from selftrain.engine_settings import EngineJob, HFSettings
from selftrain.engines.base import Completion, Engine, EngineError, Request, SamplingParams, check_ids
from selftrain.engines.budget import Budget, ForcingRecord
from selftrain.engines.budget_forcing.batched import Steering
from selftrain.engines.budget_forcing.state_machine import TokenBudget, resolve
from selftrain.engines.budget_forcing.tokenizer import TokenizerVocabulary
from selftrain.engines.decoding import kv_cache
from selftrain.engines.decoding.forward import features_of, read
from selftrain.engines.decoding.inputs import Picture, Prompt, check_lengths, known_family, load_processor, prepare
from selftrain.engines.decoding.loading import load_trained
from selftrain.engines.decoding.reward_head import attach, check_judgement, has_head
from selftrain.engines.decoding.tensors import additive_mask, chunks, equal_parts, only, out_of_memory, positions_of
from selftrain.engines.decoding.token_sampling import draw, penalise, uniforms
from selftrain.environment import usable_threads

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

PICTURE_CACHE_BYTES = 256 * 2**20  # encoded images kept: selection and refinement ask for the same ones again
# Padded prompt tokens (or image tokens, for the vision tower) in one forward pass: bounds the memory of activations.
CPU_PREFILL_TOKENS = 8192
GPU_PREFILL_TOKENS = 32768
DROP_SHARE = 1 / 16  # finished rows leave the batch when they make up this share; moving a row costs about one token
CUDA_CHECK_EVERY = 8  # tokens between two looks at which rows have finished: each look waits for the GPU
WIDER_BY = 64  # steps


_log = logging.getLogger(__name__)

# Batch sizes that this process found to fit into the memory, by model, device and the size that was asked for: the
# engines of later weights begin with them.
_fitting: dict[tuple[Path, str, int], int] = {}


@dataclass(frozen=True)
class _Row:
    """One completion to be decoded."""

    prompt: int  # index of the request in the call
    sample: int  # index into its seeds
    seed: int


class HFEngine(Engine):
    """Completions from a model folder in transformers' format, optionally with trained weights.

    A completion depends on weights, prompt, image, parameters and its seed; on its neighbours only through
    floating-point rounding. Not safe for use from several threads.
    """

    def __init__(
        self,
        model_path: Path,
        weights: Path | None = None,
        settings: HFSettings | None = None,
        *,
        merge_adapter: bool = True,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        """Load the weights.

        `weights`: the folder of a PEFT adapter, or of a whole checkpoint whose weights take the place of the base's;
        tokenizer and processor stay those of `model_path`. An adapter is merged in float32, a tensor at a time,
        whatever the dtype. With a reward head beside it the engine judges texts (decoding/reward_head.py), and
        everything else is an EngineError. `settings.threads` sets torch's threads for the whole process. `min_pixels`,
        `max_pixels` replace the processor's limits. `on_batch` is called after each batch. Raises EngineError if the
        folder holds no usable model or the adapter does not belong to it.
        """
        import torch

        settings = settings or HFSettings()
        self._family = known_family(model_path, settings.kind, weights)
        if settings.threads is not None:
            torch.set_num_threads(usable_threads(settings.threads))
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(found if settings.device == "auto" else settings.device)
        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        self.dtype = dtypes.get(settings.dtype, torch.float32 if self.device.type == "cpu" else torch.bfloat16)
        self._fits = (model_path, str(self.device), settings.batch_size)
        self.batch_size = _fitting.get(self._fits, settings.batch_size)
        usual = CPU_PREFILL_TOKENS if self.device.type == "cpu" else GPU_PREFILL_TOKENS
        self._prefill_tokens = settings.prefill_tokens or usual

        self._processor: Any = load_processor(model_path, self._family, min_pixels, max_pixels)
        model = load_trained(model_path, weights, self.dtype, merge=merge_adapter)
        self._model: Any = model.to(device=self.device, dtype=self.dtype).eval()
        self._head = weights if weights is not None and has_head(weights) else None
        if self._head is not None:
            attach(self._model, self._head, self._processor.tokenizer)
        config = self._model.config
        self._max_positions: int = config.get_text_config().max_position_embeddings
        self._image_id: int = config.image_token_id
        eos = self._model.generation_config.eos_token_id
        eos = self._processor.tokenizer.eos_token_id if eos is None else eos
        is_eos = torch.zeros(self._model.get_input_embeddings().num_embeddings, dtype=torch.bool)
        is_eos[[eos] if isinstance(eos, int) else eos] = True
        self._is_eos = is_eos.to(self.device)
        self._vocabulary: TokenizerVocabulary | None = None  # made for the first budget
        self._budgets: dict[tuple[Budget | None, int], tuple[TokenBudget, np.ndarray]] = {}
        self._encoded: OrderedDict[str, Tensor] = OrderedDict()  # digest -> features, oldest first

    def close(self) -> None:
        """Free the memory. May be called twice."""
        import torch

        self.closed = True
        self._model = self._processor = self._vocabulary = None
        self._encoded.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def prompt_ids(self, prompt: str, images: Sequence[Path]) -> list[int]:
        """The token ids the model is given for a user turn, image tokens included."""
        return list(self._prepare([Request("prompt_ids", prompt, tuple(images), ())])[0].ids)

    def count_prompt_tokens(self, prompt: str, images: Sequence[Path]) -> int:
        """How long that prompt is, in tokens, image tokens included."""
        return len(self.prompt_ids(prompt, images))

    def runner_up(self, request: Request, token_ids: Sequence[int]) -> list[tuple[int, float]]:
        """For an answer that was decoded greedily: at each of its places the second best token, and how many nats it is
        behind the best.
        """
        import torch

        with torch.inference_mode():
            (prompt,) = self._prepare([request])
            ids = torch.tensor([*prompt.ids, *token_ids[:-1]], device=self.device)
            place = positions_of(prompt)
            after = place[:, -1:].amax() + 1 + torch.arange(len(token_ids) - 1)
            place = torch.cat([place, after.expand(3, -1)], dim=1).to(self.device)
            features = self._encode(prompt.pictures)
            shown = [features[picture.digest] for picture in prompt.pictures]
            column = torch.arange(len(ids), device=self.device)
            mask = additive_mask((column[None, :] <= column[:, None])[None, None], self.dtype)
            # A model may write an image token, too; it has no image then.
            at = (ids == self._image_id) & (column < len(prompt.ids))
            logits = read(self._model, ids[None], place[:, None], mask, shown, at[None], keep=len(token_ids))
            best = logits[0].float().log_softmax(-1).topk(2)
            return list(zip(best.indices[:, 1].tolist(), (best.values[:, 0] - best.values[:, 1]).tolist(), strict=True))

    def _prepare(self, requests: Sequence[Request]) -> list[Prompt]:
        self._check_open()
        return prepare(self._processor, requests, None if self._head is None else self._family.frame.after)

    def _encode(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """What the vision tower makes of the images: digest -> features. Known ones cost nothing."""
        features = {}
        missing: dict[str, Picture] = {}
        for picture in pictures:
            if picture.digest in self._encoded:
                self._encoded.move_to_end(picture.digest)
                features[picture.digest] = self._encoded[picture.digest]
            else:
                missing[picture.digest] = picture
        waiting = list(missing.values())
        for part in chunks(waiting, [picture.n_tokens for picture in waiting], self._prefill_tokens):
            images = [canonical(picture.path) for picture in part]
            inputs = self._processor.image_processor(images=images, return_tensors="pt")
            grid = inputs["image_grid_thw"]
            merge = self._family.merge
            assert grid[:, 1:].tolist() == [[merge * p.height, merge * p.width] for p in part]
            encoded = features_of(
                self._model, self._family, inputs["pixel_values"].to(self.device, self.dtype), grid.to(self.device)
            )
            for picture, feature in zip(part, encoded, strict=True):
                features[picture.digest] = self._encoded[picture.digest] = feature.to(self.dtype)
        if missing:
            held = sum(f.numel() * f.element_size() for f in self._encoded.values())
            while held > PICTURE_CACHE_BYTES:
                _, oldest = self._encoded.popitem(last=False)
                held -= oldest.numel() * oldest.element_size()
        return features

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        """Completions in the order of `requests`, one per seed. See `Engine`.

        Raises ValueError for two requests of one id, EngineError for anything that cannot be served.
        """
        import torch

        check_ids(requests)
        if self._head is not None:
            check_judgement(params, self._head)
        with torch.inference_mode():
            prompts = self._prepare(requests)
            if params.budget is not None:
                self._budget(params)  # before any work: it may not fit
            check_lengths(prompts, params.max_tokens, self._max_positions)
            done: dict[_Row, Completion] = {}
            for rows in self._batches(prompts):
                self._decode_or_halve(prompts, rows, params, done)
        return [
            [done[_Row(index, sample, seed)] for sample, seed in enumerate(request.seeds)]
            for index, request in enumerate(requests)
        ]

    def _batches(self, prompts: Sequence[Prompt]) -> list[list[_Row]]:
        """Rows by falling prompt length, in equal parts of at most `batch_size`: a function of the requests alone."""
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index].ids), index))
        rows = [_Row(index, s, seed) for index in order for s, seed in enumerate(prompts[index].request.seeds)]
        return equal_parts(rows, self.batch_size)

    def _decode_or_halve(
        self, prompts: Sequence[Prompt], rows: list[_Row], params: SamplingParams, done: dict[_Row, Completion]
    ) -> None:
        """Decode a batch; if the memory does not suffice, in halves, and all later ones in batches of that size."""
        import torch

        if len(rows) > self.batch_size:  # reduced since the batches were made
            for part in equal_parts(rows, self.batch_size):
                self._decode_or_halve(prompts, part, params, done)
            return
        try:
            done.update(zip(rows, self._decode(prompts, rows, params), strict=True))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(rows) == 1:
                raise EngineError(
                    f"request {prompts[rows[0].prompt].request.id!r} does not fit into the memory of {self.device} "
                    "even alone; lower max_tokens or the pixel limits"
                ) from error
        else:
            if self.on_batch is not None:
                self.on_batch(len(rows))
            return
        # out of the except block: the traceback held the tensors of the failed attempt
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_size = _fitting[self._fits] = math.ceil(len(rows) / 2)
        _log.warning(
            "out of memory with %d completions at once on %s: going on with %d; set engine.batch_size=%d to begin so",
            len(rows), self.device, self.batch_size, self.batch_size,
        )  # fmt: skip
        self._decode_or_halve(prompts, rows, params, done)

    def _prefill(
        self, prompts: Sequence[Prompt], repeats: Sequence[int], max_tokens: int
    ) -> tuple[kv_cache.SharedPromptCache, Tensor, Tensor]:
        """Read each prompt once, for all its rows.

        Returns the cache, the logits of the first new token [rows, vocab] and its position [rows].
        """
        import torch
        from transformers import DynamicCache

        features = self._encode([picture for p in prompts for picture in p.pictures])
        longest = max(len(p.ids) for p in prompts)
        counts = torch.tensor(repeats, device=self.device)
        shared = kv_cache.SharedPromptCache(counts, longest, max_tokens - 1)  # the last new token is never read back
        logits, positions, masks = [], [], []
        first = 0
        for part in chunks(list(prompts), [longest] * len(prompts), self._prefill_tokens):
            width = max(len(p.ids) for p in part)
            ids = torch.zeros(len(part), width, dtype=torch.long)
            place = torch.zeros(3, len(part), width, dtype=torch.long)
            pad = torch.tensor([width - len(p.ids) for p in part])
            for i, prompt in enumerate(part):
                ids[i, pad[i] :] = torch.tensor(prompt.ids)
                place[:, i, pad[i] :] = positions_of(prompt)
            ids, place, pad = ids.to(self.device), place.to(self.device), pad.to(self.device)
            shown = [features[picture.digest] for p in part for picture in p.pictures]
            column = torch.arange(width, device=self.device)
            visible = (column[None, :] <= column[:, None])[None] & (column[None, None, :] >= pad[:, None, None])
            cache = DynamicCache()
            mask = additive_mask(visible[:, None], self.dtype)
            found = read(self._model, ids, place, mask, shown, ids == self._image_id, keep=1, cache=cache)
            shared.fill(cache, first)
            first += len(part)
            logits.append(found[:, -1].float())
            positions.append(place[:, :, -1].amax(0) + 1)
            masks.append(torch.arange(longest, device=self.device)[None, :] >= (pad + longest - width)[:, None])
        shared.mask = additive_mask(torch.cat(masks), self.dtype)[:, None, None, :]
        row_of = torch.repeat_interleave(counts)
        return shared, torch.cat(logits)[row_of], torch.cat(positions)[row_of]

    def _decode(self, prompts: Sequence[Prompt], rows: Sequence[_Row], params: SamplingParams) -> list[Completion]:
        """All rows of one batch, in their order."""
        import torch

        device, n = self.device, len(rows)
        used: dict[int, int] = {}  # request -> its rows in this batch, which stand together
        for row in rows:
            used[row.prompt] = used.get(row.prompt, 0) + 1
        cache, logits, position = self._prefill([prompts[i] for i in used], list(used.values()), params.max_tokens)
        # The cache brings its own mask; one of four dimensions tells transformers not to make one for every token.
        no_mask = torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=device)

        steering = None if params.budget is None else Steering(*self._budget(params), n)

        # These stay in the order of `rows`; `order` says which of them a row of the shrinking batch is.
        width = params.max_tokens  # steps; tokens that a budget takes back make it more
        chance = uniforms([row.seed for row in rows], width).to(device)
        tokens = torch.zeros(n, width, dtype=torch.long, device=device)
        logprobs = torch.zeros(n, width, dtype=torch.float32, device=device)
        lengths = torch.full((n,), width, device=device)
        order = torch.arange(n, device=device)
        ended = torch.zeros(n, dtype=torch.bool, device=device)
        seen = self._seen(prompts, rows, logits.shape[-1]) if params.repetition_penalty != 1 else None

        embed = self._model.get_input_embeddings()
        check_every = 1 if device.type == "cpu" or steering is not None else CUDA_CHECK_EVERY
        for step in itertools.count():
            if step == width:
                width += WIDER_BY
                # The number of a step does not depend on how many there are; one that is not used is passed over.
                chance = uniforms([row.seed for row in rows], width).to(device)
                tokens, logprobs = (torch.nn.functional.pad(x, (0, WIDER_BY)) for x in (tokens, logprobs))
            scores = logits
            if steering is not None:
                places = order.cpu().numpy()
                scores = only(logits, steering.choices(step, places))
            if seen is not None:
                scores = penalise(scores, seen, params.repetition_penalty)
            token = draw(scores, params, chance[order, step])
            if steering is None:
                stops = self._is_eos[token] & ~ended
            else:
                drawn = token.cpu().numpy()
                taken, stopped = steering.steer(step, places, drawn)
                token = torch.from_numpy(drawn).to(device)
                for back in taken:
                    cache.forget(back.row, back.first, back.last)
                    position[back.row] -= back.last - back.first
                    if seen is not None:
                        place = int(places[back.row])
                        seen[back.row] = False
                        seen[back.row, [*prompts[rows[place].prompt].ids, *steering[place].ids]] = True
                stops = torch.from_numpy(stopped).to(device) & ~ended
            if seen is not None:
                seen.scatter_(1, token[:, None], True)
            tokens[order, step] = token
            logprobs[order, step] = logits.gather(-1, token[:, None]).squeeze(-1) - logits.logsumexp(-1)
            lengths[order] = torch.where(stops, step + 1, lengths[order])
            ended |= stops
            if steering is None and step + 1 == width:
                break
            if (step + 1) % check_every == 0:
                n_ended = int(ended.sum())
                if n_ended == len(order):
                    break
                if n_ended >= DROP_SHARE * len(order):
                    # Close the gaps with rows from the end: as many copies as rows have ended, not as are left.
                    left = len(order) - n_ended
                    holes = ended[:left].nonzero().squeeze(-1)
                    movers = (~ended[left:]).nonzero().squeeze(-1) + left
                    cache.keep(holes, movers, left)
                    held = [order, token, position] + ([] if seen is None else [seen])
                    for tensor in held:
                        tensor[holes] = tensor[movers]
                    order, token, position = (tensor[:left] for tensor in held[:3])
                    seen = None if seen is None else seen[:left]
                    ended = torch.zeros(left, dtype=torch.bool, device=device)
            out = self._model(
                inputs_embeds=embed(token[:, None]),
                position_ids=position[None, :, None].expand(3, -1, -1),
                attention_mask=no_mask,
                past_key_values=cache,
                use_cache=True,
                shared=cache,
            )
            logits = out.logits[:, -1].float()
            position = position + 1
        if steering is None:
            kept = chosen = torch.arange(width, device=device)[None, :] < lengths[:, None]
            return self._completions(prompts, rows, tokens, logprobs, kept, chosen, [None] * n)
        kept, chosen = (torch.from_numpy(mask[:, :width]).to(device) for mask in steering.masks())
        records = [steering[row].record() for row in range(n)]
        return self._completions(prompts, rows, tokens, logprobs, kept, chosen, records)

    def _budget(self, params: SamplingParams) -> tuple[TokenBudget, np.ndarray]:
        """The budget of `params` in this tokenizer's ids, with its triggers. Raises as `state_machine.resolve` does."""
        key = (params.budget, params.max_tokens)
        if key not in self._budgets:
            assert params.budget is not None
            self._vocabulary = self._vocabulary or TokenizerVocabulary(self._processor.tokenizer)
            eos = self._is_eos.nonzero().flatten().tolist()
            budget = resolve(params.budget, self._vocabulary, eos, params.max_tokens)
            self._budgets[key] = budget, budget.triggers(len(self._is_eos))
        return self._budgets[key]

    def _seen(self, prompts: Sequence[Prompt], rows: Sequence[_Row], vocab: int) -> Tensor:
        """Which tokens each row's prompt holds, bool [rows, vocab]. Padding is not among them."""
        import torch

        seen = torch.zeros(len(rows), vocab, dtype=torch.bool)
        for i, row in enumerate(rows):
            seen[i, list(set(prompts[row.prompt].ids))] = True
        return seen.to(self.device)

    def _completions(
        self,
        prompts: Sequence[Prompt],
        rows: Sequence[_Row],
        tokens: Tensor,
        logprobs: Tensor,
        kept: Tensor,
        chosen: Tensor,
        records: Sequence[ForcingRecord | None],
    ) -> list[Completion]:
        """`tokens`, `logprobs` [rows, steps]; `kept` says which belong to the text, `chosen` which the model drew."""
        import torch

        means = (logprobs.double().masked_fill(~chosen, 0).sum(-1) / chosen.sum(-1)).tolist()
        answers = [ids.tolist() for ids in torch.split(tokens[kept].cpu(), kept.sum(-1).tolist())]
        stopped = self._is_eos[[ids[-1] for ids in answers]].tolist()
        texts = self._processor.tokenizer.batch_decode(
            answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        completions = []
        for row, text, ids, stop, mean, record in zip(rows, texts, answers, stopped, means, records, strict=True):
            prompt = prompts[row.prompt]
            if math.isnan(mean):
                raise EngineError(
                    f"request {prompt.request.id!r}: the model's logits are not numbers; its weights are damaged or "
                    "overflow in this dtype (try dtype float32)"
                )
            finish: Finish = "stop" if stop else "length"
            completions.append(Completion(text, tuple(ids), len(prompt.ids), finish, mean, record))
        return completions


def open_hf(settings: HFSettings, job: EngineJob) -> HFEngine:
    return HFEngine(job.model, job.weights, settings, min_pixels=job.min_pixels, max_pixels=job.max_pixels)
