"""The one way from an agent to a model.

A gateway stands between terminus-2 and the endpoint. For every trial it adds the sampling parameters and the turn's own
seed, asks for token ids where the server gives them, repeats requests that failed for reasons outside the model, and
records what came back, so that a trajectory holds exactly what the server sampled.

Three kinds of failure are kept apart:

- the endpoint cannot be reached, times out, answers 5xx or 429, refuses the key, or sends a body that is not a chat
  completion: :class:`InfrastructureFailure`, never held against the model;
- the conversation does not fit the model any more: :class:`ContextExceeded`;
- an answer that is empty, junk or cut: a turn like any other, for the agent to deal with.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from recipe_core.terms import INFRASTRUCTURE
from rollout.outcome import Turn
from rollout.settings import Endpoint

if TYPE_CHECKING:
    import aiohttp

Message = dict[str, str]

_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_GREATEST_BACKOFF_SEC = 8.0
_SHORTEST_KEY = 8
_GREATEST_RETRY_AFTER_SEC = 60.0
# How servers say that a prompt is too long: vLLM, OpenAI, llama.cpp, text-generation-inference.
_CONTEXT_PHRASES = (
    "maximum context length",
    "context_length_exceeded",
    "context length exceeded",
    "model's context length",
    "exceeds the available context size",
    "`inputs` tokens + `max_new_tokens`",
    "max_model_len",
)


class InfrastructureFailure(Exception):
    """A request could not be answered for reasons outside the model."""


class ContextExceeded(Exception):
    """The conversation is longer than the model's context."""


class TurnLimitReached(Exception):
    """The trial has had all the completions it may have."""


@dataclass(frozen=True)
class Reply:
    """What came back for one request: HTTP status, body, and the server's `Retry-After` in seconds if it sent one."""

    status: int
    body: str
    retry_after_sec: float | None = None


@dataclass(frozen=True)
class TrialKey:
    """Which trial a request belongs to; what the built-in teacher decides by."""

    task_id: str
    attempt: int
    seed: int


class Upstream(Protocol):
    """Something that answers chat-completion requests."""

    async def send(self, payload: Mapping[str, Any], key: TrialKey) -> Reply:
        """Answer one request; raises InfrastructureFailure when there is no answer."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


def request_payload(
    endpoint: Endpoint, messages: Sequence[Message], *, seed: int, extensions: bool, max_tokens: int | None
) -> dict[str, Any]:
    """Return the body of one chat-completion request.

    Args:
        endpoint: model, sampling and extra keys.
        messages: the conversation so far.
        seed: this turn's seed.
        extensions: the server takes vLLM's extra parameters.
        max_tokens: the answer's limit, or None to leave it to the room that is left.
    """
    sampling = endpoint.sampling
    payload: dict[str, Any] = {
        "model": endpoint.model,
        "messages": list(messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }
    if max_tokens is not None:
        payload["max_tokens"] = max_tokens
    if extensions:
        payload |= {"top_k": sampling.top_k, "logprobs": True, "return_token_ids": True}
    return payload | dict(endpoint.extra_body)


def parse_completion(body: str) -> Turn:
    """Read a chat completion; raises InfrastructureFailure when the body is not one.

    An empty or senseless answer inside a well-formed body is the model's, and comes back as a turn.
    """
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        content = choice["message"].get("content")
        if content is not None and not isinstance(content, str):
            raise TypeError("content is not text")
        logprobs = choice.get("logprobs") or {}
        return Turn(
            content=content or "",
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_token_ids=[int(token) for token in value.get("prompt_token_ids") or ()],
            completion_token_ids=[int(token) for token in choice.get("token_ids") or ()],
            logprobs=[float(token["logprob"]) for token in logprobs.get("content") or ()],
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        start = " ".join(body[:80].split())
        raise InfrastructureFailure(
            f"the endpoint's answer is not an OpenAI chat completion ({type(error).__name__}): {start!r}"
        ) from None


def is_context_error(reply: Reply) -> bool:
    """Tell whether a refusal means that the prompt is too long."""
    text = reply.body.lower()
    return reply.status in (400, 413, 422) and any(phrase in text for phrase in _CONTEXT_PHRASES)


def backoff_seconds(attempt: int, first: float, retry_after: float | None) -> float:
    """Return the pause before repetition number `attempt` (from 0): doubling, or what the server asked for."""
    if retry_after is not None:
        return min(max(retry_after, 0.0), _GREATEST_RETRY_AFTER_SEC)
    return min(first * 2**attempt, _GREATEST_BACKOFF_SEC)


@dataclass
class TrialSession:
    """The record of one trial's conversation with the model.

    `ended` is `context` or `infrastructure` once no further answer can come; `failed_request` says why the last request
    failed, also while it is being repeated. `is_cut` tells whether the server that the trial began with was lost: the
    agent's time ran on meanwhile, so the trial is worth nothing.
    """

    key: TrialKey
    max_turns: int
    is_cut: Callable[[], bool] = lambda: False
    messages: Sequence[Message] = ()
    turns: list[Turn] = field(default_factory=list)
    failed_request: str = ""
    ended: str = ""


class Gateway:
    """Sends every trial's requests upstream and keeps their record.

    Args:
        endpoint: model and request settings.
        upstream: what answers.
        extensions: the server takes vLLM's extra parameters.
        parses: tells whether an answer is in the agent's format, for the record.
        sleep: replaced in tests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        upstream: Upstream,
        *,
        extensions: bool = False,
        parses: Callable[[str], bool] = lambda _: True,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.extensions = extensions
        self._upstream = upstream
        self._parses = parses
        self._sleep = sleep

    def open(self, key: TrialKey, max_turns: int, is_cut: Callable[[], bool] = lambda: False) -> TrialSession:
        """Begin a trial's record; see :class:`TrialSession`."""
        return TrialSession(key, max_turns, is_cut)

    async def complete(self, session: TrialSession, messages: Sequence[Message]) -> Turn:
        """Answer the conversation and record the answer.

        Raises:
            InfrastructureFailure: no answer after all repetitions; asked again, the session fails at once.
            ContextExceeded: the conversation does not fit the model.
            TurnLimitReached: the trial had all its turns.
        """
        if not session.turns:
            session.messages = list(messages)
        if session.ended == "context":
            raise ContextExceeded
        if session.ended:
            raise InfrastructureFailure(session.failed_request)
        if len(session.turns) >= session.max_turns:
            raise TurnLimitReached
        key = session.key
        seed = row_seed(key.seed, key.task_id, key.attempt, len(session.turns))
        try:
            turn = await self._ask(messages, seed, session)
        except ContextExceeded:
            # The endpoint did answer in the end, so what failed before is no infrastructure error.
            session.ended, session.failed_request = "context", ""
            raise
        except InfrastructureFailure:
            session.ended = INFRASTRUCTURE
            raise
        session.messages = list(messages)
        turn = dataclasses.replace(turn, parses=self._parses(turn.content))
        session.turns.append(turn)
        return turn

    async def _ask(self, messages: Sequence[Message], seed: int, session: TrialSession) -> Turn:
        limit: int | None = self.endpoint.sampling.max_tokens
        repetitions = 0
        while True:
            if session.is_cut():
                session.failed_request = "the model server was lost during the trial"
                raise InfrastructureFailure(session.failed_request)
            payload = request_payload(self.endpoint, messages, seed=seed, extensions=self.extensions, max_tokens=limit)
            retry_after = None
            try:
                reply = await self._upstream.send(payload, session.key)
                if is_context_error(reply):
                    if limit is None:
                        raise ContextExceeded
                    # The prompt may fit though prompt and limit together do not: ask for what room is left.
                    limit = None
                    continue
                retry_after = reply.retry_after_sec
                if reply.status == 200:
                    turn = parse_completion(reply.body)
                    session.failed_request = ""
                    return turn
                text = " ".join(reply.body[:160].split())
                failure = f"the endpoint answered {reply.status}: {text}"
                repeat = reply.status >= 500 or reply.status in _RETRIED_STATUS
            except InfrastructureFailure as error:
                failure, repeat = str(error), True
            # Recorded before the pause: when the agent's time runs out meanwhile, this is why.
            session.failed_request = failure
            if not repeat or repetitions >= self.endpoint.request_retries:
                raise InfrastructureFailure(failure)
            await self._sleep(backoff_seconds(repetitions, self.endpoint.backoff_sec, retry_after))
            repetitions += 1

    async def close(self) -> None:
        """Release the upstream's connections."""
        await self._upstream.close()


def key_forms(key: str) -> list[str]:
    """Return how a key may stand in what an endpoint sends back: as it is, in JSON, in a URL, in Base64; longest first.

    A key of fewer than 8 characters is a stand-in for servers that want none, such as `EMPTY`: a word like any other.
    """
    if len(key) < _SHORTEST_KEY:
        return []
    # An answer may be JSON that holds JSON.
    once = json.dumps(key)[1:-1]
    escaped = {once, json.dumps(once)[1:-1]}
    forms = {key, *escaped, *(form.replace("/", "\\/") for form in escaped)}
    forms |= {quote(key, safe=""), base64.b64encode(key.encode()).decode()}
    return sorted(forms, key=len, reverse=True)


class HttpUpstream:
    """An OpenAI-compatible server. The API key is read from the environment and lives only in this object's headers.

    Args:
        endpoint: where it is, and request settings.
        address: returns where it is now, for one that moves.
    """

    def __init__(self, endpoint: Endpoint, address: Callable[[], str] | None = None) -> None:
        self._endpoint = endpoint
        self._address = address or (lambda: endpoint.base_url)
        self._key = os.environ.get(endpoint.api_key_env or "", "")
        self._client: aiohttp.ClientSession | None = None
        if endpoint.api_key_env and not self._key:
            raise BadInput(
                f"the environment variable {endpoint.api_key_env} is not set; "
                "export the endpoint's key there or leave out --api-key-env"
            )

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._client is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._endpoint.request_timeout_sec),
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._client

    def _clean(self, text: str) -> str:
        for form in key_forms(self._key):
            text = text.replace(form, "[key]")
        return text

    async def request(self, method: str, path: str, payload: Mapping[str, Any] | None = None) -> Reply:
        """Send one request; raises InfrastructureFailure when there is no answer in time."""
        import aiohttp

        url = f"{self._address().rstrip('/')}{path}"
        try:
            async with self._session().request(method, url, json=payload) as response:
                after = response.headers.get("Retry-After", "")
                body = (await response.read()).decode("utf-8", errors="replace")
                return Reply(response.status, self._clean(body), float(after) if after.isdigit() else None)
        except TimeoutError:
            seconds = self._endpoint.request_timeout_sec
            raise InfrastructureFailure(f"{url}: no answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise InfrastructureFailure(f"{url}: {self._clean(str(error)) or type(error).__name__}") from None

    async def send(self, payload: Mapping[str, Any], key: TrialKey) -> Reply:
        """Send a chat-completion request."""
        return await self.request("POST", "/chat/completions", payload)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None


async def probe(endpoint: Endpoint, upstream: HttpUpstream, sleep: Callable[[float], Any] = asyncio.sleep) -> bool:
    """Ask an endpoint for its models before anything else; return whether it is vLLM.

    Raises:
        BadInput: it cannot be reached, keeps failing, refuses the key, does not have the model, or does not speak the
            OpenAI protocol.
    """
    where = endpoint.base_url
    for attempt in range(3):
        try:
            reply = await upstream.request("GET", "/models")
            failure = f"{where}/models answered {reply.status}"
        except InfrastructureFailure as error:
            reply, failure = None, str(error)
        if reply is not None and reply.status < 500 and reply.status not in _RETRIED_STATUS:
            break
        if attempt == 2:
            raise BadInput(f"--endpoint {where}: unusable ({failure}); start the server or correct the URL")
        await sleep(backoff_seconds(attempt, endpoint.backoff_sec, None))
    assert reply is not None  # the loop ends early or raises
    if reply.status in (401, 403):
        raise BadInput(
            f"--endpoint {where}: refused the key ({reply.status}); set it and name its variable: --api-key-env"
        )
    if reply.status in (404, 405):
        return False
    try:
        models = {str(entry["id"]): entry for entry in json.loads(reply.body)["data"]}
    except (ValueError, KeyError, TypeError):
        start = " ".join(reply.body[:60].split())
        raise BadInput(
            f"--endpoint {where}: not an OpenAI-compatible API (GET {where}/models gave {start!r}); the URL ends in /v1"
        ) from None
    if models and endpoint.model not in models:
        raise BadInput(f"--endpoint {where}: has no model {endpoint.model!r}; it has {', '.join(sorted(models)[:10])}")
    return any(entry.get("owned_by") == "vllm" for entry in models.values())
