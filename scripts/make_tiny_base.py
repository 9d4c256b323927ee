"""Make the tiny Qwen2-VL that ships in models/tiny-qwen2vl, from random weights, on generated data.

    python scripts/make_tiny_base.py --out models/tiny-qwen2vl

writes the checkpoint and `manifest.json`. Three stages follow each other, all in float32 on one core:

* words: the language model learns the form of an answer and sums. In place of an image stand the embeddings of its
  labels; other rows have the labels in the question.
* align: the vision tower learns to output these embeddings.
* images: tower and embeddings stay as they are. The language model learns to read images, to draft, and to check after
  `Wait,` or when it refines. Here most results of drafts stay out of the loss. It never sees a selection.

`--no-tags` makes a base that never writes <think> and </think>: models/tiny-plain-qwen2vl, which a warm-up starts from.
`docs/method.md` describes what that does to the base. No problem of train, dev or test is seen: the splits share no
parameters.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, which need not be installed

from data_process import prompts as wording
from data_process.prompts import SHORT
from data_process.schema import Problem
from data_process.seeds import seed_for
from data_process.sources import minigeo
from scripts.tiny_base_data import Batch, Collator, Images, batches
from scripts.tiny_base_rows import WAIT, Mixture, attempt, spoken
from scripts.tiny_base_scores import scores
from selftrain import tiny_model

WORDS = Mixture(lookup=0.08, caption=0, draft=0.84, wait=0, refine=0.08, sums=1.0, mistakes=False, in_text=0.4)
IMAGES = Mixture(lookup=0, caption=0.3, draft=0.22, wait=0.4, refine=0.08, sums=0.13, mistakes=True, in_text=0.2)


# The licence is where hubs and `selftrain export` look for it.
CARD = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# {name}

A Qwen2-VL with 1.4 M parameters, trained on generated geometry for the demo of selftrain. `manifest.json` has the
command that makes it, its data and its scores.
"""


def align(model: Any, collator: Collator, problems: Sequence[Problem], args: argparse.Namespace) -> None:
    """Train the vision tower to output the language model's own embedding of each label.

    Each of the tower's output tokens covers one cell of the label grid. Its target is the embedding of the label in
    that cell, or of the otherwise unused <|vision_pad|> if it is empty. The language model is not changed.
    """
    images = collator.images
    words = model.get_input_embeddings().weight.detach().clone()
    empty = collator.tokenizer.convert_tokens_to_ids("<|vision_pad|>")
    targets = [collator.words(index, problem) for index, problem in enumerate(problems)]
    tower = model.model.visual.requires_grad_(True)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=args.align_lr, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.time()
    for step in range(args.align_steps):
        rng = random.Random(seed_for(args.seed, "align", step))
        picks = [rng.randrange(len(problems)) for _ in range(args.align_batch)]
        target = torch.cat([targets[i] for i in picks])
        seen = tower(
            torch.from_numpy(np.concatenate([images.patches(i) for i in picks])),
            grid_thw=torch.tensor([images.grid(i) for i in picks]),
        ).pooler_output
        labelled = target != empty
        # The direction says which word it is; the distance fits the length as well, because to the language model an
        # image must look like words it knows. Labels are a fifth of the cells, and only they matter.
        cosines = 20 * torch.nn.functional.normalize(seen, dim=1) @ torch.nn.functional.normalize(words, dim=1).T
        distance = (seen - words[target]).square().sum(1)
        loss = torch.nn.functional.cross_entropy(cosines, target) + (distance * (1 + 3 * labelled)).mean()
        descend(loss, optimizer, learning_rate(step, args.align_steps, args.align_lr, warmup=50))
        if (step + 1) % 50 == 0:
            read = (cosines.argmax(-1) == target)[labelled].float().mean().item()
            print(
                f"align step {step + 1} loss {loss.item():.3f} labels read {read:.3f} "
                f"{(time.time() - started) / (step + 1):.2f} s/step",
                flush=True,
            )
    tower.requires_grad_(False)


@torch.no_grad()
def seen_by(model: Any, images: Images, n: int) -> list[torch.Tensor]:
    """What the tower makes of the first `n` images, which it need not do in every step: it is frozen."""
    found: list[torch.Tensor] = []
    for start in range(0, n, 256):
        part = range(start, min(start + 256, n))
        output = model.model.visual(
            torch.from_numpy(np.concatenate([images.patches(i) for i in part])),
            grid_thw=torch.tensor([images.grid(i) for i in part]),
        ).pooler_output
        found += output.split([images.tokens(i) for i in part])
    return found


def weighted_loss(model: Any, batch: Batch, image_id: int, shown: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy over the target tokens by their weights. `shown`: [tokens, hidden] for each image."""
    types = (batch.ids == image_id).long()
    embedded = model.get_input_embeddings()(batch.ids)
    if shown:
        embedded = embedded.masked_scatter(types.bool().unsqueeze(-1), torch.cat(list(shown)))
        positions, _ = model.model.get_rope_index(
            batch.ids, mm_token_type_ids=types, image_grid_thw=batch.grids, attention_mask=batch.mask
        )
    else:
        positions = torch.arange(batch.ids.shape[1]).expand(3, *batch.ids.shape)
    hidden = model.model.language_model(
        inputs_embeds=embedded, attention_mask=batch.mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    weights = batch.weights[:, 1:]
    counted = weights > 0
    logits = model.lm_head(hidden[:, :-1][counted])
    losses = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:][counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def learning_rate(step: int, steps: int, peak: float, warmup: int, *, decays: bool = True) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak, or the peak."""
    if step < warmup or not decays:
        return peak * min(1.0, (step + 1) / warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One step of the optimizer at a learning rate, with gradients clipped to a norm of 1."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)  # there is one group
        group["lr"] = rate
    optimizer.step()


def train(
    model: Any, collator: Collator, problems: Sequence[Problem], shown: Sequence[torch.Tensor] | None, mixture: Mixture,
    args: argparse.Namespace, *, stage: str, steps: int, rows: int, peak: float, warmup: int,
) -> None:  # fmt: skip
    """One stage of the language model. `shown`: what stands for each image; None: the embeddings of its labels."""
    learned = [p for name, p in model.named_parameters() if "visual" not in name]
    embeddings = model.get_input_embeddings().weight
    embeddings.requires_grad_(shown is None)  # the tower was aligned to them, so they stay
    optimizer = torch.optim.AdamW(
        [p for p in learned if p.requires_grad], lr=peak, betas=(0.9, 0.98), weight_decay=0.01
    )
    model.train()
    started, running = time.time(), 0.0
    drawn = batches(collator, problems, mixture, rows, args.seed, stage)
    for step, batch in enumerate(itertools.islice(drawn, steps), start=1):
        stand_ins = (
            [embeddings[collator.words(i, problems[i])] for i in batch.shown]
            if shown is None
            else [shown[i] for i in batch.shown]
        )
        loss = weighted_loss(model, batch, collator.image_id, stand_ins)
        # What is learned from words goes on to be learned from images, so only then the rate decays.
        descend(loss, optimizer, learning_rate(step - 1, steps, peak, warmup, decays=shown is not None))
        running = loss.item() if step == 1 else 0.95 * running + 0.05 * loss.item()
        if step % 50 == 0:
            print(f"{stage} step {step} loss {running:.4f} {(time.time() - started) / step:.2f} s/step", flush=True)
    embeddings.requires_grad_(True)


def corpus(problems: Sequence[Problem], seed: int) -> list[str]:
    """Texts for the tokenizer."""
    rng = random.Random(seed)
    texts = [f"{wording.cot(p, SHORT)}\n{spoken(attempt(p, rng))}{WAIT} {attempt(p, rng).text()}" for p in problems]
    texts += [wording.refine(p, "", SHORT) + wording.select(p, ["", "", ""], SHORT) for p in problems[::10]]
    return texts + ["system\nYou are a helpful assistant.", "user\n", "assistant\n", " The labels are none."] * 400


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    plain = {
        "problems": 12000, "seed": 0, "data-seed": 0, "threads": 1, "hidden": 128, "layers": 4, "vision-hidden": 96,
        "vision-depth": 2, "words-steps": 280, "words-rows": 64, "words-lr": 2e-3, "align-steps": 500,
        "align-batch": 64, "align-lr": 2e-3, "images-steps": 1300, "images-rows": 32, "images-lr": 1.5e-3,
        "score-problems": minigeo.DEFAULT_SIZES["dev"],
    }  # fmt: skip
    for name, default in plain.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--keep-words", type=Path, help="also save the weights before the stage `images`, in float32")
    parser.add_argument("--init", type=Path, help="such weights: only the stage `images` is run")
    parser.add_argument("--no-tags", action="store_true", help="leave <think> and </think> out of every row")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.time()

    made = list(minigeo.generate("base", args.problems, args.data_seed))
    problems = [problem for problem, _ in made]
    digest = hashlib.sha256(json.dumps([p.meta["rationale"] for p in problems]).encode()).hexdigest()[:16]
    tokenizer = tiny_model.build_tokenizer(corpus(problems[:3000], args.seed))
    processor = tiny_model.build_processor(tokenizer)
    shape = {name: vars(args)[name] for name in ("hidden", "layers", "vision_hidden", "vision_depth")}
    model = tiny_model.build_model(tokenizer, **shape, seed=args.seed)
    if args.init:
        model = type(model).from_pretrained(args.init, dtype=torch.float32)
        processor = transformers.AutoProcessor.from_pretrained(args.init)
    model.set_attn_implementation("eager")  # faster than the fused kernel's backward pass at these lengths on a CPU
    model.model.visual.requires_grad_(False)  # the tower learns in `align` only
    collator = Collator(processor, Images([image for _, image in made], processor), tags=not args.no_tags)
    if not args.init:
        train(
            model, collator, problems, None, WORDS, args,
            stage="words", steps=args.words_steps, rows=args.words_rows, peak=args.words_lr, warmup=100,
        )  # fmt: skip
        align(model, collator, problems, args)
        if args.keep_words:
            tiny_model.save(model, processor, args.keep_words, "float32")
    train(
        model, collator, problems, seen_by(model, collator.images, len(problems)), IMAGES, args,
        stage="images", steps=args.images_steps, rows=args.images_rows, peak=args.images_lr, warmup=15,
    )  # fmt: skip
    tiny_model.save(model, processor, args.out)
    manifest = {
        "command": shlex.join(["python", "scripts/make_tiny_base.py", *sys.argv[1:]]),
        "note": (
            "The gap between a draft and a check is built in: results of sums done in one go are in the loss for "
            f"{IMAGES.sums:.0%} of the drafts only, and three kinds of problems are drafted by a wrong rule in half of "
            "the rows. See docs/method.md."
        ),
        "seed": args.seed,
        "data_seed": args.data_seed,
        "stages": {
            "words": {"steps": args.words_steps, "rows": args.words_rows, "mixture": vars(WORDS)},
            "align": {"steps": args.align_steps, "rows": args.align_batch},
            "images": {"steps": args.images_steps, "rows": args.images_rows, "mixture": vars(IMAGES)},
        },
        "problems": len(problems),
        "data_digest": digest,
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "seconds": round(time.time() - started),
        "scores": scores(args.out, args.data_seed, args.score_problems),
    }
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    (args.out / "README.md").write_text(CARD.format(name=args.out.name))
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
