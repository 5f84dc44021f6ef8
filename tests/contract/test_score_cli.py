"""The command line of `score`: every method, chains of them, unusable endpoints and files, kills."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.contract.endpoint import Endpoint, Failure, Said, last_words

from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows, write_rows
from recipe_core.tasks import TaskFile, pack_files
from teacher.request import request_key
from teacher.store import Store

BIN = Path(__file__).resolve().parents[2] / ".venvs" / "bin"
ONE = Failure(429, "slow down", headers={"Retry-After": "0"})


def task(index: int, **changes) -> dict:
    files = {"solution/solve.sh": TaskFile(("word " * (index + 1)).encode(), 0o755)}
    return {
        "task_id": f"t{index:03d}",
        "path": f"tasks/{index}",
        "task_binary": pack_files(files),
        "source": "shell",
        "instruction": f"Sort file {index}. " + "Please. " * index,
        "licence": "Apache-2.0",
        "origin": "test",
        "meta": json.dumps({"index": index}),
        **changes,
    }


def question(index: int, answer: object) -> dict:
    return task(index, task_binary=None, instruction=f"What is {index}?", meta=json.dumps({"answer": answer}))


def write(out: Path, rows: list[dict]) -> Path:
    with ArtifactWriter(out, stage="mix", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("tasks.parquet"), TASK_SCHEMA, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write(tmp_path / "tasks", [task(index) for index in range(6)])


def column(out: Path, name: str) -> list[float | None]:
    return [row[name] for row in read_rows(out / "tasks.parquet", [name])]


def facts(out: Path) -> dict:
    return open_artifact(out).provenance()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if not line.startswith("score: ") or "error" in line]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("score: error: "), done.stderr
    return lines[0]


def embed(text: str) -> list[float]:
    """Return how often a text says each of two words."""
    return [float(text.count("Sort")), float(text.count("Please")), 0.0]


class TestMethods:
    def test_response_length_of_the_reference_is_words_of_the_solution(self, tool, tmp_path):
        rows = [
            task(3),
            question(7, "forty two"),
            question(8, 42),
            question(9, None),
            task(5, task_binary=pack_files({"a.txt": TaskFile(b"x")})),
            task(6, meta="no JSON", task_binary=None),
        ]
        line = ("--method", "response-length", "--teacher", "reference", "--out", tmp_path / "out")
        done = tool("score", "--tasks", write(tmp_path / "in", rows), *line)
        assert done.returncode == 0, done.stderr
        assert column(tmp_path / "out", "response_length") == [4.0, 2.0, 1.0, None, None, None]
        assert "3 of 6 rows have no value (no-solution: 3)" in done.stderr
        artifact = open_artifact(tmp_path / "out")
        assert (artifact.manifest["tier"], artifact.manifest["rows_in"], artifact.manifest["rows_out"]) == ("T0", 6, 6)
        assert artifact.manifest["dropped"] == {}
        assert facts(tmp_path / "out")["no_value"] == {"no-solution": 3}
        assert not (tmp_path / "out.work").exists()

    def test_response_length_of_a_model_is_its_tokens(self, tool, tasks, tmp_path):
        def answer(body):
            words = last_words(body).split()
            return Said("ok", completion_tokens=len(words), finish_reason="length" if len(words) > 7 else "stop")

        with Endpoint(answer) as endpoint:
            line = ("--method", "response-length", *endpoint.flags, "--max-tokens", 99, "--seed", 5)
            done = tool("score", "--tasks", tasks, *line, "--out", tmp_path / "out")
            assert done.returncode == 0, done.stderr
            assert {body["max_tokens"] for body in endpoint.requests} == {99}
            assert sorted(map(last_words, endpoint.requests))[0] == "Sort file 0. "
        assert column(tmp_path / "out", "response_length") == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
        artifact = open_artifact(tmp_path / "out")
        assert artifact.manifest["tier"] == "T2"
        assert artifact.manifest["parameters"]["sampling"]["max_tokens"] == 99
        known = facts(tmp_path / "out")
        assert known["replies"] == {"prompt_tokens": 33, "completion_tokens": 33, "cut_at_limit": 1}
        assert known["teacher"]["requests_answered"] == 6
        original = pq.read_table(tasks / "tasks.parquet")
        assert pq.read_table(tmp_path / "out" / "tasks.parquet").drop_columns("response_length") == original

    def test_difficulty_is_parsed_and_what_cannot_be_is_null(self, tool, tasks, tmp_path):
        said = {
            "0": "Difficulty: 3",
            "1": "7/10",
            "2": "It is hard.",
            "3": Failure(400, "content_filter"),
            "4": Said(None),
            "5": "<think>maybe 2</think>**Difficulty:** 9",
        }

        def answer(body):
            assert "Do not carry it out" in last_words(body)
            return said[last_words(body).partition("Sort file ")[2][0]]

        with Endpoint(answer) as endpoint:
            line = ("--method", "difficulty", *endpoint.flags, "--out", tmp_path / "out")
            done = tool("score", "--tasks", tasks, *line)
        assert done.returncode == 0, done.stderr
        assert column(tmp_path / "out", "difficulty") == [3.0, 7.0, None, None, None, 9.0]
        assert facts(tmp_path / "out")["no_value"] == {"refused": 1, "unparsable": 2}
        assert facts(tmp_path / "out")["teacher"]["requests_refused"] == 1

    def test_ask_llm_takes_probabilities_where_there_are_some(self, tool, tasks, tmp_path):
        def answer(body):
            assert body["temperature"] == 0.0
            index = last_words(body).partition("Sort file ")[2][0]
            if index == "5":
                return "Yes."
            share = int(index) / 10
            return Said("no", top_logprobs={"no": math.log(1 - share), " Yes": math.log(share + 1e-12)})

        with Endpoint(answer) as endpoint:
            line = ("--method", "ask-llm", *endpoint.flags, "--out", tmp_path / "out")
            done = tool("score", "--tasks", tasks, *line)
        assert done.returncode == 0, done.stderr
        assert column(tmp_path / "out", "ask_llm") == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 1.0], abs=1e-9)
        replies = facts(tmp_path / "out")["replies"]
        assert (replies["from_log_probabilities"], replies["from_text"]) == (5, 1)

    def test_embedding_is_the_mean_cosine_to_the_positives(self, tool, tasks, tmp_path):
        (tmp_path / "good.txt").write_text("Sort\nPlease Please\nnothing\n")
        with Endpoint(embed=embed) as endpoint:
            line = ("--method", "embedding", *endpoint.flags, "--positives", tmp_path / "good.txt")
            done = tool("score", "--tasks", tasks, *line, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        wanted = [(1 + index) / math.hypot(1, index) / 2 for index in range(6)]
        assert column(tmp_path / "out", "embedding") == pytest.approx(wanted)
        assert facts(tmp_path / "out")["replies"]["positives_left_out"] == 1

    def test_fasttext_tells_positives_from_the_tasks(self, tool, tmp_path):
        rows = [task(i, instruction=f"{'compile and link' if i % 2 else 'write a poem about'} {i}") for i in range(40)]
        (tmp_path / "good.jsonl").write_text(
            "".join(json.dumps({"text": f"compile and link program {i}"}) + "\n" for i in range(20))
        )
        digests = set()
        for seed, name in ((1, "a"), (1, "b"), (2, "c")):
            order = random.Random(name).sample(rows, len(rows))
            line = ("--method", "fasttext", "--positives", tmp_path / "good.jsonl", "--seed", seed)
            done = tool("score", "--tasks", write(tmp_path / f"in-{name}", order), *line, "--out", tmp_path / name)
            assert done.returncode == 0, done.stderr
            scores = {row["task_id"]: row["fasttext"] for row in read_rows(tmp_path / name / "tasks.parquet")}
            digests.add(json.dumps(scores, sort_keys=True))
            odd, even = ([value for key, value in scores.items() if int(key[1:]) % 2 == odd] for odd in (1, 0))
            assert min(odd) > max(even)
            assert max(even) >= 0 and max(odd) <= 1
        assert len(digests) == 2
        assert open_artifact(tmp_path / "a").manifest["tier"] == "T1"

    def test_fasttext_may_be_given_negatives(self, tool, tmp_path):
        (tmp_path / "good.txt").write_text("compile and link\n" * 5)
        (tmp_path / "bad.txt").write_text("write a poem\n" * 5)
        rows = [task(0, instruction="compile and link"), task(1, instruction="write a poem"), task(2, instruction=" ")]
        line = ("--method", "fasttext", "--positives", tmp_path / "good.txt", "--negatives", tmp_path / "bad.txt")
        done = tool("score", "--tasks", write(tmp_path / "in", rows), *line, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        good, bad, none = column(tmp_path / "out", "fasttext")
        assert good > bad and none is None
        inputs = open_artifact(tmp_path / "out").manifest["inputs"]
        (tmp_path / "bad.txt").write_text("write a poem\n" * 6)
        assert tool("score", "--tasks", tmp_path / "in", *line, "--out", tmp_path / "other").returncode == 0
        assert open_artifact(tmp_path / "other").manifest["inputs"]["negatives"] != inputs["negatives"]

    def test_random_depends_on_seed_and_id_alone(self, tool, tmp_path):
        rows = [task(index) for index in range(20)]
        scores = []
        for seed in (1, 2):
            for part in (rows, rows[::-1][:10]):
                name = f"{seed}-{len(part)}"
                line = ("--method", "random", "--seed", seed, "--out", tmp_path / name)
                done = tool("score", "--tasks", write(tmp_path / f"in-{name}", part), *line)
                assert done.returncode == 0, done.stderr
                scores.append({row["task_id"]: row["random"] for row in read_rows(tmp_path / name / "tasks.parquet")})
        assert scores[1].items() <= scores[0].items() and scores[3].items() <= scores[2].items()
        assert scores[0] != scores[2]
        assert all(0 <= value < 1 for value in scores[0].values())

    def test_a_prompt_of_ones_own(self, tool, tasks, tmp_path):
        digests = set()
        for name, text in (("a", "Wie schwer ist: {instruction}"), ("b", "Rate {instruction} in {N}")):
            (tmp_path / f"{name}.txt").write_text(text)
            with Endpoint(lambda body: "4") as endpoint:
                line = ("--method", "difficulty", *endpoint.flags, "--prompt-file", tmp_path / f"{name}.txt")
                assert tool("score", "--tasks", tasks, *line, "--out", tmp_path / name).returncode == 0
                assert text.replace("{instruction}", "Sort file 0. ") in map(last_words, endpoint.requests)
            digests.add(open_artifact(tmp_path / name).manifest["parameters"]["prompt"])
        assert len(digests) == 2


class TestRows:
    def test_scores_add_up_in_a_chain_that_filter_tasks_selects_from(self, tool, tasks, tmp_path):
        with Endpoint(lambda body: last_words(body).partition("Sort file ")[2][0]) as endpoint:
            steps = [
                ("--method", "random"),
                ("--method", "response-length", "--teacher", "reference"),
                ("--method", "difficulty", *endpoint.flags),
                ("--method", "random", "--seed", 3, "--column", "again"),
            ]
            source = tasks
            for number, step in enumerate(steps):
                out = tmp_path / str(number)
                done = tool("score", "--tasks", source, *step, "--out", out)
                assert done.returncode == 0, done.stderr
                source = out
        schema = pq.read_schema(source / "tasks.parquet")
        assert schema.names[-4:] == ["random", "response_length", "difficulty", "again"]
        assert {str(schema.field(name).type) for name in schema.names[-4:]} == {"double"}
        line = ("--column", "difficulty", "--keep", "highest", "--rows", 2, "--out", tmp_path / "kept")
        assert tool("filter-tasks", "--tasks", source, *line).returncode == 0
        assert column(tmp_path / "kept", "response_length") == [5.0, 6.0]

    def test_no_rows_give_no_rows_and_ask_nothing(self, tool, tmp_path):
        empty = write(tmp_path / "empty", [])
        (tmp_path / "good.txt").write_text("x\n")
        with Endpoint(embed=embed) as endpoint:
            for number, words in enumerate(
                [
                    ("difficulty", *endpoint.flags),
                    ("embedding", *endpoint.flags, "--positives", tmp_path / "good.txt"),
                    ("fasttext", "--positives", tmp_path / "good.txt"),
                ]
            ):
                done = tool("score", "--tasks", empty, "--method", *words, "--out", tmp_path / str(number))
                assert done.returncode == 0, done.stderr
                assert open_artifact(tmp_path / str(number)).manifest["rows_out"] == 0
            assert endpoint.requests == []

    def test_rows_of_one_id_and_one_instruction_are_asked_once(self, tool, tmp_path):
        rows = [task(1), task(1), task(2, instruction=None), task(3, instruction=" \n")]
        with Endpoint(lambda body: "5") as endpoint:
            line = ("--method", "difficulty", *endpoint.flags, "--out", tmp_path / "out")
            done = tool("score", "--tasks", write(tmp_path / "in", rows), *line)
            assert done.returncode == 0, done.stderr
            assert len(endpoint.requests) == 1
        assert column(tmp_path / "out", "difficulty") == [5.0, 5.0, None, None]
        assert facts(tmp_path / "out")["no_value"] == {"no-instruction": 2}

    def test_neither_order_nor_concurrency_decides_a_score(self, tool, tmp_path):
        rows = [task(index) for index in range(12)]
        scores = []
        with Endpoint(lambda body: str(body["seed"] % 10 + 1)) as endpoint:
            for concurrency in (1, 8):
                order = random.Random(concurrency).sample(rows, len(rows))
                out = tmp_path / f"out{concurrency}"
                line = ("--method", "difficulty", *endpoint.flags, "--concurrency", concurrency, "--out", out)
                assert tool("score", "--tasks", write(tmp_path / f"in{concurrency}", order), *line).returncode == 0
                scores.append({row["task_id"]: row["difficulty"] for row in read_rows(out / "tasks.parquet")})
        assert scores[0] == scores[1]

    def test_a_rerun_is_a_no_op(self, tool, tasks, tmp_path):
        with Endpoint(lambda body: "5") as endpoint:
            line = ("score", "--tasks", tasks, "--method", "difficulty", *endpoint.flags, "--out", tmp_path / "out")
            assert tool(*line).returncode == 0
            again = tool(*line)
            assert again.returncode == 0 and "up to date" in again.stderr
            assert len(endpoint.requests) == 6


class TestFailures:
    @pytest.mark.full
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--method", "dificulty"], "invalid choice"),
            (["--method", "difficulty"], "no teacher; give one of"),
            (["--method", "difficulty", "--teacher", "reference"], "needs a model that answers"),
            (["--method", "random", "--teacher", "reference"], "--teacher belongs to --method"),
            (["--method", "random", "--endpoint", "http://h/v1", "--model-name", "m"], "--endpoint belongs to"),
            (["--method", "fasttext"], "needs --positives"),
            (["--method", "embedding", "--model", "m", "--positives", "x"], "give an --endpoint that embeds"),
            (["--method", "random", "--positives", "x"], "--positives belongs to --method embedding or fasttext"),
            (["--method", "embedding", "--negatives", "x"], "--negatives belongs to --method fasttext"),
            (["--method", "random", "--prompt-file", "x"], "--prompt-file belongs to --method difficulty or ask-llm"),
            (["--method", "fasttext", "--positives", "absent.txt"], "absent.txt: no such file"),
            (["--method", "random", "--column", "instruction"], "there is a column 'instruction' already"),
            (["--method", "random", "--column", "instruction_chars"], "there is a column 'instruction_chars'"),
            (["--method", "random", "--column", "value"], "there is a column 'value'"),
            (["--method", "random", "--column", "meta.x"], "not a column's name"),
        ],
    )
    def test_flags_that_make_no_sense_are_one_line(self, words, message, tool, tasks, tmp_path):
        done = tool("score", "--tasks", tasks, *words, "--out", tmp_path / "out")
        assert message in one_line(done)
        assert not list(tmp_path.glob("out*"))

    def test_a_column_that_is_there_is_bad_input(self, tool, tasks, tmp_path):
        assert tool("score", "--tasks", tasks, "--method", "random", "--out", tmp_path / "1").returncode == 0
        done = tool("score", "--tasks", tmp_path / "1", "--method", "random", "--seed", 9, "--out", tmp_path / "out")
        assert "there is a column 'random' already; give another name by --column" in one_line(done)

    def test_a_damaged_task_is_one_line_that_names_it(self, tool, tmp_path):
        rows = [task(0), task(1, task_binary=b"damaged")]
        line = ("--method", "response-length", "--teacher", "reference", "--out", tmp_path / "out")
        done = tool("score", "--tasks", write(tmp_path / "in", rows), *line)
        assert "t001: not a readable tar.gz" in one_line(done)
        assert not (tmp_path / "out").exists()

    def test_rows_of_which_none_has_a_value_are_refused(self, tool, tasks, tmp_path):
        with Endpoint(lambda body: "I cannot say") as endpoint:
            done = tool("score", "--tasks", tasks, "--method", "difficulty", *endpoint.flags, "--out", tmp_path / "out")
        assert "no row has a value (unparsable: 6)" in one_line(done)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("answer", [Failure(401, "bad key sk-secret"), Failure(404, "no such model")])
    def test_an_unusable_endpoint_is_one_line(self, answer, tool, tasks, tmp_path):
        with Endpoint(lambda body: answer) as endpoint:
            line = ("--method", "ask-llm", *endpoint.flags, "--api-key-env", "SCORE_KEY", "--out", tmp_path / "out")
            done = tool("score", "--tasks", tasks, *line, env={"SCORE_KEY": "sk-secret"})
        assert f"HTTP {answer.status}" in one_line(done)
        assert "sk-secret" not in done.stderr + done.stdout
        assert not (tmp_path / "out").exists()

    def test_vectors_of_several_lengths_are_one_line(self, tool, tasks, tmp_path):
        (tmp_path / "good.txt").write_text("x\n")
        with Endpoint(embed=lambda text: [1.0] * len(text)) as endpoint:
            line = ("--method", "embedding", *endpoint.flags, "--positives", tmp_path / "good.txt")
            done = tool("score", "--tasks", tasks, *line, "--out", tmp_path / "out")
        assert "vectors of several lengths" in one_line(done)

    def test_an_endpoint_that_fails_now_and_then_changes_nothing(self, tool, tasks, tmp_path):
        tries: Counter[str] = Counter()

        def answer(body):
            tries[last_words(body)] += 1
            return ONE if tries[last_words(body)] < 3 else "5"

        with Endpoint(answer) as endpoint:
            line = ("--method", "difficulty", *endpoint.flags, "--out", tmp_path / "out")
            done = tool("score", "--tasks", tasks, *line)
        assert done.returncode == 0, done.stderr
        assert column(tmp_path / "out", "difficulty") == [5.0] * 6
        assert facts(tmp_path / "out")["teacher"]["requests_repeated"] == 12


@pytest.mark.full
def test_twenty_kills_change_nothing_and_repeat_nothing_that_was_kept(tool, tmp_path):
    rows = 160
    tasks = write(tmp_path / "tasks", [task(index) for index in range(rows)])
    chance = random.Random(7)

    def answer(body):
        time.sleep(0.02)
        text = last_words(body)
        return f"Difficulty: {int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10 + 1}"

    with Endpoint(answer) as endpoint:
        words = ["score", "--tasks", tasks, "--method", "difficulty", *endpoint.flags, "--concurrency", 4, "--out"]
        assert tool(*words, tmp_path / "whole").returncode == 0
        endpoint.requests.clear()
        command = [str(word) for word in (*words, tmp_path / "cut")]
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        replies = tmp_path / "cut.work" / "replies"

        def kept() -> int:
            with Store(replies) as store:
                return len(store)

        def key_of(body: dict) -> str:
            return request_key({**body, "model": ""}, identity=f"{endpoint.url} {endpoint.model}")

        for _ in range(20):
            before, asked = kept(), len(endpoint.requests)
            with Store(replies) as store:
                process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
                )
                goal = asked + chance.randrange(8)
                while len(endpoint.requests) < goal and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(chance.random() * 0.05)
                assert process.poll() is None, "it ended before it could be killed"
                process.send_signal(signal.SIGKILL)
                process.wait()
                assert not any(key_of(body) in store for body in endpoint.requests[asked:])
            assert kept() >= before
        killed_with = kept()
        assert 0 < killed_with < rows
        asked = len(endpoint.requests)
        done = tool(*words, tmp_path / "cut")
        assert done.returncode == 0, done.stderr
        assert len(endpoint.requests) - asked == rows - killed_with
    for name in ("tasks.parquet", "manifest.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert facts(tmp_path / "cut")["teacher"]["replies_kept_before"] == killed_with
    assert not (tmp_path / "cut.work").exists()
