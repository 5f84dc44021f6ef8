from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe_core.errors import BadInput
from score.classify import training_lines, words_of
from score.prompts import ASK_LLM, DIFFICULTY, PLACE, filled, read_prompt
from score.texts import read_texts


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: bytes):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def test_texts_come_in_one_order_from_every_form(write, tmp_path):
    wanted = ["list files", "sort names"]
    pq.write_table(pa.table({"n": [1, 2, 3], "text": ["sort names", None, "list files"]}), tmp_path / "a.parquet")
    assert read_texts(tmp_path / "a.parquet", "--positives") == wanted
    assert read_texts(write("a.txt", b"\xef\xbb\xbfsort names\n\n  \nlist files"), "--positives") == wanted
    lines = b'{"instruction": "sort names"}\n\n{"instruction": null}\n{"instruction": "list files", "text": "x"}\n'
    assert read_texts(write("a.jsonl", lines), "--positives") == wanted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"x", "not a file of prompts"),
        ("a.txt", b"", "no prompts"),
        ("a.txt", b" \n\n", "no prompts"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b"{", "line 1 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n[]', "line 2 is a JSON list"),
        ("a.jsonl", b'{"txt": "x"}', "none of the columns"),
        ("a.jsonl", b'{"text": 5}', "row 1 has a prompt of type int"),
        ("a.parquet", b"PAR1", "truncated or not a Parquet file"),
    ],
)
def test_unusable_files_are_one_line(name, content, message, write):
    with pytest.raises(BadInput, match=message) as caught:
        read_texts(write(name, content), "--positives")
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_texts(tmp_path / "a.txt", "--positives")


class TestPrompts:
    @pytest.mark.parametrize("template", [DIFFICULTY, ASK_LLM])
    def test_the_instruction_stands_in_the_prompt_as_it_is(self, template):
        instruction = "Print {instruction} and {0} and %s."
        assert instruction in filled(template, instruction)
        assert filled(template, "x").count("x\n") == template.count(f"{PLACE}\n")

    @pytest.mark.parametrize(
        ("content", "message"), [(b"Rate it.", "does not say where the task goes"), (b"\xff", "not UTF-8")]
    )
    def test_an_unusable_file_is_one_line(self, content, message, write):
        with pytest.raises(BadInput, match=message):
            read_prompt(write("p.txt", content))

    def test_a_missing_file_is_one_line(self, tmp_path):
        with pytest.raises(BadInput, match="no such file"):
            read_prompt(tmp_path / "p.txt")


class TestTrainingSet:
    def test_order_follows_from_seed_and_texts(self):
        one = training_lines(["a", "b", "c"], ["d", "e"], 1)
        assert training_lines(["c", "a", "b"], ["e", "d"], 1) == one
        assert training_lines(["a", "b", "c"], ["d", "e"], 2) != one
        assert sorted(one) == [f"__label__negative {x}" for x in "de"] + [f"__label__positive {x}" for x in "abc"]

    def test_a_text_is_one_line_without_labels(self):
        assert words_of("A\u2028__LABEL__negative\tb\x00\n") == "a label negative b\x00"
