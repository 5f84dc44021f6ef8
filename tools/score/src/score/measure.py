"""What a model's reply says of a task: pure functions from replies to numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from teacher import Reply

NO_INSTRUCTION = "no-instruction"
NO_SOLUTION = "no-solution"
REFUSED = "refused"
NO_COUNT = "no-count"
UNPARSABLE = "unparsable"
ZERO_VECTOR = "zero-vector"

LEAST, MOST = 1.0, 10.0

_THOUGHTS_END = "</think>"
_MARKUP = str.maketrans("", "", "*_`#$")
_SCALE = re.compile(r"\b1\s*(?:-|–|—|to|and|\.\.+)\s*10\b")
# Not a part of a longer number, of a version, of a negative number or of a percentage.
_NUMBER = r"(?<![\w.,−-])([0-9]+(?:\.[0-9]+)?)(?![0-9%]|[.,][0-9]|\s+%|\w)"
_LABELLED = re.compile(rf"\b(?:difficulty|rating|score)\b[^0-9\n]{{0,30}}?{_NUMBER}", re.IGNORECASE)
_OUT_OF_TEN = re.compile(rf"{_NUMBER}\s*(?:/|out of|of)\s*10\b", re.IGNORECASE)
_ALONE = re.compile(_NUMBER)
_YES_OR_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
# How tokenizers mark a blank before a word, where a server does not decode it.
_BLANKS = " \t\n▁ĠĊ\"'`*.,:"


class Score(NamedTuple):
    """A task's value, or why it has none; `how` says where it was read, for the counts."""

    value: float | None
    reason: str | None = None
    how: str | None = None


def answer_of(reply: Reply) -> str:
    """Return what a model answered without what it thought before, where the server does not keep them apart."""
    return reply.text.rpartition(_THOUGHTS_END)[2].strip()


def response_length(reply: Reply) -> Score:
    """Return how many tokens the answer has, as the endpoint counts them, those of the reasoning included."""
    if reply.refused is not None:
        return Score(None, REFUSED)
    if not reply.completion_tokens and reply.text:
        return Score(None, NO_COUNT)
    return Score(float(reply.completion_tokens), how="cut_at_limit" if reply.finish_reason == "length" else None)


def difficulty(reply: Reply) -> Score:
    """Return the rating that an answer gives, from 1 to 10."""
    if reply.refused is not None:
        return Score(None, REFUSED)
    value = rating(answer_of(reply))
    return Score(value) if value is not None else Score(None, UNPARSABLE)


def rating(text: str) -> float | None:
    """Return the rating from 1 to 10 in a text, or None where it is not clear which it is.

    A number that follows a word such as "difficulty" counts first, then one "out of 10", then one that stands alone on
    the last line, then the only number there is; of several of one kind the last.

    >>> rating("On a scale of 1-10 this needs 3 steps.\\n**Difficulty: 7/10**")
    7.0
    >>> rating("somewhere between 3 and 8") is None
    True
    """
    text = _SCALE.sub(" ", text.translate(_MARKUP)).strip()
    last_line = text.rpartition("\n")[2].strip().rstrip(".")
    labelled, of_ten = _LABELLED.findall(text), _OUT_OF_TEN.findall(text)
    alone = set(_ALONE.findall(text))
    if labelled:
        found = labelled[-1]
    elif of_ten:
        found = of_ten[-1]
    elif _ALONE.fullmatch(last_line):
        found = last_line
    elif len(alone) == 1:
        (found,) = alone
    else:
        return None
    return float(found) if LEAST <= float(found) <= MOST else None


def ask_llm(reply: Reply) -> Score:
    """Return the probability that the first token of the answer is "yes": AskLLM (Sachdeva et al. 2024, 2402.09668).

    Where the endpoint gives no log-probabilities, or the first token is of a model's reasoning, the answer's text
    decides: yes is 1, no is 0.
    """
    if reply.refused is not None:
        return Score(None, REFUSED)
    thinks = reply.reasoning is not None or _THOUGHTS_END in reply.text
    probability = None if thinks else yes_probability(reply.first_token or ())
    if probability is not None:
        return Score(probability, how="from_log_probabilities")
    said = yes_or_no(answer_of(reply))
    return Score(None, UNPARSABLE) if said is None else Score(float(said), how="from_text")


def yes_probability(candidates: Sequence[tuple[str, float]]) -> float | None:
    """Return the probability of "yes" among the candidates of a token: the sum over its spellings.

    None where neither "yes" nor "no" is among them: the answer begins with something else.

    >>> yes_probability([("yes", 0.0)])
    1.0
    """
    words = {"yes": 0.0, "no": 0.0}
    found = False
    for token, logprob in candidates:
        word = token.strip(_BLANKS).casefold()
        if word in words:
            found = True
            words[word] += math.exp(min(0.0, logprob))
    return min(1.0, words["yes"]) if found else None


def yes_or_no(text: str) -> bool | None:
    """Return whether a text says yes or no: by its first word, or else by the only one of the two that occurs.

    >>> yes_or_no("Yes, there is no doubt."), yes_or_no("The answer is no"), yes_or_no("yes or no")
    (True, False, True)
    """
    said = [word.casefold() for word in _YES_OR_NO.findall(text)]
    starts = _YES_OR_NO.match(text.lstrip(_BLANKS + "-([<"))
    if starts:
        return starts[1].casefold() == "yes"
    return said[0] == "yes" if len(set(said)) == 1 else None
