"""What a source is, and the task it proposes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from recipe_core.artifact import value_digest
from recipe_core.tasks import TaskFile, task_id

# The digest is for people who run the tasks under Docker; the sandbox interprets the rest of the Dockerfile.
BASE_IMAGE = "python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254"


class Rejected(Exception):
    """A proposed task turned out to be none.

    The message is the reason, a short fixed phrase that can be counted. `detail` says what it is about in this one row;
    it has to be the same on every machine.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


@dataclass(frozen=True)
class Candidate:
    """A task that is proposed but not validated yet.

    `meta` holds `family`, `parameters`, `split` and `held_out` (see :mod:`source_tasks.heldout`). `refine`, where a
    source needs to run something to finish its task (`pybugs` runs the tests to see which fail), returns the finished
    candidate or raises :class:`Rejected`.

    `reason` is why it is no task where that is known without a sandbox; `files` then holds what there is of it, perhaps
    nothing. `foreign` marks a task folder that others wrote: what the sandbox cannot follow in its environment rejects
    the task, where in a folder that this package wrote it would be a bug.

    `question` is the text of a question, which has no task folder: `files` is then empty. `validate` is false where the
    sandbox has nothing to say: a question, a task that cannot be verified (`meta["verifiable"]` is false), or one whose
    environment is a container image that the sandbox does not have (`meta["validated"]` is false).
    """

    family: str
    files: dict[str, TaskFile]
    licence: str
    origin: str
    meta: dict[str, Any]
    refine: Callable[[], Awaitable[Candidate]] | None = field(default=None, compare=False)
    reason: str | None = None
    foreign: bool = False
    question: str | None = None
    validate: bool = True


def identity(candidate: Candidate) -> str:
    """Return the id of a candidate's row: 16 hex digits over its files, or over a question and what answers it."""
    if candidate.question is None:
        return task_id(candidate.files)
    checks = {name: candidate.meta.get(name) for name in ("domain", "answer", "tests")}
    return value_digest({"question": candidate.question, **checks})[:16]


class Source(Protocol):
    """One source of tasks: a module has one, the registry lists it."""

    name: str

    def families(self) -> tuple[str, ...]:
        """Return the kinds of task there are, the values that `--families` takes."""
        ...

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield distinct candidates of one split in an order that depends on the arguments alone.

        The caller stops when it has enough valid ones. `families` is a non-empty subset of :meth:`families`.
        """
        ...


@runtime_checkable
class GivenSource(Source, Protocol):
    """A source that makes its tasks of what `--input` names."""

    def digest(self) -> str:
        """Return `sha256:...` over everything that the source reads of its input."""
        ...


def text(content: str) -> TaskFile:
    """Return a plain text file."""
    return TaskFile(content.encode())


def script(content: str) -> TaskFile:
    """Return an executable text file."""
    return TaskFile(content.encode(), 0o755)


def task_toml(
    source: str,
    family: str,
    *,
    agent_sec: int = 600,
    verifier_sec: int = 60,
    memory_mb: int = 1024,
    storage_mb: int = 512,
    verifiable: bool = True,
) -> TaskFile:
    """Return `task.toml`: limits of the agent, the verifier and the environment; no network for either.

    A task that cannot be verified says so, `[metadata] verifiable = false`, so that its published form says it too.
    """
    note = "" if verifiable else "verifiable = false\n"
    return text(
        f"""schema_version = "1.4"

[metadata]
source = "{source}"
family = "{family}"
{note}
[agent]
timeout_sec = {agent_sec}.0

[verifier]
timeout_sec = {verifier_sec}.0

[environment]
cpus = 1
memory_mb = {memory_mb}
storage_mb = {storage_mb}
network_mode = "no-network"
"""
    )


def dockerfile(*, copies: bool) -> TaskFile:
    """Return the Dockerfile; with `copies`, what lies in `environment/files/` becomes the content of `/app`."""
    lines = [f"FROM {BASE_IMAGE}", "WORKDIR /app"]
    if copies:
        lines.append("COPY files/ /app/")
    return text("\n".join(lines) + "\n")


def verifier(command: str) -> TaskFile:
    """Return `tests/test.sh`: reward 1 if `command` succeeds, else 0."""
    return script(
        f"""#!/bin/bash
mkdir -p /logs/verifier
if {command}; then
  echo 1 > /logs/verifier/reward.txt
else
  echo 0 > /logs/verifier/reward.txt
fi
"""
    )


NOTHING_TO_VERIFY = """#!/bin/bash
echo "This task has no tests: there is nothing to verify, and no reward is written." >&2
"""


def unverifiable(source: str, family: str, instruction: str, *, image: str = BASE_IMAGE) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a request that nothing can verify.

    Its verifier says so and writes no reward file: 0 would claim a failure, 1 a success, and it knows of neither.
    """
    return {
        "instruction.md": text(f"{instruction.strip()}\n"),
        "task.toml": task_toml(source, family, agent_sec=1800, verifiable=False),
        "environment/Dockerfile": text(f"FROM {image}\nWORKDIR /app\n"),
        "tests/test.sh": script(NOTHING_TO_VERIFY),
    }
