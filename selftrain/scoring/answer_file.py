"""Score a file of answers against a file of problems under a judge named on the command line.

Every problem of the file is counted: one without an answer abstains with rule "missing". Nothing is written beside the
user's files.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_process.io import write_jsonl
from data_process.judging.extractor import Extractor, Reply, ReplyCache, read_by_extractor
from data_process.judging.published.mathvista import states_answer
from data_process.judging.published.registry import NamedJudge, Response, named_judge
from data_process.outputs import check_outputs
from data_process.predictions import mathvista_tables
from data_process.predictions.files import (
    BAD_SHARE,
    AnswerRow,
    LeftOut,
    ProblemRow,
    read_answer_rows,
    read_problem_rows,
)
from data_process.predictions.score_forms import (
    FORMS,
    Outcome,
    ScoreForm,
    form_lines,
    form_of,
    form_totals,
    score_tables,
)
from data_process.schema import DataError, Verdict
from selftrain import stats
from selftrain.scoring.several import per_problem, several_lines, several_totals

FOLDER = Path("outputs/score")  # under the current folder: the user's own may be read-only
MISSING = Verdict("abstain", None, "missing")
NOT_EXTRACTED = Verdict("abstain", None, "no_extraction")  # the file has an answer, but not what the judge reads
SHOWN_IDS = 20


@dataclass(frozen=True)
class ExtractorSettings:
    """Where the optional extractor is. Its key is read from the environment only."""

    url: str
    model: str
    cache: Path = Path("outputs/extractor.sqlite")
    timeout: float = 60.0  # seconds for one reply

    def open(self) -> Extractor:
        return Extractor(self.url, self.model, ReplyCache(self.cache), self.timeout)


@dataclass(frozen=True)
class Scored:
    """One problem with its answer, the verdict, and what the official MathVista rule makes of it."""

    question: ProblemRow
    answer: AnswerRow | None  # None: the file has no answer to it
    verdict: Verdict
    reply: Reply | None = None  # of the extractor, where it was asked
    more: tuple[Verdict, ...] = ()  # on the responses after the first

    def as_row(self, judge: NamedJudge, own_extractions: bool) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.question.problem.id, "verdict": self.verdict.status, "extracted": self.verdict.extracted,
            "rule": self.verdict.rule, "span": self.verdict.span, "note": self.verdict.note,
        }  # fmt: skip
        if self.reply is not None:
            row["extractor_reply"] = self.reply.text
        if self.more:
            row["samples"] = per_problem([self.verdict, *self.more])
        if judge.official is not None and self.answer is not None:
            problem, extraction = self.question.problem, self.extraction(own_extractions, judge.official.as_written)
            lacks = self.lacks_extraction(own_extractions)
            by_rule = self.verdict if judge.reads == "extraction" else judge.official.verdict(problem, extraction)
            row["official"] = by_rule.correct and not lacks
            if judge.mathvista:
                row["states_answer"] = not lacks and states_answer(problem, extraction)
        return row

    @property
    def row(self) -> Mapping[str, Any]:
        """The problem's row. The answer's metadata go before: the official tables are made from the result file's."""
        if self.answer is None or self.answer.metadata is None:
            return self.question.row
        return {**self.question.row, "metadata": self.answer.metadata}

    def lacks_extraction(self, own: bool) -> bool:
        """Whether the answer has none, though others of its file have: unanswered in both of MathVista's scores."""
        return not own and self.answer is not None and not self.answer.has_extraction

    def extraction(self, own: bool, as_written: bool = False) -> Any:
        """What the official rule is given: the file's extraction, or the answer our judge read ("" for none).

        `as_written`: as the response writes it, unless it stands inside a sentence.
        """
        if self.answer is None or not own:
            return self.answer.response.extraction if self.answer is not None else ""
        if as_written and self.verdict.span and not self.verdict.rule.startswith("statement/"):
            return self.answer.response.text[slice(*self.verdict.span)].strip().removesuffix(".")
        return self.verdict.extracted or ""


def score_files(
    problems: Path,
    answers: Path,
    judge_name: str,
    *,
    seed: int = 0,
    per_item: Path | None = None,
    extractor: ExtractorSettings | None = None,
    official_out: Path | None = None,
    official_scores: Path | None = None,
    sample: int | None = None,
) -> dict[str, Any]:
    """Judge every answer, write a row per problem, and return the totals as a JSON-able object.

    `seed` is used by judges that draw and by no other. `official_out` and `official_scores` are files to write in
    MathVista's official result and score formats. `sample`: which of several responses a log of another program has to
    each problem, from 0; without it, all count: the first for the totals, and all for `samples`, with the mean, the
    vote and the best of n. `correct + wrong + abstain == n`; `abstain` includes `missing`.
    Raises DataError for anything wrong with the two files or with the judge's name.
    """
    judge = named_judge(judge_name)
    named = {"--per-item": per_item, "--official-out": official_out, "--official-scores": official_scores}
    named["--extractor-cache"] = extractor.cache if extractor else None
    check_outputs(named, [problems, answers])
    if extractor is not None and (judge.reads != "text" or judge.name.startswith("legacy:")):
        raise DataError(
            f"judge {judge.name} takes no extractor; use --judge auto, mathvista or geoqa with --extractor-url"
        )
    if not judge.mathvista and (official_out or official_scores):
        raise DataError(
            f"judge {judge.name} has no official MathVista form; use --judge mathvista or mathvista-official"
        )
    left_out = LeftOut()
    questions = read_problem_rows(problems, left_out, geoqa=judge.name == "geoqa")
    given = read_answer_rows(answers, questions, problems, left_out, sample)
    _need_extractions(judge, given, answers)
    several = next((answer for answer in given.values() if answer.more), None)
    if several is not None and (judge.mathvista or judge.official is not None or judge.reads == "extraction"):
        raise DataError(
            f"{several.where}: {1 + len(several.more)} responses to problem {several.id!r}, and {judge.name} scores "
            "one; choose it, e.g. --sample 0"
        )
    scored = judge_all(questions, given, judge, seed, extractor)
    own = not any(answer.has_extraction for answer in given.values())
    rows = [item.as_row(judge, own) for item in scored]
    path = per_item or default_path(problems, answers, judge, seed, extractor.model if extractor else None, sample)
    try:
        write_jsonl(path, rows)
        if judge.mathvista:
            _write_official(scored, own, official_out, official_scores)
    except OSError as error:
        raise DataError(f"{error}; name a file that can be written, for instance --per-item FILE") from error
    return {**totals(scored, rows, judge, seed, path, own), "left_out": left_out.messages}


def _need_extractions(judge: NamedJudge, given: Mapping[str, AnswerRow], answers: Path) -> None:
    without = [answer for answer in given.values() if not answer.has_extraction]
    if judge.reads == "extraction" and without and len(without) == len(given):
        raise DataError(
            f"{without[0].where}, answer {without[0].id!r}: no 'extraction', which {judge.name} judges ({len(without)} "
            f"of {len(given)} answers of {answers} have none); use --judge mathvista to read the responses themselves"
        )


def judge_all(
    questions: Mapping[str, ProblemRow],
    given: Mapping[str, AnswerRow],
    judge: NamedJudge,
    seed: int,
    extractor: ExtractorSettings | None,
) -> list[Scored]:
    """A verdict for every problem, in the order of the problem file.

    The extractor is asked only where the rules abstain on a whole, non-empty response: a truncated one has no answer.
    """
    scored = []
    with extractor.open() if extractor else nullcontext() as reader:
        for identifier, question in questions.items():
            answer = given.get(identifier)
            if answer is None:
                scored.append(Scored(question, None, MISSING))
                continue
            if judge.reads == "extraction" and not answer.has_extraction:
                scored.append(Scored(question, answer, NOT_EXTRACTED))
                continue
            (verdict, reply), *others = (
                _judged(question, response, judge, seed, reader) for response in (answer.response, *answer.more)
            )
            scored.append(Scored(question, answer, verdict, reply, tuple(other for other, _ in others)))
    return scored


def _judged(
    question: ProblemRow, response: Response, judge: NamedJudge, seed: int, reader: Extractor | None
) -> tuple[Verdict, Reply | None]:
    verdict, reply = judge.verdict(question.problem, response, seed), None
    if reader and verdict.status == "abstain" and response.text.strip() and not response.truncated:
        by_rules = verdict.rule
        verdict, reply = read_by_extractor(question.problem, response.text, reader)
        verdict = replace(verdict, note=f"{verdict.note or ''} (the rules: {by_rules})".strip())
    return verdict, reply


def default_path(
    problems: Path, answers: Path, judge: NamedJudge, seed: int, model: str | None, sample: int | None
) -> Path:
    """`outputs/score/ANSWERS.JUDGE.DIGEST.jsonl`: the same inputs give the same name, other inputs another."""
    digest = hashlib.sha256()
    for path in (problems, answers):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    chosen = () if sample is None else (sample,)
    digest.update(repr((judge.name, judge.version, seed, model, *chosen)).encode())
    stem = re.sub(r"(\.jsonl|\.json|\.xlsx|\.eval)?(\.gz)?$", "", answers.name)
    return FOLDER / f"{stem}.{judge.name.replace(':', '-')}.{digest.hexdigest()[:10]}.jsonl"


def _write_official(scored: Sequence[Scored], own: bool, results: Path | None, scores: Path | None) -> None:
    if results is not None:
        entries = {}
        for item in scored:
            if item.answer is not None:
                problem = item.question.problem
                response = replace(item.answer.response, extraction=item.extraction(own))
                entries[problem.id] = mathvista_tables.result_entry(problem, item.row, response)
                if item.lacks_extraction(own):
                    del entries[problem.id]["extraction"]
                    entries[problem.id].update(prediction=None, true_false=False)
        mathvista_tables.write_json(results, entries)
    if scores is not None:
        form = FORMS["MathVista"]
        outcomes = _outcomes(scored, form)
        tables = score_tables(form, outcomes) if outcomes else None
        if tables is None:
            raise DataError(f"{scores}: score tables need answers, and problems with MathVista's metadata")
        mathvista_tables.write_json(scores, mathvista_tables.published_form(tables))


def _outcomes(scored: Sequence[Scored], form: ScoreForm) -> list[Outcome]:
    """The problems that count in the benchmark's score, with the judge's own verdicts."""
    counted = [item for item in scored if item.answer is not None or not form.answered_only]
    return [(item.row, item.verdict.correct) for item in counted]


def _share(correct: int, total: int) -> dict[str, Any]:
    low, high = stats.wilson(correct, total)
    return {"correct": correct, "total": total, "accuracy": correct / total if total else None, "interval": [low, high]}


def totals(
    scored: Sequence[Scored], rows: Sequence[Mapping[str, Any]], judge: NamedJudge, seed: int, path: Path, own: bool
) -> dict[str, Any]:
    """The counts of `rows` with a Wilson interval (fractions), and the benchmark's own scores."""
    status = Counter(row["verdict"] for row in rows)
    n, correct = len(rows), status["correct"]
    missing = [item.question.problem.id for item in scored if item.answer is None]
    result: dict[str, Any] = {
        "judge": judge.name, "judge_version": judge.version, "n": n, "correct": correct, "wrong": status["wrong"],
        "abstain": status["abstain"], "accuracy": correct / n, "interval": list(stats.wilson(correct, n)),
        "missing": len(missing), "missing_ids": missing, "seed": seed, "per_item": str(path.resolve()),
        "rules": dict(Counter(row["rule"] for row in rows).most_common()),
    }  # fmt: skip
    result |= several_totals(rows)
    asked = [item.reply for item in scored if item.reply is not None]
    if asked:
        result["extractor"] = {"asked": len(asked), "from_cache": sum(reply.from_cache for reply in asked)}
    if judge.official is not None:
        answered = [(item, row) for item, row in zip(scored, rows, strict=True) if item.answer is not None]
        right = sum(row["official"] for _, row in answered)
        # The official script divides by the rows of its file; a problem that nobody answered is not among them.
        result["official"] = {
            **_share(right, len(answered)),
            "rule": judge.official.about,
            "extractions": "own" if own else "given",
            "no_extraction": [item.question.problem.id for item, _ in answered if item.lacks_extraction(own)],
        }
    if judge.mathvista:
        credited = sum(row["official"] and not row["states_answer"] for _, row in answered)
        result["official"]["credit_without_answer"] = credited
        result["official"]["undefined"] = sum(row["rule"] == "official:undefined" for row in rows)
        result["strict"] = _share(right - credited if judge.reads == "extraction" else correct, n)
    name = "MathVista" if judge.mathvista else form_of(item.question.row for item in scored)
    return result | ({} if name is None else form_totals(name, _outcomes(scored, FORMS[name])))


def as_text(result: Mapping[str, Any]) -> str:
    """The totals for people: accuracy with its interval, what was not read, the rules that fired, both scores."""

    def share(part: Mapping[str, Any]) -> str:
        if not part["total"]:
            return "no answers"
        low, high = part["interval"]
        return f"{part['correct']}/{part['total']} = {100 * part['accuracy']:.2f}% [{100 * low:.1f}, {100 * high:.1f}]"

    main = {**result, "total": result["n"]}
    lines = [
        f"judge {result['judge']} (version {result['judge_version']})",
        f"accuracy {share(main)}",
        f"correct {result['correct']}, wrong {result['wrong']}, abstain {result['abstain']}, "
        f"of which without an answer in the file {result['missing']}",
    ]
    lines += several_lines(result)
    if result["missing"]:
        more = ", ..." if result["missing"] > SHOWN_IDS else ""
        lines.append("  unanswered: " + ", ".join(result["missing_ids"][:SHOWN_IDS]) + more)
    if result["left_out"]:
        limit = f"of either file at most {BAD_SHARE:.0%} may be"
        lines.append(f"rows that cannot be used and are left out: {len(result['left_out'])} ({limit})")
        lines += [f"  {message}" for message in result["left_out"][:SHOWN_IDS]]
    if "extractor" in result:
        lines.append(
            "extractor asked {asked} times, {from_cache} of them answered from the cache".format(**result["extractor"])
        )
    if "official" in result:
        official = result["official"]
        source = "the given extractions" if official["extractions"] == "given" else "the answers this judge read"
        lines += [
            f"official {share(official)} ({official['rule']} on {source})",
        ]
        if "strict" in result:
            lines += [
                f"strict   {share(result['strict'])} (empty or unreadable is wrong)",
                f"  {official['credit_without_answer']} of the {official['correct']} officially right answers are "
                "credit for an extraction that is no answer at all (empty, a refusal)",
            ]
        if without := official["no_extraction"]:
            more = ", ..." if len(without) > SHOWN_IDS else ""
            listed = ", ".join(without[:SHOWN_IDS]) + more
            lines.append(f"  {len(without)} answers without an extraction count as unanswered in both: {listed}")
        if official.get("undefined"):
            lines.append(f"  {official['undefined']} problems have a type for which the official script has no rule")
    lines.append("rules:")
    lines += [f"  {count:6d}  {rule}" for rule, count in result["rules"].items()]
    lines += form_lines(result)
    lines.append(f"per item: {result['per_item']}")
    return "\n".join(lines)
