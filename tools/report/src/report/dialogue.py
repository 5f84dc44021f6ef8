"""Reading terminus-2 conversations: what a message says, for people. Pure functions over text.

The agent speaks JSON (analysis, plan, commands, task_complete), perhaps after some thinking; the harness answers with
the terminal's screen and a few fixed sentences around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Longest text shown of one message; the middle of anything longer is left out.
MAX_SHOWN = 8000

_TASK = re.compile(r"Task Description:\n(.*?)(?:\n\s*\nCurrent terminal state:\n|\Z)", re.DOTALL)
_STATE = re.compile(r"(?:\A|\n)Current terminal state:\n(.*)\Z", re.DOTALL)
_SCREEN_TITLES = re.compile(r"\A\s*(?:Current Terminal Screen|New Terminal Output):\n?")
_CONFIRM = re.compile(r"\n*Are you sure you want to mark the task as complete\?.*\Z", re.DOTALL)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_THINKING = re.compile(r"\A\s*<think>(.*?)</think>", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """Keys sent to the terminal, and how many seconds the agent gave them."""

    keystrokes: str
    duration: float | None


@dataclass(frozen=True)
class Reply:
    """What the agent said in one turn; `raw` is its text where it is not in the expected form, else None."""

    thinking: str = ""
    analysis: str = ""
    plan: str = ""
    commands: tuple[Command, ...] = ()
    complete: bool = False
    raw: str | None = None


@dataclass(frozen=True)
class Observation:
    """What the harness answered: the terminal's text, and whether it asked to confirm that the task is done."""

    terminal: str
    asks_to_confirm: bool = False


@dataclass(frozen=True)
class Turn:
    """One turn: what the agent saw, then what it said; `reply` is None when it never answered."""

    observation: Observation
    reply: Reply | None


def shorten(text: str, limit: int = MAX_SHOWN) -> str:
    """Return the text, the middle of a long one replaced by a note of how much was left out."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def squeeze(text: str) -> str:
    """Return a screen without its empty rest: no blank lines at the end, no more than one in a row.

    >>> squeeze("$ ls\\n\\n\\n\\na\\n\\n")
    '$ ls\\n\\na'
    """
    return _BLANK_LINES.sub("\n\n", text.strip("\n")).rstrip()


def task_of(message: str) -> str:
    """Return the task's instruction out of the first message; the whole message where it is not marked."""
    found = _TASK.search(message)
    return found[1].strip() if found else message.strip()


def read_observation(message: str) -> Observation:
    """Read what the harness sent: the terminal without the sentences around it."""
    state = _STATE.search(message)
    text = state[1] if state else message
    asks = _CONFIRM.search(text) is not None
    text = _SCREEN_TITLES.sub("", _CONFIRM.sub("", text))
    return Observation(shorten(squeeze(text)), asks)


def read_reply(message: str) -> Reply:
    """Read what the agent said; text that is not the expected JSON is kept as it is in `raw`."""
    thinking = _THINKING.match(message)
    said = message[thinking.end() :] if thinking else message
    thought = shorten(thinking[1].strip()) if thinking else ""
    value = _json_object(said)
    if value is None:
        return Reply(thinking=thought, raw=shorten(said.strip()))
    commands = value.get("commands")
    return Reply(
        thinking=thought,
        analysis=shorten(str(value.get("analysis") or "")),
        plan=shorten(str(value.get("plan") or "")),
        commands=tuple(_command(item) for item in commands if isinstance(item, dict))
        if isinstance(commands, list)
        else (),
        complete=value.get("task_complete") is True,
    )


def _json_object(text: str) -> dict[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and {"analysis", "plan", "commands"} & value.keys() else None


def _command(item: dict[str, Any]) -> Command:
    duration = item.get("duration")
    number = isinstance(duration, int | float) and not isinstance(duration, bool)
    return Command(shorten(str(item.get("keystrokes") or "")), float(duration) if number else None)  # type: ignore[arg-type]


def read_turns(conversation: Sequence[dict[str, str]]) -> list[Turn]:
    """Pair every message of the harness with the agent's answer to it."""
    turns: list[Turn] = []
    for message in conversation:
        if message["role"] == "assistant":
            seen = turns.pop().observation if turns and turns[-1].reply is None else Observation("")
            turns.append(Turn(seen, read_reply(message["content"] or "")))
        else:
            turns.append(Turn(read_observation(message["content"] or ""), None))
    return turns
