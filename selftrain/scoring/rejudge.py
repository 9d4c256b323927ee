"""Work on the stored answers of finished runs: judge them again, compare two runs. No model, no sampling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from data_process.io import load_problems, read_jsonl, write_jsonl
from data_process.judging import JUDGE_VERSION, judge
from data_process.schema import Problem, Verdict
from data_process.seeds import seed_for
from selftrain import stats
from selftrain.config import build_config
from selftrain.files import RunError, read_json
from selftrain.test_time.evaluate import compare

STATUSES = ("correct", "wrong", "abstain")
FLIPS_FOLDER = Path("outputs/rejudge")  # under the current folder: a finished run is not written to
SHOWN_FLIPS = 20


@dataclass(frozen=True)
class StoredAnswer:
    """One answer of a finished run, with the verdict that the run gave it."""

    file: str  # relative to the run folder
    iteration: int
    split: str
    name: str  # "greedy", "select", "sample 3", ...
    problem: Problem
    text: str
    truncated: bool
    stored: Mapping[str, Any]  # the verdict as JSON

    def now(self) -> Verdict:
        """The verdict of today's judge."""
        return judge(self.text, self.problem, truncated=self.truncated)


def stored_answers(run: Path, splits: Sequence[str] = ("train", "dev", "test")) -> Iterator[StoredAnswer]:
    """Every judged answer of a run folder: the candidates for training, then the evaluations, in iteration order.

    Raises RunError if the folder holds no run or the data have changed, ConfigError or DataError if its settings or
    data cannot be read.
    """
    config = build_config(read_json(run / "config.json"), str(run / "config.json"))
    for split in splits:
        pattern = "iter*/judge/judged.jsonl" if split == "train" else f"iter*/{split}/rows.jsonl"
        files = sorted(run.glob(pattern), key=lambda f: int(f.parts[-3].removeprefix("iter")))
        if not files:
            continue
        source = config.data.folder / getattr(config.data, split)
        problems = {p.id: p for p in load_problems(source, config.data.folder)}
        for file in files:
            for row in read_jsonl(file):
                identifier = row["candidate"]["problem_id"] if split == "train" else row["id"]
                if identifier not in problems:
                    raise RunError(f"{file}: problem {identifier!r} is not in {source}; the data have changed")
                iteration = int(file.parts[-3].removeprefix("iter"))
                for name, record in _records(row):
                    yield StoredAnswer(
                        str(file.relative_to(run)),
                        iteration,
                        split,
                        name,
                        problems[identifier],
                        record["text"],
                        record["finish"] == "length",
                        record["verdict"],
                    )


def _records(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, record) of every judged text in a row, whatever strategies the evaluation had."""
    if "candidate" in row:
        candidate = row["candidate"]
        yield f"sample {candidate['sample']}", {**candidate, "verdict": row["verdict"]}
        return
    for key, value in row.items():
        several = value if isinstance(value, list) else [value]
        for index, record in enumerate(several):
            if isinstance(record, dict) and {"text", "finish", "verdict"} <= record.keys():
                yield f"{key.removesuffix('s')} {index}" if isinstance(value, list) else key, record


def rescore(run: Path) -> dict[str, Any]:
    """Greedy accuracy of every evaluation in a run folder under today's judge.

    Returns {"judge", "evaluations": [{iteration, split, n, correct, wrong, abstain, accuracy, low, high, changed,
    changes}]}; `changes` lists id, stored and new status of each answer (samples and select too) judged otherwise than
    stored. Raises as `stored_answers` does, and RunError where there is no finished evaluation.
    """
    counts: dict[tuple[str, int], Counter[str]] = {}
    changes: dict[tuple[str, int], list[dict[str, str]]] = {}
    for answer in stored_answers(run, ("dev", "test")):
        key, now = (answer.split, answer.iteration), answer.now()
        counts.setdefault(key, Counter())
        changes.setdefault(key, [])
        if answer.name == "greedy":
            counts[key][now.status] += 1
        if now.status != answer.stored["status"]:
            changes[key].append(
                {
                    "id": answer.problem.id,
                    "answer": answer.name,
                    "stored": answer.stored["status"],
                    "now": now.status,
                }
            )
    if not counts:
        raise RunError(f"{run} holds no finished evaluation; run the loop first")
    evaluations = []
    for (split, iteration), found in counts.items():
        n = found.total()
        low, high = stats.wilson(found["correct"], n)
        evaluations.append(
            {
                "iteration": iteration,
                "split": split,
                "n": n,
                **{status: found[status] for status in STATUSES},
                "accuracy": found["correct"] / n,
                "low": low,
                "high": high,
                "changed": len(changes[split, iteration]),
                "changes": changes[split, iteration],
            }
        )
    return {"judge": JUDGE_VERSION, "evaluations": evaluations}


def rejudge(run: Path, flips: Path | None = None) -> dict[str, Any]:
    """Re-read every stored answer of a run under today's judge; the list of what changed goes to the file `flips`.

    Returns counts that add up: `answers` = `unchanged` + `flipped` (another status) + `other_answer` (the same status,
    another extracted answer, which moves votes); `by_status` and `by_rule` count the flips as "stored -> now";
    `examples` holds the first 20 changes. The run folder is not written to. Raises as `stored_answers` does, and
    RunError where the run has no judged answer.
    """
    counted: Counter[str] = Counter()
    by_status: Counter[str] = Counter()
    by_rule: Counter[str] = Counter()
    stored, now_counts = Counter[str](), Counter[str]()
    changed = []
    for answer in stored_answers(run):
        now = answer.now()
        before = answer.stored
        stored[before["status"]] += 1
        now_counts[now.status] += 1
        if (before["status"], before["extracted"]) == (now.status, now.extracted):
            counted["unchanged"] += 1
            continue
        flipped = before["status"] != now.status
        counted["flipped" if flipped else "other_answer"] += 1
        if flipped:
            by_status[f"{before['status']} -> {now.status}"] += 1
            by_rule[f"{before['rule']} -> {now.rule}"] += 1
        changed.append(
            {
                "id": answer.problem.id,
                "file": answer.file,
                "answer": answer.name,
                "gold": answer.problem.answer,
                "stored": {key: before[key] for key in ("status", "extracted", "rule")},
                "now": {"status": now.status, "extracted": now.extracted, "rule": now.rule},
                "end_of_text": answer.text[-200:],
            }
        )
    if not stored:
        raise RunError(f"{run} holds no judged answers; run the loop first")
    path = flips or FLIPS_FOLDER / f"{run.resolve().name}.{sha256(str(run.resolve()).encode()).hexdigest()[:8]}.jsonl"
    changed.sort(key=lambda row: row["stored"]["status"] == row["now"]["status"])  # the flips first
    try:
        write_jsonl(path, changed)
    except OSError as error:
        raise RunError(f"{error}; name a file that can be written with --flips FILE") from error
    return {
        "run": str(run),
        "judge": JUDGE_VERSION,
        "answers": stored.total(),
        **{key: counted[key] for key in ("unchanged", "flipped", "other_answer")},
        "stored": {status: stored[status] for status in STATUSES},
        "now": {status: now_counts[status] for status in STATUSES},
        "by_status": dict(by_status.most_common()),
        "by_rule": dict(by_rule.most_common()),
        "examples": changed[:SHOWN_FLIPS],
        "flips": str(path.resolve()),
    }


def compare_runs(a: Path, b: Path, split: str = "test") -> list[dict[str, Any]]:
    """Paired comparison of the accepted iterations of two runs on the same problems, a record per strategy.

    Records as in metrics.json, with the two runs' names. Raises RunError if a run has no such evaluation, or if the two
    were not measured on the same problems.
    """
    rows, names = [], []
    for run in (a, b):
        metrics = read_json(run / "metrics.json")
        file = run / f"iter{metrics['accepted']}/{split}/rows.jsonl"
        if not file.is_file():
            raise RunError(f"{run} has no evaluation of its accepted iteration on {split}; run it to its end first")
        rows.append(read_jsonl(file))
        names.append(metrics["run"]["name"])
    gold = [{row["id"]: row["gold"] for row in part} for part in rows]
    if gold[0] != gold[1]:
        only = set(gold[0].items()) ^ set(gold[1].items())
        raise RunError(f"{a} and {b} were measured on different problems ({len(only)} differ), so they have no pairs")
    seed = seed_for("compare", split)
    return [
        {**compare(*rows, split, strategy, seed), "run_a": names[0], "run_b": names[1]}
        for strategy in ("greedy", "majority", "select")
    ]
