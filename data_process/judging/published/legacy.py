"""Judges of published work with their defects, to reproduce a paper's number. None of them is a default.

Every rule begins with "legacy:". The verdict is "abstain" where a published judge finds nothing and gives no credit.
Sources: GeoQA, Liac-li/MM-self-improve-qwen2vl@58ef078 (`data_process/geoqa/merge_data.py`, `calculate.py`); TabMWP,
ChartQA, CLEVR-Math, njucckevin/MM-Self-Improve@9bb4ae5 (`src/vlrlhf/eval/*/calculate.py`); Deep-Agent/R1-V@bbbbe3d.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from data_process.judging.published.mathvista import official_verdict
from data_process.schema import DataError, Problem, Status, Verdict
from data_process.seeds import seed_for

PUBLISHED_LETTERS = "ABCDEF"  # GeoQA's judge fails on a seventh choice; here it is never found
WEMATH_LETTERS = "ABCDEFGH"
GEOQA_FAILED = "FAILED"  # a text: its last letter reads as choice D when a vote elects it
GEOQA_CREDIT = 0.75  # chance of credit for an unreadable answer; the comment beside it says 25%


def _verdict(name: str, found: str | None, right: bool, rule: str) -> Verdict:
    status: Status = "correct" if right else "wrong" if found is not None else "abstain"
    return Verdict(status, found, f"legacy:{name}/{rule}")


def _need_choices(problem: Problem, name: str) -> None:
    if not problem.choices:
        raise DataError(f"problem {problem.id}: legacy:{name} judges choices, and this problem has none")


def _named_choice(text: str, problem: Problem) -> str | None:
    """The last choice whose text occurs anywhere in `text`, "6" in "60" included."""
    held = [letter for letter, c in zip(PUBLISHED_LETTERS, problem.choices, strict=False) if c.lower() in text.lower()]
    return held[-1] if held else None


def _geoqa_letter(text: str, problem: Problem, cue: str) -> tuple[str | None, str]:
    """(letter, rule): after the last cue the last "(X)", else the last letter of any word, else a choice's text."""
    if cue in text:
        text = text.split(cue)[-1]
    if bracketed := re.findall(r"\(([A-Za-z])\)", text):
        return bracketed[-1].upper(), "bracketed"
    if letters := re.findall(r"[A-Za-z]", text):
        return letters[-1].upper(), "last_letter"
    if named := _named_choice(text, problem):
        return named, "choice"
    # The published code then looks for a letter that stands alone; without any letter there is none.
    return None, "failed"


def geoqa_train(text: str, problem: Problem) -> Verdict:
    """The judge that filtered R3V's training samples (Qwen2-VL code): splits at the last "Answer"."""
    _need_choices(problem, "geoqa-train")
    letter, rule = _geoqa_letter(text, problem, "Answer")
    return _verdict("geoqa-train", letter, letter == problem.answer, rule)


def geoqa_eval(text: str, problem: Problem, seed: int = 0) -> Verdict:
    """The judge that scored R3V's test answers: splits at the last "answer", which "Answer: B" does not hold.

    An unreadable answer is credited with probability 0.75. The published draw has no seed. Here the seed and the
    problem's id name the draw, so a score can be repeated and does not depend on the order of the problems.
    """
    _need_choices(problem, "geoqa-eval")
    letter, rule = _geoqa_letter(text, problem, "answer")
    if letter is not None:
        return _verdict("geoqa-eval", letter, letter == problem.answer, rule)
    drawn = random.Random(seed_for(seed, "legacy:geoqa-eval", problem.id)).random()
    return _verdict("geoqa-eval", None, drawn >= 1 - GEOQA_CREDIT, "drawn")


def geoqa_extract(text: str, problem: Problem) -> str:
    """What one sample votes for in the published majority: a letter, or the text "FAILED"."""
    if "Answer:" in text:
        text = text.split("Answer:")[-1]
    if bracketed := re.findall(r"\(([A-Za-z])\)", text):
        return str(bracketed[-1]).upper()
    if named := _named_choice(text, problem):
        return named
    words = re.sub(r"[\n.,!?]", " ", text).split(" ")
    letters = PUBLISHED_LETTERS[: len(problem.choices)]
    for known in (letters, letters.lower()):
        if alone := [letter for letter in known if letter in words]:
            return alone[-1].upper()
    return GEOQA_FAILED


def geoqa_vote(texts: Sequence[str], problem: Problem) -> Verdict:
    """The published majority over samples: a tie goes to the last answer, and "FAILED" is judged as a text."""
    _need_choices(problem, "geoqa-vote")
    counts = Counter(geoqa_extract(text, problem) for text in texts)
    if not counts:
        raise DataError(f"problem {problem.id}: a vote of no samples")
    elected = sorted(counts.items(), key=lambda item: item[1])[-1][0]
    letter, rule = _geoqa_letter(elected, problem, "Answer")
    return _verdict("geoqa-vote", letter, letter == problem.answer, rule)


# As published, defects included: in the fourth pattern the dot is any character.
_TABMWP_CHOICE = (
    r"Answer: ([A-Za-z])", r"^\(([A-Za-z])\)$", r"^([A-Za-z])$", r"^([A-Za-z]). ", r"[Th]he answer is ([A-Z])",
    r"^\(([A-Za-z])\) [\s\S]+$", r"[Th]he answer is \(([A-Za-z])\) [\s\S]+$",
)  # fmt: skip
_TABMWP_FREE = (
    r"Answer: ([\s\S]+)", r"[Th]he answer is ([\s\S]+)$", r"[Th]he table shows that ([\d\$\.\,\/\:]+) ",
    r" = ([\d\$\.\,\/\:]+)", r"(?<= be| is) ([\-\d\$\.\,\/\:]{0,}[\d]+)",
    r"(?<= are| was) ([\-\d\$\.\,\/\:]{0,}[\d]+)", r"(?<= were) ([\-\d\$\.\,\/\:]{0,}[\d]+)",
    r" ([\d\$\.\,\/\:]+ [AP]\.M\.)", r"([\-\d\$\.\,\/\:]{0,}[\d]+)",
)  # fmt: skip


def tabmwp_normalise(text: str, unit: str | None = None) -> str:
    """A number as text with at most 3 decimals, or other text without its unit.

    Raises ValueError or ZeroDivisionError for what only looks like a number: 1/0, 1.2.3.
    """
    text = re.sub(r"[,./]$", "", re.sub(r"^\$", "", text))
    if not re.match(r"^[-+]?[\d,./]+$", text):
        return text.replace(unit, "").strip() if unit else text
    text = text.replace(",", "")
    number: float
    if re.match(r"[-+]?\d+$", text):
        number = int(text)
    elif "/" in text:
        above, below = text.split("/")[:2]
        number = round(float(above) / float(below), 3)
    else:
        number = round(float(text), 3)
    return re.sub(r"\.0+$", "", str(number))


def _overlap(a: str, b: str) -> float:
    if a == b:
        return 2.0
    if " " not in a and " " not in b:
        return 0.0
    words_a, words_b = a.split(" "), b.split(" ")
    return len(set(words_a) & set(words_b)) / max(len(words_a), len(words_b))


def _tabmwp_extract(output: str, problem: Problem, seed: int) -> tuple[str, str]:
    output = re.sub(r"\$?\\frac\{([\d.,\-]+)\}\{([\d.,]+)\}\$?", r"\1/\2", output)
    output = re.sub(r"(?<![AP]\.M)\.$", "", output)
    output = re.sub(r"(?<=\d)=(?=[\-$\d])", " = ", output)
    output = output.replace("\u2212", "-")
    options = problem.choices
    if not options:
        for pattern in _TABMWP_FREE:
            if found := re.findall(pattern, output):
                answer = found[-1].strip()
                return answer[:-1] if answer.endswith(".") and ".M." not in answer else answer, "pattern"
        return output, "whole_text"
    for pattern in _TABMWP_CHOICE:
        found = re.findall(pattern, output)
        if found and found[0].upper() in PUBLISHED_LETTERS:
            index = PUBLISHED_LETTERS.index(found[0].upper())
            if index < len(options):
                return options[index], "letter"
            draw = random.Random(seed_for(seed, "legacy:tabmwp", problem.id))  # the published draw has no seed
            return draw.choice(options), "random_option"
    return max(options, key=lambda option: _overlap(option, output)), "most_similar"  # the first of equals


def tabmwp(text: str, problem: Problem, seed: int = 0) -> Verdict:
    """TabMWP's judge: a letter beyond the options draws an option at random; an empty output is the first option.

    Raises DataError where the gold answer itself cannot be normalised (1/0); the published script fails there.
    """
    gold = problem.gold_text
    try:
        wanted = tabmwp_normalise(gold, problem.unit)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise DataError(
            f"problem {problem.id}: legacy:tabmwp cannot read the gold answer {gold!r} ({error})"
        ) from error
    answer, rule = _tabmwp_extract(text, problem, seed)
    try:
        said = tabmwp_normalise(answer, problem.unit)
    except (ValueError, ZeroDivisionError, OverflowError):
        said, rule = "0", "unreadable_is_0"
    return _verdict("tabmwp", said, said.lower() == wanted.lower(), rule)


def chartqa(text: str, problem: Problem) -> Verdict:
    """ChartQA's judge: the text after the first "Answer:", within 5% of a gold number (years too) or equal to it."""
    match = re.search(r"Answer:\s*(.+)\s*$", text, re.DOTALL)
    said = match[1].strip() if match else text.strip()
    gold, rule = problem.gold_text, "answer_cue" if match else "whole_text"
    try:
        number, wanted = float(said), float(gold)
        if abs(number - wanted) <= 0.05 * abs(wanted):
            return _verdict("chartqa", said, True, f"{rule}_within_5_percent")
    except ValueError:
        pass  # not two numbers: compared as text
    return _verdict("chartqa", said, said.lower() == gold.lower().strip(), rule)


def clevr(text: str, problem: Problem) -> Verdict:
    """CLEVR-Math's judge: a bare number from 0 to 10, or the first whole number after "Answer:"."""
    if re.fullmatch(r"[0-9]|10", text.strip()):
        return _verdict("clevr", text.strip(), text.strip() == problem.answer, "bare")
    match = re.search(r"Answer:\s*(-?\d+)", text)
    if match:
        return _verdict("clevr", match[1], match[1] == problem.answer, "answer_cue")
    return _verdict("clevr", None, problem.answer == "unknown", "unknown")


def wemath(text: str, problem: Problem) -> Verdict:
    """We-Math's judge: the first character after the last "Answer", without angle brackets, colons and points."""
    _need_choices(problem, "wemath")
    said = re.sub(r"[><:.]", "", text.split("Answer")[-1].strip()).strip()
    letter = said[0] if said and said[0] in WEMATH_LETTERS else None
    return _verdict("wemath", letter, letter == problem.answer, "answer_cue" if "Answer" in text else "whole_text")


def mathvista(extraction: Any, problem: Problem, *, decimals: bool = True) -> Verdict:
    """The official MathVista rule under its legacy name; takes the extraction, not the response.

    Without `decimals` it is the older rule, by which most published result files were scored (see `mathvista.py`).
    """
    verdict = official_verdict(problem, extraction, decimals=decimals)
    name = "mathvista-official" if decimals else "mathvista-2023"
    return Verdict(verdict.status, verdict.extracted, f"legacy:{name}/{verdict.rule.partition(':')[2]}")


R1V_MAX_CHARS = 20_000  # of a response, from the end: the longest published one has under 5,000


def r1v(text: str, problem: Problem) -> Verdict:
    """R1-V's GeoQA judge: math-verify on the whole response against math-verify on the gold answer.

    math-verify limits its time with a signal, which only the main thread of a process can take. Elsewhere it has no
    limit, so use this judge on published outputs and not on hostile ones.
    """
    import threading

    from math_verify import parse, verify

    limit = 5 if threading.current_thread() is threading.main_thread() else None  # seconds, math-verify's default
    found = parse(text[-R1V_MAX_CHARS:], parsing_timeout=limit)
    gold = parse(problem.gold_text, parsing_timeout=limit)
    # The published call passes the response as the gold answer and the gold answer as the response; order matters.
    right = bool(verify(found, gold, timeout_seconds=limit))
    return _verdict("r1v", str(found[0]) if found else None, right, "math_verify" if found else "nothing_parsed")
