"""From a cell to what is compared: digests and shingles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

_SHINGLE_BYTES = 8


def digest(content: bytes) -> bytes:
    """Return the 32 bytes of SHA-256 that stand for a cell where only equality matters."""
    return hashlib.sha256(content).digest()


def shingles(words: Sequence[str], n: int) -> Iterator[str]:
    """Yield every run of `n` words, joined by spaces; fewer words than that are one shingle of all of them.

    >>> list(shingles("a b c d".split(), 3))
    ['a b c', 'b c d']
    """
    for start in range(max(1, len(words) - n + 1)):
        yield " ".join(words[start : start + n])


def shingle_key(text: str, n: int) -> bytes:
    """Return the set of a text's shingles of words, each as a 64-bit BLAKE2b hash: 8 bytes each, ascending."""
    hashed = {hashlib.blake2b(part.encode(), digest_size=_SHINGLE_BYTES).digest() for part in shingles(text.split(), n)}
    return b"".join(sorted(hashed))


def split_key(key: bytes) -> list[bytes]:
    """Return the hashes that :func:`shingle_key` joined."""
    return [key[start : start + _SHINGLE_BYTES] for start in range(0, len(key), _SHINGLE_BYTES)]
