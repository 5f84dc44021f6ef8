from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from dedup.same import (
    MIN_RECALL,
    Bands,
    Duplicate,
    Equal,
    IndelSimilar,
    Keyed,
    ShinglesSimilar,
    choose_bands,
    decide,
    found_probability,
)
from dedup.text import digest, shingle_key, shingles, split_key
from recipe_core.text import normalise

WORDS = ["sort", "the", "file", "by", "its", "second", "column", "and", "write", "sum", "größe", "文件"]


@st.composite
def near_duplicates(draw, alphabet="abcé文 ", most=24):
    """Return rows of which many are a few edits from another one, in any order; some cells are null."""
    texts = draw(st.lists(st.text(alphabet, max_size=most), min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 14))):
        text = draw(st.sampled_from(texts))
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 2))
        texts.append(text[:place] + draw(st.text(alphabet, max_size=2)) + text[place + cut :])
    ids = draw(st.permutations([f"t{index:02d}" for index in range(len(texts))]))
    cells = draw(st.lists(st.sampled_from([False] * 9 + [True]), min_size=len(texts), max_size=len(texts)))
    return [
        Keyed(*pair) for pair in zip(ids, (None if no else t for no, t in zip(cells, texts, strict=True)), strict=True)
    ]


def plain(rows, similarity, threshold):
    """Decide by the rule as it is written: every row against every kept one before it."""
    kept, decided = [], {}
    for row in sorted((row for row in rows if row.key is not None), key=lambda row: row.task_id):
        hits = [(other.task_id, score) for other in kept if (score := similarity(row.key, other.key)) >= threshold]
        if hits:
            decided[row.task_id] = Duplicate(*hits[0])
        else:
            kept.append(row)
    return [decided.get(row.task_id) for row in rows]


@given(near_duplicates(), st.sampled_from([2.0, 50.0, 58.0, 66.66666666666667, 75.0, 80.0, 90.0, 100.0]))
def test_indel_decides_as_comparing_every_pair_does(rows, threshold):
    assert decide(rows, IndelSimilar(threshold)) == plain(rows, fuzz.ratio, threshold)


@given(near_duplicates())
def test_exact_decides_as_comparing_every_pair_does(rows):
    assert decide(rows, Equal()) == plain(rows, lambda a, b: 100.0 * (a == b), 100.0)


@given(near_duplicates(), st.randoms(use_true_random=False), st.sampled_from(["exact", "indel", "minhash"]))
def test_which_rows_stay_does_not_depend_on_their_order(rows, random, method):
    def decisions(ordered):
        if method == "minhash":
            ordered = [Keyed(row.task_id, None if row.key is None else shingle_key(row.key, 2)) for row in ordered]
        index = {"exact": Equal, "indel": lambda: IndelSimilar(80.0), "minhash": lambda: ShinglesSimilar(0.5, 64, 1)}
        decided = decide(ordered, index[method]())
        return {row.task_id: duplicate for row, duplicate in zip(ordered, decided, strict=True)}

    assert decisions(rows) == decisions(random.sample(rows, len(rows)))


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=30), min_size=1, max_size=12), st.integers(1, 5))
def test_minhash_drops_only_what_is_similar_enough(texts, n):
    sets = {f"t{index:02d}": set(shingles(words, n)) for index, words in enumerate(texts)}
    rows = [Keyed(f"t{index:02d}", shingle_key(" ".join(words), n)) for index, words in enumerate(texts)]
    for row, duplicate in zip(rows, decide(rows, ShinglesSimilar(0.6, 128, 7)), strict=True):
        if duplicate:
            mine, theirs = sets[row.task_id], sets[duplicate.kept]
            jaccard = len(mine & theirs) / len(mine | theirs)
            assert duplicate.similarity == pytest.approx(100 * jaccard)
            assert jaccard >= 0.6


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=30), min_size=1, max_size=12), st.integers(1, 5))
def test_rows_that_share_no_band_decide_nothing(texts, n):
    rows = [Keyed(f"t{index:02d}", shingle_key(" ".join(words), n)) for index, words in enumerate(texts)]
    bands = Bands(0.6, 128, 7)
    for row in rows:
        bands.add(row.key)
    left = [row if shared else row._replace(key=None) for row, shared in zip(rows, bands.shared(), strict=True)]
    assert decide(left, ShinglesSimilar(0.6, 128, 7)) == decide(rows, ShinglesSimilar(0.6, 128, 7))


def test_no_rows_share_no_band():
    assert Bands(0.8, 256, 0).shared().tolist() == []


def test_minhash_finds_what_is_clearly_similar():
    words = [f"word{index}" for index in range(100)]
    rows = [
        Keyed("a", shingle_key(" ".join(words), 5)),
        Keyed("b", shingle_key(" ".join([*words[:-1], "other"]), 5)),
        Keyed("c", shingle_key(" ".join(words[:40]), 5)),
    ]
    assert decide(rows, ShinglesSimilar(0.8, 256, 0)) == [None, Duplicate("a", pytest.approx(100 * 95 / 97)), None]


def test_a_chain_of_small_steps_keeps_its_ends():
    texts = ["aaaaaaaaaa", "aaaaaaaabb", "aaaaaabbbb"]
    assert fuzz.ratio(texts[0], texts[1]) == fuzz.ratio(texts[1], texts[2]) == 80
    rows = [Keyed(task_id, text) for task_id, text in zip("abc", texts, strict=True)]
    assert decide(rows, IndelSimilar(80.0)) == [None, Duplicate("a", 80.0), None]
    first = [Keyed(task_id, text) for task_id, text in zip("bac", texts, strict=True)]
    assert decide(first, IndelSimilar(80.0)) == [Duplicate("a", 80.0), None, Duplicate("a", 80.0)]


def test_rows_with_one_task_id_are_compared_too():
    rows = [Keyed("a", "x"), Keyed("a", "x"), Keyed("a", "y")]
    assert decide(rows, Equal()) == [None, Duplicate("a", 100.0), None]


def test_rows_without_a_value_stay_and_empty_texts_are_equal():
    rows = [Keyed("a", None), Keyed("b", None), Keyed("c", ""), Keyed("d", "")]
    assert decide(rows, IndelSimilar(90.0)) == [None, None, None, Duplicate("c", 100.0)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Sort  the\nfile ", "sort the file"),
        ("ﬁle", "file"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "café"),
        ("a\u00a0b", "a b"),
    ],
)
def test_texts_that_normalise_to_the_same(left, right):
    assert normalise(left) == normalise(right)


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.integers(1, 6))
def test_a_text_has_a_shingle_for_every_run_of_words(words, n):
    runs = list(shingles(words, n))
    assert len(runs) == max(1, len(words) - n + 1)
    assert all(run.split() == words[start : start + n] for start, run in enumerate(runs))
    assert len(split_key(shingle_key(" ".join(words), n))) == len(set(runs))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("permutations", [64, 120, 128, 256])
def test_bands_are_the_fewest_that_find_a_pair_at_the_threshold(threshold, permutations):
    bands = choose_bands(threshold, permutations)
    assert permutations % bands == 0
    assert found_probability(threshold, bands, permutations // bands) >= MIN_RECALL
    fewer = [count for count in range(1, bands) if permutations % count == 0]
    assert all(found_probability(threshold, count, permutations // count) < MIN_RECALL for count in fewer)


def test_digests_tell_apart():
    assert len({digest(letter.encode()) for letter in string.ascii_letters}) == len(string.ascii_letters)
