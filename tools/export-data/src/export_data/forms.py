"""The forms of published rows: each turns a row of an artifact into one, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

# The columns of the published supervised fine-tuning sets, in their order.
SFT_COLUMNS = (
    "agent",
    "conversations",
    "date",
    "episode",
    "model",
    "model_provider",
    "result",
    "run_id",
    "task",
    "trace_source",
    "trial_name",
)
_FROM_ROLE = {"user": "human", "assistant": "gpt", "system": "system"}
_TO_ROLE = {name: role for role, name in _FROM_ROLE.items()}


@dataclass(frozen=True)
class Form:
    """How rows are published.

    Attributes:
        name: what `--form` takes.
        reads: the file of an artifact that it is made from.
        columns: the columns that are needed of it.
        suffix: `parquet` or `jsonl`.
        convert: makes a published row of an artifact's.
        description: for the card.
    """

    name: str
    reads: str
    columns: tuple[str, ...]
    suffix: str
    convert: Callable[[Row], dict[str, Any]]
    description: str


def sft(row: Row) -> dict[str, Any]:
    """Return the columns of the published fine-tuning sets; reward, tokens and task id are left out."""
    return {name: row[name] for name in SFT_COLUMNS}


def sharegpt(row: Row) -> dict[str, Any]:
    """Return a conversation in ShareGPT form.

    >>> sharegpt({"conversations": [{"role": "user", "content": "hi"}], "trial_name": "a__0"})
    {'id': 'a__0', 'conversations': [{'from': 'human', 'value': 'hi'}]}
    """
    turns = [{"from": _FROM_ROLE[turn["role"]], "value": turn["content"]} for turn in row["conversations"]]
    return {"id": row["trial_name"], "conversations": turns}


def openai(row: Row) -> dict[str, Any]:
    """Return a conversation as OpenAI messages."""
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in row["conversations"]]
    return {"id": row["trial_name"], "messages": messages}


def tasks(row: Row) -> dict[str, Any]:
    """Return a task in the form that reinforcement learning takes: its path and its folder as a tar.gz."""
    return {"path": row["path"], "task_binary": row["task_binary"]}


def messages_of(row: Row) -> list[dict[str, str]]:
    """Return the conversation of a published row of any form that has one, as `role` and `content`.

    >>> messages_of({"conversations": [{"from": "human", "value": "hi"}]})
    [{'role': 'user', 'content': 'hi'}]
    """
    turns = row["messages"] if "messages" in row else row["conversations"]
    return [
        {"role": _TO_ROLE[turn["from"]], "content": turn["value"]}
        if "from" in turn
        else {"role": turn["role"], "content": turn["content"]}
        for turn in turns
    ]


_TRAJECTORIES = "trajectories.parquet"
FORMS = {
    form.name: form
    for form in (
        Form("sft", _TRAJECTORIES, SFT_COLUMNS, "parquet", sft, "the columns of the published fine-tuning sets"),
        Form("sharegpt", _TRAJECTORIES, ("trial_name", "conversations"), "jsonl", sharegpt, "ShareGPT conversations"),
        Form("openai", _TRAJECTORIES, ("trial_name", "conversations"), "jsonl", openai, "OpenAI messages"),
        Form("tasks", "tasks.parquet", ("path", "task_binary"), "parquet", tasks, "task folders as tar.gz, by path"),
    )
}
