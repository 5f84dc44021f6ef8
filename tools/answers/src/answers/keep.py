"""Which samples of one question each filter keeps: pure functions over plain values.

Each returns, in the order of the samples, None for a sample that is kept and else the reason why it is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from answers.final import as_text
from recipe_core.seeds import row_seed


@dataclass(frozen=True)
class Sample:
    """One answer to a question.

    Attributes:
        index: which of the question's samples it is, from 0.
        tokens: what the server counted, reasoning included; 0 where it counted nothing.
        characters: of the answer, reasoning included.
        final: its final answer; empty where it has none.
    """

    index: int
    tokens: int = 0
    characters: int = 0
    final: str = ""


def by_chance(samples: Sequence[Sample], *, keep: int, seed: int, task_id: str) -> list[str | None]:
    """Keep `keep` samples: those whose hash of seed, task id and index is smallest."""
    ranked = sorted(samples, key=lambda sample: (row_seed(seed, "keep", task_id, sample.index), sample.index))
    kept = {sample.index for sample in ranked[:keep]}
    return [None if sample.index in kept else "not-drawn" for sample in samples]


def by_length(
    samples: Sequence[Sample],
    *,
    keep: int | None,
    prefer: str,
    low: int | None = None,
    high: int | None = None,
) -> list[str | None]:
    """Keep samples by their length: tokens first, then characters; of equal ones the smaller index.

    Args:
        samples: of one question.
        keep: how many of those inside the bounds to keep; None for all.
        prefer: `longest` or `shortest`.
        low: fewest tokens.
        high: most tokens.
    """
    decided: list[str | None] = [_outside(sample.tokens, low, high) for sample in samples]
    sign = -1 if prefer == "longest" else 1
    inside = [sample for sample, reason in zip(samples, decided, strict=True) if reason is None]
    ranked = sorted(inside, key=lambda sample: (sign * sample.tokens, sign * sample.characters, sample.index))
    kept = {sample.index for sample in ranked[:keep]}
    return [
        reason or (None if sample.index in kept else f"not-{prefer}")
        for sample, reason in zip(samples, decided, strict=True)
    ]


def _outside(tokens: int, low: int | None, high: int | None) -> str | None:
    if low is None and high is None:
        return None
    if tokens == 0:
        return "no-token-count"
    if low is not None and tokens < low:
        return "too-short"
    return "too-long" if high is not None and tokens > high else None


def by_majority(samples: Sequence[Sample], *, same: Callable[[str, str], bool]) -> list[str | None]:
    """Keep the samples whose final answer is the most frequent one.

    Final answers of equal text are one answer. Answers are taken from the most frequent on (of equally frequent ones
    the one given by the smallest index first); each joins the first group whose first answer is the same, else it
    begins a group. The group of the most samples wins; of equally large ones the one with the smallest index.

    Args:
        samples: of one question.
        same: whether two final answers are the same.
    """
    counts: Counter[str] = Counter()
    first: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda sample: sample.index):
        text = as_text(sample.final)
        if text:
            counts[text] += 1
            first.setdefault(text, sample)
    groups: list[list[str]] = []
    for text in sorted(counts, key=lambda text: (-counts[text], first[text].index)):
        for group in groups:
            if same(first[group[0]].final, first[text].final):
                group.append(text)
                break
        else:
            groups.append([text])

    def order(group: list[str]) -> tuple[int, int]:
        return -sum(counts[text] for text in group), min(first[text].index for text in group)

    winner: list[str] = min(groups, key=order) if groups else []
    reasons: list[str | None] = []
    for sample in samples:
        text = as_text(sample.final)
        reasons.append(None if text in winner else "minority" if text else "no-answer")
    return reasons
