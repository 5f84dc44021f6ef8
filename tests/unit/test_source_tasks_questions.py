"""Sources `questions` (on small files of the published form, written by hand) and `quantities`."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from source_tasks import quantities, questions
from source_tasks.build import Journal, rejected_row, row, settle
from source_tasks.given import REPEATED
from source_tasks.heldout import SPLITS, leaks, split_of
from source_tasks.questions import BAD_DOMAIN
from source_tasks.source import Candidate
from source_tasks.tables import NO_TEXT


def given(path: Path, *rows: dict[str, Any], families: tuple[str, ...] | None = None) -> list[Candidate]:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    source = questions.open_source(path)
    return [one for split in SPLITS for one in source.generate(split, 0, families or source.families())]


def drawn(split: str, count: int, seed: int = 0, families: tuple[str, ...] | None = None) -> list[Candidate]:
    source = quantities.SOURCE
    return list(itertools.islice(source.generate(split, seed, families or source.families()), count))


def test_a_question_is_a_row_without_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.validate_task", None)
    cells = {
        "question": " Half of 5?\n",
        "answer": 2.5,
        "domain": "Math",
        "source": "amc",
        "id": "q1",
        "licence": "MIT",
    }
    (one,) = given(tmp_path / "a.jsonl", cells)
    settled = asyncio.run(settle(one, Journal(tmp_path / "journal")))
    assert settled.reason is None
    made = row("questions", settled.candidate)
    assert (made["task_binary"], made["instruction"], made["licence"]) == (None, "Half of 5?", "MIT")
    assert made["path"] == f"questions-math-{made['task_id']}"
    meta = json.loads(made["meta"])
    expected = {"domain": "math", "answer": "2.5", "tests": None, "solution": None, "source": "amc"}
    assert {name: meta[name] for name in expected} == expected
    assert meta["parameters"] == {"row": "q1"}


def test_the_published_conversations_give_their_question_once(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    rows = [{"conversations": turns, "domain": "science", "difficulty": None, "source": f"s{n}"} for n in range(3)]
    found = given(tmp_path / "a.jsonl", *rows)
    assert sorted(str(one.reason) for one in found) == ["None", REPEATED, REPEATED]
    assert {one.question for one in found} == {"Why?"}
    assert rejected_row("questions", found[-1], REPEATED)["instruction"] == "Why?"


def test_tests_are_text_whatever_they_were(tmp_path: Path) -> None:
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    rows = [
        {"question": "a", "tests": tests},
        {"question": "b", "tests": {"input": ["1"]}},
        {"question": "c", "tests": []},
    ]
    found = {one.question: one.meta["tests"] for one in given(tmp_path / "a.jsonl", *rows)}
    assert found == {"a": "\n".join(tests), "b": '{"input": ["1"]}', "c": None}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"question": None}, NO_TEXT),
        ({"question": ["a"]}, NO_TEXT),
        ({"question": None, "conversations": [{"from": "gpt", "value": "x"}]}, NO_TEXT),
        ({"question": None, "conversations": [3, {"from": "human", "value": None}]}, NO_TEXT),
        ({"question": "a", "domain": "poetry"}, BAD_DOMAIN),
    ],
)
def test_a_row_without_a_question_is_rejected(tmp_path: Path, cells: dict[str, Any], reason: str) -> None:
    (one,) = given(tmp_path / "a.jsonl", cells)
    assert (one.reason, one.question) == (reason, None)
    assert rejected_row("questions", one, reason)["task_id"] is None


def test_domains_are_families(tmp_path: Path) -> None:
    rows = [{"question": "a", "domain": "math"}, {"question": "b", "domain": "code"}, {"question": "c"}]
    assert [one.question for one in given(tmp_path / "a.jsonl", *rows, families=("code",))] == ["b"]
    assert [one.family for one in given(tmp_path / "a.jsonl", *rows, families=("question",))] == ["question"]


@pytest.mark.parametrize("family", quantities.FAMILIES)
def test_a_family_has_hundreds_of_different_questions(family: str) -> None:
    train, test = drawn("train", 500, families=(family,)), drawn("test", 150, families=(family,))
    assert (len(train), len(test)) == (500, 150)
    assert len({one.question for one in train}) == 500
    rows = [[row("quantities", one) for one in side] for side in (train, test)]
    assert leaks(*rows) == []
    assert {split_of(one.meta["held_out"][0]) for one in test} == {"test"}
    assert len({one["task_id"] for side in rows for one in side}) == 650


def test_a_family_that_has_run_dry_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    few = quantities.FAMILIES["rates"]._replace(draw=lambda rng: {"first": 2, "second": rng.randint(3, 12)})
    monkeypatch.setitem(quantities.FAMILIES, "rates", few)
    sides = [drawn(split, 10_000, families=("rates",)) for split in SPLITS]
    assert sum(map(len, sides)) == 10


@pytest.mark.parametrize("family", [name for name, one in quantities.FAMILIES.items() if one.domain == "code"])
def test_the_program_passes_its_tests_and_another_one_does_not(family: str) -> None:
    for one in drawn("train", 40, families=(family,)):
        names: dict[str, Any] = {}
        exec(one.meta["solution"], names)
        exec(one.meta["tests"], names)
        function = next(name for name in names if name != "__builtins__")
        assert f"`{function}(" in (one.question or "")
        with pytest.raises(AssertionError):
            exec(one.meta["tests"], {function: lambda _: None})
        assert one.meta["answer"] is None


@pytest.mark.parametrize("family", [name for name, one in quantities.FAMILIES.items() if one.domain != "code"])
def test_the_working_ends_in_the_answer(family: str) -> None:
    for one in drawn("train", 40, families=(family,)):
        answer = one.meta["answer"]
        Fraction(answer)
        assert re.search(rf"The answer is \\boxed\{{{re.escape(answer)}\}}", one.meta["solution"])
        assert one.meta["tests"] is None


# One question of each family with the answer worked out by hand.
BY_HAND = {
    "linear-equations": ({"a": 7, "b": 3, "c": 2, "x": 4}, "7x + 3 = 2x + 23", "4"),
    "percentages": ({"price": 80, "off": 25, "tax": 10}, "80 euros", "66"),
    "rates": ({"first": 3, "second": 6}, "3 hours", "2"),
    "systems": ({"x": 2, "y": 3, "a": 4, "b": 5}, "4x + y = 11 and x + 5y = 17", "5"),
    "series": ({"first": 1, "step": 2, "count": 10}, "first 10 terms", "100"),
    "remainders": ({"base": 2, "power": 10, "modulus": 1000}, "2^10", "24"),
    "kinematics": ({"speed": 3, "acceleration": 5, "time": 3}, "5 m/s²", "31.5"),
    "ohms-law": ({"voltage": 9, "first": 20, "second": 30}, "20 Ω", "180"),
    "unit-conversion": ({"unit": 0, "tenths": 360}, "36 km/h", "10"),
    "density": ({"mass": 30, "volume": 4, "factor": 6}, "4 cm³", "45"),
    "half-life": ({"amount": 40, "period": 5, "halvings": 3}, "15 days", "5"),
}


@pytest.mark.parametrize("family", BY_HAND)
def test_answers_are_right(family: str) -> None:
    parameters, part, answer = BY_HAND[family]
    question = quantities.FAMILIES[family].pose(**parameters)
    assert question.answer == answer
    assert any(part in ask for ask in question.ask)


def test_every_family_but_code_was_worked_out_by_hand() -> None:
    assert set(BY_HAND) == {name for name, one in quantities.FAMILIES.items() if one.domain != "code"}


def test_questions_come_in_turn_and_are_the_same_everywhere() -> None:
    first = drawn("train", 34)
    assert [one.family for one in first[:17]] == list(quantities.FAMILIES)
    assert first == drawn("train", 34)
    assert first != drawn("train", 34, seed=1)
    some = drawn("train", 2, families=("rates",))
    assert some == [one for one in first if one.family == "rates"]
    assert {one.meta["domain"] for one in first} == {"math", "science", "code"}
