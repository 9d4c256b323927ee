"""Compares two sets of problems: finds leaks, and pairs that only look like leaks. `guard` explains the rules."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data_process import prompts as wording
from data_process.decontamination.near_image import (
    HOW,
    Fingerprint,
    How,
    IncomparableReason,
    confirmed,
    fingerprint,
    propose_images,
)
from data_process.decontamination.near_text import (
    Relation,
    Text,
    Wording,
    WordingMatch,
    matching_wordings,
    read_text,
    relate,
)
from data_process.decontamination.report import BLOCKING, Leak, LeakKind
from data_process.images.marks import without_marks
from data_process.schema import DataError, Problem

NOTED = 2  # near images of unrelated questions, the closest, that are compared as a whole for each test image
Prints = Mapping[Path, Fingerprint | IncomparableReason]
Value = tuple[Wording, tuple[str, ...]]
Images = tuple[str, ...]
_LENGTH_UNIT = re.compile(r"(?<=[\d}πi)])\s*(?:[cdkm]?m|units?)(?:\s?\^?\s?[23²³])?\s*$")  # "12m", "4πcm²"
_read = lru_cache(maxsize=2**16)(read_text)  # thousands of MiniGeo problems share thirty questions


@dataclass(frozen=True, eq=False)
class ProblemGroup:
    """Problems of one set with the same question, choices, answer and images."""

    ids: tuple[str, ...]  # sorted
    text: Text
    choices: tuple[Value, ...]  # sorted
    answer: Value
    drawn: bool  # has an image
    images: Images  # digests of their files in order; (): there is none, or one of them cannot be compared


def _value(text: str) -> Value:
    """An answer or choice in the form that is compared: "145.0" is "145°", "12m" is "12", numbers have four digits."""
    value = _read(_LENGTH_UNIT.sub("", text))
    if value.words == ("#",):
        return ("#",), (f"{float(value.numbers[0]):.4g}",)
    return value.key if value.words else ((text.strip(),), ())


def group_problems(
    problems: Sequence[Problem], folder: Path | None, prints: dict[Path, Fingerprint | IncomparableReason]
) -> tuple[list[ProblemGroup], dict[str, int]]:
    """The problems in groups, and counts by reason of images that cannot be compared. Adds to `prints`."""
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check the path of the images")
    reasons: Counter[str] = Counter()
    grouped: dict[tuple[Value, tuple[Value, ...], Value, bool, Images], list[str]] = defaultdict(list)
    texts: dict[Value, Text] = {}
    for problem in problems:
        images: list[str] = []
        for name in wording.images(problem):
            if folder is None:
                found: Fingerprint | IncomparableReason = "no_folder"
            else:
                path = folder / name
                if path not in prints:
                    prints[path] = fingerprint(path)
                found = prints[path]
            if isinstance(found, str):
                reasons[found] += 1
                images = []
                break
            images.append(found.digest)
        letters = problem.letters
        gold = problem.choices[letters.index(problem.answer)] if problem.answer in tuple(letters) else problem.answer
        text = _read(without_marks(problem.full_question) if problem.images else problem.full_question)
        # Capitals mark labels, so texts that differ only in case may show different labels; all of them count.
        known = texts.get(text.key, text)
        texts[text.key] = Text(text.words, text.numbers, text.labels | known.labels)
        choices = tuple(sorted(map(_value, problem.choices)))
        grouped[text.key, choices, _value(gold), bool(problem.images), tuple(images)].append(problem.id)
    groups = [
        ProblemGroup(tuple(sorted(ids)), texts[key], choices, answer, drawn, images)
        for (key, choices, answer, drawn, images), ids in grouped.items()
    ]
    return sorted(groups, key=lambda group: group.ids), dict(sorted(reasons.items()))


UNKNOWN = _value("")  # the answer of a training problem without a label: it may be any


def _agree(train: ProblemGroup, test: ProblemGroup) -> bool:
    """Whether the two may have the same answer."""
    return train.answer in (test.answer, UNKNOWN)


class LeakSearch:
    """The search for leaks between the training set and one test set."""

    def __init__(self, name: str, train: list[ProblemGroup], test: list[ProblemGroup], prints: Prints) -> None:
        self.name, self.train, self.test = name, train, test
        self.prints = {p.digest: p for p in prints.values() if not isinstance(p, str)}
        # The training groups by wording and numbers, and by images and wording.
        self.worded: dict[Wording, dict[tuple[str, ...], list[ProblemGroup]]] = defaultdict(lambda: defaultdict(list))
        self.shown: dict[Images, dict[Wording, list[ProblemGroup]]] = defaultdict(lambda: defaultdict(list))
        answers: dict[Value, set[Value]] = defaultdict(set)
        for group in train:
            self.worded[group.text.words][group.text.numbers].append(group)
            if group.images:
                self.shown[group.images][group.text.words].append(group)
        for group in (*train, *test):
            if group.answer != UNKNOWN:
                answers[group.text.key].add(group.answer)
        self.unambiguous = {key for key, values in answers.items() if len(values) == 1}
        self.wording_matches: dict[Wording, list[WordingMatch]] = defaultdict(list)
        for match in matching_wordings(set(self.worded), {group.text.words for group in test}):
            self.wording_matches[match.test].append(match)
        self.blocked: dict[tuple[str, str], Leak] = {}  # by test and train id
        self.notes: dict[tuple[LeakKind, str], Leak] = {}  # by test id: the closest

    def leaks(self) -> list[Leak]:
        matched = self._by_image()
        self._by_words(matched)
        leaked = {test for test, _ in self.blocked}
        return [*self.blocked.values(), *(note for (_, test), note in self.notes.items() if test not in leaked)]

    def _add(
        self,
        kind: LeakKind,
        train: ProblemGroup,
        test: ProblemGroup,
        score: float,
        text: Relation | None,
        how: How | None = None,
    ) -> None:
        if kind in BLOCKING:  # every id appears: n + m - 1 pairs where n copies meet m
            pairs = {(test_id, train.ids[0]) for test_id in test.ids} | {(test.ids[0], other) for other in train.ids}
            for test_id, train_id in pairs:
                self.blocked[test_id, train_id] = Leak(kind, self.name, test_id, train_id, score, text, how)
            return
        for test_id in test.ids:
            old = self.notes.get((kind, test_id))
            if old is None or (-score, train.ids[0]) < (-old.score, old.train_id):
                self.notes[kind, test_id] = Leak(kind, self.name, test_id, train.ids[0], score, text, how)

    def _related(
        self, test: ProblemGroup, among: Mapping[Wording, list[ProblemGroup]]
    ) -> Iterator[tuple[ProblemGroup, Relation, float]]:
        for match in self.wording_matches[test.text.words]:
            for train in among.get(match.train, ()):
                relation = relate(train.text, test.text, match)
                if relation != "variant":
                    yield train, relation, round(match.score, 4)

    def _proposed(self, test: Iterable[Images]) -> Iterator[tuple[Images, Images, How, float]]:
        """(train, test, how, score) of the problems' images that may be the same: as many, and pairwise in order.

        `how` and `score` are those of the pair that is least alike. The closest of each test image come first.
        """
        sides = [sorted({digest for images in of for digest in images}) for of in (self.shown, test)]
        matches = propose_images(*([self.prints[digest] for digest in side] for side in sides))
        pairs = {(sides[0][match.train], sides[1][match.test]): match for match in matches}
        beginning: dict[str, list[Images]] = defaultdict(list)
        for images in sorted(self.shown):
            beginning[images[0]].append(images)
        first: dict[str, list[str]] = defaultdict(list)  # of test: the training images that may be the same
        for train_digest, test_digest in pairs:
            first[test_digest].append(train_digest)
        for theirs in sorted(test):
            proposed = []
            for mine in (images for digest in first[theirs[0]] for images in beginning[digest]):
                found = [pairs.get(pair) for pair in zip(mine, theirs, strict=False)]
                alike = [match for match in found if match is not None]
                if len(mine) == len(theirs) == len(alike):
                    worst = min(alike, key=lambda match: (-HOW.index(match.how), match.score))
                    proposed.append((mine, theirs, worst.how, worst.score))
            yield from sorted(proposed, key=lambda pair: (-pair[3], pair[0]))

    def _by_image(self) -> set[tuple[Images, Images]]:
        """Adds the pairs that share their images; returns the (train, test) digests of the images that match."""
        shown: dict[Images, list[ProblemGroup]] = defaultdict(list)
        for group in self.test:
            if group.images:
                shown[group.images].append(group)
        found: set[tuple[Images, Images]] = set()
        tried: Counter[Images] = Counter()
        for mine, theirs, how, image_score in self._proposed(shown):
            by_wording, exact = self.shown[mine], how != "near"
            leaks = [
                (train, test, relation, score)
                for test in shown[theirs]
                for train, relation, score in self._related(test, by_wording)
                # A near image may differ in what is asked, and then the answer does.
                if _agree(train, test) or (relation == "same" and exact)
            ]
            if not exact:
                tried[theirs] += not leaks
                if not leaks and tried[theirs] > NOTED:
                    continue
                if not all(self._same(*pair) for pair in zip(mine, theirs, strict=True)):
                    continue
            found.add((mine, theirs))
            for train, test, relation, score in leaks:
                self._add("item", train, test, score, relation, how)
            leaked = {test.ids for _, test, _, _ in leaks}
            first = min((group for groups in by_wording.values() for group in groups), key=lambda g: g.ids)
            for test in shown[theirs]:
                if test.ids not in leaked:
                    self._add("image", first, test, image_score, None, how)
        return found

    def _same(self, mine: str, theirs: str) -> bool:
        """Whether two images, of which one was proposed for the other, show the same."""
        train, test = self.prints[mine], self.prints[theirs]
        return train.pixels == test.pixels or confirmed(train, test)

    def _by_words(self, matched: set[tuple[Images, Images]]) -> None:
        for test in self.test:
            for match in self.wording_matches[test.text.words]:
                by_numbers = self.worded[match.train]
                score = round(match.score, 4)
                if match.contained:
                    equal = [group for groups in by_numbers.values() for group in groups]
                else:  # then only equal numbers can be more than a variant
                    equal = by_numbers.get(test.text.numbers, [])
                    self._note_variant(test, match, by_numbers)
                for train in equal:
                    if train.images and test.images:
                        if (
                            _agree(train, test)
                            and {train.text.key, test.text.key} <= self.unambiguous
                            and (train.images, test.images) not in matched
                            and (relation := relate(train.text, test.text, match)) != "variant"
                        ):
                            self._add("other_image", train, test, score, relation)
                        continue
                    relation = relate(train.text, test.text, match)
                    if kind := self._kind(train, test, relation):
                        self._add(kind, train, test, score, relation)

    def _kind(self, train: ProblemGroup, test: ProblemGroup, relation: Relation) -> LeakKind | None:
        """The kind of a pair of similar wording in which at least one problem has no image to compare."""
        same_answer = _agree(train, test)
        if relation == "variant":
            return "other_values"
        if not train.drawn and not test.drawn:
            open_form = not train.choices or not test.choices or train.choices == test.choices
            return "text" if same_answer or (relation == "same" and open_form) else "other_values"
        if not same_answer:
            return None
        return "unseen" if {train.text.key, test.text.key} <= self.unambiguous else "template"

    def _note_variant(
        self, test: ProblemGroup, match: WordingMatch, by_numbers: Mapping[tuple[str, ...], list[ProblemGroup]]
    ) -> None:
        """Adds one training problem of the same wording with other numbers, unless images tell the two apart."""
        for numbers, groups in by_numbers.items():
            if numbers != test.text.numbers:
                for train in groups:
                    if not train.images or not test.images:
                        self._add("other_values", train, test, round(match.score, 4), "variant")
                        return
