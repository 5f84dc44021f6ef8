from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.dialogue import Command, read_observation, read_reply, read_turns, shorten, squeeze, task_of

REPLY = {"analysis": "a", "plan": "p", "commands": [{"keystrokes": "ls\n", "duration": 0.1}], "task_complete": True}


def test_the_instruction_is_cut_out_of_the_first_message():
    screen = "Current terminal state:\nCurrent Terminal Screen:\n$\n\n\n"
    first = f"How to answer.\n\nTask Description:\nSort it.\n\nThen stop.\n\n\n{screen}"
    assert task_of(first) == "Sort it.\n\nThen stop."
    assert read_observation(first).terminal == "$"
    assert task_of("  just a task ") == "just a task"


def test_the_terminal_is_shown_without_what_surrounds_it():
    seen = read_observation("New Terminal Output:\n\n$ ls\n\n\n\n\nfile\n$\n\n\n\n")
    assert (seen.terminal, seen.asks_to_confirm) == ("$ ls\n\nfile\n$", False)
    question = "Are you sure you want to mark the task as complete? More."
    confirm = f"Current terminal state:\nNew Terminal Output:\n$\n\n\n{question}"
    assert (read_observation(confirm).terminal, read_observation(confirm).asks_to_confirm) == ("$", True)


@pytest.mark.parametrize("around", ["{}", "<think>well</think>\n{}", "Here it is: {} and more", "```json\n{}\n```"])
def test_a_reply_is_read_whatever_surrounds_it(around):
    reply = read_reply(around.format(json.dumps(REPLY)))
    assert (reply.analysis, reply.plan, reply.complete, reply.raw) == ("a", "p", True, None)
    assert reply.commands == (Command("ls\n", 0.1),)
    assert reply.thinking == ("well" if "think" in around else "")


@pytest.mark.parametrize("text", ["", "no JSON", "{", "[1, 2]", '{"other": 1}', "[" * 100_000, '{"analysis": ' * 5000])
def test_junk_is_kept_as_it_is(text):
    assert read_reply(text).raw == shorten(text.strip())


@pytest.mark.parametrize(
    "value",
    [
        {"analysis": None, "plan": 3, "commands": None},
        {"commands": ["ls", 1, {"keystrokes": None}, {"duration": "long"}]},
        {"commands": {"keystrokes": "ls"}, "task_complete": "yes"},
    ],
)
def test_fields_of_wrong_types_do_no_harm(value):
    reply = read_reply(json.dumps(value))
    assert reply.raw is None
    assert not reply.complete
    assert all(command.duration is None for command in reply.commands)


messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=60)}),
    max_size=12,
)


@given(messages)
def test_every_answer_is_a_turn_and_none_is_lost(conversation):
    turns = read_turns(conversation)
    answers = [message for message in conversation if message["role"] == "assistant"]
    assert sum(turn.reply is not None for turn in turns) == len(answers)


@given(st.text(max_size=300), st.integers(2, 50))
def test_shortening_keeps_both_ends_and_says_how_much_is_gone(text, limit):
    short = shorten(text, limit)
    half = limit // 2
    assert short == text or (short.startswith(text[:half]) and short.endswith(text[-half:]) and "left out" in short)
    assert (short == text) == (len(text) <= limit)


@given(st.text(alphabet="ab \n", max_size=60))
def test_squeezing_keeps_every_line_that_says_something(text):
    said = [line.rstrip() for line in text.split("\n") if line.strip()]
    assert [line.rstrip() for line in squeeze(text).split("\n") if line.strip()] == said
    assert "\n\n\n" not in squeeze(text)
