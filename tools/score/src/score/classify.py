"""A fastText classifier of positive and negative texts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from recipe_core.text import normalise

POSITIVE, NEGATIVE = "__label__positive", "__label__negative"
# Recorded in the manifest. One thread, because several update the weights in an order nobody knows.
SETTINGS: dict[str, Any] = {
    "lr": 0.5,
    "epoch": 10,
    "dim": 50,
    "wordNgrams": 2,
    "minCount": 1,
    "bucket": 200_000,
    "loss": "softmax",
    "thread": 1,
}


def words_of(text: str) -> str:
    """Return a text as the classifier reads it: folded, on one line, nothing in it taken for a label.

    >>> words_of("Sort __label__positive\\nFILES")
    'sort label positive files'
    """
    return normalise(text).replace("__label__", "label ")


def training_lines(positives: Iterable[str], negatives: Iterable[str], seed: int) -> list[str]:
    """Return the training set, in an order that hashing decides: the classifier learns from one line after another.

    Args:
        positives: texts as :func:`words_of` makes them.
        negatives: likewise.
        seed: of the order.
    """
    lines = [f"{label} {text}" for label, texts in ((POSITIVE, positives), (NEGATIVE, negatives)) for text in texts]
    return sorted(lines, key=lambda line: (row_seed(seed, "fasttext", line), line))


class Classifier:
    """A classifier trained on lines of :func:`training_lines`; the same lines and seed give the same.

    Raises:
        BadInput: the training failed.
    """

    def __init__(self, lines: Iterable[str], seed: int) -> None:
        import fasttext

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lines.txt"
            with path.open("w", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in lines)
            try:
                # fastText keeps its seed in a signed 32-bit integer.
                self._model = fasttext.train_supervised(str(path), seed=seed % 2**31, verbose=0, **SETTINGS)
            except (ValueError, RuntimeError) as error:
                raise BadInput(f"fastText could not learn from the examples ({error}); give others") from None

    def probability(self, text: str) -> float:
        """Return the probability, from 0 to 1, that a text is positive; the text as :func:`words_of` makes it."""
        labels, probabilities = self._model.predict(text, k=2)
        found = dict(zip(labels, probabilities, strict=True))
        # fastText's softmax adds a hundred-thousandth.
        return min(1.0, max(0.0, float(found[POSITIVE])))
