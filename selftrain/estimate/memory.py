"""GPU memory of sampling and of training, added up from the model's shapes; nothing is loaded or measured.

Bytes, with P parameters, L layers, hidden size h, MLP size i, a numbers of a token's queries and k of its keys, V rows
of the embedding, w bytes a number (2 for bfloat16).

Sampling, hf engine, B rows of one batch, prompts of p tokens and answers of t:

    weights      w P
    cache        2 w L k (p B / n + t B): keys and values; a prompt is held once for its n samples
    reading      w (3 i + 6 h + 4 a) c + 2 w L k c: a layer's activations and keys of the c prompt tokens read at a time
    logits       16 B V, without top-k 32 B V: float32, and float64 where it is summed

Sampling, vLLM on g GPUs: it takes `memory_share` of each. At least w P / g, the cache of one longest sequence and the
reading of BATCHED tokens must fit in; what is left is cache for more rows.

Training, on each of R ranks, T trained numbers, b rows of s tokens at a time:

    weights      LoRA: w P + 4 T. All: 4 T + w (P - T); with ZeRO w P. ZeRO-3 and FSDP share them out: / R
    gradients    4 T; with ZeRO 2 T / R
    optimizer    8 T (Adam's two moments); with ZeRO 12 T / R (a float32 copy as well); FSDP / R
    gathered     ZeRO-3: w stage3_max_live_parameters; FSDP: two layers
    activations  w b s h L with gradient checkpointing; then a layer is computed again at a time: b s (16 h +
                 w (5 a + 3 k) + 4 w i), plus 11 b s (5 h + a + i) for LoRA (its input in float32, dropout, its mask).
                 Without checkpointing L times the latter
    logits       12 b s V: bfloat16, float32, the softmax and its gradient; none in an SFT with enable_liger_kernel.
                 They are gone before a layer is computed again, so the larger of the two counts

After Korthikanti et al. 2022 (arXiv 2205.05198, activations of a layer) and Rajbhandari et al. 2020 (arXiv 1910.02054,
16 bytes a number), for SwiGLU, grouped queries, attention without a matrix of scores, norms in float32, and the loss of
transformers in float32. The vision tower's own activations are left out: they are below a hundredth at these image
sizes. DPO and a reward head have two texts a row. Every part has the longest texts that the settings allow, so the sum
is an upper estimate but for fragmentation; CONTEXT stands for CUDA's own memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selftrain.config import Config, read_yaml
from selftrain.engine_settings import EngineSettings, HFSettings, RaySettings, VLLMSettings
from selftrain.engines.hf import GPU_PREFILL_TOKENS
from selftrain.estimate.sizes import Known, lora_parameters
from selftrain.estimate.workload import Call, Workload, longest_row
from selftrain.training.hyperparameters import zero_settings
from selftrain.training.precision import stored_dtype

GIB = 1024**3
CONTEXT = 0.75 * GIB  # of CUDA and its libraries in one process
BATCHED = 8192  # prompt tokens that vLLM reads at a time
LIVE = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters where a file names none
ADAPTER_RANK = 8  # LLaMA-Factory's lora_rank where a file names none
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Part:
    name: str
    size: float  # bytes
    certain: bool = False  # follows from the shapes alone: no assumption about lengths is in it


@dataclass(frozen=True)
class Memory:
    """Of one GPU."""

    what: str
    parts: tuple[Part, ...]
    gpus: int  # of a machine, that are needed
    share: float = 1.0  # of the GPU's memory that it may take
    note: str = ""

    @property
    def total(self) -> float:
        return sum(part.size for part in self.parts)

    @property
    def certain(self) -> float:
        """What is needed whatever the lengths of texts."""
        return sum(part.size for part in self.parts if part.certain)

    def __str__(self) -> str:
        shown = [part for part in self.parts if part.size >= 0.05 * GIB] or list(self.parts[:1])
        sum_of = " + ".join(f"{part.size / GIB:.1f} {part.name}" for part in shown)
        return f"{self.what}: {sum_of} = {self.total / GIB:.1f} GiB{self.note}"


# ---- sampling ----------------------------------------------------------------------------------------------------


def sampling_memory(config: Config, model: Known, work: Workload) -> Memory | None:
    """What one copy of the engine needs of each of its GPUs; None for an engine that loads no weights here."""
    copy: EngineSettings = config.engine
    copies = 1
    if isinstance(config.engine, RaySettings):
        copy, copies = config.engine.copies, config.engine.actors or 1
    if isinstance(copy, HFSettings):
        return _hf(config, copy, model, work, copies)
    if isinstance(copy, VLLMSettings):
        return _vllm(config, copy, model, work, copies)
    return None


def cache_of_token(model: Known, width: int) -> int:
    """Bytes of a token's keys and values in all layers."""
    return 2 * width * model.size.layers * model.size.keys


def _reading(model: Known, width: int, tokens: int) -> float:
    size = model.size
    return width * tokens * (3 * size.intermediate + 6 * size.hidden + 4 * size.queries)


def _hf(config: Config, engine: HFSettings, model: Known, work: Workload, copies: int) -> Memory:
    width = WIDTHS.get(engine.dtype, 2)
    token, rows = cache_of_token(model, width), engine.batch_size

    each = 16 if config.sampling.top_k else 32

    def of(call: Call) -> tuple[Part, ...]:
        taken = min(rows, max(1, call.problems) * call.samples)
        prompts = -(-taken // call.samples)
        # At least one prompt is read at a time.
        read = max(call.prompt, min(engine.prefill_tokens or GPU_PREFILL_TOKENS, prompts * call.prompt))
        cache = token * (prompts * call.prompt + taken * call.new)
        return (
            Part(f"cache of {taken} rows ({call.name}: {call.prompt:,} + {call.new:,} tokens)", cache),
            Part("reading prompts", token * read + _reading(model, width, read)),
            Part("logits", each * taken * model.size.vocab),
        )

    worst = max(map(of, work.calls), key=lambda parts: sum(part.size for part in parts))
    weights = Part("weights", width * model.parameters.total, certain=True)
    return Memory(f"sampling, {engine.kind} engine", (weights, *worst, Part("CUDA", CONTEXT)), copies)


def _vllm(config: Config, engine: VLLMSettings, model: Known, work: Workload, copies: int) -> Memory:
    width, gpus = WIDTHS.get(engine.dtype, 2), engine.tensor_parallel
    token = cache_of_token(model, width) / min(gpus, model.size.kv_heads)
    worst = max(work.calls, key=lambda call: call.longest)
    longest = engine.max_model_len or worst.longest
    fixed = (
        Part("weights", width * model.parameters.total / gpus, certain=True),
        Part("reading prompts", _reading(model, width, BATCHED) / gpus),
        Part("CUDA", CONTEXT),
    )
    note = ""
    if config.gpu is not None:
        room = engine.memory_share * config.gpu.memory_gib * GIB - sum(part.size for part in fixed)
        held = max(0, int(room / (token * worst.longest)))
        note = f", and room for {min(held, engine.batch_size)} of {engine.batch_size} rows of {worst.longest:,} tokens"
    one = Part(f"cache of one row of {longest:,} tokens", token * longest)
    return Memory(f"sampling, {engine.kind} engine", (*fixed, one), copies * gpus, engine.memory_share, note)


# ---- training ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What the memory of a training depends on, from its settings."""

    width: int  # bytes of a number of the base
    zero: int  # stage of DeepSpeed's ZeRO; 0: none
    fsdp: bool
    live: int  # numbers that ZeRO-3 may gather
    checkpointing: bool
    fused_loss: bool
    rank: int  # of the adapter


def method_of(config: Config) -> Method:
    """Read from the hyper-parameter file and its overrides. ConfigError if the file cannot be read."""
    training = config.training
    values: Mapping[str, Any] = {**read_yaml(training.hyperparameters), **training.overrides}
    stored = training.dtype if training.dtype in WIDTHS else stored_dtype(config.model.path)
    zero = zero_settings(values.get("deepspeed"), training.hyperparameters.parent)
    return Method(
        width=WIDTHS.get(stored or "bfloat16", 2),
        zero=int(zero.get("stage", 0)),
        fsdp=bool(values.get("fsdp")),
        live=int(zero.get("stage3_max_live_parameters", LIVE)),
        checkpointing=not values.get("disable_gradient_checkpointing", False),
        fused_loss=bool(values.get("enable_liger_kernel", False)),
        rank=int(values.get("lora_rank", ADAPTER_RANK)),
    )


def trained_numbers(config: Config, model: Known, method: Method) -> int:
    """How many numbers are trained: the adapter's, or those that are not frozen."""
    if not config.training.full:
        return lora_parameters(model.size, method.rank)
    parts = model.parameters
    tower = 0 if config.training.freeze_vision_tower else parts.vision
    return parts.language + tower + (0 if config.training.freeze_multi_modal_projector else parts.projector)


def training_memory(
    config: Config, model: Known, work: Workload, given: bool = False, *, pairs: bool = False
) -> Memory:
    """What training needs of each GPU. `given`: on rows of which only `training.max_length` is known.

    `pairs`: they are pairs whatever `training.method` says, as those of a reward head.
    """
    training, method = config.training, method_of(config)
    size, numbers = model.size, model.parameters
    ranks = training.processes * training.nodes
    trained = trained_numbers(config, model, method)
    shared = ranks if method.zero == 3 or method.fsdp else 1
    if training.full:
        weights: float = (
            method.width * numbers.total if method.zero else 4 * trained + method.width * (numbers.total - trained)
        )
    else:
        weights = method.width * numbers.total + (2 if method.zero else 4) * trained
    gradients: float = 2 * trained / (ranks if method.zero > 1 else 1) if method.zero else 4 * trained / shared
    moments: float = 12 * trained / ranks if method.zero else 8 * trained / shared
    gathered = 0.0
    if method.zero == 3:
        gathered = method.width * min(method.live, numbers.total)
    elif method.fsdp:
        gathered = 2 * method.width * numbers.layers / size.layers

    longest = longest_row(config, work, given)
    pairs = pairs or training.method == "dpo"
    tokens = training.per_device_batch * longest * (2 if pairs else 1)
    h, a, k, i = size.hidden, size.queries, size.keys, size.intermediate
    layer = 16 * h + method.width * (5 * a + 3 * k) + 4 * method.width * i
    if not training.full:
        layer += 11 * (5 * h + a + i)
    logits = 0 if method.fused_loss and not pairs else 12 * tokens * size.vocab
    kept = tokens * (method.width * h if method.checkpointing else layer) * size.layers
    again = tokens * layer if method.checkpointing else 0
    parts = (
        Part("weights", weights / shared, certain=True),
        Part("gradients", gradients, certain=True),
        Part("optimizer", moments, certain=True),
        Part("gathered weights", gathered, certain=True),
        Part(f"activations of {training.per_device_batch} x {longest:,} tokens", kept),
        Part("logits", logits) if logits >= again else Part("a layer's activations", again),
        Part("CUDA", CONTEXT),
    )
    return Memory(f"training, {training.finetuning_type}", parts, training.processes)
