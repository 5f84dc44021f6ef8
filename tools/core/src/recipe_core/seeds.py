"""Randomness that depends on what a row is, not on where it stands.

A row's random numbers come from a hash of the step's seed and the row's own id, so the same row draws the same numbers
whatever the order of the input, the number of shards and the number of processes.
"""

from __future__ import annotations

import hashlib
import random


def row_seed(seed: int, *parts: object) -> int:
    """Return a 63-bit seed for one row.

    The parts are joined with an unprintable separator, so `("ab", "c")` and `("a", "bc")` differ; each is taken by its
    `str`, so pass strings and integers only.
    """
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def row_random(seed: int, *parts: object) -> random.Random:
    """Return a generator seeded by :func:`row_seed`."""
    return random.Random(row_seed(seed, *parts))
