"""Turns trajectory rows into what LLaMA-Factory reads: a ShareGPT-style JSON file and the table that describes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput

DATASET = "trajectories"
_ROLES = {"user": "human", "assistant": "gpt", "system": "system"}

# https://llamafactory.readthedocs.io: the columns and tags of a ShareGPT-style set.
DATASET_INFO = {
    DATASET: {
        "file_name": f"{DATASET}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    }
}


def conversation(row: dict[str, Any], where: str) -> list[dict[str, str]]:
    """Return one row's conversation in ShareGPT form.

    Trailing user messages (what the agent never answered) are cut, as there is nothing to learn behind them.

    Args:
        row: `conversations`, `error_class` and `trial_name` of a trajectory row.
        where: its file, for errors.

    Raises:
        BadInput: an infrastructure error (never trained on), or turns that do not alternate from user to assistant.
    """
    name = f"{where}: trial {row['trial_name']}"
    if row["error_class"] == "infrastructure":
        raise BadInput(f"{name}: ended in an infrastructure error, which is never trained on; run filter-turns first")
    turns = list(row["conversations"])
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    roles = [turn["role"] for turn in turns if turn["role"] != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise BadInput(
            f"{name}: turns must alternate from user to assistant, found {roles[:6] or 'none'}; filter it out"
        )
    return [{"from": _ROLES[turn["role"]], "value": turn["content"]} for turn in turns]


def write_dataset(rows: Iterable[dict[str, Any]], folder: Path, where: str) -> int:
    """Write the set and its description into a folder; return the number of conversations.

    Raises:
        BadInput: see :func:`conversation`; or no rows at all.
    """
    conversations = [{"conversations": conversation(row, where)} for row in rows]
    if not conversations:
        raise BadInput(f"{where}: no trajectories to train on; loosen the filter before")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{DATASET}.json").write_text(json.dumps(conversations, ensure_ascii=False, indent=1) + "\n")
    (folder / "dataset_info.json").write_text(json.dumps(DATASET_INFO, indent=2) + "\n")
    return len(conversations)
