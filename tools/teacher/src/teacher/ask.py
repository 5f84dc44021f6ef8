"""Asking: many requests at once, each until it is answered, every reply kept the moment it arrives."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import email.utils
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from recipe_core.artifact import command_digests, open_artifact, value_digest
from recipe_core.errors import BadInput
from recipe_core.progress import Progress, progress
from serve.flags import serving_words
from teacher.flags import sampling_of
from teacher.request import (
    EMBEDDINGS,
    NotAnAnswer,
    Reply,
    Request,
    parse_embedding,
    parse_reply,
    payload,
    request_key,
)
from teacher.store import Store

if TYPE_CHECKING:
    import httpx
    import tenacity

    from serve.client import ModelServer

_REPEATED_STATUS = frozenset({408, 409, 425, 429})
_ABOUT_THE_REQUEST = frozenset({400, 413, 422})
_GREATEST_RETRY_AFTER_SEC = 120.0
_FIRST_BACKOFF_SEC = 0.5
_GREATEST_BACKOFF_SEC = 30.0
# So many in a row, and the endpoint is at fault, not what is asked.
_HOPELESS = 8
# How servers say that one request, and not the way it is made, is what they will not answer.
_CONTEXT_PHRASES = (
    "maximum context length",
    "context_length_exceeded",
    "context length exceeded",
    "model's context length",
    "exceeds the available context size",
    "max_model_len",
    "prompt is too long",
    "input is too long",
    "reduce the length of the",
)
_FILTER_PHRASES = ("content_filter", "content management policy", "content_policy_violation")
# How they say that no request will be answered, under statuses that also mean a wrong or an early request.
_ACCOUNT_PHRASES = ("insufficient_quota", "credit balance", "billing")
# Values of headers are printable ASCII.
_HEADER_VALUE = re.compile(r"[!-~]+")
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_Asked = tuple[Request, str, dict[str, Any]]


class _Unanswered(Exception):
    """A request that may be answered when it is sent again."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Teacher:
    """A model and the replies it gave.

    Args:
        args: flags of :func:`teacher.flags.add_teacher_flags`, checked.
        stage: the asking stage; with `--cache`, each stage and model have a folder of their own.
        work: the step's work folder, where replies are kept without `--cache`.
        seed: the step's seed; the seed of each request follows from it and the messages.
        reference: what `--teacher reference` answers.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        *,
        stage: str,
        work: Path,
        seed: int,
        reference: Callable[[Request], Reply],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._args = args
        self._seed = seed
        self._reference = reference if args.teacher else None
        self._transport = transport
        self._key = os.environ.get(args.api_key_env or "", "")
        if args.api_key_env and not self._key:
            raise BadInput(
                f"the environment variable {args.api_key_env} is not set; "
                "export the endpoint's key there or leave out --api-key-env"
            )
        if self._key and not _HEADER_VALUE.fullmatch(self._key):
            raise BadInput(
                f"the environment variable {args.api_key_env} holds blanks or characters that no key has; "
                "export the key alone, without quotes and line ends"
            )
        self._exit = ExitStack()
        self._server: ModelServer | None = None
        self._base_url = (args.endpoint or "").rstrip("/")
        self._model = args.model_name or ""
        self._answered = self._kept = self._repeated = self._refused = 0
        self._prompt_tokens = self._completion_tokens = 0
        self.identity = ""
        if self._reference is None:
            self.identity = self._identity()
            place = args.cache / f"{stage}-{value_digest(self.identity)[:16]}" if args.cache else work / "replies"
            self._store = self._exit.enter_context(Store(place))

    def _identity(self) -> str:
        if not self._args.model:
            return f"{self._base_url} {self._model}"
        parts = {
            "model": open_artifact(self._args.model).digest,
            "max_model_len": self._args.max_model_len,
            "commands": command_digests(["serve"]),
            **({"dtype": self._args.dtype} if self._args.dtype else {}),
        }
        return value_digest(parts)

    def __enter__(self) -> Teacher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def facts(self) -> dict[str, Any]:
        """Return what this run cost, for the provenance; replies that were kept before cost nothing."""
        return {
            "requests_answered": self._answered,
            "requests_repeated": self._repeated,
            "requests_refused": self._refused,
            "replies_kept_before": self._kept,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
        }

    def _body(self, request: Request) -> tuple[str, dict[str, Any]]:
        body = payload(
            request,
            model="",
            sampling=sampling_of(self._args),
            seed=self._seed,
            extra_body=self._args.extra_body,
        )
        return request_key(body, identity=self.identity), body

    def reply(self, request: Request) -> Reply:
        """Return the reply to a request that was filled before."""
        if self._reference is not None:
            return self._reference(request)
        reply = self._store.get(self._body(request)[0])
        if reply is None:
            raise KeyError(f"{request.subject}: was never asked")
        return reply

    def fill(self, requests: Iterable[Request], *, total: int, label: str) -> None:
        """Ask every request that has no reply yet.

        Args:
            requests: read lazily, `--concurrency` at a time.
            total: how many there are, for the progress.
            label: what the progress is called.

        Raises:
            BadInput: the endpoint cannot be used, or some requests stay unanswered after all repetitions. Replies that
                came are kept: the same command goes on where this one stopped.
        """
        if self._reference is not None:
            return
        underway: set[str] = set()
        with progress(total, label) as bar:
            missing = self._missing(requests, underway, bar)
            first = next(missing, None)
            if first is None:
                return
            self._start_server()
            asyncio.run(self._ask_all(itertools.chain([first], missing), underway, bar))

    def _missing(self, requests: Iterable[Request], underway: set[str], bar: Progress) -> Iterator[_Asked]:
        """Yield what has no reply; of equal requests only the first, since one reply answers all."""
        for request in requests:
            key, body = self._body(request)
            if key in self._store:
                self._kept += self._store.was_there(key)
                bar.advance()
            elif key in underway:
                bar.advance()
            else:
                underway.add(key)
                yield request, key, body

    def _start_server(self) -> None:
        if self._args.model is None or self._server is not None:
            return
        from serve.client import ModelServer

        args = self._args
        words = ["--max-model-len", str(args.max_model_len), *serving_words(args)]
        server = ModelServer(args.model, options=words, start_timeout=args.start_timeout)
        self._server = self._exit.enter_context(server)
        self._base_url, self._model = self._server.base_url, self._server.model

    async def _ask_all(self, queue: Iterator[_Asked], underway: set[str], bar: Progress) -> None:
        import httpx
        from aiolimiter import AsyncLimiter

        args = self._args
        limiter = AsyncLimiter(1, 60.0 / args.requests_per_minute) if args.requests_per_minute else None
        tally = _Tally(hopeless=max(_HOPELESS, args.concurrency))

        async def work(client: httpx.AsyncClient) -> None:
            for request, key, body in queue:
                try:
                    reply = await self._answer(client, limiter, request, {**body, "model": self._model})
                except _Unanswered as error:
                    tally.failed(f"{request.subject}: {error}")
                    if tally.in_a_row >= tally.hopeless:
                        raise BadInput(self._said(tally, "the endpoint answers nothing any more")) from None
                    continue
                tally.in_a_row = 0
                bar.advance()
                if reply.refused is not None and not _about_one_row(reply.refused):
                    # The endpoint may refuse the way it is asked, or every request from now on: a refusal counts once
                    # the endpoint has answered something after it.
                    tally.held.append((key, reply))
                    if len(tally.held) >= tally.hopeless:
                        raise BadInput(self._refuses(tally))
                    continue
                self._keep(key, reply)
                underway.discard(key)
                if reply.refused is None:
                    self._keep_held(tally)

        async with httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=args.request_timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=args.concurrency),
            transport=self._transport,
            # A proxy of the environment is for the world outside this machine.
            trust_env=urlsplit(self._base_url).hostname not in _LOOPBACK,
        ) as client:
            tasks = [asyncio.create_task(work(client)) for _ in range(args.concurrency)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if tally.held and not self._store.answers:
            raise BadInput(self._refuses(tally))
        self._keep_held(tally)
        if tally.failures:
            raise BadInput(self._said(tally, f"{tally.failures} requests stay unanswered"))

    def _keep_held(self, tally: _Tally) -> None:
        for key, reply in tally.held:
            self._keep(key, reply)
        tally.held.clear()

    def _refuses(self, tally: _Tally) -> str:
        return (
            f"{self._where()}: refuses every request ({tally.held[0][1].refused}); "
            "correct the flags, --extra-body leaves keys out by null, and run the same command again to go on"
        )

    def _said(self, tally: _Tally, what: str) -> str:
        if self._server is not None:
            self._server.check()
        return (
            f"{self._where()}: {what} (the last: {tally.last}); "
            "what was answered is kept: run the same command again to go on"
        )

    def _where(self) -> str:
        return f"--model {self._args.model}" if self._args.model else f"--endpoint {self._args.endpoint}"

    def _keep(self, key: str, reply: Reply) -> None:
        self._store.put(key, reply)
        self._answered += reply.refused is None
        self._refused += reply.refused is not None
        self._prompt_tokens += reply.prompt_tokens
        self._completion_tokens += reply.completion_tokens

    async def _answer(self, client: httpx.AsyncClient, limiter: Any, request: Request, body: dict[str, Any]) -> Reply:
        import tenacity

        backoff = tenacity.wait_exponential_jitter(
            multiplier=_FIRST_BACKOFF_SEC, max=_GREATEST_BACKOFF_SEC, jitter=_FIRST_BACKOFF_SEC
        )

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked_for = error.retry_after if isinstance(error, _Unanswered) else None
            return min(asked_for, _GREATEST_RETRY_AFTER_SEC) if asked_for is not None else backoff(state)

        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Unanswered),
            stop=tenacity.stop_after_attempt(self._args.retries + 1),
            wait=pause,
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    self._repeated += 1
                reply = await self._ask(client, limiter, request, body)
                while reply.refused is not None and (fewer := _without_refused_keys(body, reply.refused)) is not None:
                    body = fewer
                    reply = await self._ask(client, limiter, request, body)
                return reply
        raise AssertionError("tenacity raises when it stops")

    async def _ask(self, client: httpx.AsyncClient, limiter: Any, request: Request, body: dict[str, Any]) -> Reply:
        if limiter is not None:
            await limiter.acquire()
        return await self._send(client, request.path, body)

    async def _send(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Reply:
        import httpx

        try:
            # The client's own limit is of each read: an endpoint that sends blanks to keep the connection has none.
            async with asyncio.timeout(self._args.request_timeout):
                answer = await client.post(f"{self._base_url}{path}", json=body)
        except (TimeoutError, httpx.TimeoutException):
            raise _Unanswered(f"no answer within {self._args.request_timeout:g} s") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise BadInput(f"{self._where()}: not a usable URL ({self._clean(str(error))}); correct it") from None
        except (httpx.HTTPError, OSError) as error:
            raise _Unanswered(self._clean(str(error)) or type(error).__name__) from None
        text = answer.content.decode("utf-8", errors="replace")
        if answer.status_code == 200:
            try:
                return parse_embedding(text) if path == EMBEDDINGS else parse_reply(text)
            except NotAnAnswer as error:
                raise _Unanswered(self._clean(str(error))) from None
        # Cleaned before it is cut, or a part of the key could stay.
        said = f"HTTP {answer.status_code}: {' '.join(self._clean(text)[:200].split())}"
        return self._refusal(answer.status_code, said, _seconds(answer.headers.get("Retry-After", "")))

    def _refusal(self, status: int, said: str, retry_after: float | None) -> Reply:
        """Return the refusal of one request; raise what stands for a request or an endpoint that is at fault."""
        if _says(said, _ACCOUNT_PHRASES):
            raise BadInput(
                f"{self._where()}: the account is exhausted ({said}); "
                "what was answered is kept: run the same command again to go on"
            )
        if status >= 500 or status in _REPEATED_STATUS:
            raise _Unanswered(said, retry_after)
        if status not in _ABOUT_THE_REQUEST and not _about_one_row(said):
            raise BadInput(f"{self._where()}: unusable ({said}); correct the URL, the model's name or the key")
        return Reply(refused=said)

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class _Tally:
    """What was not answered, and what was refused without an answer since."""

    def __init__(self, hopeless: int) -> None:
        self.hopeless = hopeless
        self.failures = 0
        self.in_a_row = 0
        self.last = ""
        self.held: list[tuple[str, Reply]] = []

    def failed(self, why: str) -> None:
        self.failures += 1
        self.in_a_row += 1
        self.last = why


def _without_refused_keys(body: dict[str, Any], refusal: str) -> dict[str, Any] | None:
    """Return the body to try next, with fewer keys, or None when the refusal stands."""
    refused: tuple[str, ...] = ()
    if _LIMITS & body.keys() and _says(refusal, _CONTEXT_PHRASES):
        # The prompt may fit though prompt and limit together do not: ask for what room is left.
        refused = tuple(_LIMITS)
    elif "logprobs" in body and "logprobs" in refusal:
        # They are an extra: whoever asks for them takes an answer without.
        refused = ("logprobs", "top_logprobs")
    return {name: value for name, value in body.items() if name not in refused} if refused else None


def _says(text: str, phrases: Iterable[str]) -> bool:
    text = text.lower()
    return any(phrase in text for phrase in phrases)


def _about_one_row(refusal: str) -> bool:
    """Tell whether a refusal is of what is asked; any that is no status at all came inside an answer."""
    return not refusal.startswith("HTTP ") or _says(refusal, (*_CONTEXT_PHRASES, *_FILTER_PHRASES))


def _seconds(text: str) -> float | None:
    """Return what `Retry-After` says, in seconds from now: a number of them or a date."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    now = datetime.datetime.now(date.tzinfo)
    return max(0.0, (date - now).total_seconds())


def open_teacher(args: argparse.Namespace, *, stage: str, work: Path, reference: Callable[[Request], Reply]) -> Teacher:
    """Return the teacher that the flags name, as a context manager; a served model starts when first asked.

    Args:
        args: the tool's flags, with `seed`.
        stage: the asking stage.
        work: the step's work folder (:func:`recipe_core.artifact.work_dir`).
        reference: answers for `--teacher reference`, from `Request.facts`.
    """
    return Teacher(args, stage=stage, work=work, seed=args.seed, reference=reference)
