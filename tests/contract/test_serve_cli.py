"""The command line of `serve`."""

from __future__ import annotations

import subprocess
import sys

import pytest


def serve(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_shows_an_example():
    done = serve("--help")
    assert done.returncode == 0
    assert "serve --model results/train_sft/abc --port 8000" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--model"),
        (("--model", "nowhere"), "nowhere: no config.json"),
        (("--model", "nowhere", "--device", "tpu"), "invalid choice: 'tpu'"),
        (("--model", "nowhere", "--max-model-len", "0"), "not a whole number of at least 1"),
    ],
)
def test_unusable_words_are_answered_with_one_line(words, message):
    done = serve(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("serve: error: ") and done.stderr.count("\n") == 1
