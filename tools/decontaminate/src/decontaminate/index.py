"""The same decisions as `decontaminate.rules.plain_decision`, without going through every pair."""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from decontaminate.rules import Hit, Rule, similarity_of
from decontaminate.text import Gram, Token, Tokenizer, gram_length
from recipe_core.errors import BadInput
from recipe_core.text import BUCKETS, buckets, character_bag, normalise

# In per cent; far more than rounding moves a similarity by. Bounds and cutoffs are loosened by it and the final
# comparison is not, so that pruning never decides.
_SLACK = 1e-6
# Up to one machine word `partial_ratio` costs no more than bounding it would.
_SHORT = 64
# Odd, so that multiplying by them modulo 2^64 loses nothing.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0xD1342543DE82EF95)
# Bits of a hash that the first look-up of a gram goes by: a table of 16 MB, of which a few hundred thousand are set.
_SIEVE_BITS = 24
# Texts of one band have lengths within 15 per cent of one another and share what is prepared of the prompts.
_BAND = math.log(1.15)
# Letters of a class: as many as rapidfuzz compares in one machine word, but enough of them (six) to tell texts apart,
# unless they would make up more than this share of a text.
_WORD_LETTERS = 56
_LEAST_OF_A_CLASS = 6
_MOST_OF_A_TEXT = 0.18
# Pairs bounded at a time: with a dozen classes of int32, some tens of megabytes.
_PAIRS = 1 << 18
# Below these shares of the pairs, going through what is left one by one is faster than all at once.
_FEW = 0.1
_FEW_OF_LONG = 0.8
_HARDLY_ANY = 0.002


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
        # Every gram begins with this many tokens, so a place where no gram's beginning stands needs no second look.
        self._opening = min(self._tables, default=0)
        self._sieve = np.zeros(1 << _SIEVE_BITS, dtype=bool)
        if self._opening:
            for prompt in self._prompts:
                if length := gram_length(len(prompt), n):
                    openings = polynomial(prompt, self._opening)[: len(prompt) - length + 1]
                    self._sieve[_sieved(openings)] = True

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

    def first_of_each(self, texts: Sequence[Sequence[Token]]) -> list[tuple[int, Gram] | None]:
        """Return :func:`first` of the tokens of each text."""
        found: list[tuple[int, Gram] | None] = [None] * len(texts)
        for number in self._touched(texts):
            found[number] = self.first(texts[number])
        return found

    def _touched(self, texts: Sequence[Sequence[Token]]) -> list[int]:
        """Return the texts in which the hash of some gram occurs, and perhaps others: hashed all in one go."""
        if not self._tables:
            return []
        known = self._vocabulary.get
        numbers = np.array([known(token, 0) for tokens in texts for token in tokens], dtype=np.uint64)
        owner = np.repeat(np.arange(len(texts)), [len(tokens) for tokens in texts])
        starts = np.flatnonzero(self._sieve[_sieved(polynomial(numbers, self._opening))])
        touched: set[int] = set()
        for length, (hashes, _) in self._tables.items():
            # A run that goes over into the next text is no gram of either; taking it for one costs time only.
            inside = starts[starts <= len(numbers) - length]
            runs = numbers[inside[:, np.newaxis] + np.arange(length)]
            mine = polynomial(runs.ravel(), length)[::length]
            places = np.minimum(np.searchsorted(hashes, mine), len(hashes) - 1)
            touched.update(owner[inside[hashes[places] == mine]].tolist())
        return sorted(touched)

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


def _sieved(hashes: np.ndarray) -> np.ndarray:
    """Return the place of each hash in the sieve: its highest bits, which depend on all tokens."""
    return (hashes >> np.uint64(64 - _SIEVE_BITS)).astype(np.int64)


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
        self._prepared: dict[int, Band] = {}

    def best(self, text: str) -> tuple[int, float] | None:
        """Return the most similar prompt and its similarity if it reaches the threshold, the first of equal ones."""
        return self.best_of_each([text])[0]

    def best_of_each(self, texts: Sequence[str]) -> list[tuple[int, float] | None]:
        """Return :func:`best` of each text."""
        if self._partial:
            return [self._best(text, self._candidates(text)) for text in texts]
        best: list[tuple[int, float] | None] = [None] * len(texts)
        bands: dict[int, list[int]] = {}
        for number, text in enumerate(texts):
            bands.setdefault(int(math.log(max(1, len(text))) / _BAND), []).append(number)
        for number, members in bands.items():
            band = self._band(number)
            most = max(1, _PAIRS // max(1, band.stop - band.start))
            for start in range(0, len(members), most):
                part = members[start : start + most]
                for member, candidates in zip(part, band.candidates([texts[one] for one in part]), strict=True):
                    numbered = [(int(self._order[band.start + place]), bound) for place, bound in candidates]
                    best[member] = self._best(texts[member], numbered)
        return best

    def _band(self, number: int) -> Band:
        """Return what is prepared for texts of one band, and prepare it when it is first asked for."""
        if number not in self._prepared:
            least = self._threshold - _SLACK
            # 200 min(a, b) / (a + b) is itself a bound. A character more either way makes up for rounding.
            low = math.exp(_BAND * number) * least / (200 - least) - 2
            high = math.exp(_BAND * (number + 1)) * (200 - least) / least + 2
            start = int(np.searchsorted(self._lengths, low))
            stop = int(np.searchsorted(self._lengths, high, "right"))
            texts = [self._texts[place] for place in self._order[start:stop].tolist()]
            length = math.exp(_BAND * (number + 1))
            self._prepared[number] = Band(texts, self._bags[start:stop], start, length, least)
        return self._prepared[number]

    def _best(self, text: str, candidates: Iterable[tuple[int, float]]) -> tuple[int, float] | None:
        """Compare a text with prompts, given with upper bounds of their similarity, the highest bound first."""
        best: tuple[int, float] | None = None
        for number, bound in candidates:
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
        """Return the prompts of which a part may reach the threshold, with upper bounds, the highest first."""
        common = np.minimum(self._bags, character_bag(text)).sum(axis=1)
        bounds = 200 * common / (np.minimum(self._lengths, len(text)) + common)
        bounds = np.maximum(bounds, 200 * common / (self._lengths + len(text)))
        places = np.flatnonzero(bounds >= self._threshold - _SLACK)
        places = places[np.argsort(-bounds[places], kind="stable")]
        return list(zip(self._order[places].tolist(), bounds[places].tolist(), strict=True))


class Band:
    """The prompts that texts of about one length may be similar to, prepared for bounding many pairs at once.

    The characters are divided into classes. What is left of two texts when all but the characters of one class are
    struck out has a longest common subsequence of its own, and those of all classes together are at least as long as
    that of the texts. So, with any of the classes taken by its subsequence and the others as bags, L is bounded; and
    since the cost of a subsequence grows with the square of the length, that of a few short ones is small. Rare
    characters come first: a class of many different ones has little in common by order, and most pairs need no other.

    Args:
        texts: the prompts in question.
        bags: their characters in buckets, int32, shape (len(texts), 96).
        start: the number of the first of them, for the owner.
        length: of the longest text that will be compared, in characters.
        least: similarity in per cent below which a pair is of no interest.
    """

    def __init__(self, texts: Sequence[str], bags: np.ndarray, start: int, length: float, least: float) -> None:
        self.start, self.stop = start, start + len(texts)
        self._least = least
        self._lengths = np.array([len(text) for text in texts], dtype=np.int32)
        self._coded = [buckets(text).tobytes() for text in texts]
        self._classes, self._rest = choose_classes(bags.sum(axis=0), length)
        kind = np.uint16 if int(self._lengths.max(initial=0)) < 1 << 16 else np.uint32
        self._most = np.iinfo(kind).max
        # A row a bucket and the buckets of a class beside each other: then all sums run along the memory.
        columns = [bucket for members in (*self._classes, self._rest) for bucket in members]
        self._columns = np.array(columns, dtype=np.int64)
        self._bags = np.ascontiguousarray(bags.T[self._columns].astype(kind))
        sizes = [len(members) for members in (*self._classes, self._rest)]
        self._slices = [slice(*pair) for pair in pairwise(np.cumsum([0, *sizes]).tolist())]
        self._struck = [bytes(set(range(256)) - set(members)) for members in self._classes]
        self._parts: list[list[bytes]] = []

    def candidates(self, texts: Sequence[str]) -> list[list[tuple[int, float]]]:
        """Return for each text the prompts (numbered from 0) that may be similar, with bounds, the highest first."""
        if not self._coded:
            return [[] for _ in texts]
        coded = [buckets(text) for text in texts]
        common = self._common(coded)
        upper = common.sum(axis=0, dtype=np.int32)
        lengths = np.array([len(text) for text in texts], dtype=np.int32)[:, np.newaxis] + self._lengths
        needed = np.ceil(self._least * lengths / 200).astype(np.int32)
        alive = upper >= needed
        for number, struck in enumerate(self._struck):
            share = np.count_nonzero(alive) / alive.size
            if share <= _HARDLY_ANY:
                break
            mine = [text.tobytes().translate(None, struck) for text in coded]
            theirs = self._part(number)
            long = sum(map(len, mine)) > _WORD_LETTERS * len(mine)
            if share > (_FEW_OF_LONG if long else _FEW):
                upper -= common[number] - common_subsequences(mine, theirs)
                alive = upper >= needed
                continue
            for row, part in enumerate(mine):
                left = np.flatnonzero(alive[row])
                if len(left):
                    found = common_subsequences([part], [theirs[place] for place in left.tolist()])[0]
                    upper[row, left] -= common[number, row, left] - found
            alive = upper >= needed
        listed = []
        for row, text in enumerate(texts):
            places = np.flatnonzero(alive[row])
            bounds = 200 * upper[row, places] / (len(text) + self._lengths[places])
            order = np.argsort(-bounds, kind="stable")
            listed.append(list(zip(places[order].tolist(), bounds[order].tolist(), strict=True)))
        return listed

    def _common(self, coded: Sequence[np.ndarray]) -> np.ndarray:
        """Return what texts and prompts have in common as bags, by class and in the rest: (classes + 1, texts, m)."""
        common = np.empty((len(self._slices), len(coded), len(self._coded)), dtype=np.int32)
        smaller = np.empty_like(self._bags)
        for row, text in enumerate(coded):
            bag = np.minimum(np.bincount(text, minlength=BUCKETS), self._most)[self._columns].astype(self._bags.dtype)
            np.minimum(self._bags, bag[:, np.newaxis], out=smaller)
            for number, part in enumerate(self._slices):
                common[number, row] = np.add.reduce(smaller[part], axis=0, dtype=self._bags.dtype)
        return common

    def _part(self, number: int) -> list[bytes]:
        """Return what is left of each prompt in one class."""
        while len(self._parts) <= number:
            struck = self._struck[len(self._parts)]
            self._parts.append([text.translate(None, struck) for text in self._coded])
        return self._parts[number]


def common_subsequences(mine: Sequence[bytes], theirs: Sequence[bytes]) -> np.ndarray:
    """Return the length of the longest common subsequence of every pair: int32, shape (len(mine), len(theirs))."""
    return process.cdist(mine, theirs, scorer=LCSseq.similarity, dtype=np.int32)


def choose_classes(counts: np.ndarray, length: float) -> tuple[list[list[int]], list[int]]:
    """Divide buckets into classes, the rarest first, and a rest that no subsequence is taken of.

    Args:
        counts: how often each bucket occurs, shape (96,).
        length: of a text, in characters.

    A class ends when it holds as many characters of such a text as fit a machine word and six buckets, or else a fifth
    of the text. A bucket alone is no class, since its bag is its subsequence.
    """
    shares = counts / max(1, int(counts.sum()))
    most_of_a_text = max(_WORD_LETTERS / length, _MOST_OF_A_TEXT)
    classes: list[list[int]] = []
    held = 0.0
    for bucket in np.argsort(counts, kind="stable").tolist():
        if not counts[bucket]:
            continue
        whole = held + shares[bucket]
        full = whole * length > _WORD_LETTERS and classes and len(classes[-1]) >= _LEAST_OF_A_CLASS
        if not classes or full or whole > most_of_a_text:
            classes.append([])
            held = 0.0
        classes[-1].append(bucket)
        held += shares[bucket]
    alone = [members[0] for members in classes if len(members) == 1]
    return [members for members in classes if len(members) > 1], alone


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
        return self.decide_all([text])[0]

    def decide_all(self, texts: Sequence[str]) -> list[Hit | None]:
        """Decide many texts, each by itself; faster by far than one after the other.

        Memory grows with the number of texts: some kilobytes for each besides the text.
        """
        normal = [normalise(text) for text in texts]
        hits: list[Hit | None] = [None] * len(texts)
        if self._grams:
            tokens = [self._tokenizer(text) if some else () for text, some in zip(texts, normal, strict=True)]
            for number, shared in enumerate(self._grams.first_of_each(tokens)):
                if shared:
                    hits[number] = Hit(*shared, None)
        if self._similar:
            left = [number for number, text in enumerate(normal) if text and hits[number] is None]
            for number, similar in zip(left, self._similar.best_of_each([normal[n] for n in left]), strict=True):
                if similar:
                    hits[number] = Hit(similar[0], None, similar[1])
        return hits


def decide_batches(
    batches: Iterable[Sequence[str]], prompts: Sequence[str], rule: Rule, tokenizer: Tokenizer, workers: int
) -> Iterator[list[Hit | None]]:
    """Yield the decisions on each batch of texts, in the order of the batches.

    With more than one worker each is a process with an :class:`Index` of its own, and a few batches are on their way at
    any time. Decisions depend on neither the batches nor the workers.

    Raises:
        BadInput: a worker was killed, by the machine's lack of memory most likely.
    """
    if workers == 1:
        index = Index(prompts, rule, tokenizer)
        yield from (index.decide_all(batch) for batch in batches)
        return
    # Spawned, not forked: a fork of a process in which other threads run may wait for a lock that nobody holds.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_prepare, initargs=(prompts, rule, tokenizer)) as pool:
        under_way: deque[Future[list[Hit | None]]] = deque()
        try:
            for batch in batches:
                under_way.append(pool.submit(_decide, batch))
                if len(under_way) > 2 * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool:
            raise BadInput(f"one of {workers} workers was killed; free some memory or give fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


_index: Index


def _prepare(prompts: Sequence[str], rule: Rule, tokenizer: Tokenizer) -> None:
    # Ctrl-C reaches every process of a terminal; the one that asked for the work says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _index  # noqa: PLW0603 - a pool's initialiser has no other place for what its process keeps
    _index = Index(prompts, rule, tokenizer)


def _decide(batch: Sequence[str]) -> list[Hit | None]:
    return _index.decide_all(batch)
