"""Splitting reference solutions into steps, and the teacher that plays them."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile
from rollout.keys import split_keys
from rollout.reference import Move, has_output, look_command, message, misspell, mistake, plan_moves, solution_moves
from rollout.server import find_task
from rollout.solution import carry_files, is_whole, preparations, split_script

SCRIPT = """#!/bin/bash
set -euo pipefail
# A comment between commands.
mkdir -p out

for name in a b; do
  echo "$name" \\
    >> out/names
done
cat > prog.py <<'EOF'
# kept: inside a here-document

if x != 1:
    pass
EOF
make() {
  python3 prog.py
}
make &&
  true
cat <<<"here string"
exit 0
"""


def test_steps_are_whole_commands():
    assert split_script(SCRIPT) == [
        "mkdir -p out",
        'for name in a b; do\n  echo "$name" \\\n    >> out/names\ndone',
        "cat > prog.py <<'EOF'\n# kept: inside a here-document\n\nif x != 1:\n    pass\nEOF",
        "make() {\n  python3 prog.py\n}",
        "make &&\n  true",
        'cat <<<"here string"',
    ]


def test_bash_is_asked_for_wholeness():
    assert is_whole("for i in 1 2; do echo $i; done\n")
    assert not is_whole("for i in 1 2; do\n")
    assert not is_whole("cat <<X\nbody\n")


def test_an_unfinished_script_keeps_its_last_lines():
    assert split_script("echo a\nif true; then\n  echo b\n") == ["echo a", "if true; then\n  echo b"]


@given(st.lists(st.sampled_from(["echo a", "ls", "", "# note", "x=1", "cd /app"]), max_size=8))
@settings(max_examples=20)
def test_simple_lines_are_steps_of_their_own(lines):
    assert split_script("\n".join(lines)) == [line for line in lines if line and not line.startswith("#")]


def test_files_of_the_solution_are_typed_before_they_are_used():
    steps = carry_files(
        ["patch -p1 < /solution/fix.patch", "wc /solution/fix.patch"], {"fix.patch": TaskFile(b"--- a\n+++ b")}
    )
    assert steps == [
        "cat > /tmp/fix.patch <<'END_OF_FILE'\n--- a\n+++ b\nEND_OF_FILE",
        "patch -p1 < /tmp/fix.patch",
        "wc /tmp/fix.patch",
    ]


def test_interactive_shells_are_prepared_for_tabs_and_history():
    assert preparations(["echo plain", "if a != b"]) == []
    assert preparations(["printf 'a\tb'"]) == ["bind 'set disable-completion on'"]
    assert preparations(['echo "!ls"']) == ["set +H"]


def test_looks_fit_the_step():
    known = {"names.txt": 10, "big.log": 100_000}
    assert look_command("sort names.txt > out", known) == "cat names.txt"
    assert look_command("gzip data/big.log", known) == "ls -A data"
    assert look_command("mkdir x", known) == "ls -A"


def test_no_mistake_where_it_could_change_something():
    for seed in range(20):
        assert mistake("echo a > out.txt", {}, random.Random(seed)) == []
        tries = mistake("sort a.txt > b.txt", {"a.txt": 3}, random.Random(seed))
        assert all(move.keys.startswith("cat ") for move in tries)


@given(st.text("abcdef", min_size=3, max_size=9), st.integers(0, 50))
def test_a_misspelled_word_differs(word, seed):
    assert misspell(word, random.Random(seed)) != word


@given(st.integers(0, 500))
def test_every_step_is_played_in_order_and_the_task_declared_complete_twice(seed):
    steps = ["mkdir out", "sort names.txt > out/sorted", "rm names.txt"]
    moves = plan_moves(steps, {"names.txt": 9}, random.Random(seed))
    assert [move.keys for move in moves if move.keys in steps] == steps
    assert [move.keys for move in moves[-2:]] == ["", ""]
    assert not any(move.fails and move.keys in steps for move in moves)
    assert sum(move.fails for move in moves) <= 1


def test_messages_are_compact_json_in_the_agents_format():
    moves = [Move("lss", "Look.", fails=True), Move("ls", "Look."), Move("", "Done."), Move("", "Sure.")]
    first = json.loads(message(moves, 0, "", random.Random(0)))
    assert first["commands"] == [{"keystrokes": "lss\n", "duration": 0.1}]
    assert list(first) == ["analysis", "plan", "commands"]
    assert "mistyped" in json.loads(message(moves, 1, "bash: lss: command not found", random.Random(0)))["analysis"]
    last = message(moves, 9, "", random.Random(0))
    assert json.loads(last)["task_complete"] is True
    assert "\n" not in last
    assert (
        max(len(json.loads(message(moves, turn, "", random.Random(0)))["analysis"].split()) for turn in range(4)) <= 12
    )


def test_output_is_told_from_prompts():
    assert not has_output("New Terminal Output:\nroot@sandbox:/app# cat > f <<X\n> line\n> X\nroot@sandbox:/app#\n")
    assert has_output("New Terminal Output:\nroot@sandbox:/app# ls\nfile\nroot@sandbox:/app#\n")


def test_a_task_without_solution_is_bad_input():
    with pytest.raises(BadInput, match=r"no solution/solve\.sh"):
        solution_moves({}, "task x", random.Random(0))


def test_a_task_is_found_by_its_instruction():
    assert find_task("Task Description:\nsort it well\n", {"sort it": "a", "sort it well": "b"}) == "b"
    assert find_task("something else", {"sort it": "a"}) is None


@given(st.text("ab\n ", max_size=200), st.integers(5, 50))
def test_split_keys_loses_nothing(keys, limit):
    chunks = split_keys(keys, limit)
    assert "".join(chunks) == keys
    assert all(len(chunk) <= limit or "\n" not in chunk[:-1] for chunk in chunks)
