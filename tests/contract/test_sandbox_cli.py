"""The command `sandbox`, as a user types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from sandbox.backends import BACKENDS


def sandbox(*words: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sandbox", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_has_an_example():
    done = sandbox("--help")
    assert done.returncode == 0 and "sandbox run -- python3 --version" in done.stdout


@pytest.mark.parametrize(
    "words", [[], ["walk"], ["run"], ["run", "--memory-mb", "0", "--", "true"], ["bench", "-n", "x"]]
)
def test_bad_flags_are_one_line(words):
    done = sandbox(*words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "error:" in done.stderr


def test_run_passes_output_and_code():
    done = sandbox("run", "--", "bash", "-c", "echo out; echo err >&2; exit 5")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 5)


def test_run_in_a_task(tmp_path):
    environment = tmp_path / "environment"
    environment.mkdir()
    (environment / "Dockerfile").write_text("FROM scratch\nWORKDIR /app\nCOPY hello.txt .\n")
    (environment / "hello.txt").write_text("hello\n")
    assert sandbox("run", "--task", tmp_path, "--", "cat", "hello.txt").stdout == "hello\n"
    (environment / "Dockerfile").write_text("FROM scratch\nUSER me\n")
    done = sandbox("run", "--task", tmp_path, "--", "true")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "line 2: USER" in done.stderr


@pytest.mark.full
def test_run_says_when_time_or_a_limit_ends_it():
    done = sandbox("run", "--timeout", 1, "--", "sleep", "20")
    assert done.returncode == 124 and "longer than 1 s" in done.stderr
    hog = "x = bytearray(400 << 20); import time; time.sleep(20)"
    done = sandbox("run", "--memory-mb", 64, "--", "python3", "-c", hog)
    assert done.returncode == 2 and "limit 64 MiB" in done.stderr and done.stderr.count("\n") == 1


def test_doctor_has_a_line_for_each_back_end():
    done = sandbox("doctor")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(BACKENDS)
    without = sandbox("doctor", env={**os.environ, "PATH": "/nonexistent", "SANDBOX_BWRAP": "/nonexistent/bwrap"})
    assert without.returncode == 2 and "install" in without.stdout


def test_bench_prints_percentiles():
    done = sandbox("bench", "-n", 2)
    assert re.search(r"start: p50 [\d.]+ ms, p95 [\d.]+ ms, n=2", done.stdout), done.stderr
