"""Which trajectories the page shows, and how a conversation becomes turns.

The messages are terminus-2's: the first user message is a long prompt, the task and the terminal; every later one is
terminal output; every assistant message should be a JSON object with analysis, plan and commands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe_core.records import read_rows
from recipe_core.seeds import row_seed
from report.steps import Step

# All in all, shared between the artifacts; a page stays below a few megabytes.
WANTED = 32
MIN_EACH = 8

_FILES = {"rollout": "trajectories.parquet", "filter-turns": "trajectories.parquet", "evaluate": "trials.parquet"}
_COLUMNS = (
    *("task_id", "task", "source", "attempt", "reward", "error_class", "error_message"),
    *("model", "model_provider", "conversations"),
)
_TASK = "Task Description:\n"
_STATE = "\nCurrent terminal state:\n"
_SCREEN_TITLE = re.compile(r"\A(?:Current terminal state:\n)?(?:(?:New Terminal Output|Current Terminal Screen):\n)?")
_BLANK_LINES = re.compile(r"\n{3,}")


def outcome(row: Mapping[str, Any]) -> str:
    """Return `solved`, `failed`, or `infrastructure` for a trial that failed outside the model."""
    if row["error_class"] == "infrastructure":
        return "infrastructure"
    return "solved" if row["reward"] is not None and row["reward"] >= 1.0 else "failed"


def model_name(row: Mapping[str, Any], label: str | None) -> str:
    """Return what the page calls the model: an evaluation's label, else its name; the built-in teacher says so."""
    if label is not None:
        return label
    return "reference teacher" if row["model"] == "reference" else str(row["model"])


def choose(rows: Sequence[Mapping[str, Any]], wanted: int, seed: int) -> list[int]:
    """Choose the rows to show: from every source and outcome in turn, within each by a hash of seed and trial.

    Args:
        rows: rows with task_id, attempt, source, reward and error_class.
        wanted: at most how many.
        seed: of the hash.

    Returns:
        Positions in `rows`, ascending.
    """
    strata: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for position, row in enumerate(rows):
        rank = row_seed(seed, row["task_id"], row["attempt"])
        strata.setdefault((outcome(row), str(row["source"])), []).append((rank, position))
    turns = [
        (turn, stratum, position)
        for stratum, members in strata.items()
        for turn, (_, position) in enumerate(sorted(members))
    ]
    return sorted(position for _, _, position in sorted(turns)[:wanted])


def shown_steps(steps: Sequence[Step]) -> list[Step]:
    """Return the steps whose trajectories are shown: evaluations, and rollouts or else what was kept of them."""
    traces = [step for step in steps if step.stage == "rollout"]
    traces = traces or [step for step in steps if step.stage == "filter-turns"]
    return [*traces, *(step for step in steps if step.stage == "evaluate")]


def sample(steps: Sequence[Step], seed: int) -> list[dict[str, Any]]:
    """Return the trajectories to show, as JSON values, in the order of the steps and of their rows.

    The files are streamed; only what is shown is held.
    """
    shown = shown_steps(steps)
    each = max(MIN_EACH, -(-WANTED // len(shown))) if shown else 0
    return [entry for step in shown for entry in _from_file(step, step.artifact.data(_FILES[step.stage]), each, seed)]


def _from_file(step: Step, path: Path, wanted: int, seed: int) -> list[dict[str, Any]]:
    index = list(read_rows(path, ("task_id", "source", "attempt", "reward", "error_class")))
    chosen = set(choose(index, wanted, seed))
    return [
        {"step": step.name, **describe(row, step.label)}
        for position, row in enumerate(read_rows(path, _COLUMNS))
        if position in chosen
    ]


def describe(row: Mapping[str, Any], label: str | None) -> dict[str, Any]:
    """Return one trajectory row as the page's JSON value."""
    return {
        "task": row["task"] or row["task_id"],
        "source": row["source"],
        "attempt": row["attempt"],
        "model": model_name(row, label),
        "model_detail": " / ".join(str(row[name]) for name in ("model_provider", "model") if row[name]),
        "outcome": outcome(row),
        "reward": row["reward"],
        "error_class": row["error_class"],
        "error_message": row["error_message"],
        **conversation(row["conversations"] or []),
    }


def conversation(messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return a conversation as prompt, instruction, first screen and turns.

    A turn is an assistant message with the terminal output that followed it, if any.
    """
    opening = {"prompt": "", "instruction": "", "screen": ""}
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        text = message["content"] or ""
        if message["role"] == "assistant":
            turns.append({**parse_reply(text), "terminal": ""})
        elif number == 0:
            opening = split_prompt(text)
        elif turns:
            turns[-1]["terminal"] = "\n".join(filter(None, (turns[-1]["terminal"], clean_screen(text))))
        else:
            opening["screen"] = "\n".join(filter(None, (opening["screen"], clean_screen(text))))
    return {**opening, "turns": turns}


def split_prompt(text: str) -> dict[str, str]:
    """Split terminus-2's first message into prompt, instruction and screen; all instruction when it is another's."""
    prompt, found, rest = text.partition(_TASK)
    if not found:
        return {"prompt": "", "instruction": text.strip(), "screen": ""}
    instruction, found, screen = rest.rpartition(_STATE)
    if not found:
        instruction, screen = rest, ""
    return {"prompt": prompt.strip(), "instruction": instruction.strip(), "screen": clean_screen(screen)}


def clean_screen(text: str) -> str:
    """Return terminal output without its title and the empty rows of the screen; other lines stay as they are."""
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return _BLANK_LINES.sub("\n\n", _SCREEN_TITLE.sub("", text)).strip("\n")


def parse_reply(text: str) -> dict[str, Any]:
    """Return an assistant message as `analysis`, `plan`, `commands`, `complete` and `outside`, or as `raw`.

    `commands` are the keystrokes in order; `outside` is any text around the JSON object, such as reasoning. A message
    that holds no such object is returned whole as `raw`.
    """
    for match in re.finditer(r"\{", text):
        try:
            value, end = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict) or not value.keys() & {"analysis", "plan", "commands"}:
            continue
        commands = value.get("commands")
        return {
            "analysis": _text(value.get("analysis")),
            "plan": _text(value.get("plan")),
            "commands": [_keystrokes(command) for command in commands] if isinstance(commands, list) else [],
            "complete": value.get("task_complete") is True,
            "outside": "\n".join(filter(None, (text[: match.start()].strip(), text[end:].strip()))),
        }
    return {"raw": text}


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _keystrokes(command: object) -> str:
    return _text(command.get("keystrokes")) if isinstance(command, dict) else _text(command)
