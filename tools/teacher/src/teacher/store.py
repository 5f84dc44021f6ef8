"""Replies on disk, by the digest of their request.

A store is a folder of segments: files of one JSON object a line. Every process appends to a segment of its own and
reads those of all others, so nothing is ever locked or rewritten: that holds on network file systems too. Which replies
there are stands in memory (about 230 bytes each); the replies stay on disk.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from recipe_core.errors import BadInput
from teacher.request import Reply

_SUFFIX = ".jsonl"
_MOST_READERS = 64


class _Place(NamedTuple):
    segment: int
    offset: int


class Store:
    """The replies in one folder; a context manager.

    Attributes:
        answers: how many of the replies are answers rather than refusals.

    Raises:
        BadInput: the folder's place holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers = 0
        self._places: dict[bytes, _Place] = {}
        self._segments: list[Path] = []
        self._found = 0
        self._readers: dict[int, BinaryIO] = {}
        self._writer: int | None = None
        self._end = 0
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{folder}: a file is in the place of the folder of replies; give another --cache")
        for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
            self._load(path)
        self._found = len(self._segments)

    def _load(self, path: Path) -> None:
        index = len(self._segments)
        self._segments.append(path)
        offset = 0
        with path.open("rb") as stream:
            for line in stream:
                # A process that was killed leaves a last line without an end, a node that died may leave worse:
                # what cannot be read was never answered.
                read = _read(line)
                # Of two processes that asked the same at the same time the first in order of name is believed.
                if read is not None and read[0] not in self._places:
                    self._places[read[0]] = _Place(index, offset)
                    self.answers += read[1].refused is None
                offset += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def was_there(self, key: str) -> bool:
        """Tell whether the reply to a request was kept before this store was opened."""
        place = self._places.get(bytes.fromhex(key))
        return place is not None and place.segment < self._found

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, or None when there is none."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        if place.segment not in self._readers:
            if len(self._readers) >= _MOST_READERS:
                self._close_readers()
            self._readers[place.segment] = self._segments[place.segment].open("rb")
        stream = self._readers[place.segment]
        stream.seek(place.offset)
        read = _read(stream.readline())
        if read is None or read[0] != bytes.fromhex(key):
            raise BadInput(
                f"{self._segments[place.segment]}: byte {place.offset} no longer holds the reply that was there; "
                "run the same command again"
            )
        return read[1]

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it outlives a kill of this process as soon as this returns."""
        line = json.dumps({"key": key, "reply": reply.as_json()}, ensure_ascii=True).encode() + b"\n"
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
            self._writer = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            self._segments.append(self.folder / name)
            self._end = 0
        try:
            written = 0
            while written < len(line):
                written += os.write(self._writer, line[written:])
        except OSError:
            # A full disk leaves a part of the line, which nothing may follow.
            self._close_writer()
            raise
        self._places[bytes.fromhex(key)] = _Place(len(self._segments) - 1, self._end)
        self._end += len(line)
        self.answers += reply.refused is None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            os.fsync(self._writer)
            self._close_writer()
        self._close_readers()

    def _close_writer(self) -> None:
        assert self._writer is not None
        os.close(self._writer)
        self._writer = None

    def _close_readers(self) -> None:
        for stream in self._readers.values():
            stream.close()
        self._readers.clear()


def _read(line: bytes) -> tuple[bytes, Reply] | None:
    """Return key and reply of a line, or None when it does not hold them whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        return bytes.fromhex(value["key"]), Reply.from_json(value["reply"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
