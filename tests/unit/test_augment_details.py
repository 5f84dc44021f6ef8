"""What a rewriting must keep to the letter."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.details import details, lost

FILES = st.from_regex(r"[a-z]{2,8}-[a-z]{2,8}\.(txt|csv|py)", fullmatch=True)
PATHS = st.from_regex(r"/[a-z]{2,6}(/[a-z_]{2,6}){1,3}", fullmatch=True)
NUMBERS = st.integers(0, 10**6).map(str)
QUOTED = st.text(string.ascii_letters + "_ /=", min_size=2, max_size=20).filter(lambda text: text.strip() == text)
# None of them holds a detail, or a character that another detail could run on into.
AROUND = st.text(string.ascii_letters + " ,;!?\n", max_size=40).map(lambda text: f" {text} ")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("In /app: Create the file giant-paper.txt with the line green-temple.", ["/app", "giant-paper.txt"]),
        ("Read src/lib/io.rs, ../notes.md and ~/.bashrc.", ["src/lib/io.rs", "../notes.md", "~/.bashrc"]),
        ("Make the nested directories noble-saddle/sharp-jacket.", ["noble-saddle/sharp-jacket"]),
        ("List *.txt and **bold.txt** in data/.", ["*.txt", "bold.txt", "data"]),
        ("Read and/or write, e.g. by TCP/IP, i.e. at 5 a.m. in the U.S.", ["5"]),
        ("Use Python 3.12, 1,000 rows, mode 640 at 10:30.", ["3.12", "1000", "640", "10:30"]),
        ("Print \"a  b\", 'c d', `ls -l` and “e f”.", ["ls -l", "a b", "c d", "e f"]),
        ("The users' files and the group's don't move.", []),
        ("See https://example.org/a?b=1, then stop.", ["https://example.org/a?b=1"]),
        ("Call is_nested with --dry-run, _not_ twice.", ["is_nested", "--dry-run"]),
        ("1. Sort.\n2) Print.\n", []),
        ("Fill in:\n```python\ndef f(x):\n    return   x\n```\nNow.", ["def f(x):", "return x"]),
        ("", []),
        ("\x00\ufffd \u2028 ```", []),
    ],
)
def test_details_of_an_instruction(text: str, kept: list[str]):
    assert sorted(details(text)) == sorted(kept)


def test_a_hyphenated_word_is_a_detail_where_the_tests_know_it():
    text = "Append the well-known line keen-pencil."
    assert details(text) == []
    assert details(text, "grep -qx keen-pencil out") == ["keen-pencil"]


@pytest.mark.parametrize(
    ("original", "rewriting", "missing"),
    [
        ("In /app: Create done.txt.", "Create /app/done.txt, please.", []),
        ("Sort a.txt into b.txt.", "Sort a.txt.", ["b.txt"]),
        ("Sort a.txt.", "Sort data.txt.", ["a.txt"]),
        ("Sort a.txt.", "Sort a.txt.gz.", ["a.txt"]),
        ("Sort a.txt.", "Sort .a.txt.", ["a.txt"]),
        ("Sort a.txt.", "Sort **a.txt**, (a.txt).", []),
        ("Work in /app.", "Work in /apple.", ["/app"]),
        ("Work in /app.", "Work in /srv/app.", ["/app"]),
        ("Keep 5 lines.", "Keep 15 lines, 2.5 each.", ["5"]),
        ("Keep 5 lines.", "Keep five lines.", ["5"]),
        ("Keep 1,000 lines.", "Keep 1000 lines.", []),
        ("Keep 1000 lines.", "Keep 1,000 lines.", []),
        ('Print "hello there".', "Print hello\nthere.", []),
        ('Print "hello there".', "Print Hello there.", ["hello there"]),
        ("a.txt b.txt c.txt d.txt", "", ["a.txt", "b.txt", "c.txt"]),
    ],
)
def test_lost_details(original: str, rewriting: str, missing: list[str]):
    assert lost(original, rewriting) == missing


@given(st.tuples(FILES, PATHS, NUMBERS, QUOTED), AROUND, AROUND, st.permutations(range(4)))
def test_whatever_stands_around_them_kept_details_are_found(named, before, between, order):
    file, path, number, quoted = named
    parts = [file, path, number, f'"{quoted}"']
    original = f"Take {file} to {path}, {number} times, and say `{quoted}`."
    rewriting = before + between.join(parts[index] for index in order) + before
    assert lost(original, rewriting) == []


@given(FILES, PATHS, NUMBERS, AROUND, st.integers(0, 2))
def test_a_detail_that_is_left_out_is_named(file, path, number, around, index):
    parts = [file, path, number]
    original = f"Take {parts[0]} to {parts[1]}, {parts[2]} times."
    rewriting = around.join(part for at, part in enumerate(parts) if at != index)
    assert lost(original, rewriting) == [parts[index]]


@given(st.text(max_size=300))
def test_every_text_keeps_its_own_details(text: str):
    assert lost(text, text) == []
    assert lost(text, f"Please do this.\n\n{text}\n\nThank you.") == []


@pytest.mark.parametrize("unit", ["'", '"', "`", "a.", "a/", "-", "1,", "```\n", "~~~\n", "_a", "“", "http://"])
def test_a_long_text_is_searched_in_bounded_time(unit: str):
    text = (unit * 100_000)[:100_000]
    started = time.process_time()
    lost(text, text)
    assert time.process_time() - started < 5
