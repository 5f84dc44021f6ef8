"""A full disk is one line and code 2, publishes nothing, and is no end: with space again, the same command finishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.backends import BACKENDS

COMMANDS = {
    "mix": ["--rows", "3"],
    "filter-length": ["--min", "1"],
    "rollout": ["--teacher", "reference", "--date", "2026-01-01"],
}


def on_a_disk_of(size: int, folder: Path) -> list[object]:
    """Return words before a command that let it see a file system of `size` bytes at `folder`."""
    namespace = [BACKENDS["bubblewrap"].require(), "--dev-bind", "/", "/", "--size", size, "--tmpfs", folder]
    # What the command left there is listed, and its code handed on.
    return [*namespace, "--", "sh", "-c", f'"$@"; code=$?; ls -A {folder}; exit $code', "sh"]


@pytest.mark.parametrize("stage", ["mix", "filter-length", pytest.param("rollout", marks=pytest.mark.full)])
def test_a_full_disk_is_one_line(stage: str, tool, tasks_artifact, tmp_path: Path):
    tasks = tasks_artifact(3)
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [stage, "--tasks", tasks, *COMMANDS[stage], "--out", disk / "out"]
    done = tool(*on_a_disk_of(4096, disk), *command)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{stage}: error:")]
    assert len(lines) == 1, done.stderr
    assert "the disk is full" in lines[0] and "run the same command again" in lines[0]
    assert "Traceback" not in done.stderr
    assert "out" not in done.stdout.split()
    roomy = tool(*on_a_disk_of(16 << 20, disk), *command)
    assert roomy.returncode == 0, roomy.stderr
    assert "out" in roomy.stdout.split()
