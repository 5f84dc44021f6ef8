"""The forms of published rows: what each takes of an artifact, and a conversation of any form read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipe_core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
Turn = tuple[str, str]

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
        columns: the columns that are needed of it, which are those of a Parquet form.
        line: for JSON lines, makes a published row of a trial's name and its turns (role, content); raises BadInput.
        published: the columns of published rows; one of messages with the names of a message's parts.
        description: for the card.
    """

    name: str
    reads: str
    columns: tuple[str, ...]
    line: Callable[[str | None, Sequence[Turn]], dict[str, Any]] | None
    published: Mapping[str, tuple[str, ...]]
    description: str

    @property
    def suffix(self) -> str:
        """How the names of data files end."""
        return "jsonl" if self.line else "parquet"


def sharegpt(name: str | None, turns: Sequence[Turn]) -> dict[str, Any]:
    """Return a conversation in ShareGPT form.

    Raises:
        BadInput: a role that ShareGPT has no name for.

    >>> sharegpt("a__0", [("user", "hi")])
    {'id': 'a__0', 'conversations': [{'from': 'human', 'value': 'hi'}]}
    """
    try:
        return {"id": name, "conversations": [{"from": _FROM_ROLE[role], "value": text} for role, text in turns]}
    except KeyError as role:
        raise BadInput(
            f"role {role} has no name in ShareGPT ({', '.join(_FROM_ROLE)} have); use --form openai"
        ) from None


def openai(name: str | None, turns: Sequence[Turn]) -> dict[str, Any]:
    """Return a conversation as OpenAI messages.

    >>> openai("a__0", [("user", "hi")])
    {'id': 'a__0', 'messages': [{'role': 'user', 'content': 'hi'}]}
    """
    return {"id": name, "messages": [{"role": role, "content": text} for role, text in turns]}


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


class Conversations:
    """The conversations of a batch of rows, as columns.

    Attributes:
        lengths: turns of each row.
        roles: of all turns, one row after another.
        contents: likewise.

    Raises:
        BadInput: a row has no conversation, or a turn no role or no content; the message names the row.
    """

    def __init__(self, column: pa.Array, where: str, first_row: int) -> None:
        import pyarrow.compute as pc

        if column.null_count:
            number = first_row + pc.index(column.is_null(), True).as_py()
            raise BadInput(f"{where}: row {number} has no conversation; filter it out before")
        turns = column.flatten()
        self.lengths = pc.list_value_length(column)
        self.roles, self.contents = (pc.struct_field(turns, name) for name in ("role", "content"))
        for name, cells in (("role", self.roles), ("content", self.contents)):
            if cells.null_count:
                turn = pc.index(cells.is_null(), True).as_py()
                number = first_row + pc.list_parent_indices(column)[turn].as_py()
                raise BadInput(f"{where}: row {number} has a message without {name}; filter it out before")

    def array(self, kind: pa.ListType) -> pa.Array:
        """Return them as a column of lists of roles and contents, whatever else their turns held."""
        import pyarrow as pa

        parts = {"role": self.roles, "content": self.contents}
        turns = pa.StructArray.from_arrays(
            [parts[part.name].cast(part.type) for part in kind.value_type], fields=list(kind.value_type)
        )
        offsets = pa.array([0, *_running_sums(self.lengths.to_pylist())], pa.int32())
        return pa.ListArray.from_arrays(offsets, turns, type=kind)

    def __iter__(self) -> Iterator[list[Turn]]:
        turns = zip(self.roles.to_pylist(), self.contents.to_pylist(), strict=True)
        for length in self.lengths.to_pylist():
            yield [next(turns) for _ in range(length)]


def _running_sums(numbers: Sequence[int]) -> Iterator[int]:
    from itertools import accumulate

    return accumulate(numbers)


def published_batch(batch: pa.RecordBatch, schema: pa.Schema, where: str, first_row: int) -> pa.RecordBatch:
    """Return the columns of a Parquet form, in its order and types.

    Raises:
        BadInput: as for :class:`Conversations`, or a task without path or folder; the message names the row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for field in schema:
        column = batch.column(field.name)
        if field.name == "conversations":
            columns.append(Conversations(column, where, first_row).array(field.type))
            continue
        if field.name in ("path", "task_binary"):
            absent = pc.fill_null(pc.equal(pc.binary_length(column), 0), True)
            if (number := pc.index(absent, True).as_py()) >= 0:
                raise BadInput(f"{where}: row {first_row + number} has no {field.name}; rebuild it with source-tasks")
        columns.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


_TRAJECTORIES = "trajectories.parquet"
_SFT = {name: ("role", "content") if name == "conversations" else () for name in SFT_COLUMNS}
FORMS = {
    form.name: form
    for form in (
        Form("sft", _TRAJECTORIES, SFT_COLUMNS, None, _SFT, "the columns of the published fine-tuning sets"),
        Form(
            "sharegpt",
            _TRAJECTORIES,
            ("trial_name", "conversations"),
            sharegpt,
            {"id": (), "conversations": ("from", "value")},
            "ShareGPT conversations",
        ),
        Form(
            "openai",
            _TRAJECTORIES,
            ("trial_name", "conversations"),
            openai,
            {"id": (), "messages": ("role", "content")},
            "OpenAI messages",
        ),
        Form(
            "tasks",
            "tasks.parquet",
            ("path", "task_binary"),
            None,
            {"path": (), "task_binary": ()},
            "task folders as tar.gz, by path",
        ),
    )
}
