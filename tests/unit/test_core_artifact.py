from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from recipe_core.artifact import ArtifactWriter, open_artifact, source_digest, work_dir
from recipe_core.errors import BadInput


def writer(out: Path, **changes) -> ArtifactWriter:
    return ArtifactWriter(
        out, **{"stage": "mix", "params": {"rows": 2}, "seed": 1, "inputs": {}, "tier": "T0", "package": [], **changes}
    )


def write(out: Path, text: str = "one", **changes) -> str:
    with writer(out, **changes) as artifact:
        if not artifact.up_to_date:
            artifact.path("data.txt").write_text(text)
            artifact.count(rows_in=3, rows_out=2, dropped={"short": 1, "never": 0})
    return open_artifact(out).digest


def test_digest_depends_on_content_and_not_on_place_or_time(tmp_path: Path):
    first = write(tmp_path / "a")
    time.sleep(0.01)
    assert write(tmp_path / "elsewhere" / "b") == first
    assert write(tmp_path / "c", text="two") != first
    assert write(tmp_path / "d", seed=2) != first
    assert write(tmp_path / "e", params={"rows": 3}) != first


def test_manifest_says_what_was_counted(tmp_path: Path):
    write(tmp_path / "a")
    manifest = open_artifact(tmp_path / "a").manifest
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (3, 2, {"short": 1})
    assert manifest["files"]["data.txt"]["bytes"] == 3
    assert "seconds" in open_artifact(tmp_path / "a").provenance()


def test_counts_that_do_not_add_up_are_a_bug(tmp_path: Path):
    with pytest.raises(ValueError, match="3 rows in"), writer(tmp_path / "a") as artifact:
        artifact.count(rows_in=3, rows_out=1, dropped={"short": 1})
    assert not (tmp_path / "a").exists()


def test_same_step_again_writes_nothing(tmp_path: Path):
    write(tmp_path / "a")
    before = (tmp_path / "a" / "provenance.json").read_text()
    with writer(tmp_path / "a") as artifact:
        assert artifact.up_to_date
    assert (tmp_path / "a" / "provenance.json").read_text() == before


def test_changed_parameters_replace_the_artifact(tmp_path: Path):
    write(tmp_path / "a")
    write(tmp_path / "a", text="two", params={"rows": 9})
    assert (tmp_path / "a" / "data.txt").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_artifact_and_no_half_of_the_new(tmp_path: Path):
    digest = write(tmp_path / "a")
    with pytest.raises(RuntimeError), writer(tmp_path / "a", seed=5) as artifact:
        artifact.path("data.txt").write_text("half")
        raise RuntimeError
    assert open_artifact(tmp_path / "a").digest == digest
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _die_while_writing(out: Path) -> None:
    with writer(out) as artifact:
        artifact.path("data.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_leftovers_of_a_killed_writer_are_removed_by_the_next(tmp_path: Path):
    process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(tmp_path / "a",))
    process.start()
    process.join()
    assert not (tmp_path / "a").exists()
    assert list(tmp_path.glob("a.partial.*"))
    write(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda a: (a / "data.txt").write_text("o"), "truncated"),
        (lambda a: (a / "data.txt").unlink(), "missing though the manifest names it"),
        (lambda a: (a / "manifest.json").write_text("{"), "not an artifact's manifest"),
        (lambda a: (a / "manifest.json").unlink(), "no artifact here"),
    ],
)
def test_damage_is_one_clear_line(damage, complaint: str, tmp_path: Path):
    write(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(BadInput, match=complaint) as error:
        open_artifact(tmp_path / "a")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "a") in str(error.value)


def test_asking_for_another_stage_s_file_says_what_is_there(tmp_path: Path):
    write(tmp_path / "a")
    with pytest.raises(BadInput, match=r"has no tasks\.parquet \(it has data\.txt\)"):
        open_artifact(tmp_path / "a").data("tasks.parquet")


def test_work_outlives_a_failure_and_not_a_change_of_question(tmp_path: Path):
    out = tmp_path / "a"
    (work_dir(out, {"seed": 1}) / "done").touch()
    assert (work_dir(out, {"seed": 1}) / "done").exists()
    assert not (work_dir(out, {"seed": 2}) / "done").exists()


def test_publishing_removes_the_work_folder(tmp_path: Path):
    work_dir(tmp_path / "a", {"seed": 1})
    write(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_source_digest_sees_every_file_and_no_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "some_tool"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = source_digest(["some_tool"])
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert source_digest(["some_tool"]) == first
    (package / "template.txt").write_text("hello")
    assert source_digest(["some_tool"]) != first


def test_manifest_is_canonical_json(tmp_path: Path):
    write(tmp_path / "a")
    text = (tmp_path / "a" / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def test_only_artifacts_are_replaced(tmp_path: Path):
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "sub" / "thesis.txt").write_text("years")
    with pytest.raises(BadInput, match="holds files that are no artifact"):
        write(home)
    assert (home / "sub" / "thesis.txt").read_text() == "years"
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="a file is in the place"):
        write(tmp_path / "file")
    write(tmp_path / "old")
    (tmp_path / "link").symlink_to("old")
    with pytest.raises(BadInput, match="a link; give the folder it points to"):
        write(tmp_path / "link", text="two")
    with pytest.raises(BadInput, match="not a folder's name"):
        write(Path())


def test_an_empty_folder_and_what_a_workflow_left_of_an_artifact_are_replaced(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty") == write(tmp_path / "old")
    (tmp_path / "old" / "manifest.json").unlink()
    assert write(tmp_path / "old") == write(tmp_path / "empty")


def test_somebody_elses_work_folder_is_left_alone(tmp_path: Path):
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "notes.txt").touch()
    with pytest.raises(BadInput, match="holds other files"):
        work_dir(tmp_path / "out", {})
    write(tmp_path / "out")
    assert (tmp_path / "out.work" / "notes.txt").is_file()


@pytest.mark.parametrize(
    "change", [{"files": None}, {"files": []}, {"tier": None}, {"parameters": None}, {"seed": "1"}]
)
def test_a_manifest_of_another_shape_is_one_line(change: dict, tmp_path: Path):
    write(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(BadInput, match="not an artifact's manifest"):
        open_artifact(tmp_path / "out")


def test_other_tools_are_part_of_what_an_artifact_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "bin" / "some-tool"
    tool.parent.mkdir()
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    digests = set()
    for version in ("one", "two"):
        tool.write_text(f"#!/bin/sh\necho {version}\n")
        tool.chmod(0o755)
        digests.add(write(tmp_path / version, commands=["some-tool"]))
    assert len(digests) == 2
    with pytest.raises(BadInput, match="no-tool: not found on PATH"):
        write(tmp_path / "out", commands=["no-tool"])
