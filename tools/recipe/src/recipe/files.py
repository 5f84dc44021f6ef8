"""Recipe files as written: YAML, what a file takes from another, and the cells of a grid."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from recipe_core.errors import BadInput, nearest

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


# The C parser reads the grids of the papers in a tenth of the time; wheels of PyYAML have it.
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc, valid-type]
    """Refuses a mapping that has a key twice, of which YAML readers silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping changed by another: mappings key by key, other values replaced, what is null removed.

    >>> merge({"mix": {"rows": 4, "cap": 2}, "seed": 1}, {"mix": {"rows": 5, "cap": None}})
    {'mix': {'rows': 5}, 'seed': 1}
    """
    merged = copy.deepcopy(dict(base))
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            old = merged.get(key)
            merged[key] = merge(old if isinstance(old, Mapping) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def read_file(path: Path) -> dict[str, Any]:
    """Read a recipe file without looking at what it says.

    Raises:
        BadInput: no such file (the nearest one is named), not YAML, or no mapping.
    """
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        hint = nearest(path.stem, known) or f"; there are {', '.join(known) or 'none'}"
        raise BadInput(f"{path}: no such recipe{hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: a recipe is a mapping with the keys recipe, description, date and stages")
    return raw


def read_extended(path: Path, chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe file merged over the recipe that it `extends`, which lies beside it and may extend another.

    Raises:
        BadInput: see :func:`read_file`; or recipes that extend each other in a circle.
    """
    if path in chain:
        raise BadInput(f"{path}: extends itself: {' -> '.join(file.stem for file in (*chain, path))}")
    raw = read_file(path)
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise BadInput(f"{path}: extends: expected the name of a recipe, got {base!r}")
    below = read_extended(path.with_name(f"{base}.yaml"), (*chain, path))
    # A ranking is of the recipe that states it; its name and description too.
    for key in ("rank", "recipe", "description"):
        below.pop(key, None)
    grid = merge_grid(below.pop("grid", None), raw.pop("grid", {}))
    return merge(below, raw) | ({} if grid is None else {"grid": grid})


def merge_grid(base: Any, change: Any) -> Any:
    """Return a grid changed by another: axes and their variants by name, null removes one.

    What is null inside a variant stays: it is for the variant's recipes to remove.

    >>> merge_grid({"scale": {"1k": {"mix": {"rows": 1}}, "2k": {}}}, {"scale": {"1k": {"mix": None}, "2k": None}})
    {'scale': {'1k': {'mix': None}}}
    """
    if not isinstance(change, dict):
        return change
    # A grid of another shape is left for `cells` to refuse.
    merged = copy.deepcopy(base) if isinstance(base, dict) else {}
    for axis, variants in change.items():
        if variants is None:
            merged.pop(axis, None)
            continue
        if not isinstance(variants, dict) or not isinstance(merged.get(axis), dict):
            merged[axis] = variants
            continue
        for name, stages in variants.items():
            if stages is None:
                merged[axis].pop(name, None)
            elif isinstance(stages, dict) and isinstance(merged[axis].get(name), dict):
                merged[axis][name] = _overlay(merged[axis][name], stages)
            else:
                merged[axis][name] = stages
    return merged or None


def _overlay(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping changed by another, mappings key by key; null is a value like others."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def cells(raw: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return the recipes of a file by the part of their name behind the file's: one for each combination of variants.

    Args:
        raw: a recipe. Its `grid` holds axes, an axis variants, a variant what it changes in `stages`.
        where: the file, for errors.

    Returns:
        Recipes without `grid` and `rank`; a file without a grid gives a single recipe of the name "".

    Raises:
        BadInput: a grid of another shape, or a ranking without one.
    """
    plain = {key: value for key, value in raw.items() if key not in ("grid", "rank")}
    grid = raw.get("grid")
    if grid is None:
        if "rank" in raw:
            raise BadInput(f"{where}: rank: compares the recipes of a grid, and there is no grid; give one or drop it")
        return {"": plain}
    if not isinstance(grid, dict) or not grid:
        raise BadInput(f"{where}: grid: expected axes, each a mapping of variants to what they change in stages")
    for axis, variants in grid.items():
        if not isinstance(variants, dict) or not variants:
            raise BadInput(f"{where}: grid.{axis}: expected variants, each a mapping of what it changes in stages")
        for name, change in variants.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise BadInput(f"{where}: grid.{axis}.{name}: a variant's name is lower-case letters, digits, hyphens")
            if not isinstance(change, dict):
                raise BadInput(f"{where}: grid.{axis}.{name}: expected a mapping of stages (empty for no change)")
    found: dict[str, dict[str, Any]] = {}
    for chosen in itertools.product(*(variants.items() for variants in grid.values())):
        name = "-".join(variant for variant, _ in chosen)
        if name in found:
            raise BadInput(f"{where}: grid: two combinations are both called {name!r}; rename a variant")
        cell = plain
        for _, change in chosen:
            cell = merge(cell, {"stages": change})
        found[name] = cell
    return found
