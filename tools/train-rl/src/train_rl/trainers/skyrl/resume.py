"""Where a killed SkyRL run goes on: its checkpoints and metrics brought to the same step. Files in, a step out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from recipe_core.artifact import write_atomically
from recipe_core.errors import BadInput

_LATEST = "latest_ckpt_global_step.txt"
_MACHINES = "machines.json"
_STEP = "global_step_"


def settle_checkpoints(work: Path, steps: int, machines: Mapping[str, int]) -> int:
    """Make SkyRL's `checkpoints` below a folder ones it can go on from and return the step; 0 for from the start.

    SkyRL names the newest whole checkpoint in a file that it writes last. Where that is the last step of all but the
    model was not exported, it would train a step too many: it is sent back one checkpoint.

    Args:
        work: the run's folder.
        steps: the last step of all.
        machines: nodes and GPUs, on which a checkpoint's shards depend.

    Raises:
        BadInput: the checkpoints are of other machines.
    """
    folder = work / "checkpoints"
    latest = folder / _LATEST
    step = int(latest.read_text()) if latest.is_file() else 0
    mark = work / _MACHINES
    if step and mark.is_file() and json.loads(mark.read_text()) != dict(machines):
        before = json.loads(mark.read_text())
        raise BadInput(
            f"{folder}: written on {before['nodes']} nodes x {before['gpus']} GPUs, this is {machines['nodes']} x "
            f"{machines['gpus']}; ask for the former, or remove {work} to begin anew"
        )
    write_atomically(mark, json.dumps(dict(machines)))
    found = {int(path.name.removeprefix(_STEP)): path for path in folder.glob(f"{_STEP}*")}
    last = step if step < steps else max((one for one in found if one < steps), default=0)
    # What a kill cut off is newer than the newest whole one.
    for one, path in found.items():
        if one > last:
            shutil.rmtree(path)
    if last:
        write_atomically(latest, str(last))
    else:
        latest.unlink(missing_ok=True)
    return last


def settle_metrics(path: Path, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    if not path.is_file():
        return
    lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        # Cut off by a kill.
        return float("inf")
