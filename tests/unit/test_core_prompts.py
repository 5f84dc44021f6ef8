"""Benchmark files, and the page that shows hits."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decontaminate.report import excerpt, render
from decontaminate.rules import RULES
from recipe_core.errors import BadInput
from recipe_core.prompts import choose_column, find_sets, read_prompts, sets_digest
from recipe_core.records import write_rows


def prompts_of(path, column=None):
    (benchmark,) = find_sets([path])
    return [(prompt.row, prompt.text) for prompt in read_prompts(benchmark, column)]


def test_prompts_of_every_kind_of_file(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("\ufefffirst\n\n  \nsecond\u2028still second\r\n", encoding="utf-8")
    assert prompts_of(lines) == [(1, "first"), (4, "second\u2028still second")]
    objects = tmp_path / "objects.jsonl"
    rows = [{"text": "no", "question": "one"}, {"question": None}, {"question": ""}, {"question": "four", "x": 1}]
    objects.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert prompts_of(objects) == [(1, "one"), (7, "four")]
    assert prompts_of(objects, "question") == prompts_of(objects)
    table = tmp_path / "table.parquet"
    schema = pa.schema([("problem_statement", pa.string()), ("patch", pa.string())])
    write_rows(table, schema, [{"problem_statement": text, "patch": "p"} for text in ("a", None, "c")])
    assert prompts_of(table) == [(1, "a"), (3, "c")]
    assert prompts_of(table, "patch") == [(1, "p"), (2, "p"), (3, "p")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "x"}\nnonsense\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"prompt": "x"}\n["y"]\n', "line 2 is a JSON list"),
        ("a.jsonl", b'{"prompt": "x"}\n{"promt": "y"}\n', "line 2: no column 'prompt'; did you mean 'promt'?"),
        ("a.jsonl", b'{"prompt": ["x"]}\n', "row 1 has a prompt of type list, not text"),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', "row 1 has half a surrogate pair"),
        ("a.jsonl", b'{"id": 1, "input": "x"}\n', "none of the columns prompt, question"),
        ("a.jsonl", b"", "no prompts"),
        ("a.txt", b"\xff\xfe\n", "not UTF-8 text"),
        ("a.txt", b" \n", "no prompts"),
        ("a.parquet", b"PAR1 nonsense", "truncated or not a Parquet file"),
        ("a.json", b"{}", "not a file of prompts; give .jsonl, .parquet, .csv or .txt"),
    ],
)
def test_a_bad_benchmark_is_one_line_that_says_where(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput) as raised:
        prompts_of(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_sets_are_told_apart_by_name_and_their_digest_by_content_and_not_by_place(tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("b.txt", "a.txt", "other/a.txt"):
        (tmp_path / name).write_text(f"prompt of {name[-5]}\n")
    sets = find_sets([tmp_path / "b.txt", tmp_path / "a.txt"])
    assert [benchmark.name for benchmark in sets] == ["a", "b"]
    assert sets_digest(sets) == sets_digest(find_sets([tmp_path / "other" / "a.txt", tmp_path / "b.txt"]))
    assert sets_digest(sets).startswith("sha256:")
    (tmp_path / "a.txt").write_text("another prompt\n")
    assert sets_digest(find_sets([tmp_path / "b.txt", tmp_path / "a.txt"])) != sets_digest(sets)
    with pytest.raises(BadInput, match="names the set 'a' as"):
        find_sets([tmp_path / "a.txt", tmp_path / "other" / "a.txt"])
    with pytest.raises(BadInput, match="no such file"):
        find_sets([tmp_path / "c.txt"])


def test_the_column_is_the_named_one_or_the_first_of_the_usual():
    assert choose_column(["text", "question"], None, "f") == "question"
    assert choose_column(["text", "question"], "text", "f") == "text"
    with pytest.raises(BadInput, match="did you mean 'question'"):
        choose_column(["text", "question"], "questions", "f")


@given(st.text("ab \n", max_size=60), st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3), st.integers(4, 20))
def test_an_excerpt_is_a_part_of_the_text_and_says_how_much_is_missing(text, gram, most):
    shown = excerpt(text, tuple(gram), most)
    middle = shown.before + shown.marked + shown.after
    assert text == text[: shown.cut_before] + middle + text[len(text) - shown.cut_after :]
    assert len(middle) == min(most, len(text))


def test_an_excerpt_shows_what_is_shared_however_far_into_the_text():
    shown = excerpt("x " * 5000 + "Sum the\nFirst column" + " y" * 5000, ("the", "first"))
    assert shown.marked == "the\nFirst"
    assert shown.before.endswith("Sum ")
    assert shown.cut_before > 8000
    assert shown.cut_after > 8000


def test_the_page_escapes_what_it_shows():
    evil = "</pre><script>alert(1)</script>"
    hit = {
        "task_id": evil,
        "reason": "ngram",
        "benchmark": evil,
        "benchmark_row": 1,
        "similarity": None,
        "gram": evil,
        "text": excerpt(evil, ("script",))._asdict(),
        "prompt": excerpt(evil, None)._asdict(),
    }
    benchmarks = [{"name": evil, "sha256": "0", "prompts": 1, "ngram": 1, "similar": 0}]
    report = {"rows_in": 2, "dropped": 1, "column": evil, "benchmarks": benchmarks, "hits": [hit]}
    page = render(report, RULES["agent"])
    assert "<script" not in page
    assert "<mark>script</mark>" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_folder_is_read_by_what_it_holds(tmp_path: Path):
    (tmp_path / "set" / ".cache").mkdir(parents=True)
    (tmp_path / "set" / ".cache" / "x.jsonl").write_text('{"prompt": "hidden"}')
    (tmp_path / "set" / "LICENSE.txt").write_text("as is")
    (tmp_path / "set" / "b.csv").write_text("Id,Question\n1,What is it?\n2,Why?\n")
    (tmp_path / "set" / "a.jsonl").write_text('{"problem": "Solve it."}\n')
    (found,) = find_sets([tmp_path / "set"])
    prompts = list(read_prompts(found))
    assert [(prompt.benchmark, prompt.row, prompt.text) for prompt in prompts] == [
        ("set", 1, "Solve it."),
        ("set", 2, "What is it?"),
        ("set", 3, "Why?"),
    ]


def test_a_folder_of_text_alone_holds_no_prompts(tmp_path: Path):
    (tmp_path / "CMakeLists.txt").write_text("project(x)")
    with pytest.raises(BadInput, match="holds no file of prompts"):
        find_sets([tmp_path])
