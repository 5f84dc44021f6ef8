from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from answers.final import final_answer, last_python_block
from answers.question import COLUMNS, Question, Questions, messages_of, question_of, reference_text
from answers.rows import Source, content_of, reason_by_reply, sample_of, trajectory_row
from answers.stage import read_questions
from recipe_core.errors import BadInput
from recipe_core.records import TRAJECTORY_SCHEMA
from teacher.request import Reply

SOURCE = Source("m", "p", "main", "2026-01-31", "run")


def row(meta=None, **changes) -> dict:
    text = None if meta is None else json.dumps(meta)
    return {"task_id": "t", "path": "p/t", "source": "s", "instruction": "How?", "meta": text, **changes}


def test_a_row_without_meta_is_a_question_of_which_nothing_is_known():
    assert question_of(row(), "f") == Question("t", "p/t", "s", "How?")


def test_numbers_and_lists_of_tests_are_read_as_text():
    question = question_of(row({"answer": 5, "tests": ["assert a", "assert b"], "domain": "code"}), "f")
    assert (question.answer, question.tests, question.is_code) == ("5", "assert a\nassert b", True)


@pytest.mark.parametrize("meta", [{"answer": True}, {"answer": {"a": 1}}, {"tests": [1]}, {"domain": ["math"]}])
def test_meta_of_another_kind_is_refused_by_name(meta):
    with pytest.raises(BadInput, match=rf"f: task t: meta\.{next(iter(meta))} holds"):
        question_of(row(meta), "f")


@pytest.mark.parametrize("text", ["{", "[]", '"a"', "[" * 100_000])
def test_meta_that_is_no_object_is_refused(text):
    with pytest.raises(BadInput, match="not a JSON object"):
        question_of(row(meta=None) | {"meta": text}, "f")


def test_tests_decide_where_no_domain_says_otherwise():
    assert Question("t", "p", None, "q", tests="assert 1").is_code
    assert not Question("t", "p", None, "q", domain="math", tests="assert 1").is_code
    assert Question("t", "p", None, "q", domain="code").is_code


def test_system_and_suffix_stand_around_the_question():
    question = Question("t", "p", None, "How?")
    assert messages_of(question, None, None) == [{"role": "user", "content": "How?"}]
    assert messages_of(question, "Be brief.", "Think.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How?\n\nThink."},
    ]


@pytest.mark.parametrize("domain", ["math", "science", ""])
@pytest.mark.parametrize("answer", ["5", "\\frac{1}{2}", "It is \\boxed{7}", "a } b", "Paris"])
def test_the_reference_text_holds_the_known_answer(domain, answer):
    text = reference_text(Question("t", "p", None, "q", domain=domain, answer=answer))
    assert final_answer(text) == final_answer(answer)
    assert ("\\boxed" in text) == (domain != "science" and answer != "a } b")


@pytest.mark.parametrize("solution", ["a = 1", 'a = """\n```\n"""\n', "    "])
def test_the_reference_text_of_code_is_its_solution(solution):
    text = reference_text(Question("t", "p", None, "q", domain="code", solution=solution))
    assert last_python_block(text).rstrip() == solution.rstrip()


def test_what_is_not_known_is_not_told():
    assert reference_text(Question("t", "p", None, "q")) is None
    assert reference_text(Question("t", "p", None, "q", domain="code", answer="5", tests="assert 1")) is None


def test_an_upsampled_row_asks_for_more(tmp_path):
    assert [question_of(row(attempts=count), "f").attempts for count in (3, None)] == [3, 1]


def test_text_that_is_not_utf8_is_one_line(tmp_path):
    text = pa.array([b"what is \xff?"]).cast(pa.string(), safe=False)
    columns = {name: pa.array(["a"]) for name in COLUMNS} | {"instruction": text, "meta": pa.array(["{}"])}
    pq.write_table(pa.table(columns), tmp_path / "tasks.parquet")
    with pytest.raises(BadInput, match="not UTF-8"):
        list(read_questions(tmp_path / "tasks.parquet"))


def test_questions_come_back_in_the_order_of_their_ids(tmp_path):
    given = [Question(name, "p", None, f"{name} \u00e9?", attempts=2) for name in "cab"]
    with Questions(tmp_path, given, "f") as questions:
        assert [*questions] == sorted(given)
        assert [*questions] == sorted(given)
        assert (len(questions), questions.attempts) == (3, 6)
    assert not list(tmp_path.iterdir())


def test_a_question_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match="f: task a occurs more than once"):
        Questions(tmp_path, [Question("a", "p", None, "q")] * 2, "f")


@pytest.mark.parametrize(
    ("reply", "keep_cut", "reason"),
    [
        (Reply(text="a"), False, None),
        (Reply(refused="too long"), True, "refused"),
        (Reply(text="a", finish_reason="content_filter"), True, "refused"),
        (Reply(text="a", finish_reason="length"), False, "cut"),
        (Reply(text="a", finish_reason="length"), True, None),
        (Reply(text=" \n"), False, "empty"),
        (Reply(text="", reasoning="long thoughts"), False, "empty"),
        (Reply(text="<think>never ends", finish_reason="length"), True, "empty"),
    ],
)
def test_why_a_reply_is_no_answer(reply, keep_cut, reason):
    assert reason_by_reply(reply, keep_cut=keep_cut) == reason


def test_reasoning_that_is_given_apart_stands_in_front():
    reply = Reply(text="It is \\boxed{4}", reasoning=" two and two \n", completion_tokens=9)
    assert content_of(reply) == "<think>\ntwo and two\n</think>\n\nIt is \\boxed{4}"
    sample = sample_of(3, reply)
    assert (sample.index, sample.tokens, sample.characters, sample.final) == (3, 9, len(content_of(reply)), "4")


def test_a_row_has_the_columns_of_a_trajectory():
    question = Question("t", "p/t", "s", "How?")
    messages = messages_of(question, None, None)
    answered = trajectory_row(question, 2, messages, Reply(text="So."), SOURCE, reward=0.0)
    assert list(answered) == TRAJECTORY_SCHEMA.names
    assert (answered["trial_name"], answered["turns"], answered["result"], answered["error_class"]) == (
        *("t__2", 1, "0.0", None),
    )
    assert answered["conversations"] == [*messages, {"role": "assistant", "content": "So."}]
    refused = trajectory_row(question, 0, messages, Reply(refused="HTTP 400"), SOURCE)
    assert (refused["conversations"], refused["turns"], refused["reward"]) == (messages, 0, None)
    assert refused["error_message"] == "HTTP 400"


def test_a_sandbox_that_failed_is_never_a_score():
    failed = trajectory_row(Question("t", "p", None, "q"), 0, [], Reply(text="a"), SOURCE, failure="no sandbox")
    assert (failed["reward"], failed["error_class"], failed["result"]) == (
        None,
        "infrastructure",
        "InfrastructureError",
    )
