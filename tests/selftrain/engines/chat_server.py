"""An OpenAI-compatible server on this machine that answers from a script, and misbehaves where a test wants it to."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

from selftrain.engines.base import Request, SamplingParams
from selftrain.engines.scripted import IMAGE_TOKENS, ScriptedEngine

END = 7  # id of the end of the turn
# A digit never sticks to a word, a sign or a line break, as with the tokenizers of real models.
PIECE = re.compile(r"\s*(?:\d|[^\W\d]+|[^\w\s]+)|\s+$")


@dataclass
class Call:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    images: tuple[str, ...]  # sha256 of the pictures' bytes, as they stand
    at: float  # monotonic seconds


@dataclass
class Reply:
    """What to say instead of an answer."""

    status: int = 200
    body: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    pause: float = 0.0  # seconds in the middle of the body
    length: int | None = None  # Content-Length, if not the true one
    hang_up: bool = False  # close the connection without a word


Misbehave = Callable[[Call, int], Reply | None]  # the call and its number, from 0; None: answer properly


class ChatServer:
    """`with ChatServer(respond) as server:`, then `server.url`. `respond(request, seed)` gives whole texts."""

    def __init__(
        self,
        respond: Callable[[Request, int], str] | Mapping[str, list[str]],
        *,
        model: str = "m",
        owned_by: str | None = "vllm",
        misbehave: Misbehave | None = None,
        resumes: bool = True,
        tells_tokens: bool = True,
        latency: float = 0.0,
    ) -> None:
        """`resumes`: partial answers are continued. `tells_tokens`: ids, texts and log-probabilities are given."""
        self.script = ScriptedEngine(respond, check_images=False)
        self.model, self.owned_by = model, owned_by
        self.misbehave, self.resumes, self.tells_tokens, self.latency = misbehave, resumes, tells_tokens, latency
        self.calls: list[Call] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._send(outer._models(self.headers))

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                with outer._lock:
                    outer._at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer._at_once)
                try:
                    self._send(outer._handle(self.path, dict(self.headers), json.loads(raw)))
                finally:
                    with outer._lock:
                        outer._at_once -= 1

            def _send(self, reply: Reply) -> None:
                time.sleep(reply.delay)
                if reply.hang_up:
                    self.close_connection = True
                    return
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                try:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body) if reply.length is None else reply.length))
                    self.end_headers()
                    if reply.pause:
                        self.wfile.write(body[: len(body) // 2])
                        self.wfile.flush()
                        time.sleep(reply.pause)
                        body = body[len(body) // 2 :]
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client had waited long enough
                if reply.length is not None:
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._http = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _models(self, headers: Any) -> Reply:
        if self.misbehave and (reply := self.misbehave(Call("/v1/models", dict(headers), {}, (), 0.0), -1)):
            return reply
        return Reply(body={"object": "list", "data": [{"id": self.model, "owned_by": self.owned_by}]})

    def _handle(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        images: list[str] = []
        content = body["messages"][0]["content"]
        if isinstance(content, list):
            for part in content:
                if part["type"] == "image_url":
                    kind, _, data = part["image_url"]["url"].partition(",")
                    assert kind == "data:image/png;base64"
                    images.append(sha256(base64.b64decode(data)).hexdigest())
        call = Call(path, headers, body, tuple(images), time.monotonic())
        with self._lock:
            number = len(self.calls)
            self.calls.append(call)
        if self.misbehave and (reply := self.misbehave(call, number)):
            return reply
        return Reply(body=self.answer(call), delay=self.latency)

    def answer(self, call: Call) -> dict[str, Any]:
        """A proper answer. What has been said so far is looked for in the script, which goes on after it."""
        body = call.body
        content = body["messages"][0]["content"]
        prompt = content if isinstance(content, str) else "".join(part.get("text", "<image>") for part in content)
        while call.images and prompt.startswith("<image>"):  # as a request has it
            prompt = prompt.removeprefix("<image>")
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        said = body["messages"][1]["content"] if len(body["messages"]) > 1 else ""
        shown, paths = f"{prompt}\n{said}" if said else prompt, tuple(map(Path, call.images))
        request = Request(prompt, shown, paths, (body["seed"],))
        greedy = body["temperature"] == 0
        [[full]] = self.script.generate([request], SamplingParams(0 if greedy else 1, 100_000))
        pieces = PIECE.findall(full.text)
        if choice := body.get("structured_outputs", {}).get("choice"):
            pieces = [choice[body["seed"] % len(choice)]]
        stop_reason = None
        for at in range(len(pieces)):
            text = "".join(pieces[: at + 1])
            if stop_reason := next((stop for stop in body.get("stop", ()) if stop in text), None):
                pieces = pieces[: at + 1]
                break
        tokens = [*pieces, ""] if stop_reason is None else pieces
        finish = "stop"
        if len(tokens) > limit:
            tokens, finish, stop_reason = tokens[:limit], "length", None
        text = "".join(tokens)
        if stop_reason is not None:
            text = text[: text.index(stop_reason) + len(stop_reason) * bool(body.get("include_stop_str_in_output"))]
        n_prompt = len(PIECE.findall(prompt)) + IMAGE_TOKENS * len(call.images) + len(PIECE.findall(said))
        if said and not self.resumes:
            n_prompt += 5  # the marks of a new turn
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish,
            "stop_reason": stop_reason,
        }
        if self.tells_tokens:
            choice["token_ids"] = [END if piece == "" else crc32(piece.encode()) % 2**31 for piece in tokens]
            entries = [{"token": p, "bytes": list(p.encode()), "logprob": -0.25 - i} for i, p in enumerate(tokens)]
            choice["logprobs"] = {"content": entries}
        usage = {"prompt_tokens": n_prompt, "completion_tokens": len(tokens)}
        return {"id": "x", "model": self.model, "choices": [choice], "usage": usage}
