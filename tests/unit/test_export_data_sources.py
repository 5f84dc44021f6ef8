from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from export_data.sources import MOST_ORIGINS, Said, Tally, Tasks, tally_tasks, tally_trajectories
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, write_rows


def task(name: str, source: str = "a", licence: str | None = "MIT", split: object = "train") -> dict:
    meta = json.dumps({"split": split, "inner": {"split": "no"}})
    names = {"task_id": name, "path": name, "task_binary": b"x", "source": source, "instruction": "do"}
    return {**names, "licence": licence, "origin": f"page {name}", "meta": meta}


@given(st.permutations([f"origin {number}" for number in range(9)]))
def test_origins_are_few_and_do_not_depend_on_the_order(origins: list[str]):
    tally = Tally()
    for origin in origins:
        tally.add("a", Said("MIT", origin, "train"))
    assert tally.origin("a", "MIT") == "origin 0; origin 1; origin 2; and others"
    assert len(tally.origins["a", "MIT"]) == MOST_ORIGINS + 1
    assert tally.rows == {("a", "MIT"): 9}


def test_tasks_are_counted_by_source_licence_and_split(tmp_path: Path):
    rows = [task("1"), task("2"), task("3", "b", "MIT"), task("4", "b", None), {**task("5", "b"), "meta": "not JSON"}]
    write_rows(tmp_path / "tasks.parquet", TASK_SCHEMA, rows)
    tally = tally_tasks(tmp_path / "tasks.parquet")
    assert tally.rows == {("a", "MIT"): 2, ("b", "MIT"): 2, ("b", ""): 1}
    assert tally.licences() == {"MIT": 4, "": 1}
    assert tally.splits == {"train": 4, "": 1}
    assert tally.origin("a", "MIT") == "page 1; page 2"


def test_trajectories_take_what_their_own_task_says(tmp_path: Path):
    write_rows(tmp_path / "tasks.parquet", TASK_SCHEMA, [task("1"), task("2", licence="BSD-3-Clause", split="test")])
    # A later step has the same tasks, and one more.
    write_rows(tmp_path / "more.parquet", TASK_SCHEMA, [task("2", licence="wrong"), task("3")])
    tasks = Tasks()
    for name in ("tasks.parquet", "more.parquet"):
        tasks.read(tmp_path / name)
    runs = [{"task_id": name, "source": "a"} for name in ("1", "1", "2", "3")]
    write_rows(tmp_path / "runs.parquet", TRAJECTORY_SCHEMA, runs)
    tally = tally_trajectories(tmp_path / "runs.parquet", tasks)
    assert tally.rows == {("a", "MIT"): 3, ("a", "BSD-3-Clause"): 1}
    assert tally.splits == {"train": 3, "test": 1}
    assert tally.origin("a", "BSD-3-Clause") == "page 2"


def test_a_trajectory_of_no_known_task_takes_what_its_source_says(tmp_path: Path):
    write_rows(tmp_path / "tasks.parquet", TASK_SCHEMA, [task("1"), task("2", licence="BSD-3-Clause")])
    tasks = Tasks()
    tasks.read(tmp_path / "tasks.parquet")
    assert tasks.said(None, "a") == Said("BSD-3-Clause; MIT", "page 1; page 2", "train")
    assert tasks.said("unknown", "elsewhere") == Said("", "", "")
