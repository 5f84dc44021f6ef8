"""The command line of rank."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact
from recipe_core.records import TRAJECTORY_SCHEMA, write_rows
from recipe_core.terms import INFRASTRUCTURE


def evaluation(out: Path, rewards: dict[str, list[float | None]], model: str = "m", **changes) -> Path:
    """Write an evaluation: rewards of one attempt a task by benchmark, None where it failed outside the model."""
    rows = [
        {
            **dict.fromkeys(TRAJECTORY_SCHEMA.names),
            "task_id": f"{source}-{number}",
            "source": source,
            "attempt": 0,
            "reward": reward,
            "error_class": INFRASTRUCTURE if reward is None else None,
            **changes,
        }
        for source, found in rewards.items()
        for number, reward in enumerate(found)
    ]
    with ArtifactWriter(
        out, stage="evaluate", params={"model": model}, seed=0, inputs={}, tier="T2", package=[]
    ) as writer:
        write_rows(writer.path("trials.parquet"), TRAJECTORY_SCHEMA, rows)
        writer.path("scores.json").write_text("{}")
        writer.count(rows_in=len(rows), rows_out=len(rows))
    return out


def rewards(solved: int, of: int = 20) -> list[float | None]:
    return [float(number < solved) for number in range(of)]


@pytest.fixture
def candidates(tmp_path: Path) -> list[str]:
    """Three candidates on two benchmarks; the benchmarks of one are in two artifacts, one has a broken trial."""
    evaluation(tmp_path / "a", {"shell": rewards(15), "maths": rewards(4)})
    evaluation(tmp_path / "b", {"shell": [None, *rewards(15)[1:]], "maths": rewards(3)})
    evaluation(tmp_path / "c1", {"shell": rewards(1)})
    evaluation(tmp_path / "c2", {"maths": rewards(20)})
    return [f"{name}={tmp_path / name}" for name in "ab"] + [f"c={tmp_path / 'c1'},{tmp_path / 'c2'}"]


def test_it_writes_the_order_and_prints_it_for_a_recipe(candidates, tool, tmp_path):
    done = tool("rank", "--candidate", *candidates, "--top", 2, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    artifact = open_artifact(tmp_path / "out")
    result = json.loads(artifact.data("rank.json").read_text())
    assert artifact.manifest["rows_out"] == 3
    assert artifact.manifest["tier"] == "T0"
    assert [row["name"] for row in result["candidates"]] == result["order"]
    assert [row["rank"] for row in result["candidates"]] == [1, 2, 3]
    assert {row["name"]: (row["tasks"], row["excluded_tasks"]) for row in result["benchmarks"]} == {
        "maths": (20, 0),
        "shell": (19, 1),
    }
    assert {row["name"]: row["infra_errors"] for row in result["candidates"]} == {"a": 0, "b": 1, "c": 0}
    lines = done.stdout.splitlines()
    assert lines[-2:] == [f"order: [{', '.join(result['order'])}]", "top: 2"]
    assert "b: 1 trials failed outside the model and are left out" in lines
    assert (
        "shell: 1 tasks left out, at which all attempts of a candidate failed outside the model; 19 are compared"
        in (lines)
    )
    assert "inside the noise" in done.stdout


def test_the_order_of_candidates_and_artifacts_decides_nothing_and_a_rerun_is_a_no_op(candidates, tool, tmp_path):
    line = ["rank", "--candidate", *candidates, "--out", tmp_path / "out"]
    first = tool(*line)
    name, _, folders = candidates[2].partition("=")
    turned = f"{name}={','.join(reversed(folders.split(',')))}"
    other = tool(
        *("rank", "--candidate", turned, "--candidate", candidates[1], candidates[0], "--out", tmp_path / "other")
    )
    assert (first.returncode, other.returncode) == (0, 0)
    assert file_digest(tmp_path / "out" / "manifest.json") == file_digest(tmp_path / "other" / "manifest.json")
    again = tool(*line)
    assert "up to date" in again.stderr
    assert again.stdout == first.stdout == other.stdout


@pytest.mark.full
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=A"], "1 candidate cannot be ranked; give two or more"),
        (["a=A", "a=B"], "'a' is given twice"),
        (["a=A", "b"], "'b' is not NAME=DIR"),
        (["a=A", "b="], "'b=' is not NAME=DIR"),
        (["a=A", "b=B,B"], "candidate 'b' has the same artifact twice"),
        (["a=A", "b=B,OTHER"], "candidate 'b' has artifacts of different models"),
        (["a=A", "b=EMPTY"], "holds no trials; evaluate candidate 'b' first"),
        (["a=A", "b=NULLS"], "row 0 has no task_id or no source"),
        (["a=A", "b=FEWER"], "were evaluated on different tasks of 'shell': 5 only by the first"),
        (["a=A", "b=MATHS"], "candidate 'a' has no trials of 'maths', which 'b' has"),
        (["a=A", "b=BROKEN"], "no task of 'shell' has a valid attempt by every candidate ('b' has one at 0 of 20"),
        (["a=A", "b=CUT"], "truncated or not a Parquet file"),
        (["a=A", "b=NOWHERE"], "no artifact here"),
        (["a=A", "b=TASKS"], "a mix artifact has no trials.parquet"),
        (["a=A", "b=B", "--top", "3"], "--top 3 is more than the 2 candidates"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(words, message, tool, tmp_path):
    evaluation(tmp_path / "A", {"shell": rewards(5)})
    evaluation(tmp_path / "B", {"shell": rewards(4)})
    evaluation(tmp_path / "OTHER", {"shell": rewards(4)}, model="another")
    evaluation(tmp_path / "EMPTY", {})
    evaluation(tmp_path / "NULLS", {"shell": rewards(4)}, source=None)
    evaluation(tmp_path / "FEWER", {"shell": rewards(4, of=15)})
    evaluation(tmp_path / "MATHS", {"shell": rewards(4), "maths": rewards(4)})
    evaluation(tmp_path / "BROKEN", {"shell": [None] * 20})
    trials = evaluation(tmp_path / "CUT", {"shell": rewards(4)}) / "trials.parquet"
    manifest = json.loads((tmp_path / "CUT" / "manifest.json").read_text())
    trials.write_bytes(trials.read_bytes()[:-20])
    manifest["files"]["trials.parquet"]["bytes"] -= 20
    (tmp_path / "CUT" / "manifest.json").write_text(json.dumps(manifest))
    with ArtifactWriter(tmp_path / "TASKS", stage="mix", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        writer.path("tasks.parquet").write_bytes(b"")
        writer.count(rows_in=0, rows_out=0)
    given = [word.replace("=", f"={tmp_path}/").replace(",", f",{tmp_path}/") for word in words]
    given = ["b=" if word == f"b={tmp_path}/" else word for word in given]
    done = tool("rank", "--candidate", *given, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.glob("out*"))


def test_help_is_fast_and_has_an_example(tool):
    shown = tool("rank", "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert shown.returncode == 0
    assert "    rank --candidate " in shown.stdout
    assert all(flag in shown.stdout for flag in ("--candidate", "--top", "--out", "--seed"))
    assert "numpy" not in shown.stderr
    assert "pyarrow" not in shown.stderr
