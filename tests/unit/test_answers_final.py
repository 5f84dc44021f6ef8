from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from answers.final import (
    as_latex,
    as_text,
    final_answer,
    is_mathematical,
    last_boxed,
    last_python_block,
    sayable,
    without_reasoning,
)
from answers.judge import judge_messages, verdict


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        ("<think>a</think>b", "b"),
        ("a</think>\n\nb\n", "b"),
        ("<think>never ends", ""),
        ("<think>a</think>", ""),
        ("plain", "plain"),
        ("talks of <think> only", "talks of <think> only"),
    ],
)
def test_reasoning_is_left_out(content, rest):
    assert without_reasoning(content) == rest


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (r"so \boxed{1} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed {\{1, 2\}} done", r"\{1, 2\}"),
        (r"first \boxed{3}, then \boxed{4", "3"),
        (r"\fbox{a} \boxed{}", ""),
        ("Work.\n\nThe final answer is 42.", "42"),
        ("**Final answer:** $x = 3$", "x = 3"),
        ("Therefore, the answer is: **7**", "7"),
        ("#### 18", "18"),
        ("-5", "-5"),
        ("- 5", "5"),
        ("**-5**", "-5"),
        ("3.5", "3.5"),
        ("Paris.\n\n", "Paris"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_the_final_answer_is_the_last_box_or_the_last_line(text, final):
    assert final_answer(text) == final


@given(st.text(alphabet="ab1 {}\\", max_size=30))
@example("\\\\\\{")
def test_a_box_is_found_whatever_is_in_it_as_long_as_braces_balance(text):
    depth, escaped = 0, False
    for character in text:
        if not escaped and character in "{}":
            depth += 1 if character == "{" else -1
        escaped = character == "\\" and not escaped
        if depth < 0:
            break
    if depth == 0 and not escaped:
        assert last_boxed(f"It is \\boxed{{{text}}}, I think.") == text.strip()
    assert isinstance(final_answer(text), str)


@pytest.mark.parametrize(
    ("left", "right"),
    [(r"\text{Monday}", "monday."), (r"$\left(1, 2\right)$", "(1,2)"), (r"1\,000", "1000"), ("Á la", "á  LA")],
)
def test_two_spellings_of_the_same_are_one_text(left, right):
    assert as_text(left) == as_text(right)


def test_a_blank_between_numbers_is_not_needless():
    assert as_text("1 2") != as_text("12")


@pytest.mark.parametrize(
    "text", ["1/2", r"\frac{1}{2}", "2xy+y^2", "x", r"\sin x", "5 cm", r"5\text{ metres}", "-3", r"\{1,2\}"]
)
def test_mathematics_may_be_compared_as_such(text):
    assert is_mathematical(text)


@pytest.mark.parametrize("text", ["", "silent", "no", "a b", "Paris", r"\text{Monday}", "5 apples", "1" * 500])
def test_words_may_not(text):
    assert not is_mathematical(text)


def test_latex_of_a_final_answer():
    assert as_latex("1.5E-3") == r"1.5 \times 10^{-3}"
    assert as_latex(r"$5\text{ metres}$") == "5"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```\n```python\nb\n```", "b\n"),
        ("```python\na\n```\n```bash\nls\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("1. do\n   ```py\n   a\n   ```", "a\n"),
        ('````python\n"""\n```\n"""\n````', '"""\n```\n"""\n'),
        ("<details>\n```python\na\n```", "a\n"),
        ("```json\n{}\n```", None),
        ("a = 1", None),
        ("", None),
    ],
)
def test_the_last_python_block(text, code):
    assert last_python_block(text) == code


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_joined():
    assert sayable("a\ud800b") == "a\ufffdb"
    assert sayable("\ud83d\ude00") == "\U0001f600"


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("Yes", True),
        ("yes, no doubt... wait\n\nNo.", False),
        ("<think>no no no</think>yes", True),
        ("Nothing is known.", None),
        ("<think>yes", None),
        ("", None),
    ],
)
def test_a_judges_last_word_counts(said, right):
    assert verdict(said) is right


def test_a_judge_is_shown_question_and_answer():
    shown = judge_messages("What is 1 + 1?", "It is 2.")[-1]["content"]
    assert "What is 1 + 1?" in shown
    assert "It is 2." in shown
