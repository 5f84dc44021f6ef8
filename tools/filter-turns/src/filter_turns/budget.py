"""How much is kept: a random part of the trajectories, of so many rows or so many tokens.

Every row has a rank, a hash of the seed and of what the row is, and rows are taken by rank. So which are kept depends
on the set of rows and the seed, not on their order or how they are cut into files; and a larger budget keeps all that a
smaller one keeps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from recipe_core.seeds import row_seed
from recipe_core.tokens import Tokenizer

# What says which trajectory a row is; the conversation tells rows apart that agree in all of these.
IDENTITY = ("task_id", "task", "attempt", "trial_name", "episode", "trace_source")


class Ranked(NamedTuple):
    """A row that may be kept: its rank, its number of tokens, and where it stands in the input."""

    rank: tuple[int, str]
    tokens: int
    place: int


def rank(row: Mapping[str, Any], seed: int) -> tuple[int, str]:
    """Return where a row stands in the random order: a hash of seed and row, then the digest of its conversation."""
    text = json.dumps(row["conversations"], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return row_seed(seed, *(row.get(name) for name in IDENTITY), digest), digest


def keep_tokens(rows: Iterable[Ranked], budget: int) -> list[Ranked]:
    """Take rows by rank until the next one would exceed the budget; that one and all after it are left.

    A row too large for what remains ends it rather than being passed over: else what is left of the budget would go to
    the shortest rows, and the part would no longer be a random one.
    """
    taken = []
    total = 0
    for row in sorted(rows):
        if total + row.tokens > budget:
            break
        total += row.tokens
        taken.append(row)
    return taken


def keep_rows(rows: Iterable[Ranked], count: int) -> list[Ranked]:
    """Take the first `count` rows by rank."""
    return sorted(rows)[:count]


def count_text(conversations: Collection[Mapping[str, str | None]] | None, tokenizer: Tokenizer) -> int:
    """Return the tokens of the messages' contents; roles and what a chat template adds are not counted."""
    return sum(len(tokenizer(message["content"] or "")) for message in conversations or ())


def count_recorded(
    prompts: Sequence[Sequence[int] | None] | None, completions: Sequence[Sequence[int] | None] | None
) -> int | None:
    """Return the tokens of a conversation by what the server recorded, or None where it recorded nothing.

    Each turn's prompt holds the turns before it, so the longest prompt with its completion is the whole conversation,
    with what the chat template adds.
    """
    if not prompts or not completions or len(prompts) != len(completions):
        return None
    if any(part is None for part in (*prompts, *completions)):
        return None
    return max(
        len(prompt or ()) + len(completion or ()) for prompt, completion in zip(prompts, completions, strict=True)
    )
