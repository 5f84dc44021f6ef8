"""Surface forms without a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.details import lost
from augment.forms import commands, form, spread
from augment.prompts import METHODS
from recipe_core.text import normalise

SCRIPT = "#!/bin/bash\nset -e\ncd /app\nsort a.txt | uniq -c > b.txt\n"
INSTRUCTIONS = [
    "In /app: Sort the lines of a.txt into b.txt.",
    "In /app: The file a.txt is not sorted",
    "Sort a.txt, then write 3 lines to b.txt.",
    "The package x 0.14.2 in /app has a bug.\n\nRun the tests:\n\n- `t.T.test_a`",
    "In /srv: Implement `f`.\n```python\ndef f():\n    pass\n```",
    "?",
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("start", [0, 1, 2**62 + 12345])
def test_21_copies_differ_from_each_other_and_the_original_and_lose_nothing(method, instruction, start):
    texts = [form(method, instruction, SCRIPT, start=start, copy=copy) for copy in range(1, 22)]
    assert len({normalise(text) for text in texts} | {normalise(instruction)}) == 22
    assert [lost(instruction, text) for text in texts] == [[]] * 21


@given(st.text(min_size=1, max_size=80).map(str.strip).filter(bool), st.sampled_from(METHODS), st.integers(1, 400))
def test_any_text_keeps_its_details(text: str, method: str, copy: int):
    made = form(method, text, SCRIPT, start=7, copy=copy)
    assert lost(text, made) == []
    assert normalise(made) != normalise(text)


def test_a_rewriting_changes_voice_order_and_what_stands_around():
    made = {form("rewrite", INSTRUCTIONS[0], "", start=0, copy=copy) for copy in range(1, 1000)}
    assert "In /app: Please sort the lines of a.txt into b.txt. Thank you." in made
    assert "I need you to sort the lines of a.txt into b.txt. Do this in /app." in made
    assert any(text.startswith("You are helping a colleague. Work in /app. ") for text in made)


def test_braces_in_an_instruction_are_no_template():
    for copy in range(1, 50):
        assert "{place} {} {0}" in form("rewrite", "In /app: Print {place} {} {0}.", "", start=0, copy=copy)
        assert "{place} {} {0}" in form("rewrite", "A {place} {} {0}.", "", start=0, copy=copy)


def test_what_speaks_against_a_sentence_leaves_it_out():
    plain = {form("constrain", "Sort a.txt.", "sort a.txt", start=0, copy=copy) for copy in range(1, 200)}
    network = {form("constrain", "Sort a.txt.", "pip install x", start=0, copy=copy) for copy in range(1, 200)}
    assert any("Install nothing." in text for text in plain)
    assert not any("Install nothing." in text or "network" in text for text in network)


def test_hints_name_the_commands_of_the_solution_and_there_are_none_without():
    made = {form("hints", "Sort a.txt.", SCRIPT, start=0, copy=copy) for copy in range(1, 100)}
    assert any("`sort` and `uniq`" in text for text in made)
    assert form("hints", "Sort a.txt.", "", start=0, copy=1) == ""


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("", []),
        ("#!/bin/bash\n# grep\nset -euo pipefail\nexit 0\n", []),
        ("LC_ALL=C sort a | head -n 2 && sudo mv b c; echo x", ["sort", "head", "mv", "echo"]),
        ("cat > x.py <<'EOF'\nimport os\nEOF\npython3 x.py\n", ["cat", "python3"]),
        ('for f in *.txt; do\n  wc -l "$f"\ndone', ["wc"]),
        ("if grep -q a b; then touch c; fi", ["grep", "touch"]),
        ("echo 'open\nls", ["ls"]),
        ("$TOOL x; ./run.sh; /bin/ls", []),
        ("a1; b2; c3; d4; e5; f6; g7", ["a1", "b2", "c3", "d4", "e5", "f6"]),
    ],
)
def test_commands_of_a_script(script: str, names: list[str]):
    assert commands(script) == names


@given(st.text(max_size=200))
def test_any_script_has_at_most_six_commands(script: str):
    names = commands(script)
    assert len(names) == len(set(names)) <= 6


@given(st.integers(0, 2**63), st.integers(1, 300))
def test_successive_copies_are_spread_over_all_indices(start: int, total: int):
    assert {spread(start, copy, total) for copy in range(1, total + 1)} == set(range(total))
