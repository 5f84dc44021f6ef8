"""The set-up's search for an interpreter."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def install():
    spec = importlib.util.spec_from_file_location("install", ROOT / "envs" / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def interpreter(folder: Path, *, headers: bool) -> Path:
    """Write what answers as a Python 3.11 of that folder does."""
    (folder / "include").mkdir(parents=True)
    if headers:
        (folder / "include" / "Python.h").touch()
    path = folder / "python3.11"
    path.write_text(f"#!/bin/sh\necho 3.11 {folder}/include\n")
    path.chmod(0o755)
    return path


def test_an_interpreter_without_headers_is_passed_over_where_they_are_needed(install, tmp_path, monkeypatch):
    """Debian's python3.11 without python3.11-dev runs tools, and cannot compile what torch asks for."""
    bare, whole = interpreter(tmp_path / "bare", headers=False), interpreter(tmp_path / "whole", headers=True)
    monkeypatch.setattr(sys, "executable", str(bare))
    monkeypatch.setenv("PATH", str(whole.parent))
    assert install.find_python("3.11", {}) == str(bare)
    assert install.find_python("3.11", {}, headers=True) == str(whole)


def test_what_cannot_be_found_nor_fetched_is_one_line(install, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install, "UV", "/bin/false")
    with pytest.raises(SystemExit) as ended:
        install.find_python("3.99", {}, headers=True)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Python 3.99 with its headers is not on this machine" in line and "python3.99-dev" in line


def test_what_is_compiled_here_is_installed_after_the_rest(install, tmp_path):
    lock = ROOT / "envs" / "sft-cuda" / "requirements.lock"
    first, then = install.parts_of(lock, ["flash-attn"], tmp_path)
    assert [line for line in then.read_text().splitlines() if "==" in line] == ["flash-attn==2.8.3 \\"]
    assert "--hash=sha256:" in then.read_text()
    assert sorted(first.read_text().split() + then.read_text().split()) == sorted(lock.read_text().split())
    (whole,) = install.parts_of(lock, [], tmp_path)
    assert whole.read_text().split() == lock.read_text().split()
