"""The rules: when a text and a prompt of a benchmark are too close, pair by pair.

This module is the definition. `decontaminate.index` decides the same without going through every pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz import fuzz

from decontaminate.text import Gram, Tokenizer, gram_length, grams
from recipe_core.text import normalise


class Rule(NamedTuple):
    """What is too close.

    Attributes:
        ngram: tokens of a gram that text and prompt may not share; None to look for none.
        similarity: normalised Indel similarity in per cent that is too high; None to compute none.
        partial: whether the best-matching part of the longer one counts too (`rapidfuzz.fuzz.partial_ratio`).
    """

    ngram: int | None
    similarity: float | None
    partial: bool = False


RULES = {
    # Guha et al., OpenThoughts (arXiv 2506.04178).
    "openthoughts3": Rule(13, 75.0),
    # The function in the repository of OpenThoughts-Agent.
    "agent": Rule(8, 80.0, partial=True),
    "ngram": Rule(13, None),
    "indel": Rule(None, 75.0),
}

# Whose tokens the published rules count; this project holds neither file.
PUBLISHED_TOKENS = {"openthoughts3": "Qwen2-7B-Instruct", "agent": "bert-base-uncased"}


class Hit(NamedTuple):
    """Why a text is too close: the prompt's number, and the gram they share or how similar they are in per cent."""

    prompt: int
    gram: Gram | None
    similarity: float | None

    @property
    def reason(self) -> str:
        """`ngram` or `similar`."""
        return "ngram" if self.gram is not None else "similar"


def similarity_of(left: str, right: str, partial: bool, cutoff: float = 0.0) -> float:
    """Return the similarity of two normalised texts in per cent; anything below `cutoff` may be given as 0."""
    whole = fuzz.ratio(left, right, score_cutoff=cutoff)
    return max(whole, fuzz.partial_ratio(left, right, score_cutoff=max(cutoff, whole))) if partial else whole


def plain_decision(text: str, prompts: Sequence[str], rule: Rule, tokenizer: Tokenizer) -> Hit | None:
    """Decide one text by comparing it with every prompt: None when it is clean.

    A shared gram comes before a similarity. Of prompts that share a gram the first is named, with the first gram in
    the text that it shares; else the most similar prompt that is similar enough, the first of equally similar ones. An
    empty text, or one of blanks alone, is clean.
    """
    if not normalise(text):
        return None
    tokens = tokenizer(text)
    if rule.ngram is not None:
        for number, prompt in enumerate(prompts):
            theirs = tokenizer(prompt)
            length = gram_length(len(theirs), rule.ngram)
            known = set(grams(theirs, length))
            for gram in grams(tokens, length):
                if gram in known:
                    return Hit(number, gram, None)
    if rule.similarity is not None:
        scores = [similarity_of(normalise(text), normalise(prompt), rule.partial) for prompt in prompts]
        best = max(range(len(scores)), key=lambda number: (scores[number], -number), default=None)
        if best is not None and scores[best] >= rule.similarity:
            return Hit(best, None, scores[best])
    return None
