from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from score.measure import (
    NO_COUNT,
    REFUSED,
    UNPARSABLE,
    Score,
    ask_llm,
    difficulty,
    rating,
    response_length,
    yes_or_no,
    yes_probability,
)
from teacher import Reply


class TestResponseLength:
    def test_it_is_the_endpoints_count(self):
        assert response_length(Reply("a b c", completion_tokens=7)) == Score(7.0)

    def test_an_answer_cut_at_its_limit_is_counted_as_such(self):
        cut = Reply("a", completion_tokens=9, finish_reason="length")
        assert response_length(cut) == Score(9.0, how="cut_at_limit")

    def test_an_empty_answer_has_no_tokens(self):
        assert response_length(Reply("")) == Score(0.0)

    def test_no_count_and_no_answer_are_no_value(self):
        assert response_length(Reply("a b c")) == Score(None, NO_COUNT)
        assert response_length(Reply(refused="too long")) == Score(None, REFUSED)


class TestRating:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("7", 7),
            ("7.", 7),
            ("7.5", 7.5),
            ("10", 10),
            ("Difficulty: 4", 4),
            ("**Difficulty:** 4", 4),
            ("difficulty = 4.5", 4.5),
            ("Difficulty rating is about 8.", 8),
            ("It needs 3 steps and 2 files.\nDifficulty: 6", 6),
            ("Difficulty: 3\nNo, wait.\nDifficulty: 5", 5),
            ("I rate it 6/10", 6),
            ("I would say 6 out of 10, since it has 14 steps", 6),
            ("On a scale from 1 to 10: 9", 9),
            ("On a scale of 1-10, the difficulty (1–10) is 9", 9),
            ("Score: $\\boxed{7}$", 7),
            ("There are 3 parts, 2 of them hard.\n\n8", 8),
            ("I think 2 or perhaps 12 minutes.\nRating: 2 of 10", 2),
            ("<think>difficulty: 2? rather</think>Difficulty: 9", 9),
            ("A 5, because", 5),
        ],
    )
    def test_ratings_as_models_write_them(self, text, value):
        assert difficulty(Reply(text)) == Score(float(value))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "hard",
            "Difficulty: high",
            "0",
            "11",
            "Difficulty: 0",
            "Difficulty: 11",
            "Difficulty: 100",
            "-3",
            "Difficulty: -3",
            "70%",
            "between 3 and 8",
            "1-10",
            "7,5",
            "version 3.1.4",
            "٧",
            "1e1",
            "Difficulty: 5th",
            "<think>Difficulty: 5</think>I cannot say.",
        ],
    )
    def test_what_is_no_rating_is_null(self, text):
        assert difficulty(Reply(text)) == Score(None, UNPARSABLE)

    def test_a_refusal_is_no_rating(self):
        assert difficulty(Reply("5", refused="filtered")) == Score(None, REFUSED)

    @given(st.text())
    def test_any_text_gives_a_rating_in_range_or_none(self, text):
        value = rating(text)
        assert value is None or 1 <= value <= 10

    @given(st.integers(1, 10), st.sampled_from(["{}", "Difficulty: {}", "**Rating**: {}/10.", "a\nb\n{}", "It is {}."]))
    def test_every_rating_comes_back(self, value, form):
        assert rating(form.format(value)) == value


class TestAskLLM:
    def test_the_probability_is_summed_over_spellings(self):
        candidates = [("yes", math.log(0.5)), (" Yes", math.log(0.2)), ("\u2581YES", math.log(0.1)), ("no", -3.0)]
        assert yes_probability(candidates) == pytest.approx(0.8)

    def test_a_no_without_a_yes_is_zero(self):
        assert yes_probability([("No", -0.01), ("Well", -5.0)]) == 0.0

    def test_neither_is_undecided(self):
        assert yes_probability([("The", -0.1)]) is None
        assert yes_probability([]) is None

    @given(st.lists(st.tuples(st.text(max_size=5) | st.sampled_from(["yes", "no"]), st.floats(allow_nan=False))))
    def test_it_is_a_probability(self, candidates):
        value = yes_probability(candidates)
        assert value is None or 0 <= value <= 1

    def test_log_probabilities_come_before_text(self):
        reply = Reply("no", first_token=(("no", math.log(0.6)), ("yes", math.log(0.4))))
        assert ask_llm(reply).value == pytest.approx(0.4)
        assert ask_llm(reply).how == "from_log_probabilities"

    @pytest.mark.parametrize(("text", "value"), [("Yes.", 1.0), ("no", 0.0), ("The answer is no.", 0.0)])
    def test_without_them_the_text_decides(self, text, value):
        assert ask_llm(Reply(text)) == Score(value, how="from_text")
        assert ask_llm(Reply(text, first_token=(("The", -0.1),))) == Score(value, how="from_text")

    @pytest.mark.parametrize("reply", [Reply("<think>no way</think>yes"), Reply("yes", reasoning="no way")])
    def test_the_first_token_of_thoughts_is_not_the_answer(self, reply):
        import dataclasses

        thought = dataclasses.replace(reply, first_token=(("no", -0.1),))
        assert ask_llm(thought) == Score(1.0, how="from_text")

    @pytest.mark.parametrize("text", ["", "maybe", "It could be yes, it could be no", "yesterday", "I know nothing"])
    def test_an_unclear_answer_is_null(self, text):
        assert ask_llm(Reply(text)) == Score(None, UNPARSABLE)

    def test_a_refusal_is_null(self):
        assert ask_llm(Reply(refused="filtered")) == Score(None, REFUSED)

    @given(st.text())
    def test_any_text_is_read(self, text):
        assert yes_or_no(text) in (True, False, None)
