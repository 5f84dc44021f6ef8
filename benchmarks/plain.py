"""What the tools are compared with: the same results by short programs that hold every row in memory.

    python plain.py mix OUT TASKS...           every row of all, once a task id, in the order of a seeded hash
    python plain.py filter-length OUT TASKS    the half with the most `response_tokens`
    python plain.py dedup OUT TASKS            one row a normalised text
    python plain.py decontaminate OUT TASKS BENCHMARK...   the task ids that hit, by going through every pair

pyarrow reads and writes; everything between is plain Python on dictionaries. The last also writes the seconds that the
pairs alone took: prompts are normalised, tokenised and cut into sets of grams once, before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def _read(paths: list[Path], columns: list[str] | None = None) -> list[dict[str, Any]]:
    return [row for path in paths for row in pq.read_table(path / "tasks.parquet", columns=columns).to_pylist()]


def _write(out: Path, rows: list[dict[str, Any]], like: Path) -> None:
    schema = pq.read_schema(like / "tasks.parquet")
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / "tasks.parquet", compression="zstd")


def mix(out: Path, tasks: list[Path]) -> None:
    """Write every row of all artifacts once, shuffled."""
    from recipe_core.seeds import row_seed

    rows = {row["task_id"]: row for row in _read(tasks)}
    _write(out, [rows[name] for name in sorted(rows, key=lambda name: (row_seed(0, name), name))], tasks[0])


def filter_length(out: Path, tasks: list[Path]) -> None:
    """Write the longer half."""
    rows = _read(tasks)
    lengths = {row["task_id"]: json.loads(row["meta"])["response_tokens"] for row in rows}
    best = sorted(lengths, key=lambda name: (-lengths[name], name))
    kept = set(best[: len(rows) // 2])
    _write(out, [row for row in rows if row["task_id"] in kept], tasks[0])


def dedup(out: Path, tasks: list[Path]) -> None:
    """Write one row a text, the one with the smallest id."""
    from recipe_core.text import normalise

    first: dict[str, str] = {}
    rows = _read(tasks)
    texts = [normalise(row["instruction"]) for row in rows]
    for row, text in zip(rows, texts, strict=True):
        first[text] = min(first.get(text, row["task_id"]), row["task_id"])
    _write(out, [row for row, text in zip(rows, texts, strict=True) if first[text] == row["task_id"]], tasks[0])


def decontaminate(out: Path, tasks: list[Path]) -> None:
    """Write which ids share 13 tokens with a prompt, or are at least 75 per cent similar to one."""
    from rapidfuzz import fuzz

    from decontaminate.text import gram_length, grams, words
    from recipe_core.text import normalise

    prompts = [json.loads(line)["prompt"] for path in tasks[1:] for line in path.read_text().splitlines()]
    prepared = []
    for prompt in prompts:
        tokens = words(prompt)
        length = gram_length(len(tokens), 13)
        prepared.append((length, set(grams(tokens, length)), normalise(prompt)))
    rows = _read(tasks[:1], ["task_id", "instruction"])
    began, began_cpu = time.perf_counter(), time.process_time()
    hit = []
    for row in rows:
        tokens, text = words(row["instruction"]), normalise(row["instruction"])
        mine = {length: set(grams(tokens, length)) for length in {length for length, _, _ in prepared}}
        if any(not theirs.isdisjoint(mine[length]) for length, theirs, _ in prepared) or any(
            fuzz.ratio(text, prompt) >= 75 for _, _, prompt in prepared
        ):
            hit.append(row["task_id"])
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - began_cpu}
    out.mkdir(parents=True, exist_ok=True)
    (out / "hits.json").write_text(json.dumps({**took, "rows": len(rows), "hits": sorted(hit)}))


if __name__ == "__main__":
    name, out, *inputs = sys.argv[1:]
    made = {"mix": mix, "filter-length": filter_length, "dedup": dedup, "decontaminate": decontaminate}
    made[name](Path(out), [Path(path) for path in inputs])
