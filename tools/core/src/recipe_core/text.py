"""Text in a form in which two writings of the same are equal."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Printable ASCII falls into buckets of its own; other characters share them, which loosens a bound and keeps it true.
BUCKETS = 96


def fold(text: str) -> str:
    """Return the text in Unicode form NFKC and case folded.

    >>> fold("ＦＩＬＥ Straße")
    'file strasse'
    """
    # Folding can undo NFKC (and does for a few characters), so the form is taken again afterwards.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def normalise(text: str) -> str:
    """Return the text folded, every run of blanks as one space, none at the ends.

    >>> normalise("  Sort\\n the ＦＩＬＥ ")
    'sort the file'
    """
    return " ".join(fold(text).split())


def buckets(text: str) -> np.ndarray:
    """Return each character's bucket (code point modulo 96): uint8, shape (len(text),).

    A common subsequence of two texts is one of their buckets too, so what bounds the one's length bounds the other's.
    """
    import numpy as np

    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return (points % BUCKETS).astype(np.uint8)


def character_bag(text: str) -> np.ndarray:
    """Return how many characters of a text fall into each bucket: int32, shape (96,).

    The sum of the smaller counts of two texts is an upper bound of the length of their longest common subsequence.
    """
    import numpy as np

    return np.bincount(buckets(text), minlength=BUCKETS).astype(np.int32)
