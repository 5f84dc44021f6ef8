"""Which rows of a tasks artifact an agent can work on, and with what verdict."""

from __future__ import annotations

import json

import pytest

from recipe_core.errors import BadInput
from recipe_core.tasks import check_runnable, is_verifiable


def row(binary: bytes | None = b"x", **meta: object) -> dict:
    return {"task_binary": binary, "meta": json.dumps(meta)}


def test_a_task_is_verifiable_unless_its_source_says_not():
    assert is_verifiable(row())
    assert is_verifiable({"meta": None})
    assert is_verifiable({"meta": "no JSON"})
    assert not is_verifiable(row(verifiable=False))


def test_what_an_agent_can_work_on_passes():
    check_runnable(row(), "task a", verdict=True)
    check_runnable(row(verifiable=False), "task a", verdict=False)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(None), "task a: a question, which has no environment to work in"),
        (row(image="swebench/swesmith.x"), "task a: works in the container image swebench/swesmith.x"),
        (row(verifiable=False), "task a: nothing verifies it, so it has no reward"),
    ],
)
def test_what_it_cannot_is_one_line(bad: dict, said: str):
    with pytest.raises(BadInput, match=said):
        check_runnable(bad, "task a", verdict=True)
