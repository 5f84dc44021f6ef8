"""The command line of `answers`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.conftest import BIN, write_tasks
from tests.contract.endpoint import Drop, Endpoint, Failure, Said, last_words, nobody_listens

from answers.stage import MOST_SAMPLES
from recipe_core.artifact import open_artifact
from recipe_core.records import TRAJECTORY_SCHEMA, read_rows

DOUBLE = "def double(x):\n    return 2 * x"


def question(name: str, text: str | None = None, **meta) -> dict:
    return {
        "task_id": name,
        "path": f"questions/{name}",
        "task_binary": None,
        "source": "sums",
        "instruction": text or f"What is the value of {name}?",
        "licence": "CC0-1.0",
        "origin": "test",
        "meta": json.dumps(meta),
    }


QUESTIONS = [
    question("halves", domain="math", answer="\\frac{1}{2}"),
    question("paris", domain="science", answer="Paris"),
    question("twice", domain="code", tests="assert double(2) == 4\nassert double(0) == 0", solution=DOUBLE),
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "questions", QUESTIONS)


def rows_of(out: Path, name: str = "trajectories.parquet") -> list[dict]:
    return list(read_rows(open_artifact(out).data(name)))


def said_by(rows: list[dict]) -> dict[str, str]:
    return {row["trial_name"]: row["conversations"][-1]["content"] for row in rows}


def reasons_of(out: Path) -> dict[str, str]:
    return {row["trial_name"]: row["reason"] for row in rows_of(out, "rejects.parquet")}


def sample_of(body: dict) -> int:
    """Return a number that tells apart the samples of one question, which the endpoint sees by their seeds only."""
    return int(body["seed"])


def test_the_reference_teacher_gives_answers_that_the_verifier_accepts(tool, questions, tmp_path):
    out = tmp_path / "out"
    done = tool(
        *("answers", "--tasks", questions, "--teacher", "reference", "--samples", 2, "--filter", "verifier"),
        *("--date", "2026-01-31", "--system", "Be brief.", "--question-suffix", "Think first.", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    manifest = open_artifact(out).manifest
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"], manifest["tier"]) == (6, 6, {}, "T0")
    assert pq.read_schema(out / "trajectories.parquet") == TRAJECTORY_SCHEMA
    rows = rows_of(out)
    assert [row["trial_name"] for row in rows] == [
        f"{name}__{index}" for name in ("halves", "paris", "twice") for index in (0, 1)
    ]
    first = rows[0]
    assert [message["role"] for message in first["conversations"]] == ["system", "user", "assistant"]
    assert first["conversations"][1]["content"] == "What is the value of halves?\n\nThink first."
    assert first["conversations"][2]["content"].endswith("\\boxed{\\frac{1}{2}}")
    columns = ("task_id", "task", "source", "attempt", "turns", "reward", "result", "model", "model_provider", "date")
    assert [first[name] for name in columns] == [
        *("halves", "questions/halves", "sums", 0, 1, 1.0, "1.0", "reference", "builtin", "2026-01-31")
    ]
    assert (
        "up to date"
        in tool(
            *("answers", "--tasks", questions, "--teacher", "reference", "--samples", 2, "--filter", "verifier"),
            *("--date", "2026-01-31", "--system", "Be brief.", "--question-suffix", "Think first.", "--out", out),
        ).stderr
    )


def test_a_question_without_a_known_answer_is_a_reject_of_the_reference_teacher(tool, tmp_path):
    tasks = write_tasks(tmp_path / "questions", [question("open"), question("halves", answer="0.5")])
    out = tmp_path / "out"
    assert tool("answers", "--tasks", tasks, "--teacher", "reference", "--out", out).returncode == 0
    assert [row["task_id"] for row in rows_of(out)] == ["halves"]
    assert reasons_of(out) == {"open__0": "no-reference"}


def answer_all(body: dict) -> Said | str | Failure:
    text = last_words(body)
    if "halves" in text:
        return Said("It is \\boxed{0.5}", reasoning="One by two.")
    if "paris" in text:
        return "Answer: London"
    return "```python\ndef double(x):\n    return x + 2\n```"


def test_the_verifier_judges_answers_of_an_endpoint(tool, questions, tmp_path):
    out = tmp_path / "out"
    with Endpoint(answer_all) as endpoint:
        done = tool(
            *("answers", "--tasks", questions, *endpoint.flags, "--samples", 2, "--filter", "verifier", "--out", out)
        )
    assert done.returncode == 0, done.stderr
    kept, dropped = rows_of(out), rows_of(out, "rejects.parquet")
    assert said_by(kept)["halves__0"] == "<think>\nOne by two.\n</think>\n\nIt is \\boxed{0.5}"
    assert {row["task_id"]: row["reward"] for row in kept} == {"halves": 1.0}
    assert {(row["task_id"], row["reason"], row["reward"]) for row in dropped} == {
        ("paris", "wrong", 0.0),
        ("twice", "wrong", 0.0),
    }
    assert (kept[0]["model"], kept[0]["model_provider"], kept[0]["trace_source"]) == (
        *(endpoint.model, "openai-compatible", "main"),
    )
    facts = open_artifact(out).provenance()
    assert facts["requests_answered"] == 6
    assert facts["completion_tokens"] > 0
    assert open_artifact(out).manifest["tier"] == "T2"
    assert not (tmp_path / "out.work").exists()


def test_cut_refused_and_empty_answers_are_dropped(tool, tmp_path):
    told = {
        "cut": Said("It is", finish_reason="length"),
        "filtered": Failure(400, "content_filter"),
        "silent": Said(None, reasoning="Nothing comes to mind."),
        "withheld": Said("", finish_reason="content_filter"),
        "surrogate": "half a pair: \ud800",
    }
    tasks = write_tasks(tmp_path / "questions", [question(name) for name in told])

    def answer(body):
        return next(said for name, said in told.items() if name in last_words(body))

    with Endpoint(answer) as endpoint:
        words = ("answers", "--tasks", tasks, *endpoint.flags)
        assert tool(*words, "--out", tmp_path / "out").returncode == 0
        assert tool(*words, "--keep-cut", "--out", tmp_path / "cut").returncode == 0
    assert reasons_of(tmp_path / "out") == {
        "cut__0": "cut",
        "filtered__0": "refused",
        "silent__0": "empty",
        "withheld__0": "refused",
    }
    assert said_by(rows_of(tmp_path / "out")) == {"surrogate__0": "half a pair: ?"}
    errors = {row["trial_name"]: row["error_class"] for row in rows_of(tmp_path / "cut")}
    assert errors == {"cut__0": "output_length", "surrogate__0": None}


def by_seed(body: dict) -> str:
    """Answer a question with one of three values, by the request's seed; a judge likes only one of them."""
    if body["messages"][0]["role"] == "system":
        return "Checked.\n\nYes" if "boxed{4}" in last_words(body) else "no"
    value = ("4", "\\sqrt{16}", "5")[sample_of(body) % 3]
    return f"{'So. ' * (sample_of(body) % 7)}It is \\boxed{{{value}}}"


@pytest.mark.full
@pytest.mark.parametrize(
    "words",
    [
        ("none",),
        ("random", "--keep-per-question", "2"),
        ("length", "--keep-per-question", "2", "--prefer", "shortest"),
        ("length", "--min-answer-tokens", "4"),
        ("majority",),
        ("llm",),
    ],
    ids=" ".join,
)
def test_every_filter_keeps_what_it_says_in_any_order_of_the_rows(words, tool, tmp_path):
    rows = [question(f"q{index}") for index in range(3)]
    orders = [write_tasks(tmp_path / "up", rows), write_tasks(tmp_path / "down", rows[::-1])]
    with Endpoint(by_seed) as endpoint:
        for tasks in orders:
            done = tool(
                *("answers", "--tasks", tasks, *endpoint.flags, "--samples", 6, "--cache", tmp_path / "cache"),
                *("--filter", *words, "--out", tmp_path / f"out-{tasks.name}"),
            )
            assert done.returncode == 0, done.stderr
    out, other = tmp_path / "out-up", tmp_path / "out-down"
    kept = rows_of(out)
    dropped = rows_of(out, "rejects.parquet")
    assert len(kept) + len(dropped) == 18
    assert open_artifact(out).manifest["dropped"] == Counter(row["reason"] for row in dropped)
    without_run = [{**row, "run_id": None} for row in kept]
    assert without_run == [{**row, "run_id": None} for row in rows_of(other)]
    each = Counter(row["task_id"] for row in kept)
    values = [row["conversations"][-1]["content"] for row in kept]
    if "2" in words:
        assert each == {"q0": 2, "q1": 2, "q2": 2}
    if words == ("majority",):
        for name in each:
            finals = {"4" if "5" not in said_by(kept)[trial] else "5" for trial in said_by(kept) if name in trial}
            assert len(finals) == 1
    if words == ("llm",):
        assert all("boxed{4}" in value for value in values)
        assert {row["reason"] for row in dropped} == {"judged-wrong"}
    # Samples are shared by the runs through the cache: only a judge's opinions come on top of 18.
    asked = [body for body in endpoint.answered if body["messages"][0]["role"] == "user"]
    assert len(asked) == len({sample_of(body) for body in asked}) == 18


def test_rows_that_ask_the_same_get_answers_of_their_own(tool, tmp_path):
    tasks = write_tasks(tmp_path / "questions", [question(name, "How many?") for name in ("a", "b")])
    with Endpoint(lambda body: str(sample_of(body))) as endpoint:
        tool("answers", "--tasks", tasks, *endpoint.flags, "--samples", 2, "--out", tmp_path / "out")
    assert len(set(said_by(rows_of(tmp_path / "out")).values())) == 4
    assert MOST_SAMPLES > 10**6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--filter", "random"), "needs --keep-per-question"),
        (("--filter", "length"), "--filter length needs"),
        (("--filter", "length", "--prefer", "longest", "--min-answer-tokens", "2"), "--prefer needs"),
        (("--filter", "majority", "--keep-per-question", "2"), "belongs to --filter random or length"),
        (("--prefer", "longest"), "belongs to --filter length"),
        (("--filter", "length", "--min-answer-tokens", "3", "--max-answer-tokens", "2"), "no answer lies between"),
        (("--samples", "0"), "at least 1"),
        (("--endpoint", "http://x/v1", "--model-name", "x"), "exclude each other"),
    ],
)
def test_flags_that_do_not_belong_together_are_one_line(words, said, tool, questions, tmp_path):
    done = tool("answers", "--tasks", questions, "--teacher", "reference", *words, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([question("a"), question("a")], "task a occurs more than once"),
        ([{**question("a"), "instruction": None}], "task a: has no instruction"),
        ([{**question("a"), "instruction": "  \n"}], "task a: has no instruction"),
        ([{**question("a"), "task_id": None}], "a row has no task_id"),
        ([{**question("a"), "meta": "[1]"}], "task a: meta is not a JSON object"),
        ([question("a", answer=["1"])], "task a: meta.answer holds a list, expected text"),
    ],
)
def test_a_row_that_is_no_question_is_one_line_that_names_it(rows, said, tool, tmp_path):
    tasks = write_tasks(tmp_path / "questions", rows)
    done = tool("answers", "--tasks", tasks, "--teacher", "reference", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert said in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_no_questions_give_no_answers(tool, tmp_path):
    tasks = write_tasks(tmp_path / "questions", [])
    assert tool("answers", "--tasks", tasks, "--teacher", "reference", "--out", tmp_path / "out").returncode == 0
    assert open_artifact(tmp_path / "out").manifest["rows_out"] == 0


def test_an_endpoint_that_is_not_there_is_one_line_and_publishes_nothing(tool, questions, tmp_path):
    with nobody_listens() as url:
        done = tool(
            *("answers", "--tasks", questions, "--endpoint", url, "--model-name", "x", "--retries", 0),
            *("--out", tmp_path / "out"),
        )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("answers: error:")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_endpoint_that_fails_in_every_way_is_asked_again(tool, questions, tmp_path):
    failures = [Failure(500), Failure(429, headers={"Retry-After": "0"}), Failure(200, body=b"{junk"), Drop(20)]

    def answer(body):
        return failures.pop() if failures else answer_all(body)

    with Endpoint(answer) as endpoint:
        done = tool("answers", "--tasks", questions, *endpoint.flags, "--samples", 2, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest["rows_out"] == 6
    assert open_artifact(tmp_path / "out").provenance()["requests_repeated"] == 4


def test_what_was_answered_before_an_endpoint_failed_is_not_asked_again(tool, questions, tmp_path):
    def halves_only(body):
        return answer_all(body) if "halves" in last_words(body) else Failure(503)

    with Endpoint(halves_only) as endpoint:
        words = ("answers", "--tasks", questions, *endpoint.flags, "--retries", 0, "--out", tmp_path / "out")
        broken = tool(*words)
        assert broken.returncode == 2
        assert "stay unanswered" in broken.stderr
        assert not (tmp_path / "out").exists()
        endpoint.answer = answer_all
        assert tool(*words).returncode == 0
        assert Counter(map(last_words, endpoint.answered)) == {row["instruction"]: 1 for row in QUESTIONS}


@pytest.mark.full
def test_a_run_killed_twenty_times_ends_in_the_same_bytes_and_asks_nothing_twice(tool, tmp_path):
    rows = [question(f"q{index:02d}", domain="math", answer="4") for index in range(40)]
    tasks = write_tasks(tmp_path / "questions", rows)

    def slowly(body):
        time.sleep(0.02 + sample_of(body) % 5 / 100)
        return by_seed(body)

    with Endpoint(slowly) as endpoint:
        words = [
            *("answers", "--tasks", tasks, *endpoint.flags, "--samples", 8, "--filter", "llm", "--concurrency", 4),
            *("--retries", 2, "--request-timeout", 30, "--out"),
        ]
        whole = tmp_path / "whole" / "out"
        assert tool(*words, whole).returncode == 0
        endpoint.requests.clear()
        endpoint.answered.clear()
        chance = random.Random(7)
        out = tmp_path / "killed" / "out"
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        kills = finished = 0
        for _ in range(20):
            run = subprocess.Popen([str(word) for word in [*words, out]], env=environment, stderr=subprocess.DEVNULL)
            if chance.random() < 0.7:
                # How long a start takes depends on the machine; these kills fall after it.
                seen = len(endpoint.requests)
                while len(endpoint.requests) == seen and run.poll() is None:
                    time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.4))
            run.send_signal(signal.SIGKILL)
            kills += run.wait() == -signal.SIGKILL
            finished += out.exists()
            stored = keys_in(tmp_path / "killed" / "out.work" / "replies")
            assert len(stored) == len(set(stored))
        assert kills >= 10
        assert finished == 0
        last = len(stored)
        before = len(endpoint.answered)
        assert 0 < last <= before
        done = tool(*words, out)
        assert done.returncode == 0, done.stderr
        facts = open_artifact(out).provenance()
    assert facts["replies_kept_before"] == last
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "provenance.json"} == {
        path.name: path.read_bytes() for path in whole.iterdir() if path.name != "provenance.json"
    }
    # At most the four requests under way at each kill were asked again: their answers had not been stored yet.
    again = Counter(json.dumps(body, sort_keys=True) for body in endpoint.requests)
    assert sum(again.values()) - len(again) <= 4 * 20


def keys_in(folder: Path) -> list[str]:
    """Return the keys of the replies that are stored whole."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
    return [json.loads(line)["key"] for line in lines]
