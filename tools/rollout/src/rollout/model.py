"""A model server for the time of a run that is started again when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from recipe_core.errors import BadInput
from serve.client import ModelServer

# Losses without one finished trial in between, after which starting again is pointless.
_MOST_LOSSES = 3
_HEALTH_TRIES = 6
_HEALTH_TIMEOUT_SEC = 10.0
_HEALTH_PAUSE_SEC = 1.0


class ServedModel:
    """Context manager: a served model folder.

    Args:
        model: a Hugging Face model folder.
        options: further words for `serve`.
        start_timeout: seconds until a server has to be healthy.
        command: the words that start `serve`.

    Attributes:
        losses: how often the server was lost.
    """

    def __init__(
        self,
        model: Path,
        options: Sequence[str] = (),
        start_timeout: float = 600.0,
        command: Sequence[str] = ("serve",),
    ) -> None:
        self.losses = 0
        self._server = ModelServer(model, options=options, start_timeout=start_timeout, command=command)
        self._since_progress = 0
        self._lock = asyncio.Lock()

    def __enter__(self) -> ServedModel:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    @property
    def base_url(self) -> str:
        """The OpenAI-compatible URL; another one after a loss."""
        return self._server.base_url

    @property
    def model(self) -> str:
        """The model's name in requests."""
        return self._server.model

    def progressed(self) -> None:
        """Note that a trial was finished."""
        self._since_progress = 0

    async def ready(self) -> int:
        """Wait until no start is under way; return the number of losses so far."""
        async with self._lock:
            return self.losses

    async def lost_since(self, losses: int) -> bool:
        """Tell whether the server was lost since there were so many losses; one that is lost now is started again.

        Raises:
            BadInput: it is lost again and again, or does not start.
        """
        async with self._lock:
            if self.losses != losses:
                return True
            why = await self._trouble()
            if not why:
                return False
            self.losses += 1
            self._since_progress += 1
            if self._since_progress > _MOST_LOSSES:
                raise BadInput(
                    f"the model server was lost {self._since_progress} times without a finished trial in between, the "
                    f"last time: {why}; finished trials are kept: mend it and run the same command again"
                )
            print(
                f"the model server was lost ({why}); starting it again, trials under way are tried again",
                file=sys.stderr,
                flush=True,
            )
            await self._start_again()
            return True

    async def _trouble(self) -> str:
        """Return why the server does not answer, or nothing when it does."""
        for attempt in range(_HEALTH_TRIES):
            if attempt:
                await asyncio.sleep(_HEALTH_PAUSE_SEC)
            try:
                self._server.check()
            except BadInput as error:
                return str(error)
            if await asyncio.to_thread(_answers, f"{self._server.root_url}/health"):
                return ""
        return "it does not answer"

    async def _start_again(self) -> None:
        def start() -> None:
            self._server.__exit__(None, None, None)
            self._server.__enter__()

        starting = asyncio.create_task(asyncio.to_thread(start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: it ends when the server that it waits for does.
            while not starting.done():
                self._server.abandon()
                await asyncio.sleep(0.1)
            with contextlib.suppress(BadInput):
                starting.result()
            raise


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_HEALTH_TIMEOUT_SEC) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
