"""The host's end of the pipes to the exec agent. What comes out of a sandbox is hostile until it is checked."""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import json
import struct
from typing import Any

from sandbox.model import SandboxError

MAX_FRAME = 16 << 20


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as its length in 4 bytes, big-endian, and its JSON."""
    payload = json.dumps(message).encode()
    return struct.pack(">I", len(payload)) + payload


def decode(payload: bytes) -> dict[str, Any]:
    """Return a message.

    Raises:
        SandboxError: it is not a JSON object with an integer `id`.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("id"), int):
        raise SandboxError("the sandbox's agent sent something that is not a message")
    return message


def field(message: dict[str, Any], name: str, kind: type) -> Any:
    """Return a field of a message, of the expected type; `bytes` is read from base64.

    Raises:
        SandboxError: it is absent or of another type.
    """
    value = message.get(name)
    try:
        if kind is bytes and isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        value = None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SandboxError(f"the sandbox's agent sent no valid {name!r}")
    return value


class Channel:
    """Requests and their answers, matched by number."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue[dict[str, Any] | SandboxError]] = {}
        self._ended: SandboxError | None = None
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        error = SandboxError("the sandbox ended")
        try:
            while True:
                (length,) = struct.unpack(">I", await self._reader.readexactly(4))
                if length > MAX_FRAME:
                    raise SandboxError(f"the sandbox's agent sent a message of {length} bytes, limit {MAX_FRAME}")
                message = decode(await self._reader.readexactly(length))
                if queue := self._waiting.get(message["id"]):
                    await queue.put(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except SandboxError as caught:
            error = caught
        finally:
            self._ended = error
            for queue in self._waiting.values():
                # A full queue has messages to read first; its reader sees the end after them.
                if not queue.full():
                    queue.put_nowait(error)

    @property
    def ended(self) -> SandboxError | None:
        """Why no more answers come, or None."""
        return self._ended

    async def open(self, **message: Any) -> int:
        """Send a request and return its number; `close` it in the end.

        Raises:
            SandboxError: the sandbox ended.
        """
        number = next(self._numbers)
        # Bounded: a large download waits in the sandbox, not in this process's memory.
        self._waiting[number] = asyncio.Queue(maxsize=8)
        await self.send(id=number, **message)
        return number

    async def send(self, **message: Any) -> None:
        """Send a message that may have no answer."""
        if self._ended:
            raise self._ended
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except ConnectionError:
            raise SandboxError("the sandbox ended") from None

    async def answer(self, number: int) -> dict[str, Any]:
        """Return the next answer to a request.

        Raises:
            SandboxError: the sandbox ended.
        """
        queue = self._waiting[number]
        if self._ended and queue.empty():
            raise self._ended
        answer = await queue.get()
        if isinstance(answer, SandboxError):
            raise answer
        return answer

    def close_request(self, number: int) -> None:
        """Forget a request; later answers to it are dropped."""
        queue = self._waiting.pop(number, None)
        # The reader may be waiting for room in it, and with the reader every other request.
        while queue and not queue.empty():
            queue.get_nowait()

    async def close(self) -> None:
        """Close the agent's input, which ends it, and stop reading."""
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
