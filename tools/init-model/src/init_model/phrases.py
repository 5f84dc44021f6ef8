"""Finds the fixed phrases of a set of conversations: the text that is the same whatever the task is.

An agent's conversations consist mostly of such text: the harness's instructions, the words around a terminal's
output, the keys of a JSON answer. As single tokens they make a small student's sequences several times shorter, and
leave the words that matter, names and commands, as tokens of their own.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

# Words keep a leading `.`, `_` or `-`, so that `amber-falcon.txt` is `amber`, `-falcon`, `.txt` wherever it stands.
PIECE = r"[._-]?[A-Za-z]+|[0-9]{1,3}|\n+| +|[^\sA-Za-z0-9]|\s"
_PIECE = re.compile(PIECE)
_CONTEXTS = (2, 3, 4, 6, 10)
# Stands before and after a message, so that its first and last pieces have a context too.
_EDGE = "\0"

Context = tuple[str, ...]


def split_pieces(text: str) -> list[str]:
    """Split text into the pieces that tokens are made of; joined they are the text again."""
    return _PIECE.findall(text)


class _Transitions:
    """Which piece follows (or precedes) which run of pieces, counted once a document."""

    def __init__(self, documents: Sequence[Sequence[Sequence[str]]], least: int, share: float) -> None:
        self._least = least
        self._share = share
        counts: dict[Context, Counter[str]] = defaultdict(Counter)
        for messages in documents:
            seen = {step for pieces in messages for step in self._steps(pieces)}
            for context, piece in seen:
                counts[context][piece] += 1
        self._fixed = {
            (context, piece)
            for context, pieces in counts.items()
            for piece, n in pieces.items()
            if n >= least and n >= share * pieces.total()
        }

    @staticmethod
    def _steps(pieces: Sequence[str]) -> list[tuple[Context, str]]:
        return [
            (tuple(pieces[end - width : end]), pieces[end])
            for end in range(1, len(pieces))
            for width in _CONTEXTS
            if width <= end
        ]

    def are_fixed(self, pieces: Sequence[str], at: int) -> bool:
        """Tell whether the piece at a position is settled by what stands before it."""
        return any((tuple(pieces[at - width : at]), pieces[at]) in self._fixed for width in _CONTEXTS if width <= at)


def find_phrases(
    documents: Sequence[Sequence[str]], *, least: int = 8, share: float = 0.9, pieces_at_least: int = 3
) -> list[str]:
    """Return the phrases that conversations have in common, sorted.

    Two neighbouring pieces belong to one phrase when each is settled by the pieces on its other side: what follows a
    phrase's beginning is the same in most documents, and so is what precedes its end. A phrase never begins or ends in
    the middle of a word, so that no word is ever part of a phrase in one place and a token of its own in another.

    Args:
        documents: the messages of each conversation.
        least: documents that a transition, and a phrase, must occur in.
        share: of the documents with the same context, the share in which the same piece must come next.
        pieces_at_least: pieces of a phrase.
    """
    split = [[[_EDGE, *split_pieces(message), _EDGE] for message in messages] for messages in documents]
    forward = _Transitions(split, least, share)
    backward = _Transitions([[pieces[::-1] for pieces in messages] for messages in split], least, share)
    found: Counter[str] = Counter()
    for messages in split:
        phrases = set()
        for pieces in messages:
            start, end, reverse = 1, len(pieces) - 1, pieces[::-1]
            for at in range(2, end + 1):
                joined = at < end and forward.are_fixed(pieces, at) and backward.are_fixed(reverse, len(pieces) - at)
                if not joined:
                    phrases.add(_trimmed(pieces[start:at], pieces_at_least))
                    start = at
        found.update(phrases - {""})
    return sorted(phrase for phrase, n in found.items() if n >= least and phrase.isascii())


def _trimmed(pieces: list[str], least: int) -> str:
    while pieces and pieces[0][0].isalnum():
        pieces = pieces[1:]
    while pieces and pieces[-1][-1].isalnum():
        pieces = pieces[:-1]
    return "".join(pieces) if len(pieces) >= least else ""
