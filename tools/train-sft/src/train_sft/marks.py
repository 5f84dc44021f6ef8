"""Small files by which the training processes and the tool that started them tell each other how far they came."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

# In a checkpoint: all processes have written their part of it.
WHOLE = "whole"
# Beside the checkpoints: the step at which a signal stopped the run, behind a checkpoint.
STOPPED = "stopped"


def drop_torn(checkpoints: Path) -> None:
    """Remove the checkpoints that not all processes have written their part of."""
    for path in checkpoints.glob("checkpoint-*"):
        if not (path / WHOLE).is_file():
            shutil.rmtree(path)


def stopped_at(checkpoints: Path) -> int | None:
    """Return the step at which a signal stopped the run; None when none did."""
    with contextlib.suppress(FileNotFoundError):
        return int((checkpoints / STOPPED).read_text())
    return None
