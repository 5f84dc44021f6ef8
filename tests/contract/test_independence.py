"""What a tool decides depends on the rows alone: not on their order, their shards, hashing, threads or workers."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows, write_rows

pytestmark = pytest.mark.full  # half a minute of commands

TEXT = (
    "sort the file by its second column and write sum of largest numbers to a new text report then count every line "
    "that holds an address in access log remove empty folders below data print names"
)
PROMPTS = [
    "Sort the file by its second column and write the sum of the largest numbers to a new text report, please.",
    "Count every line that holds an address in the access log below /var and print the names of the folders.",
]
ROWS = 700


def texts() -> list[str]:
    """Return instructions of which some are equal, some nearly so, and some share text with a prompt."""
    draw = random.Random(5)
    made: list[str] = []
    for number in range(ROWS):
        text = " ".join(draw.choices(TEXT.split(), k=draw.randint(5, 60)))
        if number % 7 == 0 and made:
            text = draw.choice(made).upper()
        elif number % 5 == 0 and made:
            text = draw.choice(made) + " now"
        elif number % 11 == 0:
            text = draw.choice(PROMPTS)[draw.randint(0, 9) :]
        made.append(text)
    return made


def rows() -> list[dict[str, Any]]:
    """Return more rows than one record batch holds; some ids occur twice, with other origins."""
    made = []
    for number, text in enumerate(texts()):
        task_id = hashlib.sha256(str(number - 1 if number % 90 == 1 else number).encode()).hexdigest()[:16]
        made.append(
            {
                "task_id": task_id,
                "path": task_id,
                "task_binary": bytes(number % 251),
                "source": f"source{number % 3}",
                "instruction": text,
                "licence": "CC0-1.0",
                "origin": f"row {number}",
                "meta": json.dumps({"weight": number % 17}),
            }
        )
    return made


def write(out: Path, part: list[dict[str, Any]], schema: pa.Schema = TASK_SCHEMA) -> Path:
    with ArtifactWriter(out, stage="mix", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("tasks.parquet"), schema, part)
        writer.count(rows_in=None, rows_out=len(part))
    return out


def cut(folder: Path, part: list[dict[str, Any]], shards: int) -> list[Path]:
    """Write the rows as so many artifacts."""
    return [write(folder / f"shard{number}", part[number::shards]) for number in range(shards)]


def decisions(out: Path) -> str:
    """Return one digest over the rows that an artifact keeps and drops, whatever their order."""
    lines = []
    for name in ("tasks.parquet", "rejects.parquet"):
        if (out / name).is_file():
            lines += sorted(f"{name} {sorted(row.items())!r}" for row in read_rows(out / name))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


STEPS = {
    "filter-length": ("filter-length", "--column", "meta.weight", "--keep", "longest", "--rows", 300),
    "filter-length by bounds": ("filter-length", "--min", 50, "--max", 200),
    "dedup exact": ("dedup",),
    "dedup indel": ("dedup", "--method", "indel", "--threshold", 85),
    "dedup minhash": ("dedup", "--method", "minhash", "--threshold", "0.7"),
    "decontaminate": ("decontaminate", "--benchmarks", "PROMPTS"),
    "decontaminate agent": ("decontaminate", "--benchmarks", "PROMPTS", "--method", "agent"),
    "upsample": ("upsample", "--column", "meta.weight", "--rows", 5000),
}


@pytest.mark.parametrize("name", list(STEPS))
def test_decisions_depend_on_neither_the_order_of_rows_nor_hashing_nor_threads(name, tool, tmp_path, benchmark):
    words = [benchmark if word == "PROMPTS" else word for word in STEPS[name]]
    known = {row["task_id"]: row for row in rows()}
    seen = set()
    for run in range(2):
        order = random.Random(run).sample(sorted(known), len(known))
        tasks = write(tmp_path / f"in{run}", [known[task_id] for task_id in order])
        environment = {
            "PYTHONHASHSEED": str(run + 1),
            "OMP_NUM_THREADS": str(run + 1),
            "ARROW_NUM_THREADS": str(run + 1),
        }
        done = tool(*words, "--tasks", tasks, "--out", tmp_path / f"out{run}", env=environment)
        assert done.returncode == 0, done.stderr
        seen.add(decisions(tmp_path / f"out{run}"))
    assert len(seen) == 1
    assert name == "upsample" or 0 < open_artifact(tmp_path / "out0").manifest["rows_out"] < len(known)


@pytest.mark.parametrize("method", ["openthoughts3", "agent"])
def test_one_and_two_workers_write_the_same_bytes(method, tool, tmp_path, benchmark):
    tasks = write(tmp_path / "in", rows())
    flags = ("--tasks", tasks, "--benchmarks", benchmark, "--method", method)
    for workers in (1, 2):
        done = tool("decontaminate", *flags, "--workers", workers, "--out", tmp_path / f"out{workers}")
        assert done.returncode == 0, done.stderr
    one, two = (open_artifact(tmp_path / f"out{workers}") for workers in (1, 2))
    assert one.digest == two.digest
    assert one.manifest["rows_out"] < ROWS


MIXES = {
    "shares": ("--method", "shares", "--rows", 200),
    "weights": (
        "--method",
        "weights",
        "--rows",
        900,
        "--weights",
        "source0=2,source1=1,source2=1",
        "--with-replacement",
    ),
    "round-robin": ("--method", "round-robin", "--rows", 250, "--cap", 90),
    "concatenate": ("--method", "concatenate"),
}


@pytest.mark.parametrize("name", list(MIXES))
def test_a_mix_of_one_and_of_seven_shards_in_any_order_is_the_same_to_the_byte(name, tool, tmp_path):
    seen = set()
    for run, shards in enumerate((1, 7)):
        part = random.Random(run).sample(rows(), ROWS)
        inputs = cut(tmp_path / f"in{run}", part, shards)
        environment = {"PYTHONHASHSEED": str(run + 1), "ARROW_NUM_THREADS": str(run + 1)}
        done = tool("mix", "--tasks", *inputs, *MIXES[name], "--out", tmp_path / f"out{run}", env=environment)
        assert done.returncode == 0, done.stderr
        seen.add(tuple(file_digest(tmp_path / f"out{run}" / name) for name in ("tasks.parquet", "rejects.parquet")))
    assert len(seen) == 1


def test_a_mix_larger_than_memory_is_the_same_to_the_byte(tmp_path, monkeypatch):
    from mix import __main__ as command
    from mix import rows as mixed

    inputs = cut(tmp_path / "in", rows(), 2)
    scored = [{**row, "task_id": f"scored-{row['task_id']}", "score": 0.5} for row in rows()[:300]]
    inputs.append(write(tmp_path / "scored", scored, TASK_SCHEMA.append(pa.field("score", pa.float64()))))
    flags = ["--tasks", *map(str, inputs), "--method", "concatenate", "--out"]
    command.main([*flags, str(tmp_path / "out0")])
    monkeypatch.setattr(mixed, "rows_held", lambda paths: 40)
    command.main([*flags, str(tmp_path / "out1")])
    assert not list(tmp_path.glob("out1/parts-*"))
    assert open_artifact(tmp_path / "out0").digest == open_artifact(tmp_path / "out1").digest


@pytest.mark.parametrize("name", ["dedup exact", "dedup minhash", "decontaminate", "filter-length"])
def test_what_seven_shards_are_mixed_into_is_decided_as_one_shard(name, tool, tmp_path, benchmark):
    words = [benchmark if word == "PROMPTS" else word for word in STEPS[name]]
    seen = set()
    for run, shards in enumerate((1, 7)):
        inputs = cut(tmp_path / f"in{run}", random.Random(run).sample(rows(), ROWS), shards)
        mixed, out = tmp_path / f"mix{run}", tmp_path / f"out{run}"
        assert tool("mix", "--tasks", *inputs, "--method", "concatenate", "--out", mixed).returncode == 0
        assert tool(*words, "--tasks", mixed, "--out", out).returncode == 0
        seen.add(tuple(file_digest(out / name) for name in ("tasks.parquet", "rejects.parquet")))
    assert len(seen) == 1
