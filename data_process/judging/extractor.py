"""An optional LLM that reads responses where the rules abstain, on any server with the OpenAI chat interface.

The model copies out the final answer that a response states, and the rules judge the copy. It never sees the gold
answer. It runs at temperature 0 and gets each prompt once; a cache keeps every reply, so a score can be repeated
without the server. The key comes from the environment variable `EXTRACTOR_API_KEY` and is stored nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from data_process.http import Answer, PassingFault, Retry, TooLarge, base_url, exchange, open_client
from data_process.judging import JUDGES, judge
from data_process.prompts import fill
from data_process.schema import LETTERS, DataError, Problem, Verdict

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "EXTRACTOR_API_KEY"
MAX_RESPONSE = 12_000  # characters of a response that are sent, from its end, where final answers stand
MAX_REPLY_BYTES = 1 << 20  # of HTTP body; an answer has a few hundred
MAX_TOKENS = 512  # of a reply: a short answer, and room for a model that thinks first
MAX_PAUSE = 30.0  # seconds between two attempts, whatever a server asks for

PROMPT = (
    "Below are a question and a response that somebody gave to it. Copy out the final answer that the response states. "
    "Do not solve the question, and do not correct the response.\n"
    "{form}\n"
    "If the response states no final answer, or refuses to give one, write NONE.\n"
    "Write the answer alone, without any explanation.\n\n"
    "Question:\n{question}{choices}\n\nResponse:\n{response}\n\nFinal answer:"
)


class ExtractorError(DataError):
    """The server cannot be used. The cache keeps its earlier replies, so the same command resumes from there."""


class MalformedReply(Exception):
    """The server answered, but not with a chat completion; the message says what was wrong with it."""


def extraction_prompt(
    response: str, *, question: str, choices: Sequence[str] = (), answer_type: str = "choice", unit: str | None = None
) -> str:
    """The prompt for the extractor. No argument could carry a gold answer."""
    letters = LETTERS[: len(choices)]
    listed = "".join(f"\n({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
    cut = "[...] " if len(response) > MAX_RESPONSE else ""
    return fill(
        PROMPT,
        form=fill(JUDGES[answer_type].instruction, letters=", ".join(letters))
        + (f" The unit is {unit}; leave it out." if unit else ""),
        question=question,
        choices=f"\nChoices:{listed}" if listed else "",
        response=cut + response[-MAX_RESPONSE:],
    )


@dataclass(frozen=True)
class Reply:
    """The server's reply. `text` is None where it was malformed, with a `reason`; the cache keeps no such reply."""

    text: str | None
    reason: str = ""
    from_cache: bool = False


@dataclass
class ReplyCache:
    """Replies by (model, digest of the prompt) in a SQLite file, each on disk before the next request."""

    path: Path

    def __post_init__(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error
        self._run(
            "CREATE TABLE IF NOT EXISTS replies (model TEXT, prompt TEXT, reply TEXT, PRIMARY KEY (model, prompt))"
        )

    def _run(self, statement: str, *values: str) -> list[Any]:
        try:
            with self._db:  # committed before the next request is sent
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: cannot be used as the extractor's cache ({error}); delete it or name another")

    def get(self, model: str, prompt: str) -> str | None:
        rows = self._run("SELECT reply FROM replies WHERE model = ? AND prompt = ?", model, prompt)
        return rows[0][0] if rows else None

    def put(self, model: str, prompt: str, reply: str) -> None:
        self._run("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", model, prompt, reply)

    def __len__(self) -> int:
        return int(self._run("SELECT count(*) FROM replies")[0][0])

    def close(self) -> None:
        self._db.close()


@dataclass
class Extractor:
    """An open connection to the server and an open cache. Use as a context manager.

    `url` is the base of the interface, such as http://localhost:8000/v1. Raises DataError for another kind of URL.
    """

    url: str
    model: str
    cache: ReplyCache
    timeout: float = 60.0  # seconds for one reply, from the first byte sent to the last received
    attempts: int = 4  # on transport faults, 429 and 5xx
    pause: float = 1.0  # seconds before the second attempt; doubled before each further one

    def __post_init__(self) -> None:
        try:
            base_url(self.url)
        except ValueError as error:
            raise DataError(f"extractor address {error}") from None
        self._client: httpx.AsyncClient | None = None

    def __enter__(self) -> Extractor:
        key = os.environ.get(KEY_VARIABLE)
        if key and not (key.isascii() and key.isprintable()):  # the message must not show it: it is a secret
            raise DataError(
                f"{KEY_VARIABLE} cannot be sent as an HTTP header; set it to the plain key, without line ends"
            )
        self._client = open_client(self.url, key, timeout_s=self.timeout)
        self._loop = asyncio.Runner()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._loop.run(self._client.aclose())
            self._loop.close()
            self._client = None
        self.cache.close()

    def extract(
        self, response: str, *, question: str, choices: Sequence[str] = (), answer_type: str, unit: str | None = None
    ) -> Reply:
        """The answer that `response` states, in the model's words, from the cache or from the server.

        Raises ExtractorError when the server cannot be reached after all attempts, or refuses the request.
        """
        prompt = extraction_prompt(response, question=question, choices=choices, answer_type=answer_type, unit=unit)
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        # The digest covers the whole request, so a changed prompt or limit is asked anew.
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        kept = self.cache.get(self.model, digest)
        if kept is not None:
            return Reply(kept, from_cache=True)
        try:
            said = _content(self._ask(body))
        except MalformedReply as error:
            return Reply(None, str(error))
        self.cache.put(self.model, digest, said)
        return Reply(said)

    def _ask(self, body: dict[str, Any]) -> Answer:
        """The server's answer, with patience for faults that pass."""
        import httpx

        if self._client is None:
            raise RuntimeError("an Extractor is used inside its with block")
        address, key = self.url.rstrip("/") + "/chat/completions", os.environ.get(KEY_VARIABLE)
        content = json.dumps(body).encode()
        retry = Retry(self.attempts - 1, self.pause, MAX_PAUSE)
        for attempt in range(1, self.attempts + 1):
            try:
                answer = self._loop.run(
                    exchange(self._client, address, content, key=key, timeout_s=self.timeout, max_body=MAX_REPLY_BYTES)
                )
            except PassingFault as fault:
                last = fault
                if attempt < self.attempts:
                    asked_s = min(fault.asked_s or 0.0, MAX_PAUSE)
                    time.sleep(max(retry.delay(attempt, address), asked_s))
                continue
            except TooLarge as error:
                raise MalformedReply(f"reply of {error}") from error
            except httpx.InvalidURL as error:
                raise DataError(f"extractor address {self.url!r} is no address ({error})") from error
            if answer.status != 200:
                raise ExtractorError(
                    f"the extractor at {self.url} refused the request with status {answer.status}: "
                    f"{answer.message or '(no message)'}; check the address, the model name {self.model!r} and "
                    f"{KEY_VARIABLE}. {self._kept()}"
                )
            return answer
        raise ExtractorError(
            f"the extractor at {self.url} gave no reply in {self.attempts} attempts (the last: {last}); see that it "
            f"runs. {self._kept()}"
        )

    def _kept(self) -> str:
        return f"{len(self.cache)} replies are kept in {self.cache.path}; run the same command again to resume."


def _content(answer: Answer) -> str:
    """The text of a chat completion; MalformedReply otherwise."""
    try:
        content = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise MalformedReply(f"not a chat completion ({type(error).__name__})") from error
    if not isinstance(content, str):
        raise MalformedReply(f"a chat completion without text ({type(content).__name__})")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair: no file could keep it
        raise MalformedReply("a chat completion whose text is not Unicode") from error
    return content


def read_by_extractor(problem: Problem, response: str, extractor: Extractor) -> tuple[Verdict, Reply]:
    """The verdict on a response where the rules abstained, and the reply that it is based on.

    The extractor gets only the question, choices, type and unit of the problem. The same rules judge its reply; the
    verdict's rule is "extractor/...". NONE, an unreadable or a malformed reply is an abstention with a reason.
    """
    reply = extractor.extract(
        response, question=problem.question, choices=problem.choices, answer_type=problem.answer_type, unit=problem.unit
    )
    if reply.text is None:
        return Verdict("abstain", None, "extractor/malformed_reply", note=reply.reason), reply
    said = reply.text.rpartition("</think>")[2].strip()
    if said.strip(" .*`\"'").upper() in ("NONE", ""):
        return Verdict("abstain", None, "extractor/none"), reply
    verdict = judge(f"Answer: {said}", problem)
    note = f"extracted: {said[:200]}" + (f"; {verdict.note}" if verdict.note else "")
    return replace(verdict, rule=f"extractor/{verdict.rule}", span=None, note=note), reply
