"""Train the tiny Qwen2-VL that ships in models/tiny-qwen2vl, from random weights, on generated data.

The recipe follows a small pre-training. Text comes first, with the numbers in the question: arithmetic, the form of an
answer and finding a value among the choices are learned cheaply there. Then come images, whose labels must be read.
The problems' parameters never occur in train, dev or test (`tiny_base_data.py`). Training stops early on purpose: a
base model should leave room for improvement.

    python scripts/make_tiny_base.py --out models/tiny-qwen2vl

writes the checkpoint and `manifest.json` (command, seed, steps, data digest, scores).
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
import tempfile
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
from scripts.tiny_base_data import Collator, Images, Row, batches, joined, with_wait
from selftrain import tiny_model
from selftrain.config import EvaluationConfig
from selftrain.engines.hf import HFEngine
from selftrain.environment import training_device
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Picture, Sampler
from selftrain.sampling.weights import weights_digest
from selftrain.test_time.evaluate import evaluate


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
        picks = [rng.randrange(len(problems)) for _ in range(args.batch)]
        target = torch.cat([targets[i] for i in picks]).to(args.device)
        with mixed_precision(args.device):
            seen = tower(
                torch.from_numpy(np.concatenate([images.patches(i) for i in picks])).to(args.device),
                grid_thw=torch.tensor([images.grid(i) for i in picks]).to(args.device),
            ).pooler_output
        seen = seen.float()
        labelled = target != empty
        # The direction says which word it is; the distance fits the length as well, because to the language model an
        # image must look like words it knows. Labels are a fifth of the cells, and only they matter.
        scores = 20 * torch.nn.functional.normalize(seen, dim=1) @ torch.nn.functional.normalize(words, dim=1).T
        distance = (seen - words[target]).square().sum(1)
        loss = torch.nn.functional.cross_entropy(scores, target) + (distance * (1 + 3 * labelled)).mean()
        descend(loss, optimizer, learning_rate(step, args.align_steps, args.align_lr, warmup=50))
        if (step + 1) % 50 == 0:
            read = (scores.argmax(-1) == target)[labelled].float().mean().item()
            print(
                f"align step {step + 1} loss {loss.item():.3f} distance {distance[labelled].mean().item():.3f} "
                f"labels read {read:.2f} {(time.time() - started) / (step + 1):.2f} s/step",
                flush=True,
            )
    tower.requires_grad_(False)


def in_words(model: Any, batch: dict[str, torch.Tensor], words: torch.Tensor) -> dict[str, torch.Tensor]:
    """The batch with the embeddings of their labels in place of the images: the tower cannot see yet."""
    ids = batch["input_ids"].masked_scatter(batch["mm_token_type_ids"] == 1, words)
    layout = {name: batch[name] for name in ("mm_token_type_ids", "image_grid_thw", "attention_mask")}
    positions, _ = model.model.get_rope_index(batch["input_ids"], **layout)
    kept = {name: batch[name] for name in ("attention_mask", "labels")}
    return {"inputs_embeds": model.get_input_embeddings()(ids), "position_ids": positions, **kept}


def mixed_precision(device: str) -> torch.autocast:
    """Autocast to bfloat16 where this machine has kernels for it; elsewhere float32 is faster."""
    bf16 = training_device(Path(sys.executable), use_cpu=device == "cpu").bf16
    return torch.autocast(device, dtype=torch.bfloat16, enabled=bf16)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
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


@torch.no_grad()
def greedy_scores(model: Any, collator: Collator, rows: Sequence[tuple[Row, Problem]]) -> dict[str, float]:
    """Greedy accuracy, share of images read correctly, share of correct values: quick figures while training."""
    model.eval()
    right = read = value = closed = 0
    tokenizer = collator.tokenizer
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        encoded = [collator.encode(row)[0] for row, _ in part]
        longest = max(map(len, encoded))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(e)) + e for e in encoded])
        mask = torch.tensor([[0] * (longest - len(e)) + [1] * len(e) for e in encoded])
        shown = [row.image for row, _ in part]
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == collator.image_id).long(),
            pixel_values=torch.from_numpy(np.concatenate([collator.images.patches(p) for p in shown])),
            image_grid_thw=torch.tensor([collator.images.grid(p) for p in shown]),
            max_new_tokens=110,
            do_sample=False,
        )
        texts = tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
        for text, (_, problem) in zip(texts, part, strict=True):
            closed += "Answer: (" in text
            right += text.endswith(f"Answer: ({problem.answer})")
            read += f"I see {joined(problem.meta['labels'])}." in text
            value += f"={problem.meta['value']}." in text
    model.train()
    n = len(rows)
    return {"greedy": right / n, "read": read / n, "value": value / n, "closed": closed / n}


def score(folder: Path, data_seed: int, size: int, split: str = "dev", n: int = 8) -> dict[str, float]:
    """Scores in [0, 1] of a checkpoint on the first `size` problems of a split, sampled as the demo samples."""
    config = EvaluationConfig(n=n, max_tokens=110)
    made = list(minigeo.generate(split, size, data_seed))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "images").mkdir()
        for problem, image in made:
            image.save(root / problem.images[0])
        with (
            Bank(root / "bank.sqlite") as bank,
            Sampler(
                bank=bank,
                open_engine=lambda: HFEngine(folder),
                engine_name="hf",
                weights=weights_digest(bank, folder, None),
                picture=lambda relative: Picture(root / relative, relative),
                seed=0,
                unit_rows=192,
            ) as sampler,
        ):
            totals = evaluate([problem for problem, _ in made], sampler, config, SHORT, 0).split
    scores = {name: round(score.accuracy, 4) for name, score in totals.strategies.items()}
    abstain = (totals.strategies["greedy"].abstain or 0.0) / totals.n
    return {"split": split, "n_problems": totals.n, "n_samples": n, **scores, "greedy_abstain": abstain}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    plain = {
        "steps": 3000, "batch": 64, "lr": 2e-3, "align-lr": 2e-3, "hidden": 128, "layers": 4, "vision-hidden": 96,
        "vision-depth": 2, "seed": 0, "threads": 1, "eval-every": 250,
    }  # fmt: skip
    for name, default in plain.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument(
        "--text-steps", type=int, default=1000, help="steps before alignment, with words in place of images"
    )
    parser.add_argument("--problems", type=int, default=3000, help="problems with rationales, from the base split")
    parser.add_argument("--pictures", type=int, default=12000, help="images for alignment, the same ones included")
    parser.add_argument("--align-steps", type=int, default=1000, help="steps of alignment, between text and images")
    parser.add_argument("--data-seed", type=int, default=0, help="MiniGeo's seed; the splits belong to it")
    parser.add_argument("--stop-at", type=float, default=1.0, help="stop when greedy on 256 dev problems reaches this")
    parser.add_argument("--score-problems", type=int, default=minigeo.DEFAULT_SIZES["dev"], help="scored at the end")
    parser.add_argument("--init", type=Path, help="continue from this checkpoint's weights")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    made = list(minigeo.generate("base", max(args.problems, args.pictures), args.data_seed))
    problems = [problem for problem, _ in made][: args.problems]
    held_out = list(minigeo.generate("dev", 256, args.data_seed))
    digest = hashlib.sha256(json.dumps([p.meta["rationale"] for p in problems]).encode()).hexdigest()[:16]
    rng = random.Random(args.seed)
    corpus = [wording.cot(p, SHORT) + "\n" + with_wait(p, p.meta["labels"], p.meta["steps"], rng) for p in problems]
    corpus += [wording.refine(p, "", SHORT) + wording.select(p, ["", "", ""], SHORT) for p in problems[::10]]
    corpus += ["system\nYou are a helpful assistant.", "user\n", "assistant\n", " The labels are none."] * 400
    tokenizer = tiny_model.build_tokenizer(corpus)
    processor = tiny_model.build_processor(tokenizer)
    shape = {name: vars(args)[name] for name in ("hidden", "layers", "vision_hidden", "vision_depth")}
    model = tiny_model.build_model(tokenizer, **shape, seed=args.seed)
    if args.init:
        model = type(model).from_pretrained(args.init, dtype=torch.float32)
    model.set_attn_implementation("eager")  # faster than the fused kernel's backward pass at these lengths on a CPU
    model.to(args.device)
    images = Images([image for _, image in (*made, *held_out)], processor)
    collator = Collator(processor, images)
    probe = [(Row(wording.cot(p, SHORT), "", len(made) + i), p) for i, (p, _) in enumerate(held_out)]

    language = [p for name, p in model.named_parameters() if "visual" not in name]
    optimizer = torch.optim.AdamW(language, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.model.visual.requires_grad_(False)  # the tower learns in `align` only
    model.train()
    started, running, step = time.time(), 0.0, 0
    if args.text_steps == 0:  # continued with --init
        align(model, collator, [problem for problem, _ in made], args)
    for step, batch in enumerate(itertools.islice(batches(collator, problems, args), args.steps), start=1):
        shown = batch.pop("shown")
        batch = {k: v.to(args.device) for k, v in batch.items()}
        with mixed_precision(args.device):
            if shown and step <= args.text_steps:
                words = torch.cat([collator.words(i, problems[i]) for i in shown]).to(args.device)
                loss = model(**in_words(model, batch, words)).loss
            else:
                loss = model(**batch).loss
        descend(loss, optimizer, learning_rate(step - 1, args.steps, args.lr))
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {running:.4f} {(time.time() - started) / step:.2f} s/step", flush=True)
        if step == args.text_steps:
            align(model, collator, [problem for problem, _ in made], args)
        if step % args.eval_every == 0 and step > args.text_steps:
            scores = greedy_scores(model, collator, probe)
            print(f"step {step} " + " ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)
            tiny_model.save(model, processor, args.out)
            if scores["greedy"] >= args.stop_at:
                break
    tiny_model.save(model, processor, args.out)
    manifest = {
        "command": shlex.join(["python", "scripts/make_tiny_base.py", *sys.argv[1:]]),
        "seed": args.seed,
        "data_seed": args.data_seed,
        "steps": step,
        "batch": args.batch,
        "rationales": len(problems),
        "data_digest": digest,
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "scores": score(args.out, args.data_seed, args.score_problems),
        "seconds": round(time.time() - started),
    }
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
