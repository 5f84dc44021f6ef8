"""The command line of decontaminate."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows, write_rows

SHARED = "sort the rows of data.csv by the second column and print the sum of the first ten"
LEAKED = (
    f"You are in a shell. Your first job is to {SHARED}. Then write a report of at least 500 words about it, and stop."
)
QUESTION = "How many positive integers below 1000 are divisible by neither 2 nor 5?"


def task(task_id: str, instruction: str | None) -> dict:
    return {
        "task_id": task_id,
        "path": task_id,
        "task_binary": task_id.encode(),
        "source": "shell",
        "instruction": instruction,
        "licence": "Apache-2.0",
        "origin": "test",
        "meta": "{}",
    }


ROWS = [
    task("e", "Write a poem about winter"),
    task("d", LEAKED),
    task("c", QUESTION.replace("1000", "2000")),
    task("b", None),
    task("a", "Compile <b>main.c</b> & run it"),
]


def write(out: Path, rows: list[dict]) -> Path:
    with ArtifactWriter(out, stage="mix", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("tasks.parquet"), TASK_SCHEMA, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """A command that compares five rows with two benchmarks; two rows are too close."""
    tasks = write(tmp_path / "tasks", ROWS)
    shell, maths = tmp_path / "shell-bench.jsonl", tmp_path / "maths.txt"
    shell.write_text(json.dumps({"id": 1, "prompt": f"Please {SHARED} rows."}) + "\n")
    maths.write_text(f"What is 1 + 1?\n{QUESTION}\n")
    return ["decontaminate", "--tasks", tasks, "--benchmarks", shell, maths, "--out", tmp_path / "out"]


def test_rejects_say_what_they_hit(words, tool, tmp_path):
    done = tool(*words)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert list(read_rows(out / "tasks.parquet")) == [ROWS[0], ROWS[3], ROWS[4]]
    leaked, question = read_rows(out / "rejects.parquet")
    assert (leaked["task_id"], leaked["reason"], leaked["benchmark"]) == ("d", "ngram", "shell-bench")
    assert leaked["gram"].startswith("sort the rows of data . csv by")
    assert len(leaked["gram"].split()) == 13
    assert leaked["similarity"] is None
    assert (question["task_id"], question["reason"], question["benchmark"]) == ("c", "similar", "maths")
    assert question["benchmark_row"] == 2
    assert 98 < question["similarity"] < 100
    manifest = open_artifact(out).manifest
    assert (manifest["rows_in"], manifest["rows_out"]) == (5, 3)
    assert manifest["dropped"] == {"ngram": 1, "similar": 1}
    assert manifest["inputs"]["benchmarks"].startswith("sha256:")
    assert manifest["tier"] == "T0"


def test_the_report_shows_each_hit_beside_its_prompt(words, tool, tmp_path):
    assert tool(*words).returncode == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    counts = {benchmark["name"]: (benchmark["ngram"], benchmark["similar"]) for benchmark in report["benchmarks"]}
    assert counts == {"maths": (0, 1), "shell-bench": (1, 0)}
    assert [hit["task_id"] for hit in report["hits"]] == ["c", "d"]
    assert report["hits"][1]["prompt"]["before"] == "Please "
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 of 5 rows are dropped" in page
    assert "<mark>sort the rows of data.csv by the second column and print</mark>" in page
    assert QUESTION in page


@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "dropped"),
    [
        (["--method", "ngram"], {"d": "ngram"}),
        (["--method", "ngram", "--ngram", 30], {}),
        (["--method", "indel"], {"c": "similar"}),
        (["--method", "indel", "--similarity", "99.9"], {}),
        (["--method", "agent"], {"c": "ngram", "d": "ngram"}),
        (["--method", "agent", "--ngram", 30], {"c": "similar", "d": "similar"}),
        (["--column", "task_id"], {}),
    ],
)
def test_each_method(flags, dropped, words, tool, tmp_path):
    done = tool(*words, *flags)
    assert done.returncode == 0, done.stderr
    rejects = {row["task_id"]: row["reason"] for row in read_rows(tmp_path / "out" / "rejects.parquet")}
    assert rejects == dropped


def test_a_gate_publishes_nothing_and_says_why(words, tool, tmp_path):
    done = tool(*words, "--max-share", "0.39")
    assert done.returncode == 2
    progress, message = done.stderr.splitlines()
    assert progress == "decontaminate: 5/5 done"
    assert message.startswith("decontaminate: error: 2 of 5 rows (40.00%) hit a benchmark, --max-share is 0.39")
    assert "most (1) hit 'maths', for example task c of source 'shell' its row 2" in message
    assert "report.html" in message
    assert not list(tmp_path.glob("out*"))
    assert tool(*words, "--max-share", "0.4").returncode == 0


def test_neither_the_order_of_rows_nor_that_of_files_matters(words, tool, tmp_path):
    assert tool(*words).returncode == 0
    shuffled = write(tmp_path / "shuffled", random.Random(1).sample(ROWS, len(ROWS)))
    again = [*words[:2], shuffled, "--benchmarks", words[5], words[4], "--out", tmp_path / "again"]
    assert tool(*again).returncode == 0
    for name in ("report.json", "report.html"):
        assert file_digest(tmp_path / "out" / name) == file_digest(tmp_path / "again" / name)
    rejects = [
        sorted(read_rows(tmp_path / out / "rejects.parquet"), key=lambda row: row["task_id"])
        for out in ("out", "again")
    ]
    assert rejects[0] == rejects[1]
    manifests = [open_artifact(tmp_path / out).manifest["inputs"]["benchmarks"] for out in ("out", "again")]
    assert manifests[0] == manifests[1]


def test_a_rerun_is_a_no_op_until_a_benchmark_changes(words, tool, tmp_path):
    assert tool(*words).returncode == 0
    assert "up to date" in tool(*words).stderr
    (tmp_path / "maths.txt").write_text("A completely different question, is it not?\n")
    assert "up to date" not in tool(*words).stderr
    assert open_artifact(tmp_path / "out").manifest["dropped"] == {"ngram": 1}


def test_no_rows_in_are_no_rows_out_whatever_the_gate(words, tool, tmp_path):
    words[2] = write(tmp_path / "empty", [])
    assert tool(*words, "--max-share", 0).returncode == 0
    assert open_artifact(tmp_path / "out").manifest["rows_out"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "ngram", "--similarity", 80], "--similarity decides nothing with --method ngram"),
        (["--method", "indel", "--ngram", 8], "--ngram decides nothing with --method indel"),
        (["--similarity", "0.75"], "'0.75' is not a similarity in per cent"),
        (["--max-share", 5], "'5' is not a share from 0 to 1"),
        (["--column", "instructions"], "did you mean 'instruction'?"),
        (["--column", "task_binary"], "column 'task_binary' holds no text"),
        (["--benchmark-column", "promt"], "did you mean 'prompt'?"),
        (["--tokenizer", "qwen"], "qwen: no such tokenizer; give 'words' or the path of a tokenizer.json"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(flags, message, words, tool, tmp_path):
    done = tool(*words, *flags)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A tokenizer whose tokens are pairs of letters at most, so that 13 of them are a few words."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")])
    trainer = trainers.BpeTrainer(vocab_size=200, max_token_length=2, show_progress=False)
    made.train_from_iterator([row["instruction"] or "" for row in ROWS], trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_tokenizer_of_small_pieces_makes_shorter_grams(words, pairs, tool, tmp_path):
    assert tool(*words, "--method", "ngram", "--ngram", 16).returncode == 0
    assert open_artifact(tmp_path / "out").manifest["dropped"] == {"ngram": 1}
    done = tool(*words, "--method", "openthoughts3", "--ngram", 16, "--tokenizer", pairs)
    assert done.returncode == 0, done.stderr
    out = open_artifact(tmp_path / "out")
    assert out.manifest["parameters"]["tokenizer"] == f"sha256:{file_digest(pairs)}"
    report = json.loads(out.data("report.json").read_text())
    assert report["tokenizer"] == f"sha256:{file_digest(pairs)}"
    assert report["published_tokens"] == "Qwen2-7B-Instruct"
    hits = {row["task_id"]: row for row in read_rows(out.data("rejects.parquet"))}
    assert {task_id: row["reason"] for task_id, row in hits.items()} == {"c": "ngram", "d": "ngram"}
    for row in hits.values():
        assert row["gram"] in row["instruction"]
        assert len(row["gram"].replace(" ", "")) <= 32
    (shown,) = [hit for hit in report["hits"] if hit["task_id"] == "c"]
    assert shown["text"]["marked"] == hits["c"]["gram"]

    # The place of the file decides nothing, its content does.
    moved = pairs.rename(tmp_path / "moved.json")
    assert "up to date" in tool(*words, "--method", "openthoughts3", "--ngram", 16, "--tokenizer", moved).stderr


def test_a_missing_benchmark_is_one_line(words, tool, tmp_path):
    (tmp_path / "maths.txt").unlink()
    done = tool(*words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"{tmp_path / 'maths.txt'}: no such file" in done.stderr


def test_help_has_an_example_and_every_flag(tool):
    shown = tool("decontaminate", "--help")
    assert shown.returncode == 0
    assert "    decontaminate --tasks" in shown.stdout
    assert all(flag in shown.stdout for flag in ("--benchmarks", "--method", "--max-share", "--out", "--seed"))


def test_evaluation_tasks_are_a_benchmark_as_they_are(words, tool, tmp_path):
    held_out = write(tmp_path / "held-out", [task("other", LEAKED)])
    done = tool(*words[:3], "--held-out", held_out, "--max-share", "0.1", "--out", tmp_path / "gate")
    assert done.returncode == 2
    name = f"tasks-{open_artifact(held_out).digest[:12]}"
    assert f"hit '{name}', for example task d of source 'shell' its row 1" in done.stderr
    done = tool(*words[:3], "--held-out", held_out, "--out", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert [row["task_id"] for row in read_rows(tmp_path / "kept" / "rejects.parquet")] == ["d"]


def test_a_folder_of_files_or_of_tasks_is_one_benchmark(words, tool, tmp_path):
    folder = tmp_path / "terminal"
    (folder / "first" / "tests").mkdir(parents=True)
    (folder / "first" / "instruction.md").write_text(LEAKED)
    # What else lies in a task folder is no prompt.
    (folder / "first" / "tests" / "cases.jsonl").write_text('{"prompt": "What is 1 + 1?"}\n')
    (folder / "requirements.txt").write_text("numpy\npandas\n")
    done = tool(*words[:3], "--benchmarks", folder, "--out", tmp_path / "tasks-out")
    assert done.returncode == 0, done.stderr
    (reject,) = read_rows(tmp_path / "tasks-out" / "rejects.parquet")
    assert (reject["task_id"], reject["benchmark"], reject["benchmark_row"]) == ("d", "terminal", 1)


def test_nothing_to_compare_with_and_an_empty_folder_are_one_line(words, tool, tmp_path):
    done = tool(*words[:3], "--out", tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr == "decontaminate: error: nothing to compare with; give --benchmarks, --held-out or both\n"
    (tmp_path / "empty").mkdir()
    done = tool(*words[:3], "--benchmarks", tmp_path / "empty", "--out", tmp_path / "none")
    assert done.returncode == 2
    assert f"{tmp_path / 'empty'}: holds no file of prompts" in done.stderr
