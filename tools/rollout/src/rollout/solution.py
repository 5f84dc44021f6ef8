"""Splits a reference solution into the steps a person would type. Pure but for asking bash whether a text is whole."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping

from recipe_core.tasks import TaskFile

_SET_OPTIONS = re.compile(r"^\s*set\s+[-+][a-zA-Z]+(\s+pipefail)?\s*$")
_EXIT = re.compile(r"^\s*exit(\s+0)?\s*$")
_HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)(\w+)\1(?!<)")
_SOLUTION_FILE = re.compile(r"(?<![\w/.])/solution/([\w][\w./-]*)")


def is_whole(text: str) -> bool:
    """Ask bash whether it would run `text` as it stands, rather than wait for more lines."""
    checked = subprocess.run(
        ["bash", "--norc", "-n"], input=text, capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
    )
    # An unended here-document is only a warning.
    return checked.returncode == 0 and not checked.stderr


def _open_heredoc(line: str) -> str | None:
    found = None if line.lstrip().startswith("#") else _HEREDOC.search(line)
    return found[2] if found else None


def split_script(script: str, whole: Callable[[str], bool] = is_whole) -> list[str]:
    """Split a shell script into steps: the shortest runs of lines that are each a whole command.

    Here-documents, loops and functions stay in one piece. The shebang, blank lines, comments between commands, `set -e`
    and its kin, and a plain `exit` are left out: a person typing would not type them, and `exit` would end the session.
    """
    steps: list[str] = []
    pending: list[str] = []
    delimiter: str | None = None
    for line in script.splitlines():
        if delimiter is not None:
            pending.append(line)
            if line.lstrip("\t") != delimiter:
                continue
            delimiter = None
        else:
            between = not pending
            if between and (not line.strip() or line.lstrip().startswith("#")):
                continue
            if between and (_SET_OPTIONS.match(line) or _EXIT.match(line)):
                continue
            pending.append(line)
            delimiter = _open_heredoc(line)
            if delimiter is not None:
                continue
        text = "\n".join(pending)
        if not text.endswith("\\") and whole(text + "\n"):
            steps.append(text)
            pending = []
    if pending:
        steps.append("\n".join(pending))
    return steps


def carry_files(steps: list[str], solution: Mapping[str, TaskFile]) -> list[str]:
    """Make steps self-contained: a file of the solution folder that a step names is first written below /tmp.

    Args:
        steps: what :func:`split_script` returned.
        solution: the files below `solution/`; binary ones stay out of reach, as they cannot be typed.
    """
    written: dict[str, str] = {}
    result: list[str] = []
    for step in steps:
        for name in dict.fromkeys(_SOLUTION_FILE.findall(step)):
            if name in written or name not in solution:
                continue
            try:
                text = solution[name].content.decode()
            except UnicodeDecodeError:
                continue
            written[name] = f"/tmp/{name.rsplit('/', 1)[-1]}"
            end = "" if text.endswith("\n") else "\n"
            result.append(f"cat > {written[name]} <<'END_OF_FILE'\n{text}{end}END_OF_FILE")
        result.append(_SOLUTION_FILE.sub(lambda found: written.get(found[1], found[0]), step))
    return result


def preparations(steps: list[str]) -> list[str]:
    """Return what must be typed first so that an interactive shell takes the steps as a script would.

    Interactive bash completes file names on a tab and expands `!` from its history.
    """
    first = []
    if any("\t" in step for step in steps):
        first.append("bind 'set disable-completion on'")
    if any(re.search(r"![^\s=(\"']", step) for step in steps):
        first.append("set +H")
    return first
