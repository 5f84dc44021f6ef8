from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile, check_task, pack_files, read_files, read_folder, task_id, task_row, unpack

paths = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.txt", fullmatch=True)
task_files = st.dictionaries(
    paths, st.builds(TaskFile, st.binary(max_size=200), st.sampled_from([0o644, 0o755])), min_size=1
)


@given(task_files)
def test_pack_round_trips_and_does_not_depend_on_order(files):
    packed = pack_files(files)
    assert read_files(packed) == files
    assert pack_files(dict(reversed(files.items()))) == packed


@given(task_files, st.integers(0, 0o777))
def test_permissions_beyond_the_executable_bit_decide_nothing(files, mode):
    odd = {path: TaskFile(file.content, (file.mode & 0o100) | (mode & ~0o100)) for path, file in files.items()}
    assert task_id(odd) == task_id(files)
    assert pack_files(odd) == pack_files(files)


@given(task_files)
def test_task_id_sees_content_path_and_mode(files):
    path, file = next(iter(files.items()))
    assert task_id({**files, path: TaskFile(file.content + b"x", file.mode)}) != task_id(files)
    assert task_id({**files, path: TaskFile(file.content, file.mode ^ 0o100)}) != task_id(files)
    assert task_id({**files, "zz/" + path: file}) != task_id(files)


def archive(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.linkname = target
        tar.addfile(member)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("binary", "complaint"),
    [
        (archive("../out.txt"), "leaves the task folder"),
        (archive("a/../../out.txt"), "leaves the task folder"),
        (archive("/etc/passwd"), "leaves the task folder"),
        (archive("link", tarfile.SYMTYPE, "/etc/passwd"), "link or device"),
        (archive("link", tarfile.SYMTYPE, "inside"), "link or device"),
        (archive("hard", tarfile.LNKTYPE, "../x"), "link or device"),
        (archive("null", tarfile.CHRTYPE), "link or device"),
        (b"not an archive", "not a readable tar.gz"),
        (archive("file.txt")[:40], "not a readable tar.gz"),
    ],
)
def test_hostile_archives_are_refused_and_write_nothing(binary: bytes, complaint: str, tmp_path: Path):
    with pytest.raises(BadInput, match=complaint):
        unpack(binary, tmp_path / "task", where="tasks.parquet row 3")
    assert not list(tmp_path.rglob("*.txt"))


def test_refusals_name_the_place():
    with pytest.raises(BadInput, match=r"tasks\.parquet row 3"):
        read_files(archive("/etc/passwd"), where="tasks.parquet row 3")


def test_repeated_members_are_refused():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(BadInput, match="twice"):
        read_files(stream.getvalue())


def test_folder_with_a_link_is_refused(tmp_path: Path):
    (tmp_path / "instruction.md").symlink_to("/etc/hostname")
    with pytest.raises(BadInput, match="plain files"):
        read_folder(tmp_path)


def test_a_task_without_verifier_is_named():
    files = {"instruction.md": TaskFile(b"do it"), "task.toml": TaskFile(b"")}
    with pytest.raises(BadInput, match=r"no verifier \(tests/test.sh is missing\)"):
        check_task(files, "shell-1")


def test_task_row_names_a_task_by_its_content():
    files = {"instruction.md": TaskFile(b"do it\n"), "task.toml": TaskFile(b""), "tests/test.sh": TaskFile(b"", 0o755)}
    row = task_row(files, path="p", source="shell", licence="MIT", origin="here", meta={"b": 1, "a": 2})
    assert row["task_id"] == task_id(files)
    assert row["instruction"] == "do it"
    assert row["meta"] == '{"a": 2, "b": 1}'
    assert read_files(row["task_binary"]) == files
