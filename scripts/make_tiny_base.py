"""Train the tiny Qwen2-VL that ships in models/tiny-qwen2vl, from random weights, on generated data.

The recipe has the shape of a small pre-training: first text alone (the numbers are in the question), so that
arithmetic, the form of an answer and looking a value up among the choices are learnt cheaply; then pictures, whose
labels have to be read. All problems come from MiniGeo's `base` split, whose parameters never occur in train, dev or
test. Part of the rationales make a slip, say `Wait,` and correct it. Training stops early on purpose: a base model
should leave something to find.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from data_process import prompts as wording
from data_process.prompts import SHORT
from data_process.schema import Problem
from data_process.seeds import seed_for
from data_process.sources import minigeo
from selftrain import tiny_model
from selftrain.config import EvaluationConfig
from selftrain.engines.hf import HFEngine
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Picture, Sampler
from selftrain.sampling.weights import weights_digest
from selftrain.test_time.evaluate import evaluate

WAIT_SHARE = 0.2  # of the rationales contain a slip and its correction, or a needless second look
SELECT_SHARE = 0.12  # of the picture batches show the refine and select prompts
BUCKET = 8  # batches drawn together and sorted by length
TEXT_SHARE = 0.4  # of the batches are text alone


@dataclass(frozen=True)
class Row:
    """One training sequence."""

    prompt: str
    target: str
    picture: int | None  # index into the cached pictures


# ---- rationales with a slip ---------------------------------------------------------------------------------------


def _slip(value: int, rng: random.Random) -> int:
    wrong = value + rng.choice((-20, -10, -10, -1, 1, 10, 10, 20))
    return wrong if wrong > 1 else value + 10


def _seen(labels: Sequence[str]) -> str:
    return " and ".join(labels)


def _verdict(value: int, choices: Sequence[str]) -> str:
    """How the text speaks of a result: the choice it is, or that it is none of them."""
    text = str(value)
    return f"{text} is ({'ABCD'[list(choices).index(text)]})." if text in choices else f"{text} is none."


def with_wait(problem: Problem, labels: Sequence[str], steps: Sequence[str], rng: random.Random) -> str:
    """A response that slips, says `Wait,` and does the sum again; or looks a second time for nothing."""
    letter, value = problem.answer, str(problem.meta["value"])
    full = ". ".join(steps)
    close = f"</think>\nAnswer: ({letter})"
    kind = rng.random()
    index = rng.randrange(len(steps))
    left, right = steps[index].split("=")
    wrong = f"{left}={_slip(int(right), rng)}"
    if kind < 0.35:  # noticed at once
        shown = [*steps[:index], wrong]
        return (
            f"<think>I see {_seen(labels)}. {'. '.join(shown)}. Wait, {'. '.join(steps[index:])}. "
            f"{value} is ({letter}).{close}"
        )
    if kind < 0.75:  # noticed at the end: the last step is wrong, so the result is none of the choices or a wrong one
        left, right = steps[-1].split("=")
        result = _slip(int(right), rng)
        shown = [*steps[:-1], f"{left}={result}"]
        return (
            f"<think>I see {_seen(labels)}. {'. '.join(shown)}. {_verdict(result, problem.choices)} "
            f"Wait, {full}. {value} is ({letter}).{close}"
        )
    return f"<think>I see {_seen(labels)}. {full}. {value} is ({letter}). Wait, {full}. {value} is ({letter}).{close}"


def response(problem: Problem, labels: Sequence[str], steps: Sequence[str], rng: random.Random) -> str:
    if rng.random() < WAIT_SHARE:
        return with_wait(problem, labels, steps, rng)
    return minigeo.rationale(labels, steps, int(problem.meta["value"]), problem.answer)


def wrong_response(problem: Problem, rng: random.Random) -> str:
    """An attempt that ends in a wrong choice, for the refine and select prompts."""
    steps = list(problem.meta["steps"])
    letter = rng.choice([c for c in "ABCD" if c != problem.answer])
    value = problem.choices["ABCD".index(letter)]
    steps[-1] = f"{steps[-1].split('=')[0]}={value}"
    return minigeo.rationale(problem.meta["labels"], steps, int(value), letter)


# ---- rows ---------------------------------------------------------------------------------------------------------


def text_row(pool: Sequence[tuple[minigeo.Variant, minigeo.Params]], rng: random.Random) -> Row:
    """The labels are in the question, or only the value is to be looked up."""
    variant, params = rng.choice(pool)
    steps, value = variant.solve(params)
    right, *wrong = minigeo.choose(variant, value, rng)
    letter = rng.choice("ABCD")
    position = "ABCD".index(letter)
    rng.shuffle(wrong)
    choices = tuple(map(str, [*wrong[:position], right, *wrong[position:]]))
    in_order = tuple(sorted(params, reverse=True))
    labels = list(map(str, in_order))
    shuffled = rng.sample(labels, len(labels))
    if variant.solve(in_order)[1] == value:
        steps = variant.solve(in_order)[0]
    problem = Problem("t", "", letter, choices, meta={"value": value})
    if rng.random() < 0.15:
        question = f"x is {value}. Find x."
        target = f"<think>{value} is ({letter}).</think>\nAnswer: ({letter})"
    else:
        question = f"{variant.question} The labels are {_seen(shuffled)}."
        target = response(problem, labels, steps, rng)
    return Row(wording.cot(replace(problem, question=question), SHORT), target, None)


def picture_row(problem: Problem, picture: int, rng: random.Random) -> Row:
    labels, steps = problem.meta["labels"], problem.meta["steps"]
    return Row(wording.cot(problem, SHORT), response(problem, labels, steps, rng), picture)


def reflection_row(problem: Problem, picture: int, rng: random.Random) -> Row:
    """Refine or select, so that the base model knows the form of these prompts."""
    good = str(problem.meta["rationale"])
    if rng.random() < 0.5:
        attempt = good if rng.random() < 0.5 else wrong_response(problem, rng)
        return Row(wording.refine(problem, attempt, SHORT), good, picture)
    attempts = [good, wrong_response(problem, rng), good if rng.random() < 0.5 else wrong_response(problem, rng)]
    rng.shuffle(attempts)
    target = wording.fill(SHORT.select_target, answer=problem.answer)
    return Row(wording.select(problem, attempts, SHORT), target, picture)


# ---- tensors ------------------------------------------------------------------------------------------------------


class Pictures:
    """Pictures as uint8 arrays, turned into Qwen2-VL's patches on demand; the image processor runs as a check."""

    def __init__(self, images: Sequence[Any], processor: Any) -> None:
        self.arrays = [np.asarray(image.convert("L"), dtype=np.uint8) for image in images]  # ink is grey
        self.mean = np.array(processor.image_processor.image_mean, dtype=np.float32)
        self.std = np.array(processor.image_processor.image_std, dtype=np.float32)
        for index in (0, len(images) - 1):
            expected = processor.image_processor(images=[images[index]], return_tensors="np")["pixel_values"]
            if np.abs(self.patches(index) - expected).max() > 1e-4:
                raise RuntimeError("the cached patches differ from the image processor's")

    def grid(self, index: int) -> tuple[int, int, int]:
        height, width = self.arrays[index].shape
        return 1, height // 14, width // 14

    def patches(self, index: int) -> np.ndarray:
        """[n_patches, 3 * 2 * 14 * 14], 2 x 2 neighbouring patches in a row, as the image processor orders them."""
        array = (self.arrays[index].astype(np.float32)[:, :, None] / 255 - self.mean) / self.std
        _, rows, columns = self.grid(index)
        x = array.transpose(2, 0, 1).reshape(3, rows // 2, 2, 14, columns // 2, 2, 14)
        x = x.transpose(1, 4, 2, 5, 0, 3, 6)  # row block, column block, row, column, channel, y, x
        x = np.repeat(x[:, :, :, :, :, None], 2, axis=5)  # the one frame stands for two
        return x.reshape(rows * columns, -1)


class Collator:
    """Rows to model inputs: right-padded ids, labels on the target and the end of the turn only."""

    def __init__(self, processor: Any, pictures: Pictures) -> None:
        self.tokenizer, self.pictures = processor.tokenizer, pictures
        self.image_id = processor.image_token_id
        self.cache: dict[str, list[int]] = {}
        mark = "\0"
        for has_picture in (False, True):
            content = ([{"type": "image"}] if has_picture else []) + [{"type": "text", "text": mark}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            before, after = text.split(mark)
            self.cache[f"before{has_picture}"] = before
            self.cache[f"after{has_picture}"] = after

    def encode(self, row: Row) -> tuple[list[int], list[int]]:
        has_picture = row.picture is not None
        text = f"{self.cache[f'before{has_picture}']}{row.prompt}{self.cache[f'after{has_picture}']}"
        ids = self.tokenizer(text)["input_ids"]
        if row.picture is not None:
            _, height, width = self.pictures.grid(row.picture)
            at = ids.index(self.image_id)
            ids = ids[:at] + [self.image_id] * (height * width // 4) + ids[at + 1 :]
        return ids, self.tokenizer(row.target + "<|im_end|>")["input_ids"]

    def words(self, index: int, problem: Problem) -> torch.Tensor:
        """What a picture says, a token for each of its cells in reading order: a label, or <|vision_pad|> for none."""
        _, height, width = self.pictures.grid(index)
        grid = torch.full((height // 2, width // 2), self.tokenizer.convert_tokens_to_ids("<|vision_pad|>"))
        for row, column, label in problem.meta["cells"]:
            (grid[row, column],) = self.tokenizer(label)["input_ids"]
        return grid.flatten()

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        encoded = [self.encode(row) for row in rows]
        longest = max(len(p) + len(t) for p, t in encoded)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), longest), pad)
        labels = torch.full((len(rows), longest), -100)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, (prompt, target) in enumerate(encoded):
            n, m = len(prompt), len(prompt) + len(target)
            ids[i, :m] = torch.tensor(prompt + target)
            labels[i, n:m] = torch.tensor(target)
            mask[i, :m] = 1
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        batch["mm_token_type_ids"] = (ids == self.image_id).long()
        batch["shown"] = [row.picture for row in rows if row.picture is not None]
        shown = [row.picture for row in rows if row.picture is not None]
        if shown:
            batch["pixel_values"] = torch.from_numpy(np.concatenate([self.pictures.patches(p) for p in shown]))
            batch["image_grid_thw"] = torch.tensor([self.pictures.grid(p) for p in shown])
        return batch


# ---- alignment ----------------------------------------------------------------------------------------------------


def align(model: Any, collator: Collator, problems: Sequence[Problem], args: argparse.Namespace) -> None:
    """Teach the vision tower to say a label with the language model's own word for it.

    Each of the tower's output tokens covers one cell of the label grid. Its target is the embedding of the label that
    stands there, or of the otherwise unused <|vision_pad|> in an empty cell; the language model stays as it is.
    """
    pictures = collator.pictures
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
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.align_steps, args.align_lr, warmup=50)
        with torch.autocast(args.device, dtype=torch.bfloat16):
            seen = tower(
                torch.from_numpy(np.concatenate([pictures.patches(i) for i in picks])).to(args.device),
                grid_thw=torch.tensor([pictures.grid(i) for i in picks]).to(args.device),
            ).pooler_output
        seen = seen.float()
        labelled = target != empty
        # The direction says which word it is, the distance keeps the length too: to the language model the picture
        # must look like words it knows. Labels are a fifth of the cells and all that matters.
        scores = 20 * torch.nn.functional.normalize(seen, dim=1) @ torch.nn.functional.normalize(words, dim=1).T
        distance = (seen - words[target]).square().sum(1)
        loss = torch.nn.functional.cross_entropy(scores, target) + (distance * (1 + 3 * labelled)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            read = (scores.argmax(-1) == target)[labelled].float().mean().item()
            print(
                f"align step {step + 1} loss {loss.item():.3f} distance {distance[labelled].mean().item():.3f} "
                f"labels read {read:.2f} "
                f"{(time.time() - started) / (step + 1):.2f} s/step",
                flush=True,
            )
    tower.requires_grad_(False)


def told(model: Any, batch: dict[str, torch.Tensor], words: torch.Tensor) -> dict[str, torch.Tensor]:
    """The batch with its pictures replaced by the embeddings of what they say: before the tower can see."""
    ids = batch["input_ids"].masked_scatter(batch["mm_token_type_ids"] == 1, words)
    positions, _ = model.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    return {
        "inputs_embeds": model.get_input_embeddings()(ids),
        "position_ids": positions,
        "attention_mask": batch["attention_mask"],
        "labels": batch["labels"],
    }


# ---- training -----------------------------------------------------------------------------------------------------


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def greedy_scores(model: Any, collator: Collator, rows: Sequence[tuple[Row, Problem]]) -> dict[str, float]:
    """Greedy accuracy, share of pictures read right, share of right values: quick figures while training."""
    model.eval()
    right = read = value = closed = 0
    tokenizer = collator.tokenizer
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        encoded = [collator.encode(row)[0] for row, _ in part]
        longest = max(map(len, encoded))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(e)) + e for e in encoded])
        mask = torch.tensor([[0] * (longest - len(e)) + [1] * len(e) for e in encoded])
        shown = [row.picture for row, _ in part]
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == collator.image_id).long(),
            pixel_values=torch.from_numpy(np.concatenate([collator.pictures.patches(p) for p in shown])),
            image_grid_thw=torch.tensor([collator.pictures.grid(p) for p in shown]),
            max_new_tokens=110,
            do_sample=False,
        )
        for text, (_, problem) in zip(
            tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True), part, strict=True
        ):
            closed += "Answer: (" in text
            right += text.endswith(f"Answer: ({problem.answer})")
            read += f"I see {_seen(problem.meta['labels'])}." in text
            value += f"={problem.meta['value']}." in text
    model.train()
    n = len(rows)
    return {"greedy": right / n, "read": read / n, "value": value / n, "closed": closed / n}


def first_letter_accuracy(logits: torch.Tensor, labels: torch.Tensor, letters: Sequence[int]) -> float:
    """Share of rows whose first letter in the target is predicted: is the value found among the choices?"""
    is_letter = torch.isin(labels, torch.tensor(letters))
    rows = is_letter.any(1)
    first = is_letter.long().argmax(1)[rows]
    predicted = logits[rows, first - 1].argmax(-1).cpu()
    return (predicted == labels[rows, first]).float().mean().item()


def batches(
    collator: Collator, problems: Sequence[Problem], args: argparse.Namespace
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of rows of like length (half of a batch of random lengths would be padding), eight drawn at a time."""
    tuples = minigeo.deal(args.data_seed)["base"]
    pool = [(minigeo.BY_NAME[name], params) for name, part in tuples.items() for params in part[:2000]]
    for group in range(math.ceil(args.steps / BUCKET)):
        rng = random.Random(seed_for(args.seed, "rows", group))
        text = sum(rng.random() < TEXT_SHARE for _ in range(BUCKET))  # batches of text alone
        kinds = [[text_row(pool, rng) for _ in range(text * args.batch)], []]
        for _ in range((BUCKET - text) * args.batch):
            index = rng.randrange(len(problems))
            kinds[1].append(picture_row(problems[index], index, rng))
        drawn = []
        for rows in kinds:
            rows.sort(key=lambda row: len(row.prompt) + len(row.target))
            drawn += [rows[i : i + args.batch] for i in range(0, len(rows), args.batch)]
        if text < BUCKET and rng.random() < SELECT_SHARE * BUCKET:
            picks = [rng.randrange(len(problems)) for _ in range(args.batch // 2)]
            drawn[-1] = [reflection_row(problems[i], i, rng) for i in picks]
        rng.shuffle(drawn)
        yield from map(collator, drawn)


def score(folder: Path, data_seed: int, split: str = "dev", n: int = 8) -> dict[str, float]:
    """Scores in [0, 1] of a finished checkpoint on a whole split, sampled as the demo samples, judged by the judge."""
    config = EvaluationConfig(n=n, max_tokens=110)
    made = list(minigeo.generate(split, minigeo.DEFAULT_SIZES[split], data_seed))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "images").mkdir()
        for problem, image in made:
            image.save(root / str(problem.image))
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
    return {
        "split": split,
        "n_problems": totals.n,
        "n_samples": n,
        **scores,
        "greedy_abstain": (totals.strategies["greedy"].abstain or 0.0) / totals.n,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument(
        "--text-steps", type=int, default=1000, help="steps in which pictures are told in words, before alignment"
    )
    parser.add_argument("--problems", type=int, default=3000, help="problems with rationales, from the base split")
    parser.add_argument("--pictures", type=int, default=12000, help="pictures for alignment, the same ones included")
    parser.add_argument("--align-steps", type=int, default=1000, help="steps of alignment, between text and pictures")
    parser.add_argument("--align-lr", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vision-hidden", type=int, default=96)
    parser.add_argument("--vision-depth", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-seed", type=int, default=0, help="MiniGeo's seed; the splits belong to it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--stop-at", type=float, default=1.0, help="stop when greedy on 256 dev problems reaches this")
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
    model = tiny_model.build_model(
        tokenizer,
        hidden=args.hidden,
        layers=args.layers,
        vision_hidden=args.vision_hidden,
        vision_depth=args.vision_depth,
        seed=args.seed,
    )
    if args.init:
        model = type(model).from_pretrained(args.init, dtype=torch.float32)
    model.set_attn_implementation("eager")  # faster than the fused kernel's backward pass at these lengths on a CPU
    model.to(args.device)
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "ABCD"]
    pictures = Pictures([image for _, image in (*made, *held_out)], processor)
    collator = Collator(processor, pictures)
    probe = [(Row(wording.cot(p, SHORT), "", len(made) + i), p) for i, (p, _) in enumerate(held_out)]

    language = [p for name, p in model.named_parameters() if "visual" not in name]
    optimizer = torch.optim.AdamW(language, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.model.visual.requires_grad_(False)  # the tower learns in `align` only
    model.train()
    started, running, step = time.time(), 0.0, 0
    if args.text_steps == 0:  # continued with --init
        align(model, collator, [problem for problem, _ in made], args)
    for step, batch in enumerate(itertools.islice(batches(collator, problems, args), args.steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, args.steps, args.lr)
        shown = batch.pop("shown")
        batch = {k: v.to(args.device) for k, v in batch.items()}
        with torch.autocast(args.device, dtype=torch.bfloat16):
            if shown and step <= args.text_steps:
                words = torch.cat([collator.words(i, problems[i]) for i in shown]).to(args.device)
                output = model(**told(model, batch, words))
            else:
                output = model(**batch)
        loss = output.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            kind = "picture" if "pixel_values" in batch else "text"
            print(
                f"step {step} loss {running:.4f} {(time.time() - started) / step:.2f} s/step; this batch ({kind}): "
                f"first letter {first_letter_accuracy(output.logits, batch['labels'], letters):.2f}",
                flush=True,
            )
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
        "scores": score(args.out, args.data_seed),
        "seconds": round(time.time() - started),
    }
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
