"""The benchmark of the data tools runs, on few rows, and its figures say what they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venvs" / "data" / "bin" / "python"
CASES = ["mix", "filter-length", "upsample", "dedup-exact", "export-data", "decontaminate"]


@pytest.mark.full
def test_every_figure_has_a_unit_and_bars_are_judged(tmp_path: Path):
    flags = ["--rows", "1000", "--only", *CASES, "--work", tmp_path / "work", "--out", tmp_path / "data.json"]
    command = [PYTHON, ROOT / "benchmarks" / "bench_data.py", *flags]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "data.json").read_text())["figures"]
    assert all(one["unit"] and one["rows"] == 1000 for one in figures)
    judged = {one["name"]: one["met"] for one in figures if one["bar"]}
    assert judged["decontaminate, decisions as by every pair"]
    assert judged["dedup exact, planted found"]
    assert all(judged[f"{name}, memory"] for name in ("mix", "filter-length", "upsample", "export-data"))
    assert all(one["met"] is None for one in figures if not one["bar"])
    assert "dedup exact" in done.stdout
