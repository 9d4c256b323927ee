"""Finds questions of two sets that say the same: MinHash LSH proposes pairs, their exact overlap decides.

A question's wording is its words with "#" in place of each number, so that the same wording with other numbers is found
and told apart. Two questions are

* "same": word for word, number for number, after case, punctuation, spacing, markup and number forms are levelled;
* "near": their word bigrams overlap (Jaccard at least JACCARD), or the shorter lies in the longer (CONTAINMENT), with
  the same numbers in the same order and the same labels;
* "variant": as near as that, but with other numbers or labels, so a different question in the same wording.

MinHash and its banding: Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3.
Prefix filtering, which finds what one text contains of another: Chaudhuri, Ganti, Kaushik 2006.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datasketch import MinHash

Relation = Literal["same", "near", "variant"]
Wording = tuple[str, ...]

NGRAM = 2  # words. A replaced word costs two bigrams on each side, so JACCARD forgives one in nine words or more;
JACCARD = 0.6  # trigrams would need eleven words and a lower threshold for the same
CONTAINMENT = 0.9  # of the shorter question's bigrams: a question inside a prompt, or with a sentence added
MIN_CONTAINED = 10  # words of the shorter one; "what is the area of the triangle" lies in many other questions
# Bands and rows of the proposals: a pair of Jaccard 0.6 is found with probability 1 - (1 - 0.6^3)^42 = 99.996%.
# benchmarks/leakage.py counts what is missed among real questions.
BANDS, ROWS = 42, 3
SEED = 1  # of the permutations: the same questions give the same proposals

_SYMBOLS = str.maketrans(
    {
        "∠": " angle ", "△": " triangle ", "Δ": " triangle ", "▱": " parallelogram ", "⊥": " perpendicular ",
        "∥": " parallel ", "⊙": " circle ", "π": " pi ", "√": " sqrt ", "≌": " congruent ", "≅": " congruent ",
        "∽": " similar ", "°": " degrees ", "º": " degrees ", "˚": " degrees ", "∘": " degrees ",
        "'": "", "’": "", "′": "", "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "²": "^2", "³": "^3",
        "≤": "<", "≥": ">", "%": " percent ",
    }
)  # fmt: skip
# Markup that changes how a formula looks, not what it says. `^\circ` is a degree sign.
_MARKUP = tuple(
    (re.compile(pattern, re.IGNORECASE), plain)
    for pattern, plain in (
        (r"\^?\s?\{?\s?\\(?:circ|degree)(?![a-z])\s?\}?", " degrees "),
        (r"\\?\b[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}", r" \1/\2 "),
        (r"\\(?:times|cdot)(?![a-z])", "*"),
        (r"\\div(?![a-z])", "/"),
        (r"\\(?:leq?|lt)(?![a-z])", "<"),
        (r"\\(?:geq?|gt)(?![a-z])", ">"),
        (r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|operatorname|left|right|displaystyle|q?quad)(?![a-z])", " "),
        (r"\*\*|\\[,;!: ]", " "),
        (r"//|\\parallel(?![a-z])", " parallel "),
        (r"\\perp(?![a-z])", " perpendicular "),
    )
)
# Phrases that question sheets put around the question; GeoQA's two public forms differ in them.
_BOILERPLATE = re.compile(
    r"^\s*calculation\b"
    r"|\b(?:as |is |are )?(?:shown )?in the (?:given )?(?:figure|diagram)(?: below| above)?(?![^\W_])",
    re.IGNORECASE,
)
_CJK = r"[\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af]"
_TOKEN = re.compile(
    r"(?P<number>(?:(?<![\w.)\]}])-)?(?:\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+))"
    rf"|(?P<cjk>{_CJK})"  # written without spaces: one sign, one word
    rf"|(?P<word>(?:(?!{_CJK})[^\W\d_])+)"
    r"|(?P<operator>[+*/^<>]|(?<=[\w)\]}])\s?-(?=\s?[\d(]))"  # a hyphen between words is none
)
# Words of up to three letters that are neither a label (A, BC, ABC), a unit nor a function (sin, log).
_SHORT = """
a all an and any are as at be big but by can did do end far few for get had has he her him his how i if in is it its
let lie low may new no nor not now of off old on one or our out own per put run say see set she six so ten the to too
top two up use via was way we who why you
"""
_SHORT_WORDS = frozenset(_SHORT.split())


@dataclass(frozen=True)
class Text:
    """A question in the form that is compared. `words` has "#" for each of `numbers`."""

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    labels: frozenset[str]  # words that name something (points, units, functions): changing one changes the question

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Equal for texts that are the same."""
        return self.words, self.numbers


def canonical_number(digits: str) -> str:
    """One spelling of a plain decimal: "80.0", "080" and "80" are "80"; "1,000" is "1000"; "-.5" is "-0.5"."""
    sign = "-" if digits.startswith("-") else ""
    whole, _, fraction = digits.removeprefix("-").replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    return sign + (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def read_text(text: str) -> Text:
    """`text` with case, punctuation, spacing ("A B C" is "ABC"), markup, number forms and boilerplate levelled.

    Operators remain as words: "2 + 3" and "2 * 3" are different questions. It raises for no Unicode text.
    """
    text = " ".join(text.split())  # also keeps the patterns' optional spaces to one
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    text = _BOILERPLATE.sub(" ", unicodedata.normalize("NFKC", text.translate(_SYMBOLS)))
    mixed_case = any(c.islower() for c in text)  # else capitals say nothing about labels
    words: list[str] = []
    numbers: list[str] = []
    labels: set[str] = set()
    spelled: list[str] = []  # single letters set apart: "A B C"

    def add(word: str) -> None:
        folded = word.casefold()
        words.append(folded)
        short = len(word) <= 3 or bool(spelled)
        named = mixed_case and word.isupper() and len(word) <= 6
        if word.isascii() and (named or (short and folded not in _SHORT_WORDS)):
            labels.add(folded)

    def close() -> None:
        if len(spelled) > 1 and spelled[0] == "a" and spelled[1].isupper():
            words.append(spelled.pop(0))  # the article before a label
        if spelled:
            add("".join(spelled))
            spelled.clear()

    end = 0
    for match in _TOKEN.finditer(text):
        token, between, end = match.group(), text[end : match.start()], match.end()
        if match["word"] and len(token) == 1 and token.isascii():
            if between.strip():
                close()
            spelled.append(token)
            continue
        close()
        if match["number"]:
            words.append("#")
            numbers.append(canonical_number(token))
        elif match["operator"]:
            add(token.strip())
        elif match["cjk"]:
            words.append(token)
        elif not (token.casefold() in ("degree", "degrees") and words and words[-1] == "#" and not between.strip()):
            add(token)  # "degrees" after a number is the sign that others leave out
    close()
    return Text(tuple(words), tuple(numbers), frozenset(labels))


@dataclass(frozen=True)
class WordingMatch:
    """Two near wordings. `score` in (0, 1]: the Jaccard of their bigrams, or where `contained` the share that is."""

    train: Wording
    test: Wording
    score: float
    contained: bool = False


def relate(train: Text, test: Text, match: WordingMatch) -> Relation:
    """The relation of two questions whose wordings match.

    Labels are compared as one run of letters, so that "points A, B" equals "points A B" and "AB". A question contained
    in a longer one must have its numbers and labels there in the same order; others may come between.
    """
    if train.words == test.words:
        return "same" if train.numbers == test.numbers else "variant"
    labels = train.labels | test.labels
    letters = ["".join(word for word in text.words if word in labels) for text in (train, test)]
    if train.numbers == test.numbers and letters[0] == letters[1]:
        return "near"
    if match.contained:
        short, long = (0, 1) if len(train.words) <= len(test.words) else (1, 0)
        numbers = (train.numbers, test.numbers)
        if _in_order(numbers[short], numbers[long]) and _in_order(letters[short], letters[long]):
            return "near"
    return "variant"


def _in_order(parts: Sequence[str], whole: Sequence[str]) -> bool:
    rest = iter(whole)
    return all(part in rest for part in parts)


def ngrams(wording: Wording) -> frozenset[str]:
    """The runs of NGRAM words; a shorter wording is one run."""
    return frozenset(" ".join(wording[i : i + NGRAM]) for i in range(max(1, len(wording) - NGRAM + 1)))


def matching_wordings(train: Collection[Wording], test: Collection[Wording]) -> list[WordingMatch]:
    """The pairs of near wordings, sorted; equal wordings have score 1. An empty wording matches nothing."""
    train_grams = {wording: ngrams(wording) for wording in sorted(train) if wording}
    test_grams = {wording: ngrams(wording) for wording in sorted(test) if wording}
    proposals = _propose_alike(train_grams, test_grams)
    proposals |= _propose_contained(train_grams, test_grams)
    proposals |= {(b, a) for a, b in _propose_contained(test_grams, train_grams)}
    matches = []
    for a, b in sorted(proposals):
        grams, others = train_grams[a], test_grams[b]
        shared = len(grams & others)
        score = shared / (len(grams) + len(others) - shared)
        share = shared / min(len(grams), len(others))
        contained = a != b and share >= CONTAINMENT and min(len(a), len(b)) >= MIN_CONTAINED
        if contained or score >= JACCARD:
            matches.append(WordingMatch(a, b, share if contained else score, contained))
    return matches


def may_match(test: Collection[Wording]) -> Callable[[Wording], bool]:
    """Whether a wording can be near one of `test`: True for all that are, and for few others. Takes microseconds.

    A near wording shares at least min(JACCARD, CONTAINMENT) of the test wording's bigrams, so that it has one of the
    rarest few of them (prefix filtering, as below), or it lies in the test wording and shares nearly all of its own.
    """
    grams = {wording: ngrams(wording) for wording in sorted(test) if wording}
    counts = Counter(gram for of in grams.values() for gram in of)
    least = min(JACCARD, CONTAINMENT)
    holders: dict[str, list[frozenset[str]]] = defaultdict(list)
    for of in grams.values():
        ordered = sorted(of, key=lambda gram: (counts[gram], gram))
        for gram in ordered[: len(of) - math.ceil(least * len(of) - 1e-9) + 1]:
            holders[gram].append(of)

    def matches(wording: Wording) -> bool:
        if not wording:
            return False
        own = ngrams(wording)
        if sum(gram in counts for gram in own) >= CONTAINMENT * len(own) - 1e-9:
            return True
        alike = (of for gram in own & holders.keys() for of in holders[gram])
        return any(len(own & of) >= least * len(of) - 1e-9 for of in alike)

    return matches


Grams = dict[Wording, frozenset[str]]


def _propose_alike(train: Grams, test: Grams) -> set[tuple[Wording, Wording]]:
    """(train, test) pairs whose MinHash signatures agree in a whole band."""
    if not train or not test:
        return set()
    from datasketch import MinHashLSH  # its import takes a second

    sketches = _sketches(train)
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    for position, sketch in enumerate(sketches):
        index.insert(position, sketch, check_duplication=False)
    wordings = list(train)
    return {
        (wordings[position], wording)
        for wording, sketch in zip(test, _sketches(test), strict=True)
        for position in index.query(sketch)
    }


def _sketches(grams: Grams) -> Iterator[MinHash]:
    from datasketch import MinHash

    encoded = ([gram.encode("utf-8", "surrogatepass") for gram in sorted(each)] for each in grams.values())
    yield from MinHash.generator(encoded, num_perm=BANDS * ROWS, seed=SEED)


def _propose_contained(shorter: Grams, longer: Grams) -> set[tuple[Wording, Wording]]:
    """(shorter, longer) pairs that include every contained one, by prefix filtering, which misses none.

    At most n (1 - CONTAINMENT) of n bigrams may be missing, so one of the rarest floor(n (1 - CONTAINMENT)) + 1 is
    present, and only wordings that contain one of these are candidates.
    """
    holders: dict[str, list[Wording]] = defaultdict(list)
    for wording, grams in longer.items():
        for gram in grams:
            holders[gram].append(wording)
    pairs: set[tuple[Wording, Wording]] = set()
    for wording, grams in shorter.items():
        if len(wording) < MIN_CONTAINED:
            continue
        rarest = sorted(grams, key=lambda gram: (len(holders.get(gram, ())), gram))
        for gram in rarest[: len(grams) - math.ceil(CONTAINMENT * len(grams)) + 1]:
            pairs.update((wording, other) for other in holders.get(gram, ()) if len(other) >= len(wording))
    return pairs
