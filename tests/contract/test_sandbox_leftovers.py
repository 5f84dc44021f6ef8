"""What is left on the host of sandboxes that have ended: no process, no mount, no file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.backends import BACKENDS

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "sandbox_leftovers.py"
NOTHING = {"processes": [], "mounts": [], "files": []}


def left(*flags: object) -> dict[str, list[str]]:
    command = [sys.executable, PROGRAM, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode and "unshare" in done.stderr and os.geteuid() != 0:
        pytest.skip(f"no mount namespace for this user: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["left"]


def test_sandboxes_that_stop_leave_nothing(backend):
    assert left("--backend", backend, "--sandboxes", 6, "--at-once", 3) == NOTHING


def test_sandboxes_whose_owner_is_killed_leave_nothing(backend):
    assert left("--backend", backend, "--sandboxes", 3, "--kill-owner") == NOTHING


# A thousand one after another are part of `make bench-sandbox`.
@pytest.mark.full
@pytest.mark.parametrize(
    "flags",
    [
        ("--sandboxes", 100, "--at-once", 1),
        ("--sandboxes", 64, "--at-once", 64),
        ("--sandboxes", 64, "--kill-owner"),
    ],
    ids=["one after another", "at once", "killed"],
)
def test_many_sandboxes_leave_nothing(backend, flags):
    assert left("--backend", backend, *flags) == NOTHING


@pytest.mark.full
@pytest.mark.skipif(BACKENDS["bubblewrap"].program() is None, reason="bubblewrap is not installed")
def test_what_is_left_would_be_seen():
    found = left("--backend", "bubblewrap", "--sandboxes", 1, "--leave")
    assert len(found["processes"]) == 1 and found["files"] == ["/var/tmp/left"]
