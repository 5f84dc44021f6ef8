"""What a token is: a word or sign, or an id that a tokenizer's file gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput
from recipe_core.text import fold

Token = str | int
Tokenizer = Callable[[str], Sequence[Token]]

WORDS = "words"
# A run of one sign is one token: else a line of 13 dashes, as under many headings, would be 13 tokens.
_WORD = re.compile(r"\w+|([^\w\s])\1*")


def words(text: str) -> list[str]:
    """Return the runs of letters, digits and underscores in the folded text, and the runs of any one other sign.

    >>> words("Don't stop: ----- 3.5")
    ['don', "'", 't', 'stop', ':', '-----', '3', '.', '5']
    """
    return [found.group() for found in _WORD.finditer(fold(text))]


class Words:
    """Tokens are words and signs, see :func:`words`."""

    # What a manifest says of it.
    name = WORDS

    def __call__(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return words(text)

    def surface(self, text: str, run: Sequence[Token]) -> str:
        """Return how successive tokens of a text are shown: joined by spaces."""
        return " ".join(str(token) for token in run)


class TokenizerFile:
    """Tokens are the ids that a Hugging Face `tokenizer.json` gives, without the special tokens it would add.

    The text is taken as it is: what is folded or normalised is said by the file. A limit of length or a padding that
    the file holds (512 tokens in that of bert-base-uncased) is not applied.

    Attributes:
        name: what a manifest says of it: `sha256:` and the digest of the file.

    Raises:
        BadInput: no such file, or no tokenizer in it.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Loaded

        if path.is_dir():
            raise BadInput(f"{path}: a folder; give the tokenizer.json in it")
        if not path.is_file():
            raise BadInput(f"{path}: no such tokenizer; give {WORDS!r} or the path of a tokenizer.json")
        try:
            self._loaded = Loaded.from_file(str(path))
        # The library raises no narrower class.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"{path}: not a Hugging Face tokenizer.json ({reason}); fetch it again") from None
        self._loaded.no_truncation()
        self._loaded.no_padding()
        self.name = f"sha256:{file_digest(path)}"

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self._loaded.encode(text, add_special_tokens=False).ids

    def surface(self, text: str, run: Sequence[Token]) -> str:
        """Return the part of a text that a run of its ids stands for, blanks as one space; empty when it has no such.

        Ids alone do not tell: what was folded, or is a part of a character, cannot be read back from them.
        """
        encoded = self._loaded.encode(text, add_special_tokens=False)
        ids, wanted = encoded.ids, list(run)
        for start in range(len(ids) - len(wanted) + 1):
            if wanted and ids[start : start + len(wanted)] == wanted:
                first, last = encoded.offsets[start][0], encoded.offsets[start + len(wanted) - 1][1]
                return " ".join(text[first:last].split())
        return ""


def open_tokenizer(which: str) -> Words | TokenizerFile:
    """Return the tokenizer that a flag names: `words`, or the path of a `tokenizer.json`.

    Raises:
        BadInput: no such file, or no tokenizer in it.
    """
    return Words() if which == WORDS else TokenizerFile(Path(which))
