"""Files of engines and per-sample logs of other evaluation programs, as rows of `id` and `response`.

    vLLM         the output of `vllm run-batch`, OpenAI's batch format; `custom_id` is the problem's id
    LLaMA-Factory  generated_predictions.jsonl: prompt, predict, label, in the order of the data set
    lists        rows of an id and a list of n completions, or one under another name such as `generated_text`
    lmms-eval    DATE_samples_TASK.jsonl, which --log_samples writes (lmms_eval/loggers/evaluation_tracker.py)
    VLMEvalKit   MODEL_DATASET.xlsx, .tsv or .json: the data set's rows with `prediction` (vlmeval/inference.py)
    inspect-ai   logs *.eval and *.json (src/inspect_ai/log/_recorders)

lmms-eval numbers problems by their place in the data set, VLMEvalKit by a column of its own, and inspect-ai from 1
where the data set has no ids. Such a number is believed only if the log shows the problem that it leads to.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_process.limits import check_member
from data_process.schema import DataError, Problem, shown, wrong
from data_process.sources.base import LocatedRow, Row, plain_value, refuse_unreadable, unreadable
from data_process.sources.workbook import MAX_CELL

INSPECT_VERSION = 2  # of the log format; samples of version 3 may be spread over several members
ZSTANDARD = 93  # how inspect-ai compresses; Python's zipfile reads it from 3.14 on
AGREEING = 0.9  # share of the samples that must show their problem before a number is taken for its id
_OWN_IDS = ("question_id", "pid", "id")  # of the data set itself, in metrics, metadata or columns
MORE = "\0more"  # key of the responses after the first in a row that stands for several: (text, truncated)
# What engines call their texts. The first two are also the names of a single response.
_TEXTS = (
    "response", "output", "responses", "outputs", "completions", "generated_text", "generated_texts", "generations",
    "prediction", "predictions",
)  # fmt: skip
_PROMPTS = ("question", "query", "prompt", "input")
_FAILED = "Failed to obtain answer"  # VLMEvalKit's prediction where a request failed


@dataclass(frozen=True)
class Text:
    """One response. `failure`: why there is none."""

    text: str
    truncated: bool = False
    failure: str | None = None


@dataclass(frozen=True)
class LogSample:
    """What a log says of one problem."""

    where: str
    ids: Mapping[str, str]  # the data set's own ids by the name that the log gives them
    numbers: Mapping[str, str]  # ids that the program may have given
    place: int | None  # in the data set, from 0
    texts: tuple[Text, ...]  # in the order they were drawn
    prompt: str  # "" where the log does not show it
    target: str

    def shows(self, problem: Problem) -> bool:
        """Whether the log shows this problem's question, or its gold answer."""
        if _words(problem.question) in _words(self.prompt):
            return True
        golds = {_words(gold) for gold in (problem.answer, problem.gold_text, *problem.alternatives)}
        return bool(self.target) and _words(self.target) in golds


def _words(text: str) -> str:
    return " ".join(re.sub(r"<image[ _]?\d*>", " ", text).casefold().split())


def log_rows(
    path: Path, rows: Iterable[LocatedRow], problems: Mapping[str, Problem], sample: int | None
) -> Iterator[LocatedRow]:
    """Rows of `id`, `response` and `finish` for a log; the rows of any other file as they are.

    `sample` says which response is meant, from 0, where there are several of each problem; without it the others stand
    under MORE. A response that failed becomes a row that cannot be read. Raises DataError for a log that cannot be
    joined to the problems.
    """
    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return
    reader = next((read for is_own, read in _FORMS if is_own(first[1])), None)
    if reader is None:
        if sample is not None:
            raise DataError(f"{path}: --sample chooses among several responses, and this file has one to each problem")
        yield first
        yield from remaining
        return
    parsed: list[LogSample] = []
    for place, (where, row) in enumerate((first, *remaining)):
        try:
            refuse_unreadable(row, where)
            found = reader(path, where, row)
            parsed.append(found if reader not in _IN_ORDER or found.ids else replace(found, place=place))
        except DataError as error:
            yield where, unreadable(error, path)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            yield where, unreadable(DataError(f"not a sample as the rows before it ({error!r:.80})"), path)
    samples = _merged(parsed)
    if not samples:
        return
    for found, identifier in zip(samples, _ids(path, samples, problems), strict=True):
        yield found.where, _answer(path, found, identifier, sample)


def _answer(path: Path, found: LogSample, identifier: str, sample: int | None) -> Row:
    texts = found.texts
    if len(texts) > 1 and sample is None:
        failed = next((text.failure for text in texts if text.failure is not None), None)
        if failed is not None:
            what = f"problem {shown(identifier)} lacks one of its {len(texts)} responses ({failed})"
            return {**unreadable(DataError(what), path), "id": identifier}
        more = tuple((text.text, text.truncated) for text in texts[1:])
        finish = "length" if texts[0].truncated else "stop"
        return {"id": identifier, "response": texts[0].text, "finish": finish, MORE: more}
    if not (sample or 0) < len(texts):
        what = f"no response {sample} to problem {shown(identifier)}, which has {len(texts)}"
        return {**unreadable(DataError(what), path), "id": identifier}
    text = texts[sample or 0]
    if text.failure is not None:
        what = f"problem {shown(identifier)} has no response ({text.failure}); let the program ask it again"
        return {**unreadable(DataError(what), path), "id": identifier}
    return {"id": identifier, "response": text.text, "finish": "length" if text.truncated else "stop"}


def _merged(samples: Iterable[LogSample]) -> list[LogSample]:
    """One for each problem. The epochs of inspect-ai follow each other; lmms-eval repeats a problem for each filter."""
    merged: dict[Any, LogSample] = {}
    for one in samples:
        key = (tuple(one.ids.items()), tuple(one.numbers.items()), one.place)
        before = merged.get(key)
        if before is None:
            merged[key] = one
        elif "sample id" in one.ids or "sample id" in one.numbers:
            merged[key] = replace(before, texts=before.texts + one.texts)
        elif before.texts != one.texts:
            wrong(one.where, f"the same problem has another response there ({before.where}); keep one of the two")
    return list(merged.values())


def _ids(path: Path, samples: Sequence[LogSample], problems: Mapping[str, Problem]) -> list[str]:
    """The id of each sample's problem. One that no problem has stays as the log gives it, for the caller to report."""
    for column in dict.fromkeys(column for one in samples for column in one.ids):
        named = [one.ids.get(column) for one in samples]
        if None not in named and any(name in problems for name in named):
            return [str(name) for name in named]
    ordered = list(problems)
    ways = {column: [one.numbers.get(column) for one in samples] for one in samples[:1] for column in one.numbers}
    if all(one.place is not None for one in samples):
        ways["place in the data set"] = [
            ordered[one.place] if one.place is not None and 0 <= one.place < len(ordered) else None for one in samples
        ]
    for names in ways.values():
        meant = [(one, problems[name]) for one, name in zip(samples, names, strict=True) if name and name in problems]
        if meant and sum(one.shows(problem) for one, problem in meant) >= AGREEING * len(samples):
            return [f"place {one.place}" if name is None else name for one, name in zip(samples, names, strict=True)]
    tried = ", ".join(dict.fromkeys([*(column for one in samples for column in one.ids), *ways])) or "nothing"
    raise DataError(
        f"{path}: its answers cannot be joined to the problems: it names them by {tried}, and neither an id nor the "
        f"question there is one of the {len(problems)} problems (first: {shown(ordered[0])}). Score against all the "
        "problems that were asked, in the data set's order"
    )


# ---- engines ----------------------------------------------------------------------------------------------------


def _run_batch(path: Path, where: str, row: Row) -> LogSample:
    """A row of OpenAI's batch output: a chat completion or a completion with n choices."""
    response, error = row.get("response") or {}, row.get("error")
    body = response.get("body") or {}
    if error or response.get("status_code", 200) != 200:
        said = shown((error or body).get("message") or error or body, 60)
        texts: tuple[Text, ...] = (Text("", failure=f"the request failed: {said}"),)
    else:
        choices = sorted(body["choices"], key=lambda choice: int(choice.get("index", 0)))
        texts = tuple(_of_choice(choice, where) for choice in choices)
    return LogSample(where, {"custom_id": str(row["custom_id"])}, {}, None, texts, "", "")


def _of_choice(value: Any, where: str, cut: bool = False) -> Text:
    """A text, or an object that holds one as engines and servers write it."""
    found, reason = value, None
    if isinstance(value, Mapping):
        message = value.get("message")
        found = message.get("content") if isinstance(message, Mapping) else None
        for name in ("text", "generated_text", "content", "response", "output"):
            found = value[name] if found is None and name in value else found
        details = value.get("details")
        reason = value.get("finish_reason", details.get("finish_reason") if isinstance(details, Mapping) else None)
        if found is None and isinstance(message, Mapping):
            found = ""  # a refusal, or a call of a tool
    if not isinstance(found, str):
        wrong(where, f"a response must be text, found {shown(value, 60)}")
    return Text(found, cut or reason == "length")


def _listed(path: Path, where: str, row: Row) -> LogSample:
    """A row of an id, or a prompt, and n completions, or one under an engine's own name."""
    value = next((row[name] for name in _TEXTS if name in row), None)
    several = value if isinstance(value, list) else [value]
    while len(several) == 1 and isinstance(several[0], list):  # as pipelines of transformers write them
        several = several[0]
    if not several:
        wrong(where, "an empty list of responses")
    reasons = row.get("finish", row.get("finish_reason"))
    cut = [reason == "length" for reason in (reasons if isinstance(reasons, list) else [reasons] * len(several))]
    if len(cut) != len(several):
        wrong(where, f"{len(cut)} finish reasons for {len(several)} responses")
    texts = tuple(_of_choice(one, where, short) for one, short in zip(several, cut, strict=True))
    ids = {name: found for name in (*_OWN_IDS, "custom_id") if (found := plain_value(row.get(name))) is not None}
    prompt = next((row[name] for name in _PROMPTS if isinstance(row.get(name), str)), "")
    return LogSample(where, ids, {}, None, texts, prompt, plain_value(row.get("label")) or "")


def _is_listed(row: Row) -> bool:
    name = next((name for name in _TEXTS if name in row), None)
    return name is not None and (name not in _TEXTS[:2] or isinstance(row[name], list))


def _llamafactory(path: Path, where: str, row: Row) -> LogSample:
    """A row of generated_predictions.jsonl (src/llamafactory/train/sft/trainer.py): the special tokens are left out."""
    said, prompt, label = (plain_value(row[name]) for name in ("predict", "prompt", "label"))
    if said is None:
        wrong(where, f"'predict' must be text, found {shown(row['predict'], 60)}")
    return LogSample(where, {}, {}, None, (Text(said),), prompt or "", (label or "").strip())


# ---- lmms-eval --------------------------------------------------------------------------------------------------


def _lmms(path: Path, where: str, row: Row) -> LogSample:
    """A row of --log_samples. The response is `resps`; where it is left out, the filter changed nothing."""
    drawn = list(_strings(row.get("resps", row.get("filtered_resps")), where))
    ids = {
        name: found
        for value in row.values()
        if isinstance(value, Mapping)  # a metric with the data set's fields
        for name in _OWN_IDS
        if (found := plain_value(value.get(name))) is not None
    }
    number = plain_value(row["doc_id"])
    if number is None:
        wrong(where, f"'doc_id' must be a number, found {shown(row['doc_id'])}")
    place = int(number) if number.isdecimal() else None
    texts = tuple(map(Text, drawn))
    prompt, target = row.get("input"), row.get("target")
    return LogSample(
        where, ids, {"doc_id": number}, place, texts, prompt if isinstance(prompt, str) else "", str(target or "")
    )


def _strings(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _strings(inner, where)
    else:
        wrong(
            where, f"a response must be text, found {shown(value)}; a task that compares likelihoods has no responses"
        )


# ---- VLMEvalKit -------------------------------------------------------------------------------------------------


def _vlmeval(path: Path, where: str, row: Row) -> LogSample:
    """A row of a prediction table: the data set's row without its image."""
    response = row["prediction"]
    text = "" if response is None else plain_value(response)
    if text is None:
        wrong(where, f"'prediction' must be text, found {shown(response)}")
    ids = {name: found for name in _OWN_IDS if (found := plain_value(row.get(name))) is not None}
    number = plain_value(row["index"])
    if number is None:
        wrong(where, f"'index' must be a number or text, found {shown(row['index'])}")
    failure = "VLMEvalKit failed to obtain it" if text.startswith(_FAILED) else None
    cut = path.suffix == ".xlsx" and len(text) >= MAX_CELL
    question, answer = row.get("question"), plain_value(row.get("answer"))
    return LogSample(
        where, ids, {"index": number}, None, (Text(text, cut, failure),), str(question or ""), answer or ""
    )


# ---- inspect-ai -------------------------------------------------------------------------------------------------


def is_inspect_log(path: Path) -> bool:
    """Whether a file is a log of inspect-ai: by its name, or by the beginning of its JSON."""
    if path.suffix == ".eval":
        return True
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return re.match(rb'\s*\{\s*"version":\s*\d+,\s*"status":', head) is not None


def inspect_rows(path: Path) -> Iterator[LocatedRow]:
    """The samples of a log, in its order, epochs one after the other. DataError for a log that cannot be read."""
    try:
        version, samples = _read_eval(path) if path.suffix == ".eval" else _read_json_log(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    except DataError:
        raise
    except (
        ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, NotImplementedError,
        EOFError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise DataError(
            f"{path}: not a whole log of inspect-ai ({error!r:.200}); a log of a run that was killed is repaired by "
            "`inspect log recover`"
        ) from error
    if version > INSPECT_VERSION:
        raise DataError(f"{path}: a log of version {version}, and {INSPECT_VERSION} is the newest that is known here")
    if not samples:
        raise DataError(f"{path}: a log without samples; log them (INSPECT_LOG_SAMPLES), and evaluate again")
    for number, row in enumerate(sorted(samples, key=_epoch), start=1):
        if not isinstance(row, dict):
            wrong(f"{path}, sample {number}", f"a sample must be a JSON object, this is a {type(row).__name__}")
        yield f"{path}, sample {number}", row


def _epoch(sample: Any) -> int:
    number = sample.get("epoch") if isinstance(sample, dict) else None
    return number if isinstance(number, int) else 1


def _read_json_log(path: Path) -> tuple[int, list[Row]]:
    log = json.loads(path.read_bytes())
    return int(log["version"]), list(log.get("samples") or [])


def _read_eval(path: Path) -> tuple[int, list[Row]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}  # the last of a name is the one that counts
        head = members.get("header.json") or members.get("_journal/start.json") or members["start.json"]
        version = int(json.loads(_member(archive, head))["version"])
        names = [name for name in members if name.startswith("samples/") and name.endswith(".json")]
        return version, [json.loads(_member(archive, members[name])) for name in names]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, also of one that Python's zipfile cannot unpack yet."""
    check_member(info, Path(str(archive.filename)))
    if info.compress_type != ZSTANDARD:
        return archive.read(info)
    import pyarrow as pa

    assert archive.fp is not None
    archive.fp.seek(info.header_offset)
    head = archive.fp.read(30)  # of the member (PKWARE's APPNOTE, 4.3.7); the name and an extra field follow it
    archive.fp.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
    try:
        data = pa.Codec("zstd").decompress(archive.fp.read(info.compress_size), info.file_size, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise zipfile.BadZipFile(f"{info.filename}: {error}") from error
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename}: bad checksum")
    return bytes(data)


def _inspect(path: Path, where: str, row: Row) -> LogSample:
    """An EvalSample (src/inspect_ai/log/_log.py)."""
    attached = row.get("attachments") or {}

    def content(value: Any) -> str:
        """The text of a message's content, without its reasoning and its images."""
        if isinstance(value, list):
            return "".join(content(part.get("text")) for part in value if part.get("type") == "text")
        text = value if isinstance(value, str) else ""
        return str(attached.get(text.removeprefix("attachment://"), text))

    output = row["output"] or {}
    choices = output.get("choices") or [{}]
    text = content(output.get("completion")) or content(choices[0].get("message", {}).get("content"))
    failure = f"an error stopped it: {row['error'].get('message', '')[:80]}" if row.get("error") else None
    truncated = choices[0].get("stop_reason") in ("max_tokens", "model_length")
    asked = row.get("input")
    if isinstance(asked, list):
        asked = "\n".join(content(message.get("content")) for message in asked)
    target = row.get("target")
    meta = row.get("metadata") or {}
    ids = {name: found for name in _OWN_IDS if (found := plain_value(meta.get(name))) is not None}
    own = plain_value(row["id"])
    if own is None:
        wrong(where, f"'id' must be a number or text, found {shown(row['id'])}")
    named, numbered = {"sample id": own}, own.isdecimal()
    return LogSample(
        where, ids if numbered else {**named, **ids}, named if numbered else {}, int(own) - 1 if numbered else None,
        (Text(text, truncated, failure),), content(asked), str(target[0] if isinstance(target, list) else target or ""),
    )  # fmt: skip


# How a row of each program is told from others, and read.
_FORMS: tuple[tuple[Callable[[Row], bool], Callable[[Path, str, Row], LogSample]], ...] = (
    (lambda row: "doc_id" in row and ("resps" in row or "filtered_resps" in row), _lmms),
    (lambda row: "index" in row and "prediction" in row and not {"response", "output"} & row.keys(), _vlmeval),
    (lambda row: "epoch" in row and "output" in row and "target" in row, _inspect),
    (lambda row: "custom_id" in row and ("response" in row or "error" in row), _run_batch),
    (lambda row: {"prompt", "predict", "label"} <= row.keys(), _llamafactory),
    (_is_listed, _listed),
)
_IN_ORDER = (_llamafactory, _listed)  # rows without ids are in the order of the problems
