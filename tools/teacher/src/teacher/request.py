"""What is asked, and what came back: plain values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from recipe_core.artifact import value_digest
from recipe_core.sampling import Sampling
from recipe_core.seeds import row_seed

# What a seed may be at most in servers that keep it in a signed 32-bit integer.
_SEEDS = 2**31
COMPLETIONS = "/chat/completions"
EMBEDDINGS = "/embeddings"


@dataclass(frozen=True)
class Request:
    """One thing to ask: an answer to a conversation, or the embedding of a text.

    Args:
        subject: what it is about, for messages to people: a task's id.
        messages: the conversation, `{"role": …, "content": …}` each.
        sample: tells apart several answers to the same messages.
        facts: what the reference teacher answers from; never sent anywhere, and no part of the request's key.
        embed: the text whose embedding is asked for; the conversation is then empty, and nothing is sampled.
        top_logprobs: how many candidates of each token come with their log-probabilities; most endpoints give at most
            20. One that gives none answers without: the reply's `first_token` is None.
        max_tokens: takes the place of `--max-tokens` for this request.
        temperature: takes the place of `--temperature` for this request.
    """

    subject: str
    messages: Sequence[Mapping[str, str]] = ()
    sample: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    embed: str | None = None
    top_logprobs: int = 0
    max_tokens: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if (self.embed is None) == (not self.messages):
            raise ValueError(f"{self.subject}: a request has messages, or a text to embed")

    @property
    def path(self) -> str:
        """Where below the endpoint's URL it goes."""
        return EMBEDDINGS if self.embed is not None else COMPLETIONS


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        text: the answer; empty where the model said nothing.
        reasoning: what a reasoning model thought, where the server gives it apart.
        finish_reason: `stop`, or `length` where the answer was cut at its limit.
        prompt_tokens: tokens of the conversation, as the server counts them.
        completion_tokens: tokens of the answer, those of the reasoning included; 0 where the server does not say.
        refused: why the endpoint will not answer this request whatever one tries (a prompt that is too long, a content
            filter), else None.
        embedding: the vector, where an embedding was asked for.
        first_token: candidates of the first token with their log-probabilities (natural logarithm), where they were
            asked for and the endpoint gives them.
    """

    text: str = ""
    reasoning: str | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: str | None = None
    embedding: tuple[float, ...] | None = None
    first_token: tuple[tuple[str, float], ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the reply as a JSON object; what it does not have is left out."""
        value = dataclasses.asdict(self)
        return {name: part for name, part in value.items() if part is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reply:
        """Return the reply that :meth:`as_json` wrote.

        Raises:
            TypeError, ValueError: it wrote something else.
        """
        parts = dict(value)
        if parts.get("embedding") is not None:
            parts["embedding"] = tuple(parts["embedding"])
        if parts.get("first_token") is not None:
            parts["first_token"] = tuple((token, logprob) for token, logprob in parts["first_token"])
        return cls(**parts)


def payload(
    request: Request, *, model: str, sampling: Sampling, seed: int, extra_body: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the body of the request. Its seed follows from what is asked, not from which row asks it.

    A key of `extra_body` whose value is null is left out of the body: not every endpoint knows every parameter. With
    `max_completion_tokens` in it, `max_tokens` is left out too.
    """
    body: dict[str, Any] = {"model": model}
    if request.embed is not None:
        # An embedding is not sampled.
        return {**body, "input": request.embed, "encoding_format": "float"} | _given(extra_body)
    messages = [dict(message) for message in request.messages]
    body |= {
        "messages": messages,
        "temperature": sampling.temperature if request.temperature is None else request.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens if request.max_tokens is None else request.max_tokens,
        "seed": row_seed(seed, value_digest(messages), request.sample) % _SEEDS,
    }
    if sampling.top_k != -1:
        body["top_k"] = sampling.top_k
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if "max_completion_tokens" in extra_body:
        # The newer name of the same limit; endpoints that know it refuse both.
        del body["max_tokens"]
    return _given(body | dict(extra_body))


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def request_key(body: Mapping[str, Any], *, identity: str) -> str:
    """Return the digest under which the reply to a request is kept.

    Args:
        body: as :func:`payload` makes it.
        identity: which model answers: an artifact's digest, or the URL of an endpoint. It takes the place of the name
            by which the server knows the model, which for an artifact changes with its place.
    """
    return value_digest({"identity": identity, **body})


class NotAnAnswer(Exception):
    """The endpoint's answer is not what was asked for."""


def parse_reply(body: str) -> Reply:
    """Read a chat completion.

    Raises:
        NotAnAnswer: it is none. An empty answer inside a well-formed one is the model's, and comes back as a reply.
    """
    with _expected("chat completion", body):
        value = json.loads(body)
        choice = value["choices"][0]
        message = choice["message"]
        # Servers have two names for the reasoning.
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        finish_reason = str(choice.get("finish_reason") or "stop")
        refused = message.get("refusal") or None
        if finish_reason == "content_filter":
            refused = refused or "a content filter of the endpoint withheld the answer (content_filter)"
        return Reply(
            text=_text(message.get("content")),
            reasoning=_text(reasoning) or None,
            finish_reason=finish_reason,
            prompt_tokens=_tokens(value, "prompt_tokens"),
            completion_tokens=_tokens(value, "completion_tokens"),
            refused=_text(refused) or None,
            first_token=_first_token(choice.get("logprobs")),
        )


def parse_embedding(body: str) -> Reply:
    """Read an answer to a request for one embedding.

    Raises:
        NotAnAnswer: it is none, or the vector is empty or not finite.
    """
    with _expected("embedding", body):
        value = json.loads(body)
        vector = tuple(float(part) for part in value["data"][0]["embedding"])
        if not vector or not all(map(math.isfinite, vector)):
            raise ValueError("no finite vector")
        return Reply(embedding=vector, prompt_tokens=_tokens(value, "prompt_tokens"))


@contextmanager
def _expected(what: str, body: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        start = " ".join(body[:80].split())
        raise NotAnAnswer(f"not an OpenAI {what} ({type(error).__name__}): {start!r}") from None


def _text(value: Any) -> str:
    """Return a message's text; JSON can spell half a surrogate pair, which no file of UTF-8 can hold."""
    if value is not None and not isinstance(value, str):
        raise TypeError("content is not text")
    return (value or "").encode("utf-8", errors="replace").decode()


def _tokens(value: Mapping[str, Any], name: str) -> int:
    return max(0, int((value.get("usage") or {}).get(name) or 0))


def _first_token(value: Any) -> tuple[tuple[str, float], ...] | None:
    """Return the candidates of the first token, or None where there are none to be found: they are an extra."""
    try:
        listed = [(str(each["token"]), float(each["logprob"])) for each in value["content"][0]["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    # Endpoints write minus infinity as they like.
    return tuple((_text(token), logprob) for token, logprob in listed if math.isfinite(logprob)) or None
