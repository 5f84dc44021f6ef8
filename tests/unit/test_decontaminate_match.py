"""Which texts are too close to a prompt, and that the index decides as the definition does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from decontaminate import index as index_module
from decontaminate.__main__ import METHODS, check_share, choose_rule
from decontaminate.index import Index, SimilarIndex, part_may_reach, polynomial
from decontaminate.rules import PUBLISHED_TOKENS, RULES, Hit, Rule, plain_decision
from decontaminate.text import gram_length, grams
from recipe_core.errors import BadInput
from recipe_core.prompts import Prompt
from recipe_core.text import character_bag, normalise
from recipe_core.tokens import words

VOCABULARY = ["sort", "the", "file", "Groesse", "größe", "3", "--", "?", "文件", "ﬁle", "a", "b"]
RULES_TO_TRY = [
    *RULES.values(),
    Rule(1, None),
    Rule(3, 90.0),
    Rule(5, 58.0),
    Rule(4, 60.0, partial=True),
    Rule(None, 100.0),
    Rule(None, 66.66666666666667, partial=True),
]
GSM = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


@st.composite
def near_duplicates(draw):
    """Return a text and prompts: word sequences of which some are edits, parts or extensions of the others."""
    word = st.sampled_from(VOCABULARY)
    prompts = draw(st.lists(st.lists(word, min_size=1, max_size=24), min_size=1, max_size=5))
    start = draw(st.sampled_from([*prompts, draw(st.lists(word, max_size=24))]))
    first = draw(st.integers(0, len(start)))
    text = [*draw(st.lists(word, max_size=6)), *start[first:], *draw(st.lists(word, max_size=6))]
    for place in draw(st.lists(st.integers(0, max(0, len(text) - 1)), max_size=4)):
        text[place : place + 1] = draw(st.lists(word, max_size=2))
    return " ".join(text), [draw(st.sampled_from([" ", "  ", "\n"])).join(prompt) for prompt in prompts]


@settings(max_examples=200)
@given(near_duplicates(), st.sampled_from(RULES_TO_TRY))
def test_the_index_decides_as_comparing_every_pair_does(case, rule):
    text, prompts = case
    assert Index(prompts, rule, words).decide(text) == plain_decision(text, prompts, rule, words)


letters = st.text("abé文 ", max_size=70)


@settings(max_examples=200)
@given(letters, st.lists(letters.filter(str.strip), min_size=1, max_size=6), st.floats(1.5, 100), st.booleans())
def test_similarities_are_those_of_every_pair_at_any_threshold(text, prompts, threshold, partial):
    rule = Rule(None, threshold, partial)
    assert Index(prompts, rule, words).decide(text) == plain_decision(text, prompts, rule, words)


@given(near_duplicates(), st.sampled_from(RULES_TO_TRY))
def test_a_collision_of_hashes_decides_nothing(case, rule):
    text, prompts = case

    def collide(numbers, length):
        return np.zeros(max(0, len(numbers) - length + 1), dtype=np.uint64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "polynomial", collide)
        assert Index(prompts, rule, words).decide(text) == plain_decision(text, prompts, rule, words)


@given(letters.filter(str.strip), letters.filter(str.strip))
def test_the_bounds_hold(left, right):
    left, right = normalise(left), normalise(right)
    common = int(np.minimum(character_bag(left), character_bag(right)).sum())
    assert fuzz.ratio(left, right) <= 200 * common / (len(left) + len(right)) + 1e-9
    bound = 200 * common / (min(len(left), len(right)) + common)
    assert max(fuzz.ratio(left, right), fuzz.partial_ratio(left, right)) <= bound + 1e-9


@st.composite
def text_and_part(draw):
    """Return a text of up to 180 letters, and a part of it with a share of its letters replaced."""
    alphabet = "abcdefgh"[: draw(st.integers(2, 8))]
    random = draw(st.randoms(use_true_random=False))
    text = "".join(random.choices(alphabet, k=draw(st.integers(1, 180))))
    start, kept = draw(st.integers(0, len(text) - 1)), draw(st.floats(0.3, 1))
    part = text[start : start + draw(st.integers(1, 120))]
    return text, "".join(letter if random.random() < kept else random.choice(alphabet) for letter in part)


def best_window(short: str, long: str) -> float:
    """Return the best ratio with the parts of `long` that count: any as long as `short`, shorter ones at the ends."""
    m = len(short)
    parts = [long[start : start + m] for start in range(len(long) - m + 1)]
    parts += [end for length in range(1, m) for end in (long[:length], long[-length:])]
    return max(fuzz.ratio(short, part) for part in parts)


@given(text_and_part())
def test_partial_ratio_is_the_best_of_the_parts_that_its_bound_covers(case):
    short, long = sorted(case, key=len)
    expected = best_window(short, long)
    if len(short) == len(long):
        expected = max(expected, best_window(long, short))
    assert fuzz.partial_ratio(*case) == pytest.approx(expected)


@settings(max_examples=200)
@given(text_and_part(), st.floats(0, 10))
def test_what_is_ruled_out_in_part_is_below_the_threshold(case, below):
    score = fuzz.partial_ratio(*case)
    assert part_may_reach(*case, max(0.0, score - below))
    assert part_may_reach(*reversed(case), score)


def test_most_unrelated_texts_are_ruled_out_in_part():
    left = (
        "A ledger of accounts is kept by each branch, and at noon the totals of all branches are compared and signed."
    )
    right = (
        "Compile the kernel with the debugging symbols removed; then boot it twice, and mail us the log of both boots. "
    )
    assert not part_may_reach(left, right, 80.0)
    assert not part_may_reach(left, right * 4, 80.0)


@pytest.mark.parametrize("letters_of_prompt", [130, 300])
def test_a_part_of_a_long_text_is_found_and_decided_alike(letters_of_prompt):
    prompt = (GSM * 4)[:letters_of_prompt]
    text = "Unrelated words come first. " * 20 + prompt.replace("April", "March") + " And some more after it." * 20
    rule = Rule(None, 80.0, partial=True)
    hit = Index([prompt], rule, words).decide(text)
    assert hit == plain_decision(text, [prompt], rule, words)
    assert hit.similarity >= 95
    assert Index([prompt], RULES["indel"], words).decide(text) is None


def test_similar_texts_are_dropped_and_dissimilar_ones_are_not():
    prompts = ["What is the capital of France?", GSM]
    index = Index(prompts, RULES["openthoughts3"], words)
    spain = "what is the capital of spain?"
    assert index.decide("What is  the\nCapital of Spain?") == Hit(0, None, fuzz.ratio(spain, prompts[0].lower()))
    assert index.decide("Write a program that prints the first ten primes.") is None
    assert index.decide(f"Solve this. {GSM} How many in all?").reason == "ngram"


def test_thirteen_shared_tokens_are_a_hit_and_twelve_are_none():
    prompt = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    rule = RULES["ngram"]
    index = Index([prompt], rule, words)
    apart = " x y z" * 30 + " "
    shared = words(prompt)[1:14]
    assert index.decide(apart + " ".join(shared) + apart) == Hit(0, tuple(shared), None)
    assert index.decide(apart + " ".join(shared[:12]) + apart) is None
    assert index.decide(apart + " ".join(shared).upper().replace(" ", "\n\n") + apart).gram == tuple(shared)


def test_a_short_prompt_is_one_gram_if_it_has_four_tokens():
    rule = RULES["ngram"]
    text = "Please tell me: what is two plus two, and why?"
    assert Index(["two plus two"], rule, words).decide(text) is None
    assert Index(["what is two plus two"], rule, words).decide(text) == Hit(
        0, ("what", "is", "two", "plus", "two"), None
    )
    assert Index(["what was two plus two"], rule, words).decide(text) is None


def test_a_line_under_a_heading_is_no_shared_gram():
    prompt = f"Sum\n{'=' * 40}\n| a | b |\n|{'-' * 20}|\nAdd the two numbers up and print the result."
    text = f"Copy files\n{'=' * 40}\n{'-' * 20}\nAll files of /etc that belong to nobody go to /tmp, the others stay."
    assert words("a ==== b--c- -") == ["a", "====", "b", "--", "c", "-", "-"]
    assert Index([prompt], RULES["agent"], words).decide(text) is None


@given(st.integers(0, 40), st.integers(1, 20))
def test_grams_of_a_prompt(tokens, n):
    length = gram_length(tokens, n)
    found = grams([str(number) for number in range(tokens)], length)
    if tokens >= n:
        assert len(found) == tokens - n + 1
    else:
        assert len(found) == (tokens >= 4)
    assert all(len(gram) == length for gram in found)


def test_the_first_of_several_prompts_is_named_and_a_gram_comes_before_a_similarity():
    text = GSM
    rule = Rule(8, 50.0)
    prompts = [GSM.replace("clips", "pins"), "and then she sold half as many clips in June", GSM]
    assert Index(prompts, rule, words).decide(text).prompt == 0
    assert Index(prompts, Rule(None, 50.0), words).decide(text) == Hit(2, None, 100.0)
    assert Index([prompts[2], prompts[2]], Rule(None, 50.0), words).decide(text) == Hit(0, None, 100.0)


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_text_is_clean(text):
    for rule in RULES.values():
        assert Index(["what is two plus two"], rule, words).decide(text) is None
        assert plain_decision(text, ["what is two plus two"], rule, words) is None


def test_a_tokenizer_may_give_numbers():
    def bytes_of(text):
        return list(text.encode())

    assert Index(["abcdefgh"], Rule(5, None), bytes_of).decide("xxcdefgxx") == Hit(0, tuple(b"cdefg"), None)


def test_no_candidate_is_compared_that_the_bounds_rule_out(monkeypatch):
    compared = []
    monkeypatch.setattr(
        index_module, "similarity_of", lambda left, right, partial, cutoff: compared.append(right) or 0.0
    )
    index = SimilarIndex(["aaaa", "bbbb", "a" * 40, "aabb"], 75.0, partial=False)
    assert index.best("aaab") is None
    assert sorted(compared) == ["aaaa", "aabb"]


def test_a_hash_depends_on_every_token_and_its_place():
    numbers = np.array([1, 2, 3, 2, 1], dtype=np.uint64)
    assert polynomial(numbers, 3).shape == (3,)
    assert len(set(polynomial(numbers, 3).tolist())) == 3
    assert polynomial(numbers, 6).shape == (0,)


def test_the_command_line_knows_every_rule():
    assert tuple(RULES) == METHODS
    assert set(PUBLISHED_TOKENS) < set(RULES)


def test_the_published_rules_have_the_published_numbers():
    assert RULES["openthoughts3"] == Rule(ngram=13, similarity=75.0, partial=False)
    assert RULES["agent"] == Rule(ngram=8, similarity=80.0, partial=True)
    tokens = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    prompt = "before " + " ".join(tokens) + " after it comes something else altogether in this prompt"
    rest = "nothing of what stands here has been seen in any other place " * 3
    ngrams_only = RULES["agent"]._replace(similarity=None)
    assert plain_decision(rest + " ".join(tokens), [prompt], ngrams_only, words).gram == tuple(tokens)
    assert plain_decision(rest + " ".join(tokens[1:]) + " then", [prompt], ngrams_only, words) is None


def test_numbers_replace_those_of_the_method():
    assert choose_rule("openthoughts3", None, None) == Rule(13, 75.0)
    assert choose_rule("agent", 10, 90.0) == Rule(10, 90.0, partial=True)
    with pytest.raises(BadInput, match="--similarity decides nothing with --method ngram"):
        choose_rule("ngram", None, 75.0)
    with pytest.raises(BadInput, match="--ngram decides nothing with --method indel"):
        choose_rule("indel", 13, None)


def test_the_share_is_taken_as_written_and_names_the_worst_set():
    prompts = [Prompt("aime", 3, "x"), Prompt("gsm", 1, "y"), Prompt("gsm", 7, "z")]
    ids = [(f"t{number}", "shell") for number in range(100)]
    hits: list[Hit | None] = [None] * 100
    hits[10:29] = [Hit(2, None, 80.0)] * 19
    hits[40:50] = [Hit(0, None, 80.0)] * 10
    check_share(ids, hits, prompts, "0.29")
    check_share(ids, hits, prompts, None)
    check_share([], [], prompts, "0")
    with pytest.raises(
        BadInput, match=r"29 of 100 rows \(29.00%\).*0.289; most \(19\) hit 'gsm'.*task t10 of source 'shell' its row 7"
    ):
        check_share(ids, hits, prompts, "0.289")
