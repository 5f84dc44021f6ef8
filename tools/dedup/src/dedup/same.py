"""Which rows are duplicates: one greedy rule, and three ways to find the kept row that a row is the same as."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from rapidfuzz import fuzz

from dedup.text import split_key
from recipe_core.text import BUCKETS, character_bag

# In per cent; far more than rounding moves a similarity by. Bounds are loosened by it and the final comparison is not,
# so that pruning never decides.
_SLACK = 1e-6
# A pair exactly at the threshold is a candidate with at least this probability; more similar pairs with a higher one.
MIN_RECALL = 0.99


class Keyed(NamedTuple):
    """One row's task id and what is compared (a digest, a text or a set of shingles); None where the cell is null."""

    task_id: str
    key: Any


class Duplicate(NamedTuple):
    """Why a row is dropped: the task id of the kept row, and how similar the two are in per cent."""

    kept: str
    similarity: float


class Kept(Protocol):
    """The rows kept so far, numbered from 0 in the order they were added."""

    def find(self, key: Any) -> tuple[int, float] | None:
        """Return the first row that `key` is the same as, and the similarity in per cent; None when there is none."""

    def add(self, key: Any) -> None:
        """Add the row with the next number."""


def decide(rows: Sequence[Keyed], kept: Kept, advance: Callable[[], None] = lambda: None) -> list[Duplicate | None]:
    """Decide each row: None to keep it, else what it is a duplicate of.

    Rows are taken in ascending order of task id; a row that is the same as one kept before it is dropped, and the first
    such row is named. What "the same" means is up to `kept`. Dropped rows are compared with nothing further, so a chain
    of small steps does not drag everything into one group. A row without a value is kept and compared with nothing.

    Args:
        rows: task ids and keys, in any order; the decision on a row does not depend on it.
        kept: an empty index; it is filled.
        advance: called once a row.
    """
    decided: list[Duplicate | None] = [None] * len(rows)
    names: list[str] = []
    # Rows that share a task id are ordered by key; the position separates only rows equal in both.
    for index in sorted((i for i, row in enumerate(rows) if row.key is not None), key=lambda i: (*rows[i], i)):
        task_id, key = rows[index]
        hit = kept.find(key)
        if hit is None:
            kept.add(key)
            names.append(task_id)
        else:
            decided[index] = Duplicate(names[hit[0]], hit[1])
        advance()
    return decided


class Equal:
    """Rows are the same when their keys are equal."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def find(self, key: Any) -> tuple[int, float] | None:
        """Return the row with this key; the similarity is 100."""
        number = self._numbers.get(key)
        return None if number is None else (number, 100.0)

    def add(self, key: Any) -> None:
        """Add a row."""
        self._numbers[key] = len(self._numbers)


class IndelSimilar:
    """Rows are the same when the normalised Indel similarity of their texts is at least `threshold` (0 to 100).

    The similarity of a and b is 200 * LCS(a, b) / (len(a) + len(b)), LCS being the length of their longest common
    subsequence: `rapidfuzz.fuzz.ratio`. The pairs compared are those that two bounds leave, and the bounds are sound:
    LCS is at most the length of the shorter text, and at most what the two have in common as bags of characters.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[str] = []
        # In ascending order of length, so that the lengths which can reach the threshold are one slice.
        self._lengths: list[int] = []
        self._by_length: list[int] = []
        self._bags = np.zeros((0, BUCKETS), dtype=np.int32)

    def find(self, key: str) -> tuple[int, float] | None:
        """Return the first added text that is similar enough."""
        for number in self._candidates(key):
            similarity = fuzz.ratio(key, self._texts[number], score_cutoff=max(0.0, self._threshold - _SLACK))
            if similarity >= self._threshold:
                return int(number), similarity
        return None

    def _candidates(self, text: str) -> np.ndarray:
        least = self._threshold - _SLACK
        low = bisect_left(self._lengths, len(text) * least / (200 - least) - 1)
        high = bisect_right(self._lengths, len(text) * (200 - least) / least + 1)
        numbers = np.array(self._by_length[low:high], dtype=np.int64)
        lengths = np.array(self._lengths[low:high], dtype=np.int64)
        common = np.minimum(self._bags[numbers], character_bag(text)).sum(axis=1)
        return np.sort(numbers[200 * common >= least * (lengths + len(text))])

    def add(self, key: str) -> None:
        """Add a text."""
        number = len(self._texts)
        self._texts.append(key)
        place = bisect_right(self._lengths, len(key))
        self._lengths.insert(place, len(key))
        self._by_length.insert(place, number)
        if number == len(self._bags):
            # Doubled, so that n texts are copied n times in all and not n * n.
            self._bags = np.concatenate([self._bags, np.zeros((max(64, number), BUCKETS), dtype=np.int32)])
        self._bags[number] = character_bag(key)


class ShinglesSimilar:
    """Rows are the same when the Jaccard similarity of their sets of shingles is at least `threshold` (0 to 1).

    Candidates come from MinHash signatures in bands (see :func:`choose_bands`); each is verified by the Jaccard
    similarity of the sets themselves, so a row is dropped only if it is similar enough. A pair that shares no band is
    missed: at the threshold with a probability below 1 %, and the less the more similar the pair is.
    """

    def __init__(self, threshold: float, permutations: int, seed: int) -> None:
        from rensa import RMinHash, RMinHashLSH

        self._threshold = threshold
        self._sign = lambda: RMinHash(permutations, seed)
        self._bands = RMinHashLSH(threshold, permutations, choose_bands(threshold, permutations))
        self._keys: list[bytes] = []

    def find(self, key: bytes) -> tuple[int, float] | None:
        """Return the first added set that shares a band and is similar enough."""
        hashes = split_key(key)
        mine = set(hashes)
        for number in sorted(self._bands.query(self._signature(hashes))):
            theirs = split_key(self._keys[number])
            common = len(mine.intersection(theirs))
            similarity = common / (len(mine) + len(theirs) - common)
            if similarity >= self._threshold:
                return number, 100 * similarity
        return None

    def add(self, key: bytes) -> None:
        """Add a set."""
        self._bands.insert(len(self._keys), self._signature(split_key(key)))
        self._keys.append(key)

    def _signature(self, hashes: list[bytes]) -> Any:
        signature = self._sign()
        signature.update(hashes)
        return signature


class Bands:
    """The bands of all rows' signatures, 8 bytes each: which rows :class:`ShinglesSimilar` could find at all.

    Most rows share no band with any other. Nothing needs to be kept of them, neither their sets nor an index of their
    bands; the others are decided as they would be among all.
    """

    def __init__(self, threshold: float, permutations: int, seed: int) -> None:
        from rensa import RMinHash

        self._sign = lambda: RMinHash(permutations, seed)
        self._bands = choose_bands(threshold, permutations)
        # Odd, so that no value of a band is lost modulo 2^64.
        factors = [pow(0xD1342543DE82EF95, place, 1 << 64) for place in range(permutations // self._bands)]
        self._factors = np.array(factors, dtype=np.uint64)
        self._held = array("Q")

    def add(self, key: bytes) -> None:
        """Add a row's set of shingles."""
        signature = self._sign()
        signature.update(split_key(key))
        values = np.array(signature.digest(), dtype=np.uint64).reshape(self._bands, -1)
        self._held.frombytes(((values * self._factors).sum(axis=1, dtype=np.uint64)).tobytes())

    def shared(self) -> np.ndarray:
        """Return which rows share a band with another: bool, shape (rows,). A collision of hashes adds a row."""
        bands = np.frombuffer(self._held, dtype=np.uint64).reshape(-1, self._bands)
        found = np.zeros(len(bands), dtype=bool)
        for band in bands.T:
            order = np.argsort(band)
            same = band[order[1:]] == band[order[:-1]]
            found[order[1:][same]] = True
            found[order[:-1][same]] = True
        return found


def found_probability(similarity: float, bands: int, rows: int) -> float:
    """Return how probable it is that two sets share a band: 1 - (1 - s^r)^b.

    Formula: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.2.

    >>> round(found_probability(0.8, 20, 5), 4)
    0.9996
    """
    return 1 - (1 - similarity**rows) ** bands


def choose_bands(threshold: float, permutations: int) -> int:
    """Return the number of bands: as few as find a pair at the threshold with a probability of 99 %.

    Fewer bands have more rows each: a steeper curve, and fewer candidates that verification then refuses. Bands divide
    the permutations evenly. One row a band is the most that can be done where no choice reaches 99 %.

    >>> choose_bands(0.8, 256)
    32
    """
    for bands in range(1, permutations):
        if permutations % bands == 0 and found_probability(threshold, bands, permutations // bands) >= MIN_RECALL:
            return bands
    return permutations
