from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from init_model.phrases import find_phrases, split_pieces

WORDS = ["amber", "brisk", "coral", "dusty", "eager", "frosty", "gentle", "humble"]


def conversations(n: int) -> list[list[str]]:
    rng = random.Random(1)
    names = [f"{rng.choice(WORDS)}-{rng.choice(WORDS)}" for _ in range(n)]
    return [
        [
            f"You are an agent. Answer in JSON.\n\nTask: Create the file {name}.txt.\n\nState:\nroot@sandbox:/app# ",
            f'{{"plan": "Do it.", "commands": [{{"keystrokes": "touch {name}.txt\\n", "duration": 0.1}}]}}',
        ]
        for name in names
    ]


@given(st.text())
def test_pieces_are_the_text(text: str):
    assert "".join(split_pieces(text)) == text


def test_fixed_text_becomes_phrases_and_parameters_stay_out_of_them():
    phrases = find_phrases(conversations(60))
    assert any("Answer in JSON." in phrase for phrase in phrases)
    assert any('", "duration": 0.1}]}' in phrase for phrase in phrases)
    assert not [phrase for phrase in phrases if any(word in phrase for word in WORDS)]


def test_phrases_do_not_cut_words():
    for phrase in find_phrases(conversations(60)):
        assert not phrase[0].isalnum()
        assert not phrase[-1].isalnum()


def test_few_documents_share_nothing():
    assert find_phrases(conversations(4)) == []


def test_phrases_do_not_depend_on_the_order_of_documents():
    documents = conversations(40)
    assert find_phrases(documents[::-1]) == find_phrases(documents)
