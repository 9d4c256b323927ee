"""Writes a curated data folder: the chosen problems, the other splits of the pool, images and the data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from data_process.curate.choose import Chosen
from data_process.curate.pool import Item, Pool, each_problem
from data_process.io import load_problems, write_json, write_jsonl
from data_process.json_files import read_json
from data_process.prepare.data_card import LISTED, Entry, digest_of, overlaps, row_of, split_card
from data_process.prepare.folder import with_images
from data_process.prepare.images import FOLDER, ImagePlacer
from data_process.prompts import BASE
from data_process.schema import Problem
from data_process.sources.base import SPLITS, SourceImage
from data_process.sources.base import Item as SourceItem

OTHERS = ("dev", "test", "hard")  # splits that are taken over as they are
MOST = 12  # domains that the card lists


@dataclass(frozen=True)
class About:
    """What the card says besides counts."""

    policy: str
    seed: int
    length: str  # what lengths are, with their unit


def write_folder(root: Path, pool: Pool, chosen: Chosen, about: About, *, link: bool) -> dict[str, Any]:
    """Writes the splits and images under `root`; returns the card, which `write_card` writes last."""
    placer = ImagePlacer(root, link)
    kept = {item.id for item in pool.items if item.kept}
    splits = {"train": [_entry(problem, pool.root, placer) for problem in each_problem(pool.path, pool.root, kept)]}
    folder = pool.path.parent
    for name in OTHERS:
        if (folder / f"{name}.jsonl").is_file() and folder / f"{name}.jsonl" != pool.path:
            problems = load_problems(folder / f"{name}.jsonl", pool.root)
            splits[name] = [_entry(problem, pool.root, placer) for problem in problems]
    for name, entries in splits.items():
        write_jsonl(root / f"{name}.jsonl", (row_of(entry.problem) for entry in entries))
    if load_problems(root / "train.jsonl", root) != [entry.problem for entry in splits["train"]]:
        raise RuntimeError("train.jsonl reads back differently from what was written")
    return _card(pool, chosen, about, splits)


def _entry(problem: Problem, root: Path, placer: ImagePlacer) -> Entry:
    images = tuple(SourceImage(name.removeprefix(f"{FOLDER}/"), (root / name,)) for name in problem.images)
    entry = with_images(problem, SourceItem({}, images), placer, "count")
    if not entry.unusable and problem.meta.get("stand_in"):
        return Entry(entry.problem, entry.placed, stand_in=True)
    return entry


def _card(pool: Pool, chosen: Chosen, about: About, splits: dict[str, list[Entry]]) -> dict[str, Any]:
    card_file = pool.path.parent / "card.json"
    known = read_json(card_file, "restore it, or remove it") if card_file.is_file() else {}
    left = [item for item in pool.items if not item.kept]
    what = f"train has {len(pool.items) - len(left):,} of {len(pool.items):,} problems of {pool.path}"
    remarks = [f"{what}, chosen by the policy {about.policy} (seed {about.seed})"]
    remarks += [*map(str, chosen.steps), *chosen.remarks]
    missing = [name for name in ("dev", "test") if name not in splits]
    if missing:
        remarks.append(f"the pool has no {' and no '.join(missing)}, which a run needs")
    return {
        "source": known.get("source", pool.path.parent.name or "pool"),
        "licence": known.get("licence", "as the pool's"),
        "citation": known.get("citation", "as the pool's"),
        "prompts": known.get("prompts", BASE),
        "judge": known.get("judge", "auto"),
        "raw": str(pool.path),
        "split_names": {name: name for name in splits},
        "options": {},
        "seed": about.seed,
        "digest": digest_of([entry for entries in splits.values() for entry in entries]),
        "remarks": remarks,
        "left_out": [f"{item.id}: {item.by}, {item.why}" for item in left if item.by != "draw"][:LISTED],
        "splits": {name: split_card(entries) for name, entries in splits.items()},
        "overlaps": overlaps({name: splits[name] for name in (*SPLITS, "hard") if name in splits}),
        "curated": {
            "policy": about.policy,
            "steps": [step.to_json() for step in chosen.steps],
            "length": about.length,
            "lengths": {name: length_summary(some) for name, some in both(pool.items).items()},
            "domains": domain_counts(both(pool.items)),
        },
    }


def both(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The pool, and what was chosen of it."""
    return {"pool": list(items), "train": [item for item in items if item.kept]}


def length_summary(items: Sequence[Item]) -> dict[str, float]:
    """Of the items whose length is known."""
    lengths = sorted(item.length for item in items if item.length is not None)
    if not lengths:
        return {"items": 0}
    n = len(lengths)
    p95 = lengths[min(n - 1, int(0.95 * n))]
    return {"items": n, "mean": round(sum(lengths) / n, 2), "median": median(lengths), "p95": p95, "max": lengths[-1]}


def domain_counts(items: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
    """How many domains there are on each side, and the counts of those that are most frequent in the first."""
    counts = {side: Counter(str(i.domain) for i in some if i.domain is not None) for side, some in items.items()}
    first = next(iter(counts.values()))
    most = sorted(first, key=lambda name: (-first[name], name))[:MOST]
    return {
        "different": {side: len(found) for side, found in counts.items()},
        "most": {name: {side: found[name] for side, found in counts.items()} for name in most},
    }


def write_card(root: Path, card: dict[str, Any]) -> None:
    write_json(root / "card.json", card)
