"""Reading questions and proposing pairs of wordings."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.decontamination.near_text import (
    CONTAINMENT,
    JACCARD,
    MIN_CONTAINED,
    WordingMatch,
    canonical_number,
    matching_wordings,
    may_match,
    ngrams,
    read_text,
    relate,
)

TEXT = "In triangle A B C , A D perpendicular B C at D , if angle B = 50.0 and A D = 12.5 , find the length of D C"


@pytest.mark.parametrize(
    ("text", "words", "numbers"),
    [
        ("angle B = 80.0", "angle b #", "80"),
        ("∠B = 80°", "angle b #", "80"),
        (r"$\angle B = 80^\circ$", "angle b #", "80"),
        ("80 degrees", "#", "80"),
        ("the degree of it", "the degree of it", ""),
        ("A B C", "abc", ""),
        ("A B , C D", "ab cd", ""),
        ("a A B", "a ab", ""),
        ("AB // CD ∥ EF", "ab parallel cd parallel ef", ""),
        ("5cm and 5 cm", "# cm and # cm", "5 5"),
        ("1,234.50 or 12,34", "# or # #", "1234.5 12 34"),
        ("2 + 3 - 4", "# + # - #", "2 3 4"),
        ("x = -3 and a well-known sector - shaped", "x # and a well known sector shaped", "-3"),
        (r"\frac{1}{2} \times 3²", "# / # * # ^ #", "1 2 3 2"),
        (r"\FRAC{AB}{2.0} and frac {1}{2}", "ab / # and # / #", "2 1 2"),
        ("已知△ABC中", "已 知 triangle abc 中", ""),
        ("Calculation: As shown in the figure, AB", "ab", ""),
        ("don't DON’T", "dont dont", ""),
        ("", "", ""),
        ("()?!", "", ""),
    ],
)
def test_read_text(text, words, numbers):
    read = read_text(text)
    assert (" ".join(read.words), " ".join(read.numbers)) == (words, numbers)


@pytest.mark.parametrize(
    ("digits", "canonical"),
    [("80.0", "80"), ("080", "80"), ("0.50", "0.5"), (".5", "0.5"), ("1,000", "1000"), ("0", "0"), ("-2.0", "-2")],
)
def test_canonical_number(digits, canonical):
    assert canonical_number(digits) == canonical


@given(st.text(max_size=80))
def test_any_text_is_read_and_is_the_same_as_itself(text):
    read = read_text(text)
    assert len(read.numbers) == read.words.count("#")
    assert relate(read, read, WordingMatch(read.words, read.words, 1.0)) == "same"


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=60), st.integers(1, 4))
def test_spaces_and_case_change_nothing(text, width):
    words = " ".join(word for word in text.split() if len(word) > 1).casefold()  # single letters join their neighbours
    assert read_text(words.replace(" ", " " * width)).key == read_text(words).key


def relation(first: str, second: str):
    one, other = read_text(first), read_text(second)
    matches = matching_wordings({one.words}, {other.words})
    return relate(one, other, matches[0]) if matches else None


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (TEXT, "same"),
        (TEXT.lower(), "same"),
        (TEXT.replace(" ,", ","), "same"),
        (TEXT.replace(" ,", ""), "near"),
        (TEXT.replace("A B C", "ABC").replace("A D", "AD").replace("B C", "BC").replace("D C", "DC"), "same"),
        (TEXT.replace("length", "size"), "near"),
        ("Hint: answer with a letter, e.g., A, B, C, D. Question: " + TEXT + " Choices: (A) 5 (B) 6", "near"),
        (TEXT.replace("50.0", "51.0"), "variant"),
        (TEXT.replace("length of D C", "length of B D"), "variant"),
        (TEXT.replace("12.5", "50.0").replace("= 50.0 and", "= 12.5 and"), "variant"),
        ("Which of these five lamps uses the least power in one hour?", None),
    ],
)
def test_relations(other, expected):
    assert relation(TEXT, other) == expected
    assert relation(other, TEXT) == expected


def wordings(seed: int, n: int) -> set[tuple[str, ...]]:
    """Sentences over few words, so that many are near each other."""
    rng = random.Random(seed)
    words = ("the", "a", "of", "in", "on", "side", "angle", "line", "circle", "point", "is", "find", "then")
    base = [[rng.choice(words) for _ in range(14)] for _ in range(8)]
    made = set()
    while len(made) < n:
        sentence = list(rng.choice(base))
        for _ in range(rng.randrange(5)):
            sentence[rng.randrange(len(sentence))] = rng.choice(["half", "twice", "chord", "arc", "which"])
        made.add(tuple(sentence[: rng.randrange(6, 15)]))
    return made


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6))
def test_proposals_miss_no_near_pair_and_everything_proposed_is_verified(seed):
    train, test = wordings(seed, 60), wordings(seed + 1, 60) | set(sorted(wordings(seed, 60))[:5])
    found = {(m.train, m.test): m.score for m in matching_wordings(train, test)}
    expected = {}
    for a in train:
        for b in test:
            x, y = ngrams(a), ngrams(b)
            both = len(x & y)
            share, jaccard = both / min(len(x), len(y)), both / len(x | y)
            if a != b and share >= CONTAINMENT and min(len(a), len(b)) >= MIN_CONTAINED:
                expected[a, b] = share
            elif jaccard >= JACCARD:
                expected[a, b] = jaccard
    # Containment is exact; MinHash misses a pair at the threshold once in 25,000.
    assert {pair: found.get(pair) for pair in expected} == expected
    assert found.keys() <= expected.keys()


def test_empty_sets_and_texts_without_words_match_nothing():
    assert matching_wordings(set(), {("a",)}) == []
    assert matching_wordings({()}, {()}) == []


def test_a_question_in_a_long_text_is_found_though_its_rarest_words_are_changed():
    """Exact: the share contained is 10 of 11 bigrams, the Jaccard far below what MinHash proposes."""
    question = read_text("a ladder leans on the wall and its top touches a").words
    long = (*(f"w{n}" for n in range(60)), *question, "ledge", *(f"v{n}" for n in range(60)))
    fillers = {tuple(f"w{n} a ladder leans on the wall and its top touches".split()) for n in range(5)}
    matches = matching_wordings({long} | fillers, {(*question, "window")})
    assert [(m.contained, m.score) for m in matches if m.train == long] == [(True, 10 / 11)]
    matches = matching_wordings({(*question, "window")}, {long} | fillers)
    assert [(m.contained, m.score) for m in matches if m.test == long] == [(True, 10 / 11)]


@pytest.mark.slow
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_matches_may_match(data):
    """The quick test misses no pair; the words are few, so that wordings overlap in all degrees."""
    words = st.lists(st.sampled_from("abcdef"), max_size=24).map(tuple)
    test = data.draw(st.lists(words, min_size=1, max_size=6))
    base = data.draw(st.sampled_from(test))
    train = data.draw(st.lists(st.one_of(words, st.just(base[2:]), st.just((*base, "g", *base[:1]))), max_size=6))
    matches = may_match(test)
    for match in matching_wordings(train, test):
        assert matches(match.train), match


def test_what_shares_little_cannot_match():
    matches = may_match([("find", "the", "area", "of", "this", "large", "square", "now", "please")])
    assert not matches(("find", "the", "length", "of", "a", "small", "stick", "in", "the", "box"))
    assert not matches(())
    assert not may_match([()])(("a", "b"))
