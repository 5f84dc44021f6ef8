"""What the training tools share: which checkpoint a killed run goes on from, and the model folder a run leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

from recipe_core.artifact import Artifact, ArtifactWriter

# The trainer writes this file last, so a checkpoint without it is one that a kill cut off.
_LAST_FILE = "trainer_state.json"
# Taken from the model that training began with: it changes weights and nothing else.
_KEPT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


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


def publish_model(trained: Path, start: Artifact, writer: ArtifactWriter) -> None:
    """Copy a trained model into an artifact: its weights and configuration, the tokenizer it began with."""
    for file in (trained / "config.json", *sorted(trained.glob("*.safetensors*"))):
        shutil.copyfile(file, writer.path(file.name))
    for name in _KEPT_FILES:
        if (start.path / name).is_file():
            shutil.copyfile(start.path / name, writer.path(name))
