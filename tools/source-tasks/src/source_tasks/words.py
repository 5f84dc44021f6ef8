"""Two-word values such as `amber-falcon`: what file names, lines and search words of generated tasks are made of."""

from __future__ import annotations

from functools import cache

from source_tasks.heldout import split_of

# No word of a list begins with another of the same list, so that sorting values does not depend on how a locale
# treats the hyphen.
_FIRST = """
    amber azure bold brave brown calm clean clever cold coral crisp dark deep dusty early empty fancy fast fresh gentle
    giant gold green happy heavy icy jolly keen large light lucky merry noble olive plain proud quick quiet red rough
    sharp silver small soft sunny tidy warm young
"""
_SECOND = """
    anchor apple arrow badge basket beach bell bottle bridge candle castle cloud desk dragon engine falcon field flower
    forest garden glove hammer harbor island jacket kettle ladder lake lemon market meadow mirror needle ocean orange
    paper pencil pepper planet river rocket saddle shell temple tiger tunnel violin window
"""
FIRST = tuple(_FIRST.split())
SECOND = tuple(_SECOND.split())


@cache
def values(split: str) -> tuple[str, ...]:
    """Return all values of one split; every word occurs in both splits, no value does."""
    pairs = (f"{first}-{second}" for first in FIRST for second in SECOND)
    return tuple(value for value in pairs if split_of(value) == split)
