"""A LoRA adapter that was not trained but changes much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TARGET = r".*language_model.*\.(q_proj|v_proj|up_proj|down_proj)"


def random_adapter(model_folder: Path, folder: Path, *, size: float = 0.1, **options: Any) -> Path:
    """An adapter of the language model with random weights; `size` 0 is one that was never trained."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGET, **options}))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * size)
    adapted.save_pretrained(folder)
    return folder
