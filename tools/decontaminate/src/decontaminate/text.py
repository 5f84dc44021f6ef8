"""From tokens to what is compared: grams."""

from __future__ import annotations

from collections.abc import Sequence

from recipe_core.tokens import Token, Tokenizer, words

__all__ = ["MIN_GRAM", "Gram", "Token", "Tokenizer", "gram_length", "grams", "words"]

Gram = tuple[Token, ...]

# A prompt with fewer tokens than this has no gram: "what is it" would be found everywhere.
MIN_GRAM = 4


def gram_length(tokens: int, n: int) -> int:
    """Return the length of the grams of a prompt of so many tokens: n, or all of a shorter one; 0 when it has none.

    >>> gram_length(20, 13), gram_length(7, 13), gram_length(3, 13)
    (13, 7, 0)
    """
    return n if tokens >= n else tokens if tokens >= MIN_GRAM else 0


def grams(tokens: Sequence[Token], length: int) -> list[Gram]:
    """Return every run of `length` tokens, in order; none when there are fewer tokens or the length is 0.

    >>> grams(["a", "b", "c"], 2)
    [('a', 'b'), ('b', 'c')]
    """
    return [tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1)] if length else []
