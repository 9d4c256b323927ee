"""The form in which a benchmark publishes its score: tables of accuracy by category, and We-Math's four measures.

A form is an entry of FORMS. It is found by the collection that the problems' `origin` names. Verdicts are those of the
judge in use; an abstention is wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Outcome = tuple[Mapping[str, Any], bool]  # a problem's row, and whether its answer is right
Count = dict[str, Any]  # {"accuracy": fraction, "correct": n, "total": n}
Tables = dict[str, Any]  # {"average": Count, table: {value: Count}}


@dataclass(frozen=True)
class ScoreForm:
    """The tables and measures of one benchmark."""

    # Table -> the fields whose values, joined by commas, are its lines. A field may hold a list: one line for each.
    tables: Mapping[str, tuple[str, ...]]
    printed: tuple[str, ...]  # the tables that people are shown; JSON has all
    measures: Callable[[Sequence[Outcome]], dict[str, Any]] | None = None  # scores that are no accuracies
    best_first: bool = False  # order of the lines; otherwise by value
    answered_only: bool = False  # problems without an answer are not counted; otherwise they are wrong


def count(correct: int, total: int) -> Count:
    return {"accuracy": correct / total if total else None, "correct": correct, "total": total}


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a problem's row in any of its forms: official with `metadata`, or prepared with `meta`."""
    flat = dict(row)
    for name in ("meta", "mathvista", "metadata"):
        if isinstance(inner := flat.get(name), Mapping):
            flat |= inner
    return flat


def _lines(flat: Mapping[str, Any], fields: tuple[str, ...]) -> list[str] | None:
    """The lines of a table under which a row counts, each once; None if the row lacks a field."""
    values = [flat.get(field) for field in fields]
    if any(value is None for value in values):
        return None
    if isinstance(values[0], list | tuple):
        return list(dict.fromkeys(map(str, values[0])))
    return [", ".join(map(str, values))]


def score_tables(form: ScoreForm, outcomes: Iterable[Outcome]) -> Tables | None:
    """Accuracy overall and for each line of every table. Accuracies are fractions.

    A problem with several skills counts once under each. None if a row lacks a field of a table.
    """
    rights: dict[str, dict[str, list[bool]]] = {table: defaultdict(list) for table in form.tables}
    everything = []
    for row, right in outcomes:
        flat = fields_of(row)
        everything.append(right)
        for table, fields in form.tables.items():
            lines = _lines(flat, fields)
            if lines is None:
                return None
            for line in lines:
                rights[table][line].append(right)
    tables: Tables = {"average": count(sum(everything), len(everything))}
    for table, by_line in rights.items():
        counts = {line: count(sum(found), len(found)) for line, found in by_line.items()}
        names = sorted(counts, key=lambda line: -counts[line]["accuracy"]) if form.best_first else sorted(counts)
        tables[table] = {name: counts[name] for name in names}
    return tables


def _concept_groups(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """We-Math's accuracy by group of concepts: the mean, over the concepts of a group, of the accuracy on their steps.

    The published script (We-Math/We-Math, `evaluation/accuracy.py`) averages concepts, not problems.
    """
    steps: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row, right in outcomes:
        flat = fields_of(row)
        if group := flat.get("concept_group"):
            steps[str(group)][str(flat.get("knowledge concept"))].append(right)
    return {
        group: sum(sum(found) / len(found) for found in concepts.values()) / len(concepts)
        for group, concepts in sorted(steps.items())
    }


def wemath_measures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """We-Math's four measures and its average score (Qiao et al. 2024, arXiv 2407.01284, section 2.3), as fractions.

    A multi-step problem is solved or not, and so is each of the one-step problems into which it is decomposed:

        insufficient knowledge     not solved, and a step is not solved either
        inadequate generalization  not solved, though all steps are
        complete mastery           solved, and all steps are (strict) or at least one is (loose)
        rote memorization          solved otherwise; its published rate is relative to the solved ones

    The average score is complete mastery plus half of inadequate generalization. Decompositions of which a problem is
    missing from the file are left out and counted as `incomplete`. `concept_groups` holds accuracies by group of
    concepts, where the rows name it.
    """
    groups: dict[str, dict[str, bool]] = defaultdict(dict)
    for row, right in outcomes:
        flat = fields_of(row)
        groups[str(flat.get("ID"))][str(flat.get("key"))] = right
    n, kinds = 0, Counter[str]()
    for found in groups.values():
        steps = next(iter(found)).partition("_")[0]  # "2steps" of "2steps_1", "2steps_2" and "2steps_multi"
        amount = int(steps[:1]) if steps[:1].isdigit() else 0
        keys = [f"{steps}_{number}" for number in range(1, amount + 1)]
        if set(found) != {*keys, f"{steps}_multi"}:
            continue
        n += 1
        solved = [found[key] for key in keys]
        if not found[f"{steps}_multi"]:
            kinds["inadequate_generalization" if all(solved) else "insufficient_knowledge"] += 1
        else:
            kinds["all_steps" if all(solved) else "some_steps" if any(solved) else "no_step"] += 1
    measures: dict[str, Any] = {"decompositions": n, "incomplete": len(groups) - n}
    if by_group := _concept_groups(outcomes):
        measures["concept_groups"] = by_group
    if not n:
        return measures
    whole = kinds["all_steps"] + kinds["some_steps"] + kinds["no_step"]
    for form, mastered in (("strict", kinds["all_steps"]), ("loose", kinds["all_steps"] + kinds["some_steps"])):
        measures[form] = {
            "score": (mastered + 0.5 * kinds["inadequate_generalization"]) / n,
            "insufficient_knowledge": kinds["insufficient_knowledge"] / n,
            "inadequate_generalization": kinds["inadequate_generalization"] / n,
            "complete_mastery": mastered / n,
            "rote_memorization": (whole - mastered) / whole if whole else None,
        }
    return measures


_MATHVISTA_TABLES = (
    "question_type", "answer_type", "language", "source", "category", "task", "context", "grade", "skills",
)  # fmt: skip
# By the name of the collection, as the sources write it into `origin`.
FORMS: dict[str, ScoreForm] = {
    "MathVista": ScoreForm(
        {table: (table,) for table in _MATHVISTA_TABLES}, ("question_type", "answer_type", "task"),
        best_first=True, answered_only=True,
    ),
    "MathVerse": ScoreForm(
        {"problem_version": ("problem_version",), "subject": ("subject",), "subfield": ("subject", "subfield")},
        ("problem_version", "subject"),
    ),
    "MathVision": ScoreForm(
        {"level": ("level",), "subject": ("subject",), "subject_level": ("subject", "level")}, ("level", "subject")
    ),
    "MMMU": ScoreForm({"discipline": ("discipline",), "subject": ("subject",)}, ("discipline", "subject")),
    "We-Math": ScoreForm({"steps": ("steps",), "concept": ("concepts",)}, ("steps",), measures=wemath_measures),
}  # fmt: skip


def form_of(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The collection in FORMS that all rows name in `origin`; None if they name none, several or another one."""
    names = set()
    for row in rows:
        origin = row.get("origin")
        named = [name for name in origin if name] if isinstance(origin, list | tuple) else [origin]
        names.add(named[-1] if named else None)
    return name if len(names) == 1 and (name := str(names.pop())) in FORMS else None


def form_totals(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The tables and measures of the form `name` for a result in JSON; empty without problems or their categories."""
    form = FORMS[name]
    tables = score_tables(form, outcomes) if outcomes else None
    if tables is None:
        return {}
    measures = {} if form.measures is None else {"measures": form.measures(outcomes)}
    return {"score_form": name, "categories": tables, **measures}


def form_lines(result: Mapping[str, Any]) -> list[str]:
    """What people are shown of the totals that `form_totals` gave: percentages."""
    if "score_form" not in result:
        return []
    lines = []
    for table in FORMS[result["score_form"]].printed:
        lines.append(f"{table}:")
        for value, found in result["categories"][table].items():
            lines.append(f"  {100 * found['accuracy']:6.2f}%  {found['correct']}/{found['total']}  {value}")
    for name, value in result.get("measures", {}).items():
        shown = ", ".join(f"{key} {_percent(share)}" for key, share in value.items()) if name in _RATES else value
        lines.append(f"{name}: {shown}")
    return lines


_RATES = ("strict", "loose", "concept_groups")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}%"
