"""Rows that come from a benchmark's test split, which no training data may be made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recipe_core.errors import BadInput

# The repositories of SWE-bench's test split, of which Verified and Lite are parts; training splits use others.
SWE_BENCH_TEST = frozenset(
    {
        "astropy__astropy",
        "django__django",
        "matplotlib__matplotlib",
        "mwaskom__seaborn",
        "pallets__flask",
        "psf__requests",
        "pydata__xarray",
        "pylint-dev__pylint",
        "pytest-dev__pytest",
        "scikit-learn__scikit-learn",
        "sphinx-doc__sphinx",
        "sympy__sympy",
    }
)
COLUMNS = ("instance_id", "split", "dataset", "dataset_name", "source", "origin", "benchmark")

_INSTANCE = re.compile(r"(?P<repository>[\w.-]+__[\w.-]+?)-\d+")
_HELD = re.compile(r"swe[-_ ]?bench[-_ /]*(verified|lite|multimodal|pro)|swe[-_ ]?bench\b.*\btest\b", re.IGNORECASE)
_SPLITS = ("test", "validation", "valid", "dev", "eval")


def named_benchmark(row: Mapping[str, Any]) -> str | None:
    """Return the cell of a row that names a benchmark's test split, as `column: value`, or None.

    >>> named_benchmark({"instance_id": "django__django-11099"})
    'instance_id: django__django-11099'
    >>> named_benchmark({"instance_id": "oauthlib__oauthlib.1fd52536.combine_file__09vlzwgc", "split": "train"}) is None
    True
    """
    for name in COLUMNS:
        value = row.get(name)
        if not isinstance(value, str):
            continue
        found = _INSTANCE.fullmatch(value.strip()) if name == "instance_id" else None
        held = (found is not None and found["repository"].lower() in SWE_BENCH_TEST) or (
            name == "split" and value.strip().lower() in _SPLITS
        )
        if held or _HELD.search(value):
            return f"{name}: {value[:100]}"
    return None


def refuse_benchmark(row: Mapping[str, Any], where: str) -> None:
    """Raise BadInput where a row names a benchmark's test split."""
    if found := named_benchmark(row):
        raise BadInput(f"{where}: from a benchmark's test split ({found}); take these rows out of the input")
