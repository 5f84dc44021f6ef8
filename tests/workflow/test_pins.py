"""A data set that is pinned at another commit is fetched again, and no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path("tools/source-tasks/src/source_tasks/sources.lock.json")
# Stands for the hub, which is another machine: it makes the folder that it is told to.
FETCH = '#!/bin/bash\n[ "$1 $2 $3" = "fetch swe-smith --out" ] && mkdir -p "$4" && echo fetched > "$4/data"\n'


@pytest.mark.full
def test_a_data_set_with_a_new_pin_is_fetched_again_and_no_other(tmp_path: Path, tool):
    for name in ("Snakefile", "workflow", "containers", "envs", "tools"):
        target = tmp_path / name
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target)
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "source-tasks").write_text(FETCH)
    (tmp_path / "stub" / "source-tasks").chmod(0o755)

    def fetch() -> str:
        words = ("--profile", "workflow/profiles/local", "--config", "bin=stub", "--", "results/fetch/data/swe-smith")
        done = tool("snakemake", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def pin(name: str) -> None:
        pins = json.loads((tmp_path / LOCK).read_text())
        (tmp_path / LOCK).write_text(json.dumps(pins | {name: "0" * 40}))

    assert "1 of 1 steps (100%) done" in fetch()
    pin("swe-bench-verified")
    assert "Nothing to be done" in fetch()
    pin("swe-smith")
    assert "1 of 1 steps (100%) done" in fetch()
