"""The sandbox's deciding functions, with plain values: no sandbox is started here."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile
from sandbox.__main__ import percentiles
from sandbox.channel import decode, encode, field
from sandbox.dockerfile import Copy, Env, Run, Workdir, expand, parse
from sandbox.model import Limits, SandboxError
from sandbox.validate import below, parse_reward, timeouts
from sandbox.watchdog import Usage, excess


def steps(text: str, **files: bytes) -> list:
    found = parse({"Dockerfile": TaskFile(text.encode()), **{name: TaskFile(data) for name, data in files.items()}})
    assert found is not None
    return found


def test_dockerfile_subset_is_read_with_continuations_and_comments():
    text = "# a task\nFROM python:3.12-slim@sha256:00\nworkdir /app\nENV A=1 B='two words'\nENV C the rest\n"
    text += 'COPY data/ other.txt ./in/\n\nRUN echo one && \\\n    # why\n    echo two\nRUN ["echo", "a b"]\n'
    where = "environment/Dockerfile line "
    assert steps(text) == [
        Workdir(where + "3", "/app"),
        Env(where + "4", {"A": "1", "B": "two words"}),
        Env(where + "5", {"C": "the rest"}),
        Copy(where + "6", ("data", "other.txt"), "./in/"),
        Run(where + "8", "echo one &&     echo two"),
        Run(where + "11", "echo 'a b'"),
    ]


def test_no_dockerfile_means_no_steps():
    assert parse({"data.txt": TaskFile(b"")}) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("FROM a\nUSER nobody\n", "line 2: USER: not supported"),
        ("FROM a\nFROM b\n", "line 2: a second FROM"),
        ("WORKDIR /app\n", "no FROM"),
        ("FROM a\nCOPY --chmod=755 a b\n", "flags"),
        ("FROM a\nCOPY *.txt b/\n", "patterns"),
        ("FROM a\nCOPY ../secret b\n", "inside environment/"),
        ("FROM a\nCOPY a\n", "sources and a target"),
        ("FROM a\nCOPY 'a b\n", "quotes"),
        ("FROM a\nRUN cat <<EOF\n", "here-document"),
        ("FROM a\nENV A=1 B\n", "NAME=value"),
        ("FROM a\nRUN\n", "without arguments"),
        ("FROM a\nRUN [1]\n", "quotes"),
    ],
)
def test_anything_else_is_refused_with_its_line(text, named):
    with pytest.raises(BadInput, match=r"environment/Dockerfile") as caught:
        steps(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dockerignore_is_refused():
    with pytest.raises(BadInput, match="dockerignore"):
        parse({"Dockerfile": TaskFile(b"FROM a"), ".dockerignore": TaskFile(b"x")})


def test_copy_selects_files_and_folders():
    files = {"a.txt": TaskFile(b"a"), "data/b.txt": TaskFile(b"b"), "data/deep/c.txt": TaskFile(b"c")}
    folder = Copy("here", ("data", "a.txt"), "in/")
    assert set(folder.select(files, "/app/in", is_folder=True)) == {
        "/app/in/b.txt",
        "/app/in/deep/c.txt",
        "/app/in/a.txt",
    }
    assert set(Copy("here", ("a.txt",), "new").select(files, "/app/new", is_folder=False)) == {"/app/new"}
    assert len(Copy("here", (".",), ".").select(files, "/app", is_folder=True)) == 3
    with pytest.raises(BadInput, match="no such file"):
        Copy("here", ("nope",), "in/").select(files, "/app/in", is_folder=True)
    with pytest.raises(BadInput, match="ends in"):
        Copy("here", ("a.txt", "data"), "in").select(files, "/app/in", is_folder=False)


def test_expand_puts_variables_in_and_names_the_missing_one():
    assert expand("$A/${B}c \\$A", {"A": "1", "B": "2"}, "here") == "1/2c $A"
    with pytest.raises(BadInput, match="here: the variable NOPE"):
        expand("$NOPE", {}, "here")


@pytest.mark.parametrize(
    ("usage", "files", "age", "reason"),
    [
        (Usage(256, 1024 * 1024), 0, 5.0, None),
        (Usage(257, 0), 0, 0.0, "processes"),
        (Usage(1, 1024 * 1024 + 1), 0, 0.0, "memory"),
        (Usage(1, 1), 300_000, 0.0, "files"),
        (Usage(1, 1), 0, 10.1, "wall"),
    ],
)
def test_excess_names_the_first_limit_exceeded(usage, files, age, reason):
    found = excess(usage, files, age, Limits(wall_sec=10))
    assert (found[0] if found else None) == reason


@pytest.mark.parametrize("name", ["cpus", "memory_mb", "disk_mb", "processes", "wall_sec"])
def test_limits_are_positive(name):
    with pytest.raises(BadInput, match=name):
        Limits(**{name: 0})


@given(st.dictionaries(st.text(), st.text()))
def test_messages_survive_the_wire(content):
    message = {**content, "id": 3}
    data = encode(message)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert decode(data[4:]) == message


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"{}", b'{"id": "1"}', b"[" * 100_000])
def test_what_is_no_message_is_refused(payload):
    with pytest.raises(SandboxError, match="not a message"):
        decode(payload)


@pytest.mark.parametrize(("value", "kind"), [(1, str), ("x", int), (True, int), ("%%", bytes), (None, str)])
def test_fields_of_a_wrong_type_are_refused(value, kind):
    with pytest.raises(SandboxError, match="no valid 'name'"):
        field({"id": 1, "name": value}, "name", kind)


def test_bytes_travel_in_base64():
    assert field({"data": base64.b64encode(b"\0\xff").decode()}, "data", bytes) == b"\0\xff"


@pytest.mark.parametrize(
    ("name", "content", "reward"),
    [
        ("reward.txt", b"1\n", 1.0),
        ("reward.txt", b" 0.5", 0.5),
        ("reward.txt", b"", None),
        ("reward.txt", b"yes", None),
        ("reward.txt", b"nan", None),
        ("reward.txt", b"\xff", None),
        ("reward.json", json.dumps({"reward": 0}).encode(), 0.0),
        ("reward.json", b'{"reward": "1"}', None),
        ("reward.json", b'{"reward": true}', None),
        ("reward.json", b"{}", None),
        ("reward.json", b"[]", None),
        ("other", b"1", None),
    ],
)
def test_reward_is_read_or_none(name, content, reward):
    assert parse_reward({name: TaskFile(content)}) == reward


def test_timeouts_come_from_the_task():
    text = b"[agent]\ntimeout_sec = 60.0\n[verifier]\ntimeout_sec = 5\n"
    assert timeouts({"task.toml": TaskFile(text)}) == (60.0, 5.0)
    assert timeouts({}) == (600.0, 600.0)
    for bad in (b"=", b"agent = 1", b"[agent]\ntimeout_sec = 'x'", b"\xff"):
        with pytest.raises(BadInput, match=r"task\.toml"):
            timeouts({"task.toml": TaskFile(bad)})


def test_below_moves_a_folder():
    assert below({"tests/a/b": TaskFile(b"1"), "testsx": TaskFile(b"")}, "tests", "/tests") == {
        "/tests/a/b": TaskFile(b"1")
    }


def test_percentiles():
    assert percentiles([3.0]) == (3.0, 3.0)
    p50, p95 = percentiles([float(n) for n in range(101)])
    assert (p50, p95) == (50.0, 95.0)
