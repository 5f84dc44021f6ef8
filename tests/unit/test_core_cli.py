"""How tools end: one line and a code, whatever went wrong."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import wait_until_gone, words_of

from recipe_core.cli import Parser, above_zero, entry, natural, positive, real, seed, top_k

PARSERS = [
    (positive, "3", 3, ["0", "-1", "1.5", "x"]),
    (natural, "0", 0, ["-1", "x"]),
    (seed, "4294967295", 4294967295, ["4294967296", "-1", "x"]),
    (top_k, "-1", -1, ["0", "-2"]),
    (above_zero, "0.5", 0.5, ["0", "-1", "inf", "nan", "x"]),
    (real(0, 1), "1", 1.0, ["1.1", "-0.1", "nan"]),
]


@pytest.mark.parametrize(("parse", "good", "value", "bad"), PARSERS)
def test_numbers_on_the_command_line(parse, good, value, bad):
    assert parse(good) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
            parse(text)


def make_parser() -> argparse.ArgumentParser:
    return Parser(prog="some-tool")


def test_a_pipe_that_breaks_elsewhere_is_no_success(capsys: pytest.CaptureFixture[str]):
    def run(args: argparse.Namespace) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit) as end:
        entry(make_parser, run)([])
    assert end.value.code == 2
    assert capsys.readouterr().err == "some-tool: error: Broken pipe\n"


def test_a_reader_that_leaves_early_is_no_error(tool):
    done = tool("bash", "-c", "set -o pipefail; recipe schema | head -n 1; echo ${PIPESTATUS[0]}")
    assert done.stdout.splitlines() == ["{", "0"]
    assert done.stderr == ""


STARTS_A_CHILD = """
import sys
from pathlib import Path
from recipe_core.processes import running

with running(["sleep", "1000"], {}, Path(sys.argv[1])) as process:
    print(process.pid, flush=True)
    process.wait()
"""


def test_a_program_ends_with_the_tool_that_started_it(tmp_path: Path):
    tool = subprocess.Popen([sys.executable, "-c", STARTS_A_CHILD, tmp_path / "log"], stdout=subprocess.PIPE, text=True)
    assert tool.stdout is not None
    child = int(tool.stdout.readline())
    assert words_of(child)[0] == "sleep"
    os.kill(tool.pid, signal.SIGKILL)
    tool.wait()
    assert wait_until_gone([child]) == {}
