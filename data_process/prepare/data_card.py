"""The data card of a prepared folder: counts that add up, as JSON and as text."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from data_process.prepare.holdout import question_key
from data_process.prepare.images import PlacedImage
from data_process.schema import Problem, shown, with_image_field

LISTED = 10  # examples listed beside each count
Key = tuple[str, tuple[str, ...], tuple[str, ...]]  # question, choices, contents of the images


@dataclass(frozen=True)
class Entry:
    """A prepared problem and its images."""

    problem: Problem
    placed: tuple[PlacedImage, ...] = ()  # its images without the unusable ones
    unusable: str | None = None  # why an image cannot be used: missing, empty, unreadable
    stand_in: bool = False  # an unusable image was replaced by a drawn one
    wanted: tuple[str, ...] = ()  # names of the source's own images that are unusable
    notes: tuple[str, ...] = ()

    def contents(self, *, unusable: bool) -> tuple[str, ...]:
        """What tells its images from others: digests. With `unusable`, an unusable image counts by its name."""
        own = () if self.stand_in else tuple(placed.digest for placed in self.placed)
        return own + self.wanted if unusable else own


def row_of(problem: Problem, *, labelled: bool = True) -> dict[str, Any]:
    """The row that `load_problems` reads back as this problem, without the answer if it is not `labelled`."""
    fields = with_image_field(vars(problem))
    row = {key: value for key, value in fields.items() if value not in (None, (), {}) and value is not False}
    if problem.choices:
        row["choices"] = list(problem.choices)
    if not labelled:
        del row["answer"]
    return row


def digest_of(entries: Iterable[Entry]) -> str:
    """16 hex digits over every row and every image's bytes, in order."""
    digest = hashlib.sha256()
    for entry in entries:
        digests = [placed.digest for placed in entry.placed]
        # One image, or none, is written as in folders of before.
        content = digests if len(entry.problem.images) > 1 else digests[0] if digests else None
        digest.update(json.dumps([row_of(entry.problem), content], sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def split_card(entries: Sequence[Entry], *, labelled: bool = True) -> dict[str, Any]:
    """The numbers of one split; rates are fractions in [0, 1]."""
    problems = [entry.problem for entry in entries]
    card: dict[str, Any] = {"items": len(entries), "digest": digest_of(entries), "labelled": labelled}
    card["answer_types"] = _sorted(Counter(problem.answer_type for problem in problems))
    choice = [problem for problem in problems if problem.choices]
    if choice:
        card["choices"] = _sorted(Counter(len(problem.choices) for problem in choice))
        card["chance"] = round(sum(1 / len(problem.choices) for problem in choice) / len(choice), 4)
    if labelled and choice:
        letters = Counter(problem.answer for problem in choice)
        card["letters"] = _sorted(letters)
        letter, count = max(letters.items(), key=lambda pair: (pair[1], pair[0]))
        card["majority_letter"] = {"letter": letter, "rate": round(count / len(choice), 4), "of": len(choice)}
    free = [problem for problem in problems if not problem.choices]
    if labelled and free:
        answer, count = max(Counter(p.answer for p in free).items(), key=lambda pair: (pair[1], pair[0]))
        card["majority_answer"] = {"answer": answer, "rate": round(count / len(free), 4), "of": len(free)}
    card["images"] = _images(entries)
    card["duplicates"] = _duplicates(entries, labelled)
    card["languages"] = _sorted(Counter(str(problem.meta.get("language", "not stated")) for problem in problems))
    notes: Counter[str] = Counter(note for entry in entries for note in entry.notes)
    card["notes"] = {
        note: {"count": count, "ids": [e.problem.id for e in entries if note in e.notes][:LISTED]}
        for note, count in sorted(notes.items())
    }
    return card


def _sorted(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(key): counts[key] for key in sorted(counts)}


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def _images(entries: Sequence[Entry]) -> dict[str, Any]:
    """Counts with with_image + text_only + unusable = items. Stand-ins, drawn for unusable images, are counted too."""
    own = {placed.relative: placed for e in entries if not e.stand_in for placed in e.placed}
    unusable = [entry for entry in entries if entry.unusable]
    images: dict[str, Any] = {
        "with_image": sum(1 for e in entries if e.placed and not e.stand_in and not e.unusable),
        "text_only": sum(1 for e in entries if not e.problem.images),
        "unusable": len(unusable),
        "stand_ins": sum(1 for e in entries if e.stand_in),
        "files": len(own),
        "different": len({placed.digest for placed in own.values()}),
    }
    if (most := max((len(e.problem.images) for e in entries), default=0)) > 1:
        images["several"] = {"items": sum(1 for e in entries if len(e.problem.images) > 1), "most": most}
    if unusable:
        images["reasons"] = _sorted(Counter(str(entry.unusable) for entry in unusable))
        images["unusable_ids"] = [f"{e.problem.id} ({e.unusable})" for e in unusable[:LISTED]]
    if own:
        images["width"] = _spread([placed.width for placed in own.values()])
        images["height"] = _spread([placed.height for placed in own.values()])
        images["bytes"] = sum(placed.size for placed in own.values())
    return images


def _key(entry: Entry) -> Key:
    """Equal for equal problems. An unusable image counts by its name, since two of them may differ."""
    return question_key(entry.problem), entry.problem.choices, entry.contents(unusable=True)


def _duplicates(entries: Sequence[Entry], labelled: bool) -> dict[str, Any]:
    """Counts of the problems beyond the first of each group of equal ones."""
    whole: dict[Key, list[Entry]] = {}
    text: Counter[str] = Counter()
    listed: Counter[tuple[str, tuple[str, ...]]] = Counter()
    images: Counter[str] = Counter()
    for entry in entries:
        whole.setdefault(_key(entry), []).append(entry)
        text[question_key(entry.problem)] += 1
        listed[question_key(entry.problem), entry.problem.choices] += 1
        images.update(entry.contents(unusable=False))
    repeated = [group for group in whole.values() if len(group) > 1]
    found: dict[str, Any] = {
        "ids": 0,  # a repeated id is refused
        "question_choices_image": sum(len(group) - 1 for group in repeated),
        "question_choices": sum(listed.values()) - len(listed),
        "question": sum(text.values()) - len(text),
        "image": sum(images.values()) - len(images),
    }
    if repeated:
        found["groups"] = [[entry.problem.id for entry in group] for group in repeated[:LISTED]]
    if labelled:
        found["contradicting"] = [
            [entry.problem.id for entry in group] for group in repeated if len({e.problem.gold_text for e in group}) > 1
        ]
    return found


def overlaps(splits: Mapping[str, Sequence[Entry]]) -> dict[str, dict[str, int]]:
    """Pair such as "train/test" -> how many questions and whole problems of the second split the first has too."""
    found = {}
    names = list(splits)
    for i, first in enumerate(names):
        questions = {question_key(entry.problem) for entry in splits[first]}
        wholes = {_key(entry) for entry in splits[first]}
        for second in names[i + 1 :]:
            found[f"{first}/{second}"] = {
                "question": sum(question_key(entry.problem) in questions for entry in splits[second]),
                "question_choices_image": sum(_key(entry) in wholes for entry in splits[second]),
            }
    return found


def render(card: Mapping[str, Any]) -> str:
    """The card as text."""
    lines = [f"{card['source']}  digest {card['digest']}"]
    lines += [f"  {key}: {card[key]}" for key in ("licence", "citation")]
    lines.append(f"  prompts: {card['prompts']} (in a configuration)  judge: {card['judge']} (of selftrain score)")
    if card["columns"]:
        taken = (f"{name} from {', '.join(map(repr, columns))}" for name, columns in card["columns"].items())
        unused = ", ".join(map(repr, card["unused_columns"]))
        lines.append(f"  columns: {'; '.join(taken)}")
        lines.append(
            f"  unused columns: {unused or 'none'}{' (a field takes one with --map FIELD=COLUMN)' * bool(unused)}"
        )
    lines += [f"  {line}" for line in card["remarks"]]
    lines += [f"    {line}" for line in card["left_out"]]
    for name, split in card["splits"].items():
        lines += ["", f"{name}: {split['items']:,} items, digest {split['digest']}", *_lines(split)]
    for pair, counts in card["overlaps"].items():
        first, _, second = pair.partition("/")
        lines += [] if lines[-1].startswith("overlap") else [""]
        lines.append(
            f"overlap of {second} with {first}: {counts['question']} questions have the same text, "
            f"{counts['question_choices_image']} also the same choices and image"
        )
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {count:,}" for key, count in counts.items())


def _lines(split: Mapping[str, Any]) -> list[str]:
    lines = [f"  answer types: {_counts(split['answer_types'])}"]
    if not split["labelled"]:
        lines.append("  no answers: only for a submission")
    if "chance" in split:
        lines.append(f"  choices per item: {_counts(split['choices'])}; chance {split['chance']:.1%}")
    if "letters" in split:
        top = split["majority_letter"]
        lines.append(
            f"  gold letters: {_counts(split['letters'])}; always answering {top['letter']}: {top['rate']:.1%}"
        )
    if "majority_answer" in split:
        top = split["majority_answer"]
        lines.append(f"  most frequent free answer {shown(top['answer'])}: {top['rate']:.1%} of {top['of']:,}")
    images = split["images"]
    parts = [f"{images['with_image']:,} items with an image ({images['different']:,} different)"]
    if several := images.get("several"):
        parts.append(f"{several['items']:,} with several, at most {several['most']}")
    parts += [f"{images['text_only']:,} text only"] if images["text_only"] else []
    lines.append("  images: " + ", ".join(parts))
    if "width" in images:
        sides = "; ".join(
            f"{side} {images[side]['min']}, {images[side]['median']:g}, {images[side]['max']}"
            for side in ("width", "height")
        )
        lines.append(f"  image sizes in pixels (min, median, max): {sides}; {images['bytes'] / 2**20:.1f} MiB in all")
    if images["unusable"]:
        first = ", ".join(images["unusable_ids"])
        lines.append(f"  UNUSABLE IMAGES: {images['unusable']:,} ({_counts(images['reasons'])}); first: {first}")
    if images["stand_ins"]:
        lines.append(
            f"  DRAWN STAND-INS: {images['stand_ins']:,} (they show nothing of the diagram; expect accuracy at chance)"
        )
    found = split["duplicates"]
    lines.append(
        f"  duplicates: ids {found['ids']}, question+choices+image {found['question_choices_image']}, "
        f"question+choices {found['question_choices']}, question {found['question']}, image {found['image']}"
    )
    if found.get("contradicting"):
        lines.append(
            f"  duplicates with different gold answers: {len(found['contradicting'])}, {found['contradicting'][:3]}"
        )
    lines.append(f"  languages: {_counts(split['languages'])}")
    lines += [
        f"  {note}: {what['count']:,} ({', '.join(what['ids'][:5])}{' ...' if what['count'] > 5 else ''})"
        for note, what in split["notes"].items()
    ]
    return lines


def without_details(why: str) -> str:
    """A reason without quoted and bracketed parts and numbers, which differ from row to row, for counting."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\d+", "…", why)[:100]
