"""Which checkpoint a killed run goes on from."""

from __future__ import annotations

import shutil
from pathlib import Path

# The trainer writes this file last, so a checkpoint without it is one that a kill cut off.
_LAST_FILE = "trainer_state.json"


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint below a folder, after removing the ones that are not whole.

    Without any whole checkpoint the folder itself is removed: the trainer refuses one that is neither empty nor a run.
    """
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / _LAST_FILE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path)
    if not whole:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
