"""The command line of `augment`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from tests.conftest import BIN, small_task, write_tasks
from tests.contract.endpoint import Drop, Endpoint, Failure, Hang, Said, last_words, nobody_listens

from recipe_core.artifact import file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows, write_rows
from recipe_core.tasks import TaskFile, pack_files, read_files, task_id, task_row

FULL = pytest.mark.full
REFERENCE = ("--teacher", "reference")


def task(name: str, meta: dict | None = None, **files: bytes | None) -> dict:
    contents = {**small_task(name), "instruction.md": TaskFile(f"In /app: Create done.txt for {name}.\n".encode())}
    row = task_row(contents, path=name, source="shell", licence="MIT", origin="test", meta=meta or {"held_out": [name]})
    if not files:
        return row
    for path, content in files.items():
        contents.pop(path.replace("_md", ".md"))
        if content is not None:
            contents[path.replace("_md", ".md")] = TaskFile(content)
    return {**row, "task_id": task_id(contents), "task_binary": pack_files(contents)}


def question(name: str, text: str | None) -> dict:
    empty = dict.fromkeys(TASK_SCHEMA.names)
    return {**empty, "task_id": name, "path": name, "source": "sums", "instruction": text, "meta": "{}"}


def original_of(body: dict) -> str:
    return last_words(body).partition("<original>\n")[2].partition("\n</original>")[0]


def other_words(body: dict) -> str:
    """Say the original in words that differ between samples, which an endpoint tells apart by their seeds."""
    return f"<instruction>Version {body['seed']}: {original_of(body)}</instruction>"


def made(out: Path) -> list[dict]:
    return list(read_rows(open_artifact(out).data("tasks.parquet")))


def rejects(out: Path) -> list[dict]:
    return list(read_rows(open_artifact(out).data("rejects.parquet")))


def lineage(row: dict) -> dict | None:
    return json.loads(row["meta"]).get("augment")


def data_digests(out: Path) -> list[str]:
    return [file_digest(out / name) for name in ("tasks.parquet", "rejects.parquet", "manifest.json")]


def check_counts(out: Path) -> Counter[str]:
    manifest = open_artifact(out).manifest
    reasons = Counter(row["reason"] for row in rejects(out))
    assert manifest["dropped"] == dict(sorted(reasons.items()))
    assert manifest["rows_out"] == len(made(out))
    assert manifest["rows_in"] == len(made(out)) + sum(reasons.values())
    return reasons


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("augment: error:")]
    assert "Traceback" not in done.stderr
    return line


@pytest.mark.parametrize(
    "method", ["rewrite", pytest.param("harden", marks=FULL), pytest.param("constrain", marks=FULL), "hints"]
)
def test_21_forms_of_each_task_without_a_model(method, tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task("a"), task("b")])
    command = ("augment", "--tasks", tasks, "--method", method, "--copies", 21, "--keep-original", *REFERENCE)
    done = tool(*command, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert check_counts(tmp_path / "out") == {}
    rows = made(tmp_path / "out")
    assert len(rows) == len({row["task_id"] for row in rows}) == len({row["path"] for row in rows}) == 44
    before = {row["task_id"]: row for row in read_rows(tasks / "tasks.parquet")}
    for row in rows:
        files = read_files(row["task_binary"])
        assert row["task_id"] == task_id(files)
        assert files["instruction.md"].content.decode().strip() == row["instruction"]
        if lineage(row) is None:
            assert row == before.pop(row["task_id"])
            continue
        assert {**lineage(row), "from": "", "copy": 0} == {
            "method": method,
            "from": "",
            "copy": 0,
            "model": "reference",
        }
        source = small_task("a" if json.loads(row["meta"])["held_out"] == ["a"] else "b")
        assert {path: file for path, file in files.items() if path != "instruction.md"} == {
            path: file for path, file in source.items() if path != "instruction.md"
        }
    assert not before
    manifest = open_artifact(tmp_path / "out").manifest
    assert (manifest["tier"], manifest["rows_in"], manifest["rows_out"]) == ("T0", 44, 44)
    assert "up to date" in tool(*command, "--out", tmp_path / "out").stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tasks"]


def test_the_order_of_the_input_does_not_matter(tool, tmp_path):
    rows = [task(f"t{index}") for index in range(12)]
    rows += [question("q1", "How much is 2 + 2?"), question("q2", None), {**rows[3], "source": "other"}]
    digests = set()
    for seed in range(2):
        tasks = write_tasks(tmp_path / f"tasks{seed}", random.Random(seed).sample(rows, len(rows)))
        done = tool(
            *("augment", "--tasks", tasks, "--method", "rewrite", "--rows", 40, "--keep-original", *REFERENCE),
            *("--seed", 5, "--out", tmp_path / f"out{seed}"),
        )
        assert done.returncode == 0, done.stderr
        digests.add(tuple(data_digests(tmp_path / f"out{seed}")[:2]))
        assert check_counts(tmp_path / f"out{seed}") == {"duplicate": 1, "no-instruction": 3}
    assert len(digests) == 1


def test_fewer_rows_than_tasks_leave_some_out_and_say_so(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task(f"t{index}") for index in range(5)])
    done = tool("augment", "--tasks", tasks, "--method", "rewrite", "--rows", 3, *REFERENCE, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 not-drawn" in done.stderr
    assert check_counts(tmp_path / "out") == {"not-drawn": 2}
    assert len({lineage(row)["from"] for row in made(tmp_path / "out")}) == 3


def test_unusual_tasks_are_dropped_with_a_reason_and_harm_no_other(tool, tmp_path):
    rows = [
        task("good"),
        task("latin", instruction_md=b"Make caf\xe9.txt in /app.\n"),
        task("none", instruction_md=None),
        task("blank", instruction_md=b" \n\n"),
        task("huge", instruction_md=b"word " * 200_000),
        {**task("cut"), "task_binary": task("cut")["task_binary"][:700]},
        {**task("meta"), "meta": "{"},
        {**task("null"), "meta": None, "path": None},
        question("q", "How much is 2 + 2?"),
    ]
    tasks = write_tasks(tmp_path / "tasks", rows)
    done = tool(
        *("augment", "--tasks", tasks, "--method", "rewrite", "--copies", 2, "--keep-original", *REFERENCE),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    reasons = {"no-instruction": 6, "too-long": 3, "unreadable-meta": 3, "unreadable-task": 3}
    assert check_counts(tmp_path / "out") == reasons
    kept = made(tmp_path / "out")
    assert len(kept) == 12
    assert any("caf\ufffd.txt" in row["instruction"] and lineage(row) for row in kept)
    assert sum(row["task_binary"] is None for row in kept) == 3
    detail = {row["reason"]: row["detail"] for row in rejects(tmp_path / "out")}
    assert detail["too-long"] == "1000000 characters, the most is 100000"


def test_hints_need_a_solution(tool, tmp_path):
    rows = [task("a"), task("b", **{"solution/solve.sh": None}), question("q", "How much is 2 + 2?")]
    tasks = write_tasks(tmp_path / "tasks", rows)
    done = tool("augment", "--tasks", tasks, "--method", "hints", "--copies", 3, *REFERENCE, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert check_counts(tmp_path / "out") == {"no-solution": 6}
    assert all("`echo`" in row["instruction"] for row in made(tmp_path / "out"))


def test_every_kind_of_answer_is_counted_and_kept(tool, tmp_path):
    answers = {
        "good": other_words,
        "empty": lambda body: "",
        "none": lambda body: Said(None),
        "cut": lambda body: Said("<instruction>Create do", finish_reason="length"),
        "same": lambda body: original_of(body).upper(),
        "twice": lambda body: f"Please. {original_of(body)}",
        "lost": lambda body: "Create a file.",
        "sorry": lambda body: "I'm sorry, I can't help with that.",
        "filter": lambda body: Failure(400, "content_filter triggered"),
        "long": lambda body: Failure(400, "maximum context length is 10 tokens"),
    }
    tasks = write_tasks(tmp_path / "tasks", [task(name) for name in answers])
    with Endpoint(lambda body: answers[original_of(body).rpartition(" ")[2].strip(".")](body)) as endpoint:
        done = tool(
            *("augment", "--tasks", tasks, "--method", "rewrite", "--copies", 2, *endpoint.flags),
            *("--out", tmp_path / "out"),
        )
        assert done.returncode == 0, done.stderr
        assert len(endpoint.answered) == 16
    expected = {"cut": 2, "empty": 4, "lost-detail": 2, "refused": 6, "repeated": 1, "unchanged": 2}
    assert check_counts(tmp_path / "out") == expected
    rows = {row["path"]: row for row in made(tmp_path / "out")}
    assert sorted(rows) == ["good-rewrite-1", "good-rewrite-2", "twice-rewrite-1"]
    assert lineage(rows["good-rewrite-2"])["model"] == endpoint.model
    (lost,) = {(row["detail"], row["rewriting"]) for row in rejects(tmp_path / "out") if row["reason"] == "lost-detail"}
    assert lost == ("/app, done.txt", "Create a file.")
    artifact = open_artifact(tmp_path / "out")
    assert artifact.manifest["tier"] == "T2"
    facts = artifact.provenance()
    assert facts["requests_answered"] == 16
    assert facts["requests_refused"] == 4
    words = sum(len(message["content"].split()) for body in endpoint.answered for message in body["messages"])
    assert facts["prompt_tokens"] == words
    assert facts["completion_tokens"] > 0


def test_rows_that_two_tasks_share_are_made_once(tool, tmp_path):
    # The same tests and solution, so that one text makes one task of both.
    rows = []
    for text in (b"Create done.txt.\n", b"Please, create done.txt.\n"):
        files = {**small_task("x"), "instruction.md": TaskFile(text)}
        rows.append(task_row(files, path="x", source="s", licence="MIT", origin="test", meta={}))
    tasks = write_tasks(tmp_path / "tasks", rows)
    with Endpoint(lambda body: "Would you create done.txt?") as endpoint:
        done = tool(
            *("augment", "--tasks", tasks, "--method", "rewrite", "--copies", 1, *endpoint.flags),
            *("--out", tmp_path / "out"),
        )
    assert done.returncode == 0, done.stderr
    assert check_counts(tmp_path / "out") == {"repeated": 1}
    assert lineage(made(tmp_path / "out")[0])["from"] == min(row["task_id"] for row in rows)


def test_more_copies_ask_only_for_the_new_ones_and_drop_none_of_the_old(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task(f"t{index}") for index in range(3)])
    with Endpoint(other_words) as endpoint:
        rows = {}
        for copies, asked in ((2, 6), (5, 15), (4, 15)):
            out = tmp_path / f"out{copies}"
            done = tool(
                *("augment", "--tasks", tasks, "--method", "rewrite", "--copies", copies, *endpoint.flags),
                *("--cache", tmp_path / "cache", "--out", out),
            )
            assert done.returncode == 0, done.stderr
            assert len(endpoint.requests) == asked
            rows[copies] = {row["task_id"] for row in made(out)}
    assert rows[2] < rows[4] < rows[5]
    assert len(rows[5]) == 15
    assert len({body["seed"] for body in endpoint.requests}) == 15


def test_a_prompt_goes_out_as_one_conversation_with_its_sampling(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task("a")])
    with Endpoint(other_words) as endpoint:
        done = tool(
            *("augment", "--tasks", tasks, "--method", "harden", "--copies", 1, *endpoint.flags, "--temperature", 0.5),
            *("--max-tokens", 99, "--out", tmp_path / "out"),
        )
        assert done.returncode == 0, done.stderr
        (body,) = endpoint.requests
    assert (body["model"], body["temperature"], body["max_tokens"]) == (endpoint.model, 0.5, 99)
    assert "reward.txt" in last_words(body)
    assert original_of(body) == "In /app: Create done.txt for a."


@pytest.mark.full
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Failure(500), "requests stay unanswered"),
        pytest.param(Failure(429, headers={"Retry-After": "0"}), "requests stay unanswered", marks=FULL),
        (Failure(200, body=b"<html>"), "not an OpenAI chat completion"),
        pytest.param(Failure(200, body=b'{"choices": []}'), "not an OpenAI chat completion", marks=FULL),
        (Failure(401), "HTTP 401"),
        pytest.param(Failure(404), "HTTP 404", marks=FULL),
        (Failure(400, "unknown parameter"), "refuses every request"),
        (Hang(5), "no answer within 0.2 s"),
        pytest.param(Drop(20), "requests stay unanswered", marks=FULL),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_endpoint_that_fails_is_one_line_and_publishes_nothing(answer, said, tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task("a"), task("b")])
    with Endpoint(lambda body: answer) as endpoint:
        done = tool(
            *("augment", "--tasks", tasks, "--method", "rewrite", "--copies", 1, *endpoint.flags, "--retries", 0),
            *("--request-timeout", 0.2, "--out", tmp_path / "out"),
        )
    assert said in one_line(done)
    assert not (tmp_path / "out").exists()


def test_nobody_at_the_endpoint_is_one_line(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task("a")])
    with nobody_listens() as url:
        done = tool(
            *("augment", "--tasks", tasks, "--method", "rewrite", "--copies", 1, "--endpoint", url),
            *("--model-name", "x", "--retries", 0, "--out", tmp_path / "out"),
        )
    assert url in one_line(done)
    assert not (tmp_path / "out").exists()


def test_what_was_answered_before_a_failure_is_not_asked_again(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task(f"t{index}") for index in range(6)])
    command = ["augment", "--tasks", tasks, "--method", "rewrite", "--copies", 1, "--retries", 0, "--concurrency", 1]
    with Endpoint(lambda body: Failure(500) if "t3" in original_of(body) else other_words(body)) as endpoint:
        done = tool(*command, *endpoint.flags, "--out", tmp_path / "out")
        assert "1 requests stay unanswered" in one_line(done)
        endpoint.answer = other_words
        done = tool(*command, *endpoint.flags, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert len(endpoint.requests) == 7
        assert not (tmp_path / "out.work").exists()
        assert open_artifact(tmp_path / "out").provenance()["replies_kept_before"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--copies", 1], "no teacher"),
        ([*REFERENCE], "--copies and --rows"),
        ([*REFERENCE, "--copies", 1, "--rows", 1], "--copies and --rows"),
        ([*REFERENCE, "--copies", 0], "'0' is not a whole number of at least 1"),
        ([*REFERENCE, "--copies", 1, "--endpoint", "http://x/v1", "--model-name", "x"], "exclude each other"),
        (["--endpoint", "http://x/v1", "--model-name", "x", "--api-key-env", "NO_SUCH", "--copies", 1], "NO_SUCH"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(words, said, tool, tasks_artifact, tmp_path):
    done = tool("augment", "--tasks", tasks_artifact(1), "--method", "rewrite", *words, "--out", tmp_path / "out")
    assert said in one_line(done)
    assert not (tmp_path / "out").exists()


def test_no_tasks_is_one_line(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [])
    done = tool(
        "augment", "--tasks", tasks, "--method", "rewrite", "--copies", 1, *REFERENCE, "--out", tmp_path / "out"
    )
    assert "no rows" in one_line(done)
    assert not list(tmp_path.glob("out*"))


def test_a_column_that_is_no_text_is_one_line(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task("a")])
    row = {**task("a"), "meta": None}
    table = pa.Table.from_pylist([row], schema=TASK_SCHEMA)
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    table = table.set_column(TASK_SCHEMA.get_field_index("instruction"), "instruction", broken)
    rewrite_table(tasks, table)
    done = tool(
        "augment", "--tasks", tasks, "--method", "rewrite", "--copies", 1, *REFERENCE, "--out", tmp_path / "out"
    )
    assert "not UTF-8" in one_line(done)
    assert not list(tmp_path.glob("out*"))


def rewrite_table(tasks: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, tasks / "tasks.parquet")
    manifest = json.loads((tasks / "manifest.json").read_text())
    manifest["files"]["tasks.parquet"]["bytes"] = (tasks / "tasks.parquet").stat().st_size
    (tasks / "manifest.json").write_text(json.dumps(manifest))


def test_columns_beyond_those_of_a_task_stay(tool, tmp_path):
    schema = TASK_SCHEMA.append(pa.field("difficulty", pa.int64()))
    write_rows(tmp_path / "table.parquet", schema, [{**task("a"), "difficulty": 7}])
    tasks = write_tasks(tmp_path / "tasks", [])
    import pyarrow.parquet as pq

    rewrite_table(tasks, pq.read_table(tmp_path / "table.parquet"))
    done = tool(
        "augment", "--tasks", tasks, "--method", "rewrite", "--copies", 2, *REFERENCE, "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert [row["difficulty"] for row in made(tmp_path / "out")] == [7, 7]


def key_of(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def stored_keys(folder: Path) -> Iterable[str]:
    """Yield the key of every whole reply below a folder."""
    for path in folder.rglob("*.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)["key"]


@pytest.mark.full
def test_20_kills_change_no_byte_and_repeat_no_request_that_was_stored(tool, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task(f"t{index:03d}") for index in range(100)])
    rng = random.Random(0)

    def slow(body: dict) -> str:
        time.sleep(0.02)
        return other_words(body)

    with Endpoint(slow) as endpoint:
        words = ["augment", "--tasks", tasks, "--method", "rewrite", "--copies", 6, "--concurrency", 4, *endpoint.flags]
        line = [str(word) for word in (*words, "--out", tmp_path / "killed")]
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        stored: set[str] = set()
        asked: set[str] = set()
        kills = 0
        for _ in range(20):
            before = len(endpoint.requests)
            process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # By requests rather than by the clock: how long a start takes depends on what else the machine does.
            wanted = before + rng.randrange(25)
            while len(endpoint.requests) < wanted and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.03))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.1)
            again = {key_of(body) for body in endpoint.requests[before:]} & asked
            # What was asked twice is what had not come back whole when the process died: no more than were under way.
            assert len(again) <= 4
            found = list(stored_keys(tmp_path / "killed.work"))
            assert len(found) == len(set(found))
            assert stored <= set(found)
            stored = set(found)
            asked |= {key_of(body) for body in endpoint.requests[before:]}
        assert kills == 20
        assert 0 < len(stored) < 600
        before = len(endpoint.requests)
        done = tool(*line)
        assert done.returncode == 0, done.stderr
        assert len(endpoint.requests) - before == 600 - len(stored)
        assert open_artifact(tmp_path / "killed").provenance()["replies_kept_before"] == len(stored)
        done = tool(*words, "--out", tmp_path / "whole")
        assert done.returncode == 0, done.stderr
    assert data_digests(tmp_path / "killed") == data_digests(tmp_path / "whole")
    assert len(made(tmp_path / "whole")) == 600
