from __future__ import annotations

import pytest

from recipe_core.errors import BadInput
from sandbox.backends import choose


def test_the_environment_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SANDBOX_BACKEND", "bubblewrap")
    assert choose("auto").name == "bubblewrap"


def test_an_unknown_choice_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SANDBOX_BACKEND", "bubblewarp")
    with pytest.raises(BadInput, match=r"'bubblewarp' is unknown.*did you mean 'bubblewrap'"):
        choose("auto")


def test_a_named_back_end_is_not_overruled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SANDBOX_BACKEND", "no-such")
    assert choose("bubblewrap").name == "bubblewrap"
