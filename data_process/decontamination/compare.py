"""Two sets of problems side by side: what leaks, and what only looks like it. `leakage` says why it is so."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data_process.decontamination.near_image import Fingerprint, How, Reason, fingerprint, match_images
from data_process.decontamination.near_text import (
    Relation,
    Text,
    Wording,
    WordingMatch,
    matching_wordings,
    read_text,
    relate,
)
from data_process.decontamination.report import BLOCKING, Kind, Leak
from data_process.schema import DataError, Problem

Prints = Mapping[Path, Fingerprint | Reason]
Value = tuple[Wording, tuple[str, ...]]
_LENGTH_UNIT = re.compile(r"(?<=[\d}πi)])\s*(?:[cdkm]?m|units?)(?:\s?\^?\s?[23²³])?\s*$")  # "12m", "4πcm²"
_read = lru_cache(maxsize=2**16)(read_text)  # thousands of MiniGeo problems ask thirty questions


@dataclass(frozen=True, eq=False)
class Group:
    """The problems of one set that nothing tells apart: question, choices, answer and image are equal."""

    ids: tuple[str, ...]  # sorted
    text: Text
    choices: tuple[Value, ...]  # sorted
    answer: Value
    drawn: bool  # has an image
    image: str | None  # the digest of its file; None: there is none, or it could not be compared


def _value(text: str) -> Value:
    """An answer or choice as it is compared: "145.0" is "145°", "12m" is "12"; values agree to four digits."""
    value = _read(_LENGTH_UNIT.sub("", text))
    if value.words == ("#",):
        return ("#",), (f"{float(value.numbers[0]):.4g}",)
    return value.key if value.words else ((text.strip(),), ())


def group_problems(
    problems: Sequence[Problem], folder: Path | None, prints: dict[Path, Fingerprint | Reason]
) -> tuple[list[Group], dict[str, int]]:
    """The problems grouped, and those whose image cannot be compared counted by reason; fills `prints`."""
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images; check the path")
    reasons: Counter[str] = Counter()
    grouped: dict[tuple, list[str]] = defaultdict(list)
    texts: dict[Value, Text] = {}
    for problem in problems:
        image = None
        if problem.image is not None:
            if folder is None:
                reasons["no_folder"] += 1
            else:
                path = folder / problem.image
                if path not in prints:
                    prints[path] = fingerprint(path)
                found = prints[path]
                if isinstance(found, str):
                    reasons[found] += 1
                else:
                    image = found.digest
        letters = problem.letters
        gold = problem.choices[letters.index(problem.answer)] if problem.answer in tuple(letters) else problem.answer
        text = _read(problem.question)
        # Capitals show labels, so equal texts in other capitals may know of others; all of them count.
        known = texts.get(text.key, text)
        texts[text.key] = Text(text.words, text.numbers, text.labels | known.labels)
        choices = tuple(sorted(map(_value, problem.choices)))
        grouped[text.key, choices, _value(gold), problem.image is not None, image].append(problem.id)
    groups = [
        Group(tuple(sorted(ids)), texts[key], choices, answer, drawn, image)
        for (key, choices, answer, drawn, image), ids in grouped.items()
    ]
    return sorted(groups, key=lambda group: group.ids), dict(sorted(reasons.items()))


class Comparison:
    """The training set against one test set."""

    def __init__(self, name: str, train: list[Group], test: list[Group], prints: Prints) -> None:
        self.name, self.train, self.test = name, train, test
        self.prints = {p.digest: p for p in prints.values() if not isinstance(p, str)}
        # The training groups by wording and numbers, and by image and wording.
        self.worded: dict[Wording, dict[tuple[str, ...], list[Group]]] = defaultdict(lambda: defaultdict(list))
        self.shown: dict[str, dict[Wording, list[Group]]] = defaultdict(lambda: defaultdict(list))
        answers: dict[Value, set[Value]] = defaultdict(set)
        for group in train:
            self.worded[group.text.words][group.text.numbers].append(group)
            if group.image is not None:
                self.shown[group.image][group.text.words].append(group)
        for group in (*train, *test):
            answers[group.text.key].add(group.answer)
        self.telling = {key for key, values in answers.items() if len(values) == 1}
        self.alike: dict[Wording, list[WordingMatch]] = defaultdict(list)
        for match in matching_wordings(set(self.worded), {group.text.words for group in test}):
            self.alike[match.test].append(match)
        self.blocked: dict[tuple[str, str], Leak] = {}  # by test and train id
        self.notes: dict[tuple[Kind, str], Leak] = {}  # by test id: the closest

    def leaks(self) -> list[Leak]:
        matched = self._by_image()
        self._by_words(matched)
        leaked = {test for test, _ in self.blocked}
        return [*self.blocked.values(), *(note for (_, test), note in self.notes.items() if test not in leaked)]

    def _add(
        self, kind: Kind, train: Group, test: Group, score: float, text: Relation | None, how: How | None = None
    ) -> None:
        if kind in BLOCKING:  # every id once: n + m - 1 pairs for n copies that meet m
            pairs = {(test_id, train.ids[0]) for test_id in test.ids} | {(test.ids[0], other) for other in train.ids}
            for test_id, train_id in pairs:
                self.blocked[test_id, train_id] = Leak(kind, self.name, test_id, train_id, score, text, how)
            return
        for test_id in test.ids:
            old = self.notes.get((kind, test_id))
            if old is None or (-score, train.ids[0]) < (-old.score, old.train_id):
                self.notes[kind, test_id] = Leak(kind, self.name, test_id, train.ids[0], score, text, how)

    def _related(self, test: Group, among: Mapping[Wording, list[Group]]) -> Iterator[tuple[Group, Relation, float]]:
        for match in self.alike[test.text.words]:
            for train in among.get(match.train, ()):
                relation = relate(train.text, test.text, match)
                if relation != "variant":
                    yield train, relation, round(match.score, 4)

    def _by_image(self) -> set[tuple[str, str]]:
        """Finds what shares an image; returns the (train, test) digests of the images that match."""
        shown: dict[str, list[Group]] = defaultdict(list)
        for group in self.test:
            if group.image is not None:
                shown[group.image].append(group)
        mine, theirs = sorted(self.shown), sorted(shown)
        matches = match_images([self.prints[d] for d in mine], [self.prints[d] for d in theirs])
        for match in matches:
            by_wording = self.shown[mine[match.train]]
            for test in shown[theirs[match.test]]:
                leaked = False
                for train, relation, score in self._related(test, by_wording):
                    # A near image may differ in a digit; then the answer or the choices do.
                    sure = match.how != "near" or (test.choices and train.choices == test.choices)
                    if train.answer == test.answer or (relation == "same" and sure):
                        self._add("item", train, test, score, relation, match.how)
                        leaked = True
                if not leaked:
                    first = min((group for groups in by_wording.values() for group in groups), key=lambda g: g.ids)
                    self._add("image", first, test, match.score, None, match.how)
        return {(mine[match.train], theirs[match.test]) for match in matches}

    def _by_words(self, matched: set[tuple[str, str]]) -> None:
        for test in self.test:
            for match in self.alike[test.text.words]:
                by_numbers = self.worded[match.train]
                score = round(match.score, 4)
                if match.contained:
                    equal = [group for groups in by_numbers.values() for group in groups]
                else:  # then only equal numbers can be more than a variant
                    equal = by_numbers.get(test.text.numbers, [])
                    self._note_variant(test, match, by_numbers)
                for train in equal:
                    if train.image is not None and test.image is not None:
                        if (
                            train.answer == test.answer
                            and {train.text.key, test.text.key} <= self.telling
                            and (train.image, test.image) not in matched
                            and (relation := relate(train.text, test.text, match)) != "variant"
                        ):
                            self._add("other_image", train, test, score, relation)
                        continue
                    relation = relate(train.text, test.text, match)
                    if kind := self._kind(train, test, relation):
                        self._add(kind, train, test, score, relation)

    def _kind(self, train: Group, test: Group, relation: Relation) -> Kind | None:
        """What two problems of like wording are of which at least one has no image to compare."""
        same_answer = train.answer == test.answer
        if relation == "variant":
            return "other_values"
        if not train.drawn and not test.drawn:
            open_form = not train.choices or not test.choices or train.choices == test.choices
            return "text" if same_answer or (relation == "same" and open_form) else "other_values"
        if not same_answer:
            return None
        return "unseen" if {train.text.key, test.text.key} <= self.telling else "template"

    def _note_variant(
        self, test: Group, match: WordingMatch, by_numbers: Mapping[tuple[str, ...], list[Group]]
    ) -> None:
        """One training problem of the same wording with other numbers, unless the images tell the two apart."""
        for numbers, groups in by_numbers.items():
            if numbers != test.text.numbers:
                for train in groups:
                    if train.image is None or test.image is None:
                        self._add("other_values", train, test, round(match.score, 4), "variant")
                        return
