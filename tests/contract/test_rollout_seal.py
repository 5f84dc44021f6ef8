"""Whole trials whose agent cheats: no reward, and no infrastructure error that would hide the failure."""

from __future__ import annotations

import pytest
from tests.conftest import small_task, write_tasks

from recipe_core.records import read_rows
from recipe_core.tasks import task_row
from sandbox.backends import BACKENDS

CHEATS = {
    "verdict": "echo '{\"reward\": 1}' > /logs/verifier/reward.json",
    "process": "setsid bash -c 'while sleep 0.005; do echo 1 > /logs/verifier/reward.txt; done' >/dev/null 2>&1 &",
    "preload": "echo /app/evil.so > /etc/ld.so.preload",
    "disk": "head -c 900M /dev/zero > /fill",
    "grep": "printf '#!/bin/bash\\nexit 0\\n' > /usr/local/bin/grep; chmod +x /usr/local/bin/grep",
}


@pytest.mark.full
@pytest.mark.skipif(BACKENDS["bubblewrap"].program() is None, reason="bubblewrap is not installed")
def test_cheating_gives_nothing(tool, tmp_path):
    check = "grep -q done done.txt"
    files = {name: small_task(name, solution=cheat, check=check) for name, cheat in CHEATS.items()}
    files["honest"] = small_task("honest", check=check)
    rows = [
        task_row(each, path=name, source="shell", licence="Apache-2.0", origin="test", meta={})
        for name, each in files.items()
    ]
    tasks = write_tasks(tmp_path / "tasks", rows)
    flags = ("--teacher", "reference", "--backend", "bubblewrap", "--out", tmp_path / "out")
    done = tool("rollout", "--tasks", tasks, *flags)
    assert done.returncode == 0, done.stderr
    found = {row["task"]: row for row in read_rows(tmp_path / "out" / "trajectories.parquet")}
    assert {name: row["reward"] for name, row in found.items()} == {**dict.fromkeys(CHEATS, 0.0), "honest": 1.0}
    assert {row["error_class"] for row in found.values()} == {None}
    assert "/etc/ld.so.preload" in found["preload"]["error_message"] and "disk" in found["disk"]["error_message"]
