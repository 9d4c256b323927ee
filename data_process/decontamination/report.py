"""The result of a leakage check: the leaking pairs, counts, a summary as text and the whole as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from data_process.decontamination.known_overlaps import SourceOverlap
from data_process.decontamination.near_image import How
from data_process.decontamination.near_text import Relation

LeakKind = Literal["item", "text", "unseen", "image", "other_image", "template", "other_values"]
LEAK_KINDS: tuple[LeakKind, ...] = get_args(LeakKind)

# A leak is a training problem from which the answer to a test problem can be remembered.
BLOCKING: frozenset[LeakKind] = frozenset({"item", "text", "unseen"})

MEANING: Mapping[LeakKind, str] = {
    "item": "the same image and question",
    "text": "the same question and answer or choices; neither has an image",
    "unseen": "the same question and answer; an image could not be compared, and the words identify the problem",
    "image": "the same image, another question or answer",
    "other_image": "the same question and answer, another image",
    "template": "the same question and answer, an image could not be compared, and the words fit several problems",
    "other_values": "the same wording, other numbers, labels or answer; no images to compare",
}


@dataclass(frozen=True)
class Leak:
    """One pair of a training and a test problem that are too similar."""

    kind: LeakKind
    test_set: str
    test_id: str
    train_id: str
    score: float  # in (0, 1]: of the texts (Jaccard or containment), of the images where kind is "image"
    text: Relation | None  # between the questions; None: different
    image: How | None  # why the images are the same; None: they are not, or were not compared

    @property
    def blocking(self) -> bool:
        return self.kind in BLOCKING


@dataclass(frozen=True)
class LeakReport:
    """All leaks between a training set and test sets.

    Every training id and test id of a blocking kind is in at least one pair; where several copies meet several copies,
    not every pair is listed. Of each other kind, a test problem has only its closest pair.
    """

    leaks: tuple[Leak, ...]  # sorted
    sources: tuple[SourceOverlap, ...]
    n_train: int  # problems
    n_test: Mapping[str, int]  # by test set
    # Problems whose image was not compared, by reason: {"train": {"missing": 3}, "test": {...}}, test sets by name.
    uncompared: Mapping[str, Mapping[str, int]]

    @property
    def blocking(self) -> bool:
        """Whether anything found forbids training on the one set and reporting on the other."""
        return any(leak.blocking for leak in self.leaks) or any(overlap.blocking for overlap in self.sources)

    def counts(self) -> dict[LeakKind, dict[str, int]]:
        """By kind: the pairs listed, and the different training and test problems in them."""
        pairs = Counter(leak.kind for leak in self.leaks)
        return {
            kind: {
                "pairs": pairs[kind],
                "train": len({leak.train_id for leak in self.leaks if leak.kind == kind}),
                "test": len({(leak.test_set, leak.test_id) for leak in self.leaks if leak.kind == kind}),
            }
            for kind in LEAK_KINDS
        }

    def train_ids(self) -> frozenset[str]:
        """Ids of the training problems that leak, without those of overlapping sources; see `guard.clean`."""
        return frozenset(leak.train_id for leak in self.leaks if leak.blocking)

    def test_ids(self) -> dict[str, frozenset[str]]:
        """By test set, ids of the problems that leak."""
        found: dict[str, set[str]] = defaultdict(set)
        for leak in self.leaks:
            if leak.blocking:
                found[leak.test_set].add(leak.test_id)
        return {name: frozenset(found[name]) for name in self.n_test}

    def to_json(self) -> dict[str, Any]:
        """A dict for JSON: verdict, sizes, counts by kind, overlaps of sources, and every listed pair."""
        return {
            "blocking": self.blocking,
            "n_train": self.n_train,
            "n_test": dict(self.n_test),
            "uncompared": {name: dict(reasons) for name, reasons in self.uncompared.items()},
            "counts": self.counts(),
            "leaking_train": len(self.train_ids()),
            "leaked_test": {name: len(ids) for name, ids in self.test_ids().items()},
            "sources": [asdict(overlap) for overlap in self.sources],
            "leaks": [{**asdict(leak), "blocking": leak.blocking} for leak in self.leaks],
        }

    def summary(self) -> str:
        """A few lines for a terminal or an error message."""
        sizes = ", ".join(f"{n} in {name}" for name, n in self.n_test.items()) or "no test set"
        lines = [f"{self.n_train} training problems against {sizes}"]
        for name, reasons in self.uncompared.items():
            if reasons:
                why = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
                lines.append(f"images of {name} not compared: {why}")
        for kind, count in self.counts().items():
            if count["pairs"]:
                verdict = "LEAK " if kind in BLOCKING else "note "
                lines.append(
                    f"{verdict}{kind}: {count['train']} training, {count['test']} test problems: {MEANING[kind]}"
                )
        for o in self.sources:
            verdict = "LEAK " if o.blocking else "note "
            lines.append(
                f"{verdict}source: {o.n_train} training problems of {o.train_source}; "
                f"{o.n_test} problems of {o.test_set} are from {o.test_source}"
            )
        lines.append("leaks found" if self.blocking else "no blocking leaks found")
        return "\n".join(lines)
