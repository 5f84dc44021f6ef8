"""The command lines of the tools that only move data: mix, filter-length, upsample, filter-turns."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, read_rows, write_rows

MIX = ("mix", "--tasks")
LENGTH = ("filter-length", "--min", "3", "--tasks")
UPSAMPLE = ("upsample", "--column", "instruction_chars", "--rows", "40", "--tasks")
TURNS = ("filter-turns", "--min-turns", "2", "--trajectories")


def write_artifact(out: Path, name: str, schema, rows: list[dict]) -> Path:
    with ArtifactWriter(out, stage="rollout", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path(name), schema, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


def task(index: int, source: str, **changes) -> dict:
    return {
        "task_id": f"{source}-{index:03d}",
        "path": f"{source}/{index}",
        "task_binary": bytes(index + 1),
        "source": source,
        "instruction": "word " * (index + 1),
        "licence": "Apache-2.0",
        "origin": "test",
        "meta": json.dumps({"tokens": index}),
        **changes,
    }


def trajectory(index: int, turns: int, **changes) -> dict:
    row = dict.fromkeys(TRAJECTORY_SCHEMA.names)
    messages = [{"role": role, "content": str(turn)} for turn in range(turns) for role in ("user", "assistant")]
    return {**row, "task_id": f"t{index}", "conversations": messages, "turns": turns, "reward": 1.0, **changes}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """One artifact for each tool's input flag."""
    tasks = write_artifact(tmp_path / "tasks", "tasks.parquet", TASK_SCHEMA, [task(i, "shell") for i in range(6)])
    rows = [trajectory(i, turns=i) for i in range(5)]
    traces = write_artifact(tmp_path / "traces", "trajectories.parquet", TRAJECTORY_SCHEMA, rows)
    return {"mix": tasks, "filter-length": tasks, "upsample": tasks, "filter-turns": traces}


COMMANDS = [MIX, LENGTH, UPSAMPLE, TURNS]
METHODS = {"mix": ("--method", "concatenate", "--rows", "4")}


def command(words: tuple[str, ...], source: Path, out: Path) -> list[object]:
    return [*words, source, *METHODS.get(words[0], ()), "--out", out]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
class TestEveryTool:
    def test_help_has_an_example_and_every_flag(self, words, tool):
        shown = tool(words[0], "--help")
        assert shown.returncode == 0
        assert f"    {words[0]} --" in shown.stdout
        assert "--out" in shown.stdout
        assert "--seed" in shown.stdout

    def test_counts_add_up_and_rejects_are_kept(self, words, tool, inputs, tmp_path):
        done = tool(*command(words, inputs[words[0]], tmp_path / "out"))
        assert done.returncode == 0, done.stderr
        artifact = open_artifact(tmp_path / "out")
        (name,) = [name for name in artifact.manifest["files"] if name != "rejects.parquet"]
        kept = pq.read_table(artifact.data(name))
        dropped = "rejects.parquet" in artifact.manifest["files"]
        reasons = pq.read_table(artifact.data("rejects.parquet")).column("reason").to_pylist() if dropped else []
        assert artifact.manifest["rows_out"] == kept.num_rows > 0
        assert artifact.manifest["rows_in"] == kept.num_rows + len(reasons)
        assert artifact.manifest["dropped"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
        assert artifact.manifest["tier"] == "T0"

    def test_a_rerun_is_a_no_op(self, words, tool, inputs, tmp_path):
        line = command(words, inputs[words[0]], tmp_path / "out")
        assert tool(*line).returncode == 0
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        again = tool(*line)
        assert again.returncode == 0
        assert "up to date" in again.stderr
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before

    def test_an_unknown_flag_is_one_line_and_code_2(self, words, tool, inputs, tmp_path):
        done = tool(*command(words, inputs[words[0]], tmp_path / "out"), "--nonsense")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "--nonsense" in done.stderr

    @pytest.mark.parametrize("damage", ["truncated", "not parquet", "missing file", "no artifact"])
    def test_a_damaged_input_is_one_line_and_leaves_nothing(self, words, damage, tool, inputs, tmp_path):
        source = inputs[words[0]]
        (data,) = source.glob("*.parquet")
        if damage == "truncated":
            data.write_bytes(data.read_bytes()[:-30])
        elif damage == "not parquet":
            data.write_bytes(bytes(data.stat().st_size))
        elif damage == "missing file":
            data.unlink()
        else:
            source = tmp_path / "nowhere"
        done = tool(*command(words, source, tmp_path / "out"))
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert str(source) in done.stderr
        assert not list(tmp_path.glob("out*"))

    def test_it_starts_fast_and_without_torch(self, words, tool):
        done = tool(words[0], "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
        assert "torch" not in done.stderr
        microseconds = sum(
            int(line.split("|")[0].removeprefix("import time:"))
            for line in done.stderr.splitlines()
            if line.startswith("import time:") and "[us]" not in line
        )
        assert microseconds < 1_000_000


@pytest.mark.parametrize("words", [LENGTH, TURNS], ids=lambda words: words[0])
def test_a_filter_of_no_rows_gives_no_rows(words, tool, tmp_path):
    schema, name = (TRAJECTORY_SCHEMA, "trajectories.parquet") if words is TURNS else (TASK_SCHEMA, "tasks.parquet")
    empty = write_artifact(tmp_path / "empty", name, schema, [])
    done = tool(*words, empty, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest["rows_out"] == 0


def test_a_mix_of_no_rows_is_refused(tool, tmp_path):
    empty = write_artifact(tmp_path / "empty", "tasks.parquet", TASK_SCHEMA, [])
    done = tool("mix", "--tasks", empty, "--rows", 4, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "no rows in any input" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.parametrize("method", ["shares", "weights", "round-robin", "concatenate"])
def test_a_mix_is_the_same_however_its_inputs_are_ordered_and_cut(method, tool, tmp_path):
    rows = [task(i, source) for source, n in (("a", 9), ("b", 4), ("c", 20)) for i in range(n)]
    digests = set()
    for seed in range(3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        cut = 5 + 7 * seed
        shards = [
            write_artifact(tmp_path / f"{method}{seed}{half}", "tasks.parquet", TASK_SCHEMA, part)
            for half, part in enumerate((shuffled[:cut], shuffled[cut:]))
        ]
        weights = ("--weights", "a=1,b=1,c=2") if method == "weights" else ()
        out = tmp_path / f"out{seed}"
        done = tool("mix", "--tasks", *shards, "--method", method, *weights, "--rows", 15, "--out", out)
        assert done.returncode == 0, done.stderr
        digests.add((file_digest(out / "tasks.parquet"), file_digest(out / "rejects.parquet")))
    assert len(digests) == 1


def test_mix_drops_duplicates_whatever_source_they_claim_and_reports_a_shortfall(tool, tmp_path):
    first = write_artifact(tmp_path / "1", "tasks.parquet", TASK_SCHEMA, [task(i, "a") for i in range(4)])
    twins = [task(i, "b", task_id=f"a-{i:03d}") for i in range(2)] + [task(9, "b")]
    second = write_artifact(tmp_path / "2", "tasks.parquet", TASK_SCHEMA, twins)
    done = tool("mix", "--tasks", first, second, "--method", "shares", "--rows", 6, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "b is 2 rows short" in done.stderr
    manifest = open_artifact(tmp_path / "out").manifest
    assert manifest["dropped"] == {"duplicate": 2, "not-drawn": 1}
    assert manifest["rows_out"] == 4


def test_mix_repeats_a_small_source_on_demand(tool, tmp_path):
    source = write_artifact(tmp_path / "1", "tasks.parquet", TASK_SCHEMA, [task(i, "a") for i in range(3)])
    out = tmp_path / "out"
    done = tool("mix", "--tasks", source, "--rows", 7, "--with-replacement", "--out", out)
    assert done.returncode == 0, done.stderr
    ids = [row["task_id"] for row in read_rows(out / "tasks.parquet")]
    assert len(ids) == 7
    assert {ids.count(task_id) for task_id in set(ids)} == {2, 3}


def test_mix_draws_from_the_first_sources_of_an_order_or_a_rank(tool, tmp_path):
    rows = [task(i, source) for source in "abc" for i in range(4)] + [task(0, "a", task_id="c-000")]
    tasks = write_artifact(tmp_path / "tasks", "tasks.parquet", TASK_SCHEMA, rows)
    ranked = tmp_path / "ranked"
    with ArtifactWriter(ranked, stage="rank", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        writer.path("rank.json").write_text('{"order": ["c", "b", "a"]}')
        writer.count(rows_in=None, rows_out=3)
    for out, words in (("order", ["--order", "c,b"]), ("rank", ["--rank", ranked])):
        line = ("--method", "shares", "--rows", 5, "--top", 2, *words, "--out", tmp_path / out)
        done = tool("mix", "--tasks", tasks, *line)
        assert done.returncode == 0, done.stderr
    assert file_digest(tmp_path / "order" / "tasks.parquet") == file_digest(tmp_path / "rank" / "tasks.parquet")
    drawn = [row["source"] for row in read_rows(tmp_path / "order" / "tasks.parquet")]
    assert (drawn.count("c"), drawn.count("b")) == (3, 2)
    assert open_artifact(tmp_path / "rank").manifest["inputs"]["rank"] == open_artifact(ranked).digest
    made = open_artifact(tmp_path / "order").manifest
    assert made["dropped"] == {"not-drawn": 3, "not-in-top": 5}
    assert made["parameters"]["order"] == ["c", "b"]


def test_mix_keeps_columns_beyond_those_of_a_task(tool, tmp_path):
    import pyarrow as pa

    wider = TASK_SCHEMA.append(pa.field("difficulty", pa.int64()))
    first = write_artifact(tmp_path / "1", "tasks.parquet", wider, [task(0, "a", difficulty=5)])
    second = write_artifact(tmp_path / "2", "tasks.parquet", TASK_SCHEMA, [task(0, "b")])
    assert tool("mix", "--tasks", first, second, "--rows", 2, "--out", tmp_path / "out").returncode == 0
    rows = {row["task_id"]: row["difficulty"] for row in read_rows(tmp_path / "out" / "tasks.parquet")}
    assert rows == {"a-000": 5, "b-000": None}


@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["mix", "--method", "shares"], "needs --rows"),
        (["mix", "--method", "weights", "--rows", 2], "--weights belongs to"),
        (["mix", "--method", "weights", "--rows", 2, "--weights", "shel=1"], "did you mean 'shell'"),
        (["mix", "--method", "weights", "--rows", 2, "--weights", "shell=-1"], "'shell=-1' is not name=weight"),
        (["mix", "--method", "round-robin", "--rows", 2, "--with-replacement"], "--with-replacement belongs to"),
        (["mix", "--rows", 2, "--order", "shel"], "'shel', which is no source of the inputs; did you mean 'shell'"),
        (["mix", "--rows", 2, "--order", "shell,shell"], "with each name once"),
        (["mix", "--rows", 2, "--top", 1], "give --order or --rank"),
        (["mix", "--rows", 0], "'0' is not a whole number"),
        (["filter-length"], "nothing to filter by"),
        (["filter-length", "--keep", "longest"], "--keep needs --rows or --fraction"),
        (["filter-length", "--keep", "longest", "--rows", 1, "--fraction", "0.5"], "give one of them"),
        (["filter-length", "--keep", "longest", "--fraction", "1.5"], "'1.5' is not a fraction"),
        (["filter-length", "--min", 5, "--max", 4], "--min 5 is above --max 4"),
        (["filter-length", "--min", 5, "--column", "meta.token"], "did you mean 'meta.tokens'"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(flags, message, tool, inputs, tmp_path):
    name, *rest = flags
    done = tool(name, "--tasks", inputs[name], *rest, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_an_unknown_error_class_names_the_nearest(tool, inputs, tmp_path):
    done = tool(*TURNS, inputs["filter-turns"], "--drop-errors", "timeouts", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "did you mean 'timeout'" in done.stderr


def test_filter_length_keeps_the_value_of_what_it_drops(tool, inputs, tmp_path):
    line = ("--column", "meta.tokens", "--keep", "longest", "--rows", 2, "--out", tmp_path / "out")
    assert tool("filter-length", "--tasks", inputs["filter-length"], *line).returncode == 0
    kept = [row["task_id"] for row in read_rows(tmp_path / "out" / "tasks.parquet")]
    dropped = {row["task_id"]: row["value"] for row in read_rows(tmp_path / "out" / "rejects.parquet")}
    assert kept == ["shell-004", "shell-005"]
    assert dropped == {f"shell-{i:03d}": float(i) for i in range(4)}


def test_filter_turns_counts_each_reason(tool, tmp_path):
    rows = [
        trajectory(0, turns=6),
        trajectory(1, turns=6, error_class="infrastructure", reward=None),
        trajectory(2, turns=6, trace_source="summarization-1-summary"),
        trajectory(3, turns=6, error_class="timeout", reward=0.0),
        trajectory(4, turns=6, reward=0.0),
        trajectory(5, turns=4),
    ]
    traces = write_artifact(tmp_path / "in", "trajectories.parquet", TRAJECTORY_SCHEMA, rows)
    done = tool(
        *("filter-turns", "--trajectories", traces, "--min-turns", 5, "--outcome", "success"),
        *("--drop-errors", "timeout,parse", "--drop-subagents", "--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    dropped = {row["task_id"]: row["reason"] for row in read_rows(tmp_path / "out" / "rejects.parquet")}
    assert dropped == {
        "t1": "infrastructure",
        "t2": "subagent",
        "t3": "timeout",
        "t4": "not-solved",
        "t5": "too-few-turns",
    }
    assert list(read_rows(tmp_path / "out" / "trajectories.parquet")) == rows[:1]


@pytest.mark.full
def test_filter_turns_keeps_a_budget_whatever_the_order_of_its_rows(tool, tmp_path):
    ids = {"prompt_token_ids": [[1, 2]], "completion_token_ids": [[3]]}
    rows = [trajectory(i, turns=2 + i % 3, **ids) for i in range(20)] + [
        trajectory(20, 5, error_class="infrastructure")
    ]
    kept: dict[str, set[str]] = {}
    for order, shuffled in (("one", rows), ("other", rows[::-1])):
        traces = write_artifact(tmp_path / order, "trajectories.parquet", TRAJECTORY_SCHEMA, shuffled)
        for name, flags, reasons in (
            ("recorded", ["--tokens", 32], {"infrastructure": 1, "over-budget": 10}),
            ("words", ["--tokens", 32, "--tokenizer", "words"], None),
            ("rows", ["--rows", 5, "--min-turns", 3], {"infrastructure": 1, "over-budget": 8, "too-few-turns": 7}),
        ):
            out = tmp_path / f"{order}-{name}"
            done = tool("filter-turns", "--trajectories", traces, *flags, "--out", out)
            assert done.returncode == 0, done.stderr
            found = {row["task_id"] for row in read_rows(out / "trajectories.parquet")}
            assert kept.setdefault(name, found) == found
            assert reasons is None or open_artifact(out).manifest["dropped"] == reasons
    done = tool("filter-turns", "--trajectories", tmp_path / "one", "--tokens", 90, "--out", tmp_path / "all")
    assert done.stderr == (
        "filter-turns: 20 of 20 rows, 60 of 90 tokens\n"
        "filter-turns: the budget is not used up: there are no more rows\n"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens", 9, "--rows", 9], "give one of them"),
        (["--tokenizer", "words"], "--tokenizer decides nothing without --tokens"),
        (["--tokens", 9, "--tokenizer", "qwen"], "qwen: no such tokenizer"),
        (["--tokens", 9], "has no recorded token ids; give --tokenizer words"),
        (["--tokens", 1, "--tokenizer", "words"], "--tokens 1 is below the"),
        (["--tokens", 0], "'0' is not a whole number"),
    ],
)
def test_a_budget_that_makes_no_sense_is_one_line(flags, message, tool, inputs, tmp_path):
    done = tool(*TURNS, inputs["filter-turns"], *flags, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_upsampled_tasks_say_how_often_they_are_tried(tool, inputs, tmp_path):
    done = tool(*command(UPSAMPLE, inputs["upsample"], tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    rows = list(read_rows(tmp_path / "out" / "tasks.parquet", ["task_id", "instruction", "attempts"]))
    assert sum(row["attempts"] for row in rows) == 40
    by_length = sorted(rows, key=lambda row: len(row["instruction"]))
    assert [row["attempts"] for row in by_length] == sorted(row["attempts"] for row in rows)
    assert by_length[0]["attempts"] >= 1 < by_length[-1]["attempts"]


def test_upsampling_to_fewer_rows_than_tasks_is_one_line(tool, inputs, tmp_path):
    done = tool("upsample", "--column", "meta.tokens", "--rows", 5, "--tasks", inputs["mix"], "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == "upsample: error: --rows 5 is below the 6 tasks, of which each gets one; raise it\n"
