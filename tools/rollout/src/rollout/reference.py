"""The built-in teacher: plays a task's reference solution as if it worked the task out.

It speaks terminus-2's JSON protocol, one step of `solution/solve.sh` a turn. Some steps look before they act, some
first go wrong and are put right in the next turn, and the task is declared complete twice, as terminus-2 asks. What it
says depends on the task, the attempt, the seed and the number of answers so far, so it keeps no state between requests.
It is labelled in every row: model `reference`, provider `builtin`, trace source `reference`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from recipe_core.errors import BadInput
from recipe_core.seeds import row_random
from recipe_core.tasks import TaskFile
from rollout.gateway import Reply, TrialKey
from rollout.settings import REFERENCE
from rollout.solution import carry_files, preparations, split_script

_DURATION_SEC = 0.1
_LOOK_PROBABILITY = 0.35
# Low, since a student learns the slips as well as the recoveries.
_MISTAKE_PROBABILITY = 0.25
_CHECK_PROBABILITY = 0.5
# Larger files scroll a terminal away; a person would not print them to look at them.
_READABLE_BYTES = 1500

_PATH = re.compile(r"(?<![\w$/.-])((?:/app|/tmp|\.)?/?[\w.-]+(?:/[\w.-]+)*)(?![\w/])")
_WRITTEN = re.compile(r"(?:^|[^0-9&>])>>?\s*([/\w][\w./-]*)")
_PROMPT = re.compile(r"^(\S*@\S*[#$]|[>#$])( |$)")
_PLAIN_COMMAND = re.compile(r"^[a-z][a-z0-9]{2,}( [^|;&<>()`$\\\n]*)?$")

_START = ("Nothing is done yet.", "The task is clear.", "A fresh terminal is open.")
_QUIET = ("The last command gave no error.", "That worked.", "No error so far.")
_OUTPUT = ("The output is as expected.", "The terminal shows what I need.", "Now I know more.")
_LOOKS = ("Look before changing anything.", "Check what is there first.", "Inspect the files first.")
_ACTS = ("Run the next step.", "Do the next step.", "Continue with the solution.")
_FIRST = "Run the first step."
_READ = "Read the file first."
_CHECKS = ("Check the result.", "Look at what was written.")


@dataclass(frozen=True)
class Move:
    """One turn: what is typed (nothing to declare the task complete), why, and whether it is meant to fail."""

    keys: str
    plan: str
    fails: bool = False


def named_paths(step: str, known: Mapping[str, int]) -> list[str]:
    """Return the paths a step's command line names whose base name is one of the task's files, in order."""
    line = step.split("\n", 1)[0]
    return [path for path in dict.fromkeys(_PATH.findall(line)) if path.rsplit("/", 1)[-1] in known]


def look_command(step: str, known: Mapping[str, int]) -> str:
    """Return a command that shows what a step is about to work on.

    Args:
        step: the command about to be typed.
        known: sizes in bytes of the task's files, by base name.
    """
    paths = named_paths(step, known)
    for path in paths:
        if known[path.rsplit("/", 1)[-1]] <= _READABLE_BYTES:
            return f"cat {path}"
    folders = [path.rsplit("/", 1)[0] for path in paths if "/" in path.strip("/")]
    return f"ls -A {folders[0]}" if folders and folders[0] not in ("", ".") else "ls -A"


def misspell(word: str, rng: random.Random) -> str:
    """Swap two neighbouring different letters of a word of at least three letters."""
    places = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return word + word[-1]
    at = rng.choice(places)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def mistake(step: str, known: Mapping[str, int], rng: random.Random) -> list[Move]:
    """Return a harmless wrong try before a step, with what puts it right short of the step itself; empty if none fits.

    Only a plain command is misspelled: with a redirection even a command that does not exist empties a file.
    """
    readable = [path for path in named_paths(step, known) if known[path.rsplit("/", 1)[-1]] <= _READABLE_BYTES]
    if readable and rng.random() < 0.5:
        folder, slash, name = readable[0].rpartition("/")
        stem, dot, suffix = name.partition(".")
        wrong = f"cat {folder}{slash}{misspell(stem, rng)}{dot}{suffix}"
        return [Move(wrong, _READ, fails=True), Move(f"cat {readable[0]}", "Read it under its right name.")]
    if _PLAIN_COMMAND.match(step):
        word, _, rest = step.partition(" ")
        return [Move(f"{misspell(word, rng)} {rest}".strip(), rng.choice(_ACTS), fails=True)]
    return []


def plan_moves(steps: Sequence[str], known: Mapping[str, int], rng: random.Random) -> list[Move]:
    """Return all turns for a solution: its steps with looks, mistakes and a check among them, then two to finish."""
    moves: list[Move] = []
    may_err = rng.random() < _MISTAKE_PROBABILITY
    for position, step in enumerate(steps):
        seen = {move.keys for move in moves}
        extra: list[Move] = []
        if may_err:
            extra = mistake(step, known, rng)
            may_err = not extra
        if not extra and rng.random() < _LOOK_PROBABILITY:
            extra = [Move(look_command(step, known), rng.choice(_LOOKS))]
        moves += [move for move in extra if move.keys not in seen]
        moves.append(Move(step, rng.choice(_ACTS) if position else _FIRST))
    written = [path for step in steps for path in _WRITTEN.findall(step.split("\n", 1)[0])]
    if written and rng.random() < _CHECK_PROBABILITY:
        moves.append(Move(f"tail -n 5 {written[-1]}", rng.choice(_CHECKS)))
    return [*moves, Move("", "Mark the task complete."), Move("", "Confirm that the task is complete.")]


def has_output(observation: str) -> bool:
    """Tell whether a terminal shows more than prompts and what was typed at them."""
    lines = [line for line in observation.splitlines() if line.strip()]
    return any(not _PROMPT.match(line) for line in lines if not line.endswith(("Terminal Output:", "Terminal Screen:")))


def message(moves: Sequence[Move], turn: int, observation: str, rng: random.Random) -> str:
    """Return the assistant's message for one turn, in terminus-2's JSON.

    Args:
        moves: all turns.
        turn: which one; beyond the last it repeats the confirmation.
        observation: the last user message.
        rng: for the wording.
    """
    move = moves[min(turn, len(moves) - 1)]
    last = moves[min(turn, len(moves)) - 1]
    if turn == 0:
        analysis = rng.choice(_START)
    elif last.fails:
        missing = "No such file" in observation
        analysis = "There is no such file; I mistyped its name." if missing else "No such command; I mistyped it."
    elif not move.keys:
        analysis = "All steps are done."
    else:
        # Typed text of several lines fills the screen without being output.
        shown = "\n" not in last.keys and has_output(observation)
        analysis = rng.choice(_OUTPUT if shown else _QUIET)
    answer: dict[str, Any] = {"analysis": analysis, "plan": move.plan}
    if move.keys:
        answer["commands"] = [{"keystrokes": f"{move.keys}\n", "duration": _DURATION_SEC}]
    else:
        answer["commands"] = []
        answer["task_complete"] = True
    return json.dumps(answer, ensure_ascii=False)


def solution_moves(files: Mapping[str, TaskFile], where: str, rng: random.Random) -> list[Move]:
    """Return the turns for a task folder; BadInput when it has no reference solution."""
    steps, known = _steps(_script(files, where), _below(files, "solution/"), _below(files, "environment/"))
    return plan_moves(steps, known, rng)


def _script(files: Mapping[str, TaskFile], where: str) -> str:
    if "solution/solve.sh" not in files:
        raise BadInput(f"{where}: no solution/solve.sh, which the reference teacher plays; use another teacher")
    return files["solution/solve.sh"].content.decode(errors="replace")


def _below(files: Mapping[str, TaskFile], folder: str) -> tuple[tuple[str, TaskFile], ...]:
    return tuple((path.removeprefix(folder), file) for path, file in sorted(files.items()) if path.startswith(folder))


@lru_cache(maxsize=256)
def _steps(
    script: str, solution: tuple[tuple[str, TaskFile], ...], environment: tuple[tuple[str, TaskFile], ...]
) -> tuple[list[str], dict[str, int]]:
    steps = carry_files(split_script(script), dict(solution))
    known = {path.rsplit("/", 1)[-1]: len(file.content) for path, file in environment}
    return [*preparations(steps), *steps], known


class ReferenceUpstream:
    """Answers chat-completion requests with the reference solution.

    Args:
        tasks: the files of every task it may be asked about, by task id; more may be added while it runs.
    """

    def __init__(self, tasks: dict[str, Mapping[str, TaskFile]] | None = None) -> None:
        self.tasks = tasks if tasks is not None else {}

    async def send(self, payload: Mapping[str, Any], key: TrialKey) -> Reply:
        """Answer one request, from the conversation in it."""
        messages = payload["messages"]
        turn = sum(message["role"] == "assistant" for message in messages)
        files = self.tasks[key.task_id]
        moves = solution_moves(files, key.task_id, row_random(key.seed, REFERENCE, key.task_id, key.attempt))
        rng = row_random(key.seed, REFERENCE, "words", key.task_id, key.attempt, turn)
        return Reply(200, completion(message(moves, turn, messages[-1]["content"], rng)))

    async def close(self) -> None:
        """Nothing to release."""


def completion(content: str) -> str:
    """Return a chat-completion body around one answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"id": "reference", "object": "chat.completion", "model": REFERENCE, "choices": [choice]})
