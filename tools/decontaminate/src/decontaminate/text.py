"""From a text to what is compared: its tokens and its grams."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from recipe_core.text import fold

Token = str | int
Tokenizer = Callable[[str], Sequence[Token]]
Gram = tuple[Token, ...]

# A prompt with fewer tokens than this has no gram: "what is it" would be found everywhere.
MIN_GRAM = 4
# A run of one sign is one token: else a line of 13 dashes, as under many headings, would be a shared gram.
_WORD = re.compile(r"\w+|([^\w\s])\1*")


def words(text: str) -> list[str]:
    """Return the runs of letters, digits and underscores in the folded text, and the runs of any one other sign.

    >>> words("Don't stop: ----- 3.5")
    ['don', "'", 't', 'stop', ':', '-----', '3', '.', '5']
    """
    return [found.group() for found in _WORD.finditer(fold(text))]


# A tokenizer is a function from a text to its tokens; a vocabulary's numbers will do as well as words.
TOKENIZERS: dict[str, Tokenizer] = {"words": words}


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
