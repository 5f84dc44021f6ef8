"""A scriptable OpenAI-compatible endpoint on the loopback interface.

It stands for a remote paid API, which tests must not call: what it answers is what the test says, failures included.
Everything between a tool and the socket is real.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MODEL = "teacher-of-the-test"
Body = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """A completion in full, where its text alone does not say enough.

    Attributes:
        text: the answer; None is sent as null.
        top_logprobs: for each candidate of the first token its log-probability; None leaves them out, as endpoints do
            that have none.
        prompt_tokens, completion_tokens: as counted by the endpoint; words by default.
    """

    text: str | None = ""
    reasoning: str | None = None
    finish_reason: str = "stop"
    top_logprobs: Mapping[str, float] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Failure:
    """An answer that is none: an HTTP status with headers and a body; with status 200, a garbage body."""

    status: int = 500
    message: str = "scripted failure"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def content(self) -> bytes:
        """Return the body: the given one, or an error in the form that OpenAI's API has."""
        return json.dumps({"error": {"message": self.message}}).encode() if self.body is None else self.body


@dataclass(frozen=True)
class Hang:
    """No answer for so many seconds, then none at all: the connection is closed."""

    seconds: float = 60.0


@dataclass(frozen=True)
class Drop:
    """The connection breaks in the middle of an answer, after so many bytes of it."""

    after: int = 0


Answer = str | Said | Failure | Hang | Drop


def last_words(body: Body) -> str:
    """Return the content of a request's last message."""
    return str(body["messages"][-1]["content"])


class Endpoint:
    """Context manager: the endpoint, on a free port, in a thread.

        with Endpoint(lambda body: "yes" if "sort" in last_words(body) else Failure(429)) as endpoint:
            tool("score", "--endpoint", endpoint.url, "--model-name", endpoint.model, ...)
        assert len(endpoint.answered) == 3

    Args:
        answer: from a request's JSON body to what is answered; called in several threads at once.
        embed: from a text to its embedding, for `/embeddings`; None answers 404 there.

    Attributes:
        url: ends in `/v1`.
        model: the model's name here.
        requests: every body that arrived, in order of arrival.
        answered: those of them whose answer was a completion (or embeddings) and was written to the socket in full.
        headers: the headers of every request, in the order of `requests`.
        times: when each arrived, by the monotonic clock, in seconds.
        most_at_once: the most requests that were being answered at the same time.
    """

    def __init__(
        self,
        answer: Callable[[Body], Answer] = lambda body: f"echo: {last_words(body)}",
        embed: Callable[[str], list[float]] | None = None,
    ) -> None:
        self.answer = answer
        self.embed = embed
        self.model = MODEL
        self.requests: list[Body] = []
        self.answered: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The URL for `--endpoint`."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def flags(self) -> tuple[str, ...]:
        """The words that name this endpoint on a tool's command line."""
        return ("--endpoint", self.url, "--model-name", self.model)

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _arrived(self, body: Body, headers: Mapping[str, str]) -> None:
        with self._lock:
            self.requests.append(body)
            self.headers.append(dict(headers))
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def _left(self, body: Body, *, answered: bool) -> None:
        with self._lock:
            self._at_once -= 1
            if answered:
                self.answered.append(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that is killed resets its connections, which is no fault here.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            known = self.path == "/v1/models"
            listed = {"data": [{"id": MODEL}]} if known else {"error": {"message": "no such path"}}
            self._send(200 if known else 404, json.dumps(listed).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint._arrived(body, self.headers)
            done = False
            try:
                done = self._respond(body)
            except OSError:
                self.close_connection = True  # the client has gone
            finally:
                endpoint._left(body, answered=done)

        def _respond(self, body: Body) -> bool:
            if self.path == "/v1/embeddings":
                given: Answer | bytes = (
                    Failure(404, "no embeddings here") if endpoint.embed is None else embeddings(endpoint.embed, body)
                )
            elif self.path == "/v1/chat/completions":
                given = endpoint.answer(body)
            else:
                given = Failure(404, "no such path")
            if isinstance(given, Hang):
                endpoint._closing.wait(given.seconds)
                self.close_connection = True
                return False
            if isinstance(given, Failure):
                self._send(given.status, given.content(), given.headers)
                return False
            if isinstance(given, Drop):
                self._send(200, completion(body, "dropped"), cut=given.after)
                return False
            self._send(200, given if isinstance(given, bytes) else completion(body, given))
            return True

        def _send(
            self, status: int, content: bytes, headers: Mapping[str, str] | None = None, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])
            if cut is not None:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def completion(body: Body, answer: str | Said) -> bytes:
    """Return a chat completion as its endpoint writes it."""
    said = Said(answer) if isinstance(answer, str) else answer
    message: Body = {"role": "assistant", "content": said.text}
    if said.reasoning is not None:
        message["reasoning_content"] = said.reasoning
    choice: Body = {"index": 0, "message": message, "finish_reason": said.finish_reason}
    if said.top_logprobs is not None and body.get("logprobs"):
        best = sorted(said.top_logprobs.items(), key=lambda pair: -pair[1])[: int(body.get("top_logprobs") or 0)]
        listed = [{"token": token, "logprob": value} for token, value in best]
        choice["logprobs"] = {"content": [{"token": best[0][0], "logprob": best[0][1], "top_logprobs": listed}]}
    asked = sum(len(str(message["content"]).split()) for message in body["messages"])
    spoken = len((said.text or "").split())
    usage = {
        "prompt_tokens": asked if said.prompt_tokens is None else said.prompt_tokens,
        "completion_tokens": spoken if said.completion_tokens is None else said.completion_tokens,
    }
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def embeddings(embed: Callable[[str], list[float]], body: Body) -> bytes:
    """Return a list of embeddings as an endpoint writes it, one for each input."""
    given = body["input"]
    texts = given if isinstance(given, list) else [given]
    listed = [{"object": "embedding", "index": index, "embedding": embed(text)} for index, text in enumerate(texts)]
    tokens = sum(len(text.split()) for text in texts)
    return json.dumps({"object": "list", "data": listed, "usage": {"prompt_tokens": tokens}}).encode()


@contextlib.contextmanager
def nobody_listens() -> Any:
    """Yield the URL of a port at which nothing answers."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
