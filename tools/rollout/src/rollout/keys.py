"""Cuts long input for a terminal into pieces."""

from __future__ import annotations

import re

# A terminal line discipline takes up to about 1.7 kB in one piece. Longer input arrives in pieces, and what arrives
# while a command runs is echoed a second time: so longer input is typed piece by piece, each when the last was read.
_CHUNK_BYTES = 1000


def split_keys(keys: str, limit: int = _CHUNK_BYTES) -> list[str]:
    """Split keys at line ends into chunks of at most `limit` UTF-8 bytes; a longer line is a chunk of its own."""
    chunks: list[str] = []
    size = 0
    for line in re.findall(r"[^\n]*\n|[^\n]+", keys):
        length = len(line.encode())
        if chunks and size + length <= limit:
            chunks[-1] += line
            size += length
        else:
            chunks.append(line)
            size = length
    return chunks
