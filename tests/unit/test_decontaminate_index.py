"""Many texts and prompts at once are decided as one by one, and what rules pairs out is true."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq

from decontaminate import index as index_module
from decontaminate.index import Band, Index, choose_classes, decide_batches
from decontaminate.rules import RULES, Rule, plain_decision
from decontaminate.text import words
from recipe_core.errors import BadInput
from recipe_core.text import buckets, character_bag, normalise

LETTERS = "eeeeettttaaaoooiinnsshhrrdlcumwfgypbvk.,ß文 "


def near_texts(seed: int, count: int, longest: int) -> tuple[list[str], list[str]]:
    """Return texts and prompts of many lengths: some texts are edits of a prompt, at about the threshold or above."""
    draw = random.Random(seed)

    def text() -> str:
        length = draw.choice([1, 5, 40, 64, 65, 90, 200, 450, 700, longest])
        return "".join(draw.choices(LETTERS, k=length)).strip() or "x"

    prompts = [text() for _ in range(count)]
    texts = [text() for _ in range(count)]
    for place in range(0, count, 3):
        kept, changed = draw.uniform(0.6, 1), draw.choice(prompts)
        texts[place] = "".join(letter if draw.random() < kept else draw.choice(LETTERS) for letter in changed)
    return texts, prompts


@pytest.mark.parametrize("rule", [RULES["openthoughts3"], Rule(None, 75.0), Rule(None, 45.0), Rule(None, 100.0)])
def test_many_texts_at_once_are_decided_as_every_pair(rule):
    texts, prompts = near_texts(3, 48, 1500)
    decided = Index(prompts, rule, words).decide_all(texts)
    assert decided == [plain_decision(text, prompts, rule, words) for text in texts]
    assert any(decided)
    assert not all(decided)


@pytest.mark.parametrize(("few", "few_of_long", "hardly_any"), [(0, 0, 0), (1, 1, 0), (1, 1, 1)])
def test_how_pairs_are_ruled_out_decides_nothing(few, few_of_long, hardly_any, monkeypatch):
    monkeypatch.setattr(index_module, "_FEW", few)
    monkeypatch.setattr(index_module, "_FEW_OF_LONG", few_of_long)
    monkeypatch.setattr(index_module, "_HARDLY_ANY", hardly_any)
    monkeypatch.setattr(index_module, "_PAIRS", 40)
    texts, prompts = near_texts(4, 30, 800)
    rule = Rule(None, 60.0)
    assert Index(prompts, rule, words).decide_all(texts) == [plain_decision(t, prompts, rule, words) for t in texts]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([30.0, 50.0, 75.0]))
def test_no_pair_is_ruled_out_that_reaches_the_threshold(seed, least):
    texts, prompts = ([normalise(text) for text in some] for some in near_texts(seed, 12, 600))
    bags = np.stack([character_bag(prompt) for prompt in prompts])
    listed = Band(prompts, bags, 0, max(map(len, texts)), least).candidates(texts)
    for text, candidates in zip(texts, listed, strict=True):
        bounds = dict(candidates)
        for place, prompt in enumerate(prompts):
            similarity = 200 * LCSseq.similarity(text, prompt) / (len(text) + len(prompt))
            assert similarity <= bounds.get(place, least) + 1e-9


@given(st.lists(st.integers(0, 500), min_size=96, max_size=96), st.floats(1, 20_000))
def test_classes_divide_the_buckets_that_occur(counts, length):
    classes, rest = choose_classes(np.array(counts), length)
    divided = [bucket for members in (*classes, rest) for bucket in members]
    assert sorted(divided) == [bucket for bucket, count in enumerate(counts) if count]
    assert all(len(members) > 1 for members in classes)


def test_a_text_longer_than_16_bits_count_is_compared_too():
    prompt = "ab c" * 20_000
    for prompts in ([prompt], ["a short one", "c" * 70_000]):
        text = prompts[-1][:-1] + "d"
        rule = Rule(None, 99.0)
        assert Index(prompts, rule, words).decide(text) == plain_decision(text, prompts, rule, words)
        assert Index(prompts, rule, words).decide(text).prompt == len(prompts) - 1


def test_grams_of_many_texts_are_found_within_a_text_only():
    prompt = "one two three four five six seven eight nine ten eleven twelve thirteen"
    head, tail = prompt[:30], prompt[30:]
    short = "what is two plus two"
    index = Index([prompt, short], RULES["ngram"], words)
    found = index.decide_all([head, tail, "", f"x {prompt} y", "what is two", "plus two", f"so {short} then"])
    assert [hit and hit.prompt for hit in found] == [None, None, None, 0, None, None, 1]


def test_batches_come_back_in_order_whatever_the_workers():
    texts, prompts = near_texts(6, 60, 300)
    batches = [texts[start : start + 7] for start in range(0, len(texts), 7)]
    rule = RULES["openthoughts3"]
    one, two = (list(decide_batches(iter(batches), prompts, rule, words, workers)) for workers in (1, 2))
    assert one == two
    assert [hit for found in one for hit in found] == Index(prompts, rule, words).decide_all(texts)


class Deadly:
    """A tokenizer that takes its process down, as a lack of memory does, though not the one that made it."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __call__(self, text: str) -> list[str]:
        if os.getpid() != self.home and text == "last words":
            os.kill(os.getpid(), signal.SIGKILL)
        return words(text)


def test_a_killed_worker_is_one_line():
    with pytest.raises(BadInput, match="one of 2 workers was killed; free some memory or give fewer --workers"):
        list(decide_batches([["a b c d"], ["last words"]], ["some prompt of words"], RULES["ngram"], Deadly(), 2))


def test_buckets_add_up_to_the_bag():
    text = "Größe 文件 {x}\n"
    assert np.bincount(buckets(text), minlength=96).tolist() == character_bag(text).tolist()
