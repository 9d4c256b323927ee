"""How long a run takes on the GPUs that its configuration names, from the work that has to be done.

Reading one token takes 2 P products, with P parameters of the language model, and attention 2 L a s more for the s
tokens of its row. Training passes three times over them for an adapter (forward, backward, and forward again with
gradient checkpointing), four times where all weights have gradients (Kaplan et al. 2020, arXiv 2001.08361; Korthikanti
et al. 2022, arXiv 2205.05198). Decoding a token of all rows reads the weights and the rows' cache once. The hf engine
decodes until the longest answer of a batch ends, and starts the kernels of every layer one by one; vLLM puts a new row
in the place of a finished one.

The shares of the data sheet's numbers that are reached are assumed, not measured. `benchmarks.gpu_profile` measures
them and prints both.
"""

from __future__ import annotations

from dataclasses import dataclass

from selftrain.config import Config, read_yaml
from selftrain.engine_settings import EngineSettings, RaySettings, VLLMSettings
from selftrain.estimate.memory import cache_of_token, method_of
from selftrain.estimate.sizes import Known
from selftrain.estimate.workload import ANSWER_SHARE, Call, Workload

READING = 0.4  # of the products per second, while prompts are read
TRAINING = 0.35
MOVING = 0.6  # of the bandwidth, while answers are decoded
LAYER_S = 0.0008  # seconds to start a layer's kernels one by one, as transformers does
PATCHES = 4  # of an image token
WIDTH = 2  # bytes of a number


@dataclass(frozen=True)
class Speed:
    """What one GPU does, as its data sheet says."""

    flops: float  # a second
    bandwidth: float  # bytes a second


@dataclass(frozen=True)
class Hours:
    """Of a whole run."""

    sampling: float
    training: float
    evaluation: float
    assumed: bool  # the number of problems

    @property
    def total(self) -> float:
        return self.sampling + self.training + self.evaluation

    def __str__(self) -> str:
        parts = {"sampling": self.sampling, "training": self.training, "evaluation": self.evaluation}
        return f"about {self.total:.1f} h: " + ", ".join(f"{name} {hours:.1f}" for name, hours in parts.items())


def speed_of(config: Config) -> Speed | None:
    """None if the configuration names no GPU, or not how fast it is."""
    gpu = config.gpu
    if gpu is None or gpu.tflops is None or gpu.bandwidth is None:
        return None
    return Speed(gpu.tflops * 1e12, gpu.bandwidth * 1e9)


def hours(config: Config, model: Known, work: Workload) -> Hours | None:
    """Of all iterations; None without the GPU's speed."""
    if (speed := speed_of(config)) is None:
        return None
    each = sum(seconds_of(call, config, model, work.image, speed) for call in work.sampling)
    dev = sum(seconds_of(call, config, model, work.image, speed) for call in work.evaluation)
    test = sum(seconds_of(call, config, model, work.image, speed) for call in work.test)
    measured = config.iters + 1 if config.evaluation.test == "all" else 2  # the base and the accepted one
    return Hours(
        sampling=config.iters * each / 3600,
        training=config.iters * training_seconds(config, model, work, speed) / 3600,
        evaluation=((config.iters + 1) * dev + measured * test) / 3600,
        assumed=not work.known,
    )


def seconds_of(call: Call, config: Config, model: Known, image: int, speed: Speed) -> float:
    """Seconds of one kind of request, on all copies of the engine."""
    engine: EngineSettings = config.engine
    copies = 1
    if isinstance(engine, RaySettings):
        copies = engine.actors or max(1, (config.gpu.count if config.gpu else 1) // max(1, engine.gpus_per_copy))
        engine = engine.copies
    gpus = engine.tensor_parallel if isinstance(engine, VLLMSettings) else 1
    answers = call.problems * call.samples
    rows = max(1, min(engine.rows_at_once, answers))
    size, numbers = model.size, model.parameters
    usual = ANSWER_SHARE * call.new
    read = call.problems * call.usual_prompt
    products = 2 * numbers.layers * read + 2 * (numbers.vision + numbers.projector) * PATCHES * image * call.problems
    reading = products / (READING * speed.flops * gpus)
    moved = WIDTH * numbers.language + rows * cache_of_token(model, WIDTH) * (call.usual_prompt / call.samples + usual)
    step = max(moved / (MOVING * speed.bandwidth * gpus), 2 * numbers.language * rows / (READING * speed.flops * gpus))
    if isinstance(engine, VLLMSettings):
        steps = answers * usual / rows
    else:
        step = max(step, LAYER_S * size.layers)
        steps = -(-answers // rows) * call.new
    return (reading + steps * step) / copies


def training_seconds(config: Config, model: Known, work: Workload, speed: Speed) -> float:
    """Seconds of one iteration's training."""
    tokens, images, length = trained_on(config, work)
    return step_seconds(config, model, tokens, images * work.image, length, speed)


def step_seconds(
    config: Config, model: Known, tokens: float, image_tokens: float, length: float, speed: Speed
) -> float:
    """Seconds to train on `tokens` tokens in rows of `length`, `image_tokens` of them of images, on all ranks."""
    method, numbers, size = method_of(config), model.parameters, model.size
    passes = (3 if config.training.full else 2) + method.checkpointing
    head = size.vocab * size.hidden
    forward = 2 * (numbers.layers + head) + 2 * size.layers * size.queries * length
    vision = 2 * (numbers.vision + numbers.projector) * PATCHES * image_tokens
    ranks = config.training.processes * config.training.nodes
    return (passes * forward * tokens + vision) / (TRAINING * speed.flops * ranks)


def trained_on(config: Config, work: Workload) -> tuple[float, float, float]:
    """(tokens, images, mean tokens of a row) of an iteration's training, repeated for each epoch."""
    training = config.training
    values = {**read_yaml(training.hyperparameters), **training.overrides}
    number = sum(rows.number for rows in work.rows)
    if not number:
        return 0.0, 0.0, 0.0
    mean = sum(rows.number * rows.usual for rows in work.rows) / number
    used = min(number, config.build.max_rows or number)
    seen = used * float(values.get("num_train_epochs", 3))
    if (steps := int(values.get("max_steps", 0))) > 0:
        seen = steps * int(values["global_batch_size"])
    return seen * mean, seen, mean
