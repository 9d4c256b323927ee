r"""Finds where a response states its final answer, by cues in the order in which a reader would trust them.

1. the last `\boxed{...}`  2. the last `<answer>...</answer>`  3. the last `Answer: ...` (any case)
4. the last "the answer is ..." / "the correct option is ..."  5. the last line, if it is an answer and nothing else
6. without any of these, a sentence or line that may state the answer: `_without_cue`

A response with `</think>` is read after the last one; the thinking counts only where nothing follows it.
A cue that cannot be read overrides everything before it: only later cues count, and rule 6 is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal

from data_process.judging.locate.assertion import announced, boxed_denied, retracted
from data_process.judging.locate.sentences import CONCLUSION, REFUSAL, closing_sentences, opening_sentence
from data_process.judging.maths.quantity import MAX_PAYLOAD

SCAN_CHARS = 20_000  # from the end, where final answers stand; the time of each pattern is linear in this
MAX_BOXES = 5  # read from the end
MAX_BRACES = 500  # characters searched for the brace that closes \boxed{; longer ones are not an answer

# The place of a payload decides how much text may surround the answer.
# "inline": directly after its cue; anything may follow. "below": the line under its cue, where a sentence or a list may
# begin. "bare": a line without a cue. "statement": a closing sentence without a cue, read only where nothing above
# gave an answer. "opening": the first sentence of a paragraph, before its explanation. "bold": the only bold text.
Place = Literal["inline", "below", "bare", "bold", "statement", "opening"]


@dataclass(frozen=True)
class Cue:
    """Text that a response presents as its final answer."""

    rule: str
    start: int  # of the cue itself: decides which of two cues is later
    span: tuple[int, int]  # of the payload
    payload: str
    closed: bool  # the payload was not cut: a brace, a tag or a line end follows it
    place: Place = "inline"


@dataclass(frozen=True)
class Reading:
    """The answer that a payload states. Where `answer` is None, `form` is the reason."""

    answer: str | None
    form: str
    note: str | None = None
    closed: bool = False  # text follows the answer in the payload, so the answer itself was not cut


@dataclass(frozen=True)
class Found:
    """The final answer of a response, or the reason why there is none."""

    answer: str | None
    rule: str
    span: tuple[int, int] | None = None
    note: str | None = None


Read = Callable[[str, Place], Reading]

_BOXED = re.compile(r"\\f?boxed\s?\{")
_TAG = re.compile(r"<(/?)ans(?:wer)?>", re.IGNORECASE)
_END_MARKS = re.compile(r"\s*(?:</s>|<\|[a-z_]{2,16}\|>|<eos>|<end_of_turn>)(?:\s|</s>|<\|[a-z_]{2,16}\|>){0,4}$")
# A model that was shown examples may continue with a question of its own, after its answer to ours.
_NEXT_QUESTION = re.compile(r"\n\s{0,3}\n\s{0,3}Question:")
_OPEN_THINK = re.compile(r"<think>", re.IGNORECASE)
_THINK = re.compile(r"</think>", re.IGNORECASE)
# "The model's answer is A" in a refinement speaks of the attempt it judges.
# "Here's how I got the answer:" announces a derivation.
_NOT_OWN = ("model's ", "model’s ", "prediction's ", "predicted ", "previous ", "wrong ")
_ON_THE_WAY = ("got the ", "get the ", "find the ", "reach the ", "calculate the ", "explain the ", "detailed ")
_OWN = r"(?<![A-Za-z])" + "".join(f"(?<!{words})" for words in _NOT_OWN + _ON_THE_WAY)
_ANSWER = re.compile(
    _OWN + r"(?:answer|(?<![A-Za-z])ans\.?)[*_\"'”]{0,3}[ \t]{0,3}(?:[:：=→]|is:|-(?=\s))[*_]{0,3}"
    r"|(?:option|choice|selection)[*_ ]{0,3}[:：=][*_]{0,3}"
    r"|(?:答案?|解答|答え|こたえ|回答|正解|正确选项|最终结果|結論)[*_ ]{0,3}[:：][*_]{0,3}"
    r"|【(?:答案|解答|正解|答え|回答)】[:：]?"
    r"|^[#*_ \t]{0,8}(?:final[ \t])?answer[*_ \t]{0,6}$",
    re.IGNORECASE | re.MULTILINE,
)
# Where a match of `_ANSWER` or `_PHRASE` can begin. Literals without flags are found much faster than the patterns.
_CUE_WORD = re.compile(
    r"[Aa][Nn][Ss]|[Oo][Pp][Tt]|[Cc][Hh][Oo][Ii]|[Ss][Ee][Ll][Ee]|[Cc][Oo][Rr][Rr]|[Rr][Ii][Gg][Hh]|[Bb][Ee][Ss][Tt]"
    r"|[Ff][Ii][Nn][Aa]|[Cc][Ll][Oo][Ss]|[Nn][Uu][Mm][Bb]|[Aa][Pp][Pp][Rr]|[Ss][Uu][Ii][Tt]|[Aa][Cc][Cc][Uu]|[答解こ回正最結故应選选【]"
)
# "Correct option: B", but not "There is one more option: to wait".
_NOUN = re.compile(r"option|choice|selection", re.IGNORECASE)
_HEADING = re.compile(
    r"(?:^|[.!?。\n])[*#_\s>-]{0,6}(?:(?:so|therefore|thus|hence),?\s)?(?:my\s|the\s)?"
    r"(?:(?:correct|right|final|best|chosen|selected)\s)?$",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    _OWN
    + r"(?:answer|(?:correct|right|best|final|closest|appropriate|suitable|accurate)\s(?:option|choice|result|value)"
    r"|option(?=\sletter)"
    r"|(?<=final\s)number|(?<=the\s)choice\sthat\s(?:best\s)?(?:matches|fits)(?:\s\w{1,12}){0,4})"
    r"(?:\sletter|\schoice)?(?:,\s\w{2,12},)?(?:\s(?:to|for)\s(?:the|this)\s(?:\w{1,16}\s){0,3}\w{1,16})?"
    r"(?:(?:\s(?:is|would\sbe|should\sbe|must\sbe|comes\sto|turns\sout\sto\sbe)|['’]s)(?![A-Za-z])"
    r"(?!\s(?:wrong|incorrect)\b)\s{0,3}:?"
    r"|(?:(?<=final value)|(?<=final number)|(?<=final result)|(?<=option letter)):)"
    # Qwen models switch to Chinese on translated geometry: "the answer is", "the correct option is", "hence choose".
    r"|(?:答案|正确选项|正确答案)(?:(?:不是[^。，,\n]{1,20}[，,]?\s?而是|就?是|为|应为|应该?是|应选|即)[:：]?|[:：])|(?:故选|应选|回答)[:：]?|正确的(?:选项)?是[:：]?"
    r"|(?:正解|答え|解答|正しい(?:選択肢|答え|もの)|選ぶべきもの)(?:は|が)[、:：]?"
    r"|选[择项]?(?:为|是)?[:：]?(?=\s?[（(]?[A-J])",
    re.IGNORECASE,
)
_END_OF_PAYLOAD = re.compile(
    r"</|<\||\n|【(?:解析|分析|详解|解答|点评|考点|解説)"
)  # a closing tag or a chat mark ends the answer as a line end does


_JOINED = re.compile(
    r"[\s$\\()\[\].,;、]{0,12}(?:\b(?:or|and|either)\b|或者?|和|与|または|か|と|,|、)?[\s$\\()\[\]]{0,12}"
)


def _boxed(text: str, start: int, end: int) -> Iterator[Cue]:
    """The last box; boxes joined by "or", "and" or a comma are one answer with several values."""
    found = list(islice(_boxes(text, start, end), MAX_BOXES))
    if not found:
        return
    payloads = [found[0].payload]
    for later, earlier in pairwise(found):
        if not _JOINED.fullmatch(text[earlier.span[1] + 1 : later.start]):
            break
        payloads.insert(0, earlier.payload)
    several = len({payload.strip() for payload in payloads}) > 1
    yield replace(found[0], payload=", ".join(payloads)) if several else found[0]


def _boxes(text: str, start: int, end: int) -> Iterator[Cue]:
    for m in reversed(list(_BOXED.finditer(text, start, end))):
        depth = 1
        stop = min(end, m.end() + MAX_BRACES)
        for i in range(m.end(), stop):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if not depth:
                break
        else:
            i = stop
        if text[m.end() : i].strip():
            yield Cue("boxed", m.start(), (m.end(), i), text[m.end() : i] if not depth else "", closed=not depth)


def _tagged(text: str, start: int, end: int) -> Iterator[Cue]:
    tags = list(_TAG.finditer(text, start, end))
    for k in range(len(tags) - 1, -1, -1):
        tag = tags[k]
        if tag[1]:
            continue
        closer = tags[k + 1] if k + 1 < len(tags) and tags[k + 1][1] else None
        # Without the closing tag the answer runs to the end, because engines do not return the stop string.
        stop = closer.start() if closer else end
        a, b = _unwrapped(text, *_strip(text, tag.end(), stop))
        if a == b and closer:
            continue
        last_line = max(a, text.rfind("\n", a, b) + 1)
        place: Place = "below" if last_line > a else "inline"
        yield Cue("answer_tag", tag.start(), (last_line, b), text[last_line:b], bool(closer), place)
        return


def _matches(pattern: re.Pattern[str], text: str, start: int, end: int) -> list[re.Match[str]]:
    """The matches of a cue pattern, left to right, tried only where one of its words or its line begins."""
    found: list[re.Match[str]] = []
    for at in (start, *(m.start() + (m[0][0] == "\n") for m in _CUE_WORD.finditer(text, start, end))):
        if (not found or at >= found[-1].end()) and (m := pattern.match(text, at, end)):
            found.append(m)
    return found


def _lines(pattern: re.Pattern[str], rule: str, text: str, start: int, end: int, truncated: bool) -> Iterator[Cue]:
    """The last match with text after it: the rest of its line or, where that is empty, the next line."""
    for m in reversed(_matches(pattern, text, start, end)):
        headed = not _NOUN.match(m[0]) or _HEADING.search(text[max(0, m.start() - 40) : m.start()])
        if not headed or not announced(text, m.start()):
            continue  # "If the answer is 5", "The student's answer: B"
        a, _ = _strip(text, m.end(), end)
        if a == end and not truncated:
            continue
        stop = _END_OF_PAYLOAD.search(text, a, end)
        a, b = _unwrapped(text, a, stop.start() if stop else end)
        # On the next line a value must stand alone: "Answer:\n1. First, ..." opens a list.
        place: Place = "below" if "\n" in text[m.end() : a] else "inline"
        if place == "below" and _listed(text, a, b, end):
            continue
        yield Cue(rule, m.start(), (a, b), text[a:b], stop is not None, place)
        return


def _last_line(text: str, start: int, end: int, rule: str) -> Iterator[Cue]:
    a, b = _strip(text, start, end)
    line = max(a, text.rfind("\n", a, b) + 1)
    if line < b and b - line <= MAX_PAYLOAD and not _listed(text, line, b, end):
        yield Cue(rule, line, (line, b), text[line:b], closed=True, place="bare")


_BOLD = re.compile(r"\*\*(?=\S)([^*\n]{1,120})\*\*")
_OPTION = re.compile(r"[ \t>*-]{0,6}[(\[]?([A-Z])\s?[).:\]]")


def _listed(text: str, a: int, b: int, end: int) -> bool:
    """Whether the line a..b is one of a list of choices: the line before or after it begins with another letter."""
    here = _OPTION.match(text, a)
    if not here:
        return False
    before = text[max(0, a - MAX_PAYLOAD) : a].rstrip().rpartition("\n")[2]
    after = text[b : min(end, b + MAX_PAYLOAD)].lstrip().partition("\n")[0]
    return any((other := _OPTION.match(line)) and other[1] != here[1] for line in (before, after))


def _first_line(text: str, start: int, end: int) -> Iterator[Cue]:
    """The first of several lines: an answer may precede its explanation."""
    a, b = _strip(text, start, end)
    stop = text.find("\n", a, b)
    if start == 0 and 0 <= stop - a <= MAX_PAYLOAD and not _listed(text, a, stop, end):
        a, stop = _strip(text, a, stop)
        yield Cue("first_line", a, (a, stop), text[a:stop], closed=True, place="bare")


def _bold(text: str, start: int, end: int) -> Iterator[Cue]:
    """The only text that is bold, wherever it stands."""
    spans = [m.span(1) for m in _BOLD.finditer(text, start, end)]
    if spans and len({text[slice(*span)].strip().casefold() for span in spans}) == 1:
        a, b = spans[-1]
        yield Cue("bold", a, (a, b), text[a:b], closed=True, place="bold")


# We-Math's prompt asks for "<Answer>: <<B>>".
_WRAPPED = re.compile(r"[:：]?\s{0,3}<<([^<>\n]{1,80})>>\.?\s{0,3}")


def _unwrapped(text: str, a: int, b: int) -> tuple[int, int]:
    """The range a..b, or the part of it in double angle brackets where they hold all of it."""
    found = _WRAPPED.fullmatch(text, a, b)
    return found.span(1) if found else (a, b)


def _strip(text: str, a: int, b: int) -> tuple[int, int]:
    """The range a..b without leading and trailing white space."""
    part = text[a:b]
    return (a + len(part) - len(part.lstrip()), a + len(part.rstrip())) if part.strip() else (b, b)


def _cues(text: str, truncated: bool) -> Iterator[Cue]:
    length = len(text)
    if mark := _END_MARKS.search(
        text, max(0, length - 80)
    ):  # the end token of a chat format, which some engines return
        length = mark.start()
    begin = max(0, length - SCAN_CHARS)
    scopes = [(begin, length, False)]
    next_question = _NEXT_QUESTION.search(text, begin, length)
    if next_question and text[begin : next_question.start()].strip():
        scopes.insert(0, (begin, next_question.start(), False))
    thinks = list(_THINK.finditer(text, begin, length))
    if thinks:
        # An answer inside the thinking counts only where no text follows the thinking.
        said = bool(text[thinks[-1].end() : length].strip())
        scopes = [(thinks[-1].end(), length, True)] if said else [(begin, thinks[-1].start(), False)]
        if said and truncated:
            scopes.append((begin, thinks[-1].start(), False))  # the text after it may have been cut before its answer
    for start, end, after_think in scopes:
        yield from _boxed(text, start, end)
        yield from _tagged(text, start, end)
        yield from _lines(_ANSWER, "answer_cue", text, start, end, truncated)
        yield from _lines(_PHRASE, "phrase", text, start, end, truncated)
        if not truncated:  # the last line of a truncated text ends wherever the limit fell
            yield from _last_line(text, start, end, "after_think" if after_think else "bare_line")
            yield from _without_cue(text, start, end)


def _without_cue(text: str, start: int, end: int) -> Iterator[Cue]:
    """Text that may state the answer where no cue announces it: the weakest rules, the strongest of them first."""
    first, others = closing_sentences(text, start, end)
    if _OPEN_THINK.search(text, start, end):
        first, others = [], []  # thinking that never ended was cut before its answer
    if first and REFUSAL.search(text, *first[0]):  # the last sentence says that there is no answer
        first, others = first[:1], []
    concluded = bool(first) and CONCLUSION.match(text, *first[0]) is not None
    if concluded:  # the last sentence counts: "4\nTo find the median ... Therefore, the median is 5."
        yield _statement(text, first[0], "statement")
    yield from _first_line(text, start, end)
    yield from _bold(text, start, end)
    yield from (_statement(text, span, "statement") for span in first[concluded:])
    opening = opening_sentence(text, start, end) if first else None
    if opening and opening not in first:
        yield _statement(text, opening, "opening")
    yield from (_statement(text, span, "statement") for span in others)


def _statement(text: str, span: tuple[int, int], place: Literal["statement", "opening"]) -> Cue:
    return Cue(place, span[0], span, text[slice(*span)], closed=True, place=place)


# "not B but C", "不是B，而是C", "BではなくC": what follows is the answer.
_CONTRAST = re.compile(
    r"\s{0,2}(?:not\s[^.,;\n]{1,30}?,?\sbut\s(?:rather\s)?|[^。、，\n]{1,20}?では(?:なく|なくて)[、,]?\s?)(?=\S)",
    re.IGNORECASE,
)


def _without_contrast(cue: Cue) -> str:
    """The payload of a cue without a value that it rejects in favour of the one that follows."""
    contrast = _CONTRAST.match(cue.payload) if cue.place == "inline" else None
    return cue.payload[contrast.end() :] if contrast else cue.payload


_ASKS = re.compile(r"[^.!?。！？\n]{1,12}\s?(?:\?|？|吗|ですか|でしょうか|だろうか)")


def find_answer(text: str, read: Read, truncated: bool) -> Found:
    """The final answer of `text`, as `read` reads payloads; with `truncated`, only one that the cut left complete."""
    if not text.strip():
        return Found(None, "empty")
    blocked, reason = -1, "truncated" if truncated else "no_answer"
    for cue in _cues(text, truncated):
        if cue.start < blocked or (blocked >= 0 and cue.place in ("bold", "statement", "opening")):
            continue  # an announced answer that cannot be read is not replaced by a guess
        asks = cue.place != "statement" and _ASKS.match(cue.payload)  # "Answer: B?", "答案是B吗"
        reading = Reading(None, "question") if asks else read(_without_contrast(cue), cue.place)
        if cue.rule in ("boxed", "answer_tag") and boxed_denied(text, cue.start, cue.span[1]):
            reading = Reading(None, "rejected")
        if reading.answer is not None and truncated and not (cue.closed or reading.closed):
            reading = Reading(None, "truncated")
        announces = cue.place in ("inline", "below")
        if (reading.answer is not None or announces) and retracted(text, cue.start):
            reason = "retracted" if blocked < 0 else reason
            continue
        if reading.answer is not None:
            return Found(reading.answer, f"{cue.rule}/{reading.form}", cue.span, reading.note)
        heading = cue.rule == "phrase" and cue.place == "below"  # "Here is the final value:" and a new paragraph
        if announces and not heading:
            blocked, reason = max(blocked, cue.start), "truncated" if truncated and not cue.closed else reading.form
    return Found(None, reason)
