"""The command line of report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, write_rows

PARTS = {
    "stages": {"stage", "key", "digest", "tier", "rows_in", "rows_out", "dropped", "seconds"},
    "scores": {"model", "source", "n_tasks", "attempts", "pass_at_1", "ci95", "infra_errors"},
    "deltas": {"from", "to", "diff", "ci95"},
}


def trial(index: int, reward: float | None, attempt: int = 0) -> dict:
    error = "infrastructure" if reward is None else None
    messages = [{"role": "user", "content": "Task Description:\nDo it.\n"}, {"role": "assistant", "content": "no JSON"}]
    return {
        **dict.fromkeys(TRAJECTORY_SCHEMA.names),
        "task_id": f"t{index}",
        "source": "shell",
        "attempt": attempt,
        "reward": reward,
        "error_class": error,
        "model": "student",
        "conversations": messages,
        "turns": 1,
    }


def evaluation(out: Path, label: str, rewards: list[float | None]) -> Path:
    score = {"source": "all", "n_tasks": 2, "attempts": 1, "pass_at_1": 0.5, "ci95": [0.1, 0.9], "infra_errors": 0}
    with ArtifactWriter(
        out, stage="evaluate", params={"label": label}, seed=0, inputs={}, tier="T2", package=[]
    ) as writer:
        rows = [trial(index, reward) for index, reward in enumerate(rewards)]
        write_rows(writer.path("trials.parquet"), TRAJECTORY_SCHEMA, rows)
        writer.path("scores.json").write_text(json.dumps({"scores": [{**score, "method": "wilson"}]}))
        writer.count(rows_in=len(rows), rows_out=len(rows))
    return out


@pytest.fixture
def steps(tmp_path: Path) -> list[str]:
    """The flags for a recipe with a mix and three evaluations."""
    with ArtifactWriter(tmp_path / "mix0", stage="mix", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("tasks.parquet"), TASK_SCHEMA, [])
        writer.count(rows_in=9, rows_out=6, dropped={"duplicate": 3})
    found = {
        "mix/train": tmp_path / "mix0",
        "evaluate/rl": evaluation(tmp_path / "e3", "rl", [1.0, 1.0, 1.0, None]),
        "evaluate/base": evaluation(tmp_path / "e1", "base", [0.0, 0.0, 0.0, 0.0]),
        "evaluate/sft": evaluation(tmp_path / "e2", "sft", [0.0, 1.0, 0.0, 1.0]),
    }
    return [word for name, folder in found.items() for word in ("--artifact", f"{name}={folder}")]


def test_help_has_an_example_and_every_flag(tool):
    shown = tool("report", "--help")
    assert shown.returncode == 0
    for text in ("    report --artifact", "report show", "--out", "--seed", "--quiet"):
        assert text in shown.stdout


def test_the_summary_has_exactly_the_promised_parts(tool, steps, tmp_path):
    done = tool("report", *steps, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary.keys() == PARTS.keys()
    for part, keys in PARTS.items():
        assert summary[part]
        assert all(entry.keys() == keys for entry in summary[part])
    mix = summary["stages"][0]
    assert (mix["stage"], mix["key"], mix["tier"], mix["rows_in"], mix["rows_out"]) == ("mix/train", "mix0", "T0", 9, 6)
    assert mix["dropped"] == {"duplicate": 3}
    assert mix["digest"] == open_artifact(tmp_path / "mix0").digest
    assert [score["model"] for score in summary["scores"]] == ["base", "sft", "rl"]
    deltas = {(delta["from"], delta["to"]): delta for delta in summary["deltas"]}
    assert list(deltas) == [("base", "sft"), ("sft", "rl"), ("base", "rl")]
    assert deltas["base", "sft"]["diff"] == 0.5
    # The task that failed outside the model is not compared.
    assert deltas["sft", "rl"]["diff"] == pytest.approx(2 / 3)
    assert "pass@1" in done.stdout
    assert str(tmp_path / "out" / "index.html") in done.stdout


def test_a_rerun_is_a_no_op_and_another_folder_gets_the_same_bytes(tool, steps, tmp_path):
    for _ in range(2):
        done = tool("report", *steps, "--quiet", "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    assert "up to date" in done.stderr
    tool("report", *steps, "--quiet", "--out", tmp_path / "again")
    for name in ("summary.json", "index.html", "manifest.json"):
        assert file_digest(tmp_path / "out" / name) == file_digest(tmp_path / "again" / name)


def test_show_prints_the_table_again(tool, steps, tmp_path):
    first = tool("report", *steps, "--out", tmp_path / "out")
    shown = tool("report", "show", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == first.stdout


def test_a_recipe_without_evaluations_has_a_report(tool, steps, tmp_path):
    done = tool("report", *steps[:2], "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["scores"] == []


def broken(folder: Path, name: str, content: str) -> None:
    """Replace a file by another of the same size, so that it is its content that is found to be wrong."""
    path = folder / name
    path.write_text(content.ljust(path.stat().st_size))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--artifact", "mix={mix}", "--out", "{out}"], "is not stage/step=DIR"),
        (["--artifact", "mix/a={mix}", "--artifact", "mix/a={mix}", "--out", "{out}"], "names mix/a twice"),
        (["--artifact", "mix/a={tmp}/nowhere", "--out", "{out}"], "no artifact here"),
        (["--artifact", "evaluate/a={e1}", "--artifact", "evaluate/b={e1}", "--out", "{out}"], "both labelled base"),
        (["--out", "{out}"], "required: --artifact"),
        (["--artifact", "mix/a={mix}", "--loud", "--out", "{out}"], "--loud"),
        (["show", "{tmp}/nowhere"], "build the recipe first"),
    ],
)
def test_bad_input_is_one_line(tool, steps, tmp_path, words, expected):
    places = {"mix": tmp_path / "mix0", "e1": tmp_path / "e1", "tmp": tmp_path, "out": tmp_path / "out"}
    done = tool("report", *(word.format(**places) for word in words))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
    assert not (tmp_path / "out").exists()


DAMAGE = [("scores.json", "{}", "not the scores of an evaluation"), ("trials.parquet", "junk", "not a Parquet file")]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage[0])
def test_damaged_evaluations_are_one_line(tool, steps, tmp_path, damage):
    name, content, expected = damage
    broken(tmp_path / "e1", name, content)
    done = tool("report", *steps, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
    assert not (tmp_path / "out").exists()
