"""Example texts: what --positives and --negatives name."""

from __future__ import annotations

from pathlib import Path

from recipe_core.prompts import find_sets, read_prompts


def read_texts(path: Path, flag: str) -> list[str]:
    """Return the texts of a file or folder in order of the alphabet; rows without one are passed over.

    Args:
        path: as :func:`recipe_core.prompts.find_sets` takes it.
        flag: what named it, for errors.

    Raises:
        BadInput: a file that is missing, unreadable or of another kind, a text that is none, or no text at all.
    """
    (found,) = find_sets([path], flag=flag)
    return sorted(prompt.text.strip() for prompt in read_prompts(found))
