"""An engine without a model: answers come from a function or a table. For tests and rehearsals of a whole loop.

It keeps the contract of `Engine` to the letter (order, seeds, errors, finish reasons), so what passes here fails with a
real model only for the model's reasons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from data_process import prompts as wording
from data_process.images.marks import segments
from data_process.prompts import PromptSet, SelectFormat, prompt_set
from data_process.schema import PLACEHOLDERS, DataError, Problem
from data_process.seeds import seed_for
from selftrain.engine_settings import EngineJob, ScriptedSettings
from selftrain.engines.base import Completion, Engine, EngineError, Request, SamplingParams, check_ids
from selftrain.engines.budget import ForcingRecord
from selftrain.engines.budget_forcing.state_machine import Forcer, resolve
from selftrain.engines.decoding.reward_head import REHEARSED

Respond = Callable[[Request, int], str]

IMAGE_TOKENS = 16  # counted for every image: what a 112 x 112 one costs Qwen2-VL
END = 0  # stands for the end-of-turn token of an empty answer, which is still one token


@dataclass(frozen=True)
class Call:
    """One call of `generate`, as it was made."""

    requests: tuple[Request, ...]
    params: SamplingParams


class Words:
    """Words as a vocabulary: a piece is a word with the blanks before it, its id the checksum of the piece."""

    def __init__(self) -> None:
        self._pieces = {END: ""}  # grows with what is read

    def encode(self, text: str) -> list[int]:
        return [self._id(piece) for piece in re.findall(r"\s*\S+|\s+$", text)]

    def _id(self, piece: str) -> int:
        token = crc32(piece.encode("utf-8", "surrogatepass"))
        self._pieces.setdefault(token, piece)
        return token

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self.piece, ids))

    def piece(self, token: int) -> str:
        return self._pieces[token]

    def spell(self, piece: str) -> list[int]:
        return self.encode(piece)


class ScriptedEngine(Engine):
    """Says what its script says. A token is a word with the blanks before it; its id is the checksum of both.

    Under a budget a text is a first thought: an end of it that is ignored is followed by the text of the next seed, and
    after a forced cue comes what follows the cue in the script (else what follows the end, else the rest of it).
    """

    def __init__(
        self,
        respond: Respond | Mapping[str, Sequence[str]],
        *,
        fail_at: int | None = None,
        check_images: bool = True,
        keep_calls: bool = True,
    ) -> None:
        """`respond(request, seed)` gives the text; or a table from request id (or else prompt) to texts, of which
        seed s takes number s modulo their count. The answer must depend on nothing else.

        `fail_at` raises EngineError in the call that holds the k-th request of this engine's life, counted from 1, as a
        crash would: once, without an answer for the others in that call. `check_images` looks whether each image is a
        PNG file. `keep_calls`: list every call in `calls`, which grows for ever.
        """
        self.respond = respond
        self.check_images = check_images
        self.fail_at = fail_at
        self.words = Words()
        self.calls: list[Call] = []
        self._keep_calls = keep_calls
        self.n_requests = 0

    def close(self) -> None:
        self.closed = True

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        """As `Engine.generate`. What is in an image is not looked at."""
        self._check_open()
        check_ids(requests)
        if self._keep_calls:
            self.calls.append(Call(tuple(requests), params))
        answers = []
        for request in requests:
            self.n_requests += 1
            if self.n_requests == self.fail_at:
                raise EngineError(f"request {request.id!r}: scripted failure at request {self.fail_at}")
            for image in request.images if self.check_images else ():
                if not _is_png(image):
                    raise EngineError(f"request {request.id!r}: cannot read the image {image}; store it again")
            answers.append([self._complete(request, seed, params) for seed in request.seeds])
        if self.on_batch is not None and answers:
            self.on_batch(sum(map(len, answers)))
        return answers

    def _complete(self, request: Request, seed: int, params: SamplingParams) -> Completion:
        # A greedy answer does not depend on the seed, here as with a model.
        seed = 0 if params.temperature == 0 else seed
        if params.budget is not None:
            return self._think(request, seed, params)
        text = self._text(request, seed)
        tokens = self.words.encode(text.rstrip())
        cut = len(tokens) > params.max_tokens
        if cut:
            tokens = tokens[: params.max_tokens]
            text = self.words.decode(tokens)
        return self._completion(request, text, tokens or [END], cut, None)

    def _think(self, request: Request, seed: int, params: SamplingParams) -> Completion:
        assert params.budget is not None
        budget = resolve(params.budget, self.words, {END}, params.max_tokens)
        forcer = Forcer(budget)
        forcer.begin()
        text = self._text(request, seed)
        script = self.words.encode(text.rstrip())
        while not forcer.ended:
            token = script.pop(0) if script else END
            if forcer.allowed and token not in forcer.allowed:
                token = forcer.allowed[seed % len(forcer.allowed)]
            thinking, ignores = forcer.thinking, forcer.record().ignores
            move = forcer.advance([token])
            if (again := forcer.record().ignores) > ignores:
                text = self._text(request, seed + again)
                script = self.words.encode(text.rstrip())
            elif move.forced and thinking:
                cued = budget.policy.answer_cue and budget.policy.answer_cue in text
                after = text.rpartition(budget.policy.answer_cue if cued else budget.policy.end)
                script = self.words.encode(after[2].rstrip()) if after[1] else script
        # As without a budget: the end of the turn is no token of its own, unless it is the only one.
        forcing, tokens, cut = forcer.record(), forcer.ids, forcer.ids[-1] != END and bool(script)
        if tokens[-1] == END and len(tokens) > 1:
            tokens.pop()
            forcing = replace(forcing, answer_tokens=max(forcing.answer_tokens - 1, 0))
        return self._completion(request, self.words.decode(tokens), tokens, cut, forcing)

    def _completion(
        self, request: Request, text: str, tokens: Sequence[int], cut: bool, forcing: ForcingRecord | None
    ) -> Completion:
        return Completion(
            text=text,
            token_ids=tuple(tokens),
            n_prompt_tokens=self.count_prompt_tokens(request.prompt, request.images) + len(request.prefix.split()),
            finish="length" if cut else "stop",
            mean_logprob=-(crc32(text.encode()) % 1000) / 500,  # some number in (-2, 0] that follows the text
            forcing=forcing,
        )

    def _text(self, request: Request, seed: int) -> str:
        if callable(self.respond):
            return self.respond(request, seed)
        texts = self.respond.get(request.id, self.respond.get(request.prompt))
        if not texts:
            raise EngineError(f"request {request.id!r}: the script has no text for its id or its prompt")
        return texts[seed % len(texts)]

    def count_prompt_tokens(self, prompt: str, images: Sequence[Path]) -> int:
        """Words, and IMAGE_TOKENS for each picture."""
        try:
            texts = segments(prompt, len(images))
        except DataError as error:
            raise EngineError(str(error)) from error
        return sum(len(text.split()) for text in texts) + IMAGE_TOKENS * len(images)


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8) == b"\x89PNG\r\n\x1a\n"
    except OSError:
        return False


class GoldNoise:
    """A responder that knows the answers and gets some wrong: a loop runs with it as with a model of that accuracy.

    The problem is found by its question and choices in the prompt; among several that match, by its id in the request's
    id. Whether an answer is right is drawn from (salt, weights, problem, seed): the same on every run.
    """

    def __init__(
        self,
        problems: Iterable[Problem],
        prompts: PromptSet,
        accuracy: float | Mapping[str, float],
        abstain_rate: float = 0.0,
        seed_salt: int | str = 0,
        *,
        weights: str = "base",
        form: SelectFormat = "answer",
        judges: bool = False,
    ) -> None:
        """`accuracy` is the probability of the right answer; a table gives one for each name of `weights`, so that an
        iteration can be better than the one before. `abstain_rate` is the probability of a text without an answer.
        In the `form` "rationale" a selection is a derivation like any other answer. `judges`: it is a reward head, and
        says + or - to everything.
        """
        self.prompts = prompts
        self.accuracy = accuracy if isinstance(accuracy, int | float) else accuracy[weights]
        self.abstain_rate = abstain_rate
        self.salt = seed_salt
        self.weights = weights
        self.form = form
        self.judges = judges
        if self.accuracy < 0 or abstain_rate < 0 or self.accuracy + abstain_rate > 1:
            raise ValueError(f"accuracy {self.accuracy} and abstain_rate {abstain_rate} are not probabilities")
        self._by_body: dict[str, list[Problem]] = {}
        for problem in problems:
            self._by_body.setdefault(wording.body(problem, prompts), []).append(problem)
        self._sizes = sorted({len(body) for body in self._by_body}, reverse=True)
        sets = (prompts, prompts.free) if prompts.free else (prompts,)
        asked = [text for one in sets for text in vars(one).values() if isinstance(text, str) and "{body}" in text]
        self._leads = sorted({text.partition("{body}")[0] for text in asked}, key=len, reverse=True)

    def __call__(self, request: Request, seed: int) -> str:
        problem = self.find(request)
        asked = request.prompt + request.prefix * self.judges
        draw = seed_for("gold-noise", self.salt, self.weights, problem.id, asked, seed) / 2**32
        prompts = self.prompts.of(problem)
        verify_cue = prompts.verify.rpartition("{steps}")[2]
        if self.judges or request.prompt.endswith(verify_cue):  # a reward model is asked about a step
            return "+" if draw < self.accuracy else "-"
        if draw < self.accuracy:
            answer = problem.answer or PLACEHOLDERS[problem.answer_type]
        elif draw < self.accuracy + self.abstain_rate:
            return "The figure does not show enough to tell how large it is, so nothing follows from it here."
        else:
            answer = self._wrong(problem, seed)
        select_cue = prompts.select.rpartition("{predictions}")[2]
        if request.prompt.endswith(select_cue) and self.form != "rationale":
            return wording.fill(prompts.select_target, answer=answer)
        steps = f"From the figure the known values are read, and with them step {seed % 7 + 1} gives what is asked."
        cue = "Answer: " if prompts.qa_target == "{answer}" else ""  # a bare answer ends no solution
        return f"{steps}\n{cue}{wording.fill(prompts.qa_target, answer=answer)}"

    def find(self, request: Request) -> Problem:
        """The problem a request asks about; EngineError if there is none or more than one."""
        # The longest body wins: a question may be the beginning of another one.
        rests = [request.prompt[len(lead) :] for lead in self._leads if request.prompt.startswith(lead)]
        starts = (rest[:size] for rest in rests for size in self._sizes)
        same_text = next((self._by_body[start] for start in starts if start in self._by_body), [])
        found = same_text
        if len(found) > 1:
            named = [problem for problem in found if problem.id in request.id]
            found = [p for p in named if not any(p.id != q.id and p.id in q.id for q in named)]
        if len(found) != 1:
            how_many = "several known problems" if same_text else "no known problem"
            raise EngineError(f"request {request.id!r} matches {how_many}; put the problem's id into the request's id")
        return found[0]

    def _wrong(self, problem: Problem, seed: int) -> str:
        pick = seed_for("wrong", self.salt, self.weights, problem.id, seed)
        if problem.choices:
            others = [letter for letter in problem.letters if letter != problem.answer]
            return others[pick % len(others)]
        try:
            return f"{float(problem.answer or 0) + pick % 9 + 1:g}"
        except ValueError:
            return f"not {problem.answer}"


def open_scripted(settings: ScriptedSettings, job: EngineJob) -> ScriptedEngine:
    accuracy = min(max(settings.accuracy + settings.gain * job.iteration, 0.0), 1 - settings.abstain)
    weights = f"iteration-{job.iteration}"
    prompts = prompt_set(job.prompts)
    noise = GoldNoise(
        job.problems, prompts, accuracy, settings.abstain, job.seed, weights=weights, form=job.select_format,
        judges=job.weights is not None and (job.weights / REHEARSED).is_file(),
    )  # fmt: skip
    return ScriptedEngine(noise, keep_calls=False)
