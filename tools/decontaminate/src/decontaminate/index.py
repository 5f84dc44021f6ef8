"""The same decisions as `decontaminate.rules.plain_decision`, without going through every pair."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

from decontaminate.rules import Hit, Rule, similarity_of
from decontaminate.text import Gram, Token, Tokenizer, gram_length
from recipe_core.text import BUCKETS, character_bag, normalise

# In per cent; far more than rounding moves a similarity by. Bounds and cutoffs are loosened by it and the final
# comparison is not, so that pruning never decides.
_SLACK = 1e-6
# Up to one machine word `partial_ratio` costs no more than bounding it would.
_SHORT = 64
# Odd, so that multiplying by them modulo 2^64 loses nothing.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0xD1342543DE82EF95)


class GramIndex:
    """The grams of all prompts, by hash.

    Tokens become numbers of a vocabulary that the prompts make up, 0 for any other token; a gram's hash is a polynomial
    in its numbers modulo 2^64. A hit is verified number by number, so a collision costs time and decides nothing.

    Args:
        prompts: the prompts' tokens.
        n: tokens a gram; see :func:`decontaminate.text.gram_length` for shorter prompts.
    """

    def __init__(self, prompts: Sequence[Sequence[Token]], n: int) -> None:
        self._vocabulary: dict[Token, int] = {}
        by_length: dict[int, list[int]] = {}
        self._prompts: list[np.ndarray] = []
        for number, tokens in enumerate(prompts):
            numbers = [self._vocabulary.setdefault(token, len(self._vocabulary) + 1) for token in tokens]
            self._prompts.append(np.array(numbers, dtype=np.uint64))
            by_length.setdefault(gram_length(len(tokens), n), []).append(number)
        self._tables = {length: self._table(numbers, length) for length, numbers in by_length.items() if length}

    def _table(self, prompts: list[int], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the hashes of these prompts' grams, ascending, shape (m,), and each one's prompt and start, (m, 2)."""
        hashes = [polynomial(self._prompts[prompt], length) for prompt in prompts]
        places = [
            np.stack([np.full(len(found), prompt), np.arange(len(found))], axis=1)
            for prompt, found in zip(prompts, hashes, strict=True)
        ]
        joined = np.concatenate(hashes)
        # Stable, so that grams of one hash stay in the order of the prompts.
        order = np.argsort(joined, kind="stable")
        return joined[order], np.concatenate(places)[order]

    def first(self, tokens: Sequence[Token]) -> tuple[int, Gram] | None:
        """Return the first prompt that shares a gram with these tokens, and the first gram in them that it shares."""
        numbers = np.array([self._vocabulary.get(token, 0) for token in tokens], dtype=np.uint64)
        best: tuple[int, int, int] | None = None
        for length, table in self._tables.items():
            for prompt, start in self._shared(numbers, length, *table):
                if best is None or (prompt, start) < best[:2]:
                    best = (prompt, start, length)
        if best is None:
            return None
        prompt, start, length = best
        return prompt, tuple(tokens[start : start + length])

    def _shared(
        self, numbers: np.ndarray, length: int, hashes: np.ndarray, places: np.ndarray
    ) -> list[tuple[int, int]]:
        """Return, for every gram that some prompt has too, the first such prompt and where the gram starts."""
        mine = polynomial(numbers, length)
        low, high = np.searchsorted(hashes, mine, "left"), np.searchsorted(hashes, mine, "right")
        shared = []
        for start in np.flatnonzero(low < high).tolist():
            window = numbers[start : start + length]
            for prompt, place in places[low[start] : high[start]].tolist():
                if np.array_equal(self._prompts[prompt][place : place + length], window):
                    shared.append((prompt, start))
                    break
        return shared


def polynomial(numbers: np.ndarray, length: int) -> np.ndarray:
    """Return a 64-bit hash for every run of `length` numbers: uint64, shape (max(0, len(numbers) - length + 1),)."""
    count = max(0, len(numbers) - length + 1)
    spread = numbers * _SPREAD
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * _BASE + spread[offset : offset + count]
    return hashes


class SimilarIndex:
    """The prompts' texts, with the bounds that rule most of them out.

    With L the length of the longest common subsequence of texts of a and b characters, `ratio` is 200 L / (a + b), and
    `partial_ratio` at most 200 L / (min(a, b) + L), because a part of the longer text that has L characters in common
    with the shorter has at least L characters. L is at most what the two have in common as bags of characters.

    Args:
        texts: the prompts, normalised, none empty.
        threshold: similarity in per cent that is too high.
        partial: as in :class:`decontaminate.rules.Rule`.
    """

    def __init__(self, texts: Sequence[str], threshold: float, partial: bool) -> None:
        self._texts = texts
        self._threshold = threshold
        self._partial = partial
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        # Ascending, so that the lengths which can reach the threshold are one slice of the arrays, with nothing copied.
        self._order = np.argsort(lengths, kind="stable")
        self._lengths = lengths[self._order]
        self._bags = np.zeros((len(texts), BUCKETS), dtype=np.int32)
        for place, number in enumerate(self._order.tolist()):
            self._bags[place] = character_bag(texts[number])

    def best(self, text: str) -> tuple[int, float] | None:
        """Return the most similar prompt and its similarity if it reaches the threshold, the first of equal ones."""
        best: tuple[int, float] | None = None
        for number, bound in self._candidates(text):
            floor = self._threshold if best is None else best[1]
            if bound < floor - _SLACK:
                break
            prompt, cutoff = self._texts[number], max(0.0, floor - _SLACK)
            partial = self._partial and part_may_reach(text, prompt, cutoff)
            score = similarity_of(text, prompt, partial, cutoff)
            if score >= self._threshold and (best is None or (-score, number) < (-best[1], best[0])):
                best = (number, score)
        return best

    def _candidates(self, text: str) -> list[tuple[int, float]]:
        """Return the prompts that may reach the threshold and an upper bound of each similarity, the highest first."""
        least = self._threshold - _SLACK
        inside = slice(None)
        if not self._partial:
            # 200 min(a, b) / (a + b) is itself a bound.
            low, high = len(text) * least / (200 - least) - 1, len(text) * (200 - least) / least + 1
            inside = slice(int(np.searchsorted(self._lengths, low)), int(np.searchsorted(self._lengths, high, "right")))
        lengths = self._lengths[inside]
        common = np.minimum(self._bags[inside], character_bag(text)).sum(axis=1)
        bounds = 200 * common / (lengths + len(text))
        if self._partial:
            bounds = np.maximum(bounds, 200 * common / (np.minimum(lengths, len(text)) + common))
        places = np.flatnonzero(bounds >= least)
        places = places[np.argsort(-bounds[places], kind="stable")]
        return list(zip(self._order[inside][places].tolist(), bounds[places].tolist(), strict=True))


def part_may_reach(left: str, right: str, threshold: float) -> bool:
    """Return False only if `partial_ratio` of two texts is below a threshold in per cent; far cheaper than that.

    `partial_ratio` is the best `ratio` of the shorter text, of m characters, with a part of the longer: one of m
    characters anywhere, or a shorter one at either end. A part that lies in a stretch of the longer text has at most as
    long a subsequence in common with the shorter one as the whole stretch has, so a few stretches bound all parts. Of
    two texts equally long, each is taken for the shorter one, and both ways the whole is a stretch.
    """
    short, long = (left, right) if len(left) <= len(right) else (right, left)
    m = len(short)
    if m <= _SHORT:
        return True
    # A part of w < m characters with L in common has the ratio 200 L / (m + w), and w is at least L.
    at_ends = math.ceil(threshold * m / (200 - threshold) - _SLACK)
    if len(long) == m:
        return LCSseq.similarity(short, long) >= at_ends
    if any(LCSseq.similarity(short, end) >= at_ends for end in (long[: m - 1], long[1 - m :])):
        return True
    inside = math.ceil(threshold * m / 100 - _SLACK)
    # Stretches of 3 m / 2 that begin every m / 2 characters: any m successive characters lie in one of them.
    step = m // 2
    starts = range(0, len(long) - m + 1, step)
    return any(LCSseq.similarity(short, long[start : start + m + step]) >= inside for start in starts)


class Index:
    """All prompts under one rule.

    Args:
        prompts: the prompts as they are, none empty or of blanks alone.
        rule: what is too close.
        tokenizer: makes tokens of a text.
    """

    def __init__(self, prompts: Sequence[str], rule: Rule, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._grams = None if rule.ngram is None else GramIndex([tokenizer(prompt) for prompt in prompts], rule.ngram)
        self._similar = (
            None
            if rule.similarity is None
            else SimilarIndex([normalise(prompt) for prompt in prompts], rule.similarity, rule.partial)
        )

    def decide(self, text: str) -> Hit | None:
        """Decide one text as :func:`decontaminate.rules.plain_decision` does: None when it is clean."""
        normal = normalise(text)
        if not normal:
            return None
        if self._grams and (shared := self._grams.first(self._tokenizer(text))):
            return Hit(*shared, None)
        if self._similar and (similar := self._similar.best(normal)):
            return Hit(similar[0], None, similar[1])
        return None
