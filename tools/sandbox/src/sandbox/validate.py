"""Says whether a task is sound: its reference solution scores, doing nothing does not."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from typing import NamedTuple

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile
from sandbox.box import Sandbox
from sandbox.model import Limits, SandboxError

DEFAULT_TIMEOUT_SEC = 600.0


class Validation(NamedTuple):
    """What the verifier said.

    Attributes:
        oracle: reward after the reference solution, or None where there was none to read.
        noop: reward after doing nothing, or None.
        detail: what went wrong, one line; empty when nothing did.
    """

    oracle: float | None
    noop: float | None
    detail: str


def parse_reward(files: Mapping[str, TaskFile]) -> float | None:
    """Return the reward in a verifier's log folder: `reward.txt` (a number) or `reward.json` (`{"reward": number}`)."""
    try:
        if "reward.txt" in files:
            value = float(files["reward.txt"].content.decode())
        else:
            value = json.loads(files["reward.json"].content)["reward"]
            if isinstance(value, bool) or not isinstance(value, int | float):
                return None
    except (KeyError, TypeError, ValueError):
        return None
    return float(value) if math.isfinite(value) else None


def below(files: Mapping[str, TaskFile], folder: str, place: str) -> dict[str, TaskFile]:
    """Return a folder's files under new paths: `below(files, "tests", "/tests")`."""
    prefix = f"{folder}/"
    return {f"{place}/{path[len(prefix) :]}": file for path, file in files.items() if path.startswith(prefix)}


def timeouts(files: Mapping[str, TaskFile]) -> tuple[float, float]:
    """Return the seconds that `task.toml` gives the agent and the verifier."""
    try:
        config = tomllib.loads(files["task.toml"].content.decode()) if "task.toml" in files else {}
        found = [float(config.get(name, {}).get("timeout_sec", DEFAULT_TIMEOUT_SEC)) for name in ("agent", "verifier")]
    except (AttributeError, TypeError, ValueError):
        raise BadInput("task.toml: cannot be read; expected [agent] and [verifier] with timeout_sec") from None
    return found[0], found[1]


async def validate_task(
    files: Mapping[str, TaskFile], limits: Limits | None = None, backend: str = "auto"
) -> Validation:
    """Run a task's verifier in two fresh sandboxes: after its reference solution, and after nothing.

    Args:
        files: the task folder, path -> file.
        limits: of each sandbox.
        backend: see :meth:`sandbox.Sandbox.start`.

    Raises:
        BadInput: no back end, or a `task.toml` or Dockerfile that cannot be used.
        SandboxError: the back end does not start here.
    """
    oracle, oracle_detail = await _attempt(files, limits, backend, solve=True)
    noop, noop_detail = await _attempt(files, limits, backend, solve=False)
    named = {"oracle": oracle_detail, "noop": noop_detail}
    return Validation(oracle, noop, "; ".join(f"{name}: {text}" for name, text in named.items() if text))


async def _attempt(
    files: Mapping[str, TaskFile], limits: Limits | None, backend: str, *, solve: bool
) -> tuple[float | None, str]:
    agent_sec, verifier_sec = timeouts(files)
    environment = {path.lstrip("/"): file for path, file in below(files, "environment", "").items()}
    said = ""
    async with Sandbox.start(environment, limits, backend) as box:
        try:
            if solve:
                await box.upload(below(files, "solution", "/solution"))
                result = await box.exec("bash /solution/solve.sh", timeout=agent_sec)
                said = _failure("solution", result.code, result.timed_out, result.stderr)
            await box.seal()
            await box.upload(below(files, "tests", "/tests"))
            result = await box.exec("bash /tests/test.sh", timeout=verifier_sec)
            reward = parse_reward(await box.download("/logs/verifier"))
        except SandboxError as error:
            return None, str(error)
    if reward is None:
        why = _failure("verifier", result.code, result.timed_out, result.stderr)
        said = "; ".join(filter(None, [said, why, "no readable reward in /logs/verifier"]))
    return reward, said


def _failure(what: str, code: int, timed_out: bool, stderr: str) -> str:
    if timed_out:
        return f"the {what} ran out of time"
    lines = stderr.strip().splitlines()
    return f"the {what} exited with {code}{': ' + lines[-1][:200] if lines else ''}" if code else ""
