"""The section about the GPUs that a run is meant for. Nothing is computed with it; `selftrain.estimate` compares."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from selftrain.engine_settings import Positive, Section

Amount = Annotated[float, Field(gt=0)]


class GPUConfig(Section):
    """One kind of GPU, and how many of them a machine has."""

    memory_gib: Amount  # of one, as nvidia-smi counts: 24 for "24 GB"
    count: Positive = 1  # in each machine
    tflops: Amount | None = None  # dense bfloat16 products, 10^12 a second, as its data sheet says; for hours
    bandwidth: Amount | None = None  # of its memory, 10^9 bytes a second
