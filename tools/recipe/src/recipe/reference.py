"""The reference page of recipe files, made of the schema and the tools' own help.

    make docs

Needs an environment in which every tool can be imported, as the stack `dev` is.
"""

from __future__ import annotations

import argparse
import importlib
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from recipe.schema import RecipeFile, Stages, Step

_INTRODUCTION = """# Recipe files

A recipe is a YAML file in `workflow/recipes/`, named like the recipe. This page is made by `make docs` from the schema
(`recipe schema` prints it as JSON Schema) and from the tools' own help; a test holds it in step.

| key | kind | meaning |
|---|---|---|
"""
_STAGES = """
`stages` holds a mapping for each stage, of the names of steps to their parameters. A parameter is a flag of the stage's
tool; `from` and `model` refer to other steps as `stage/step`. What is left out has the tool's default. Every step takes
`seed`, which overrides the recipe's.
"""


def parser_of(stage: str) -> argparse.ArgumentParser:
    """Return the parser of a stage's tool."""
    module = stage.replace("-", "_")
    for name in ("cli", "__main__"):
        try:
            return importlib.import_module(f"{module}.{name}").build_parser()
        except ModuleNotFoundError as error:
            if error.name != f"{module}.{name}":
                raise
    raise ModuleNotFoundError(f"{module} has no command line")


def kind(annotation: Any) -> str:
    """Return what a key takes, in words.

    >>> kind(Literal["copy", "none"] | None)
    '`copy` or `none`'
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(parts[0])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(kind(part) for part in parts if part is not type(None))
    if origin is list:
        return f"list of {kind(parts[0])}"
    if origin is dict:
        return "mapping"
    names = {int: "whole number", float: "number", str: "text", bool: "`true`", Stages: "mapping"}
    return names.get(annotation, getattr(annotation, "__name__", "value"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _rows(stage: str, model: type[Step]) -> Iterator[str]:
    actions = {
        option.removeprefix("--"): action for action in parser_of(stage)._actions for option in action.option_strings
    }
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key == "seed":
            continue
        flag = model.references.get(name, key)
        # What the workflow does and no tool has a flag for says so itself.
        action = actions.get(flag)
        said = (action.help or "").replace("%(default)s", str(action.default)) if action else info.description
        if info.is_required():
            # The tool has a default, a recipe states it.
            said = re.sub(r" \(default [^()]*\)", "", said or "")
        what = kind(info.annotation)
        if name in model.references:
            bounded = any(getattr(limit, "max_length", None) == 1 for limit in info.metadata)
            single = bounded or get_origin(info.annotation) is not list
            what = "step" if single else "step, or a list of them"
        needed = "**" if info.is_required() else ""
        yield f"| {needed}`{key}`{needed} | {_cell(what)} | {_cell(said or '')} |"


def reference() -> str:
    """Return the page, in Markdown."""
    lines = [_INTRODUCTION.rstrip("\n")]
    for name, info in RecipeFile.model_fields.items():
        lines.append(f"| `{name}` | {kind(info.annotation)} | {_cell(info.description or '')} |")
    lines += [_STAGES]
    for field, info in Stages.model_fields.items():
        stage = info.alias or field
        model = get_args(info.annotation)[1]
        lines += [f"## {stage}", "", _cell(model.__doc__ or ""), "", "| key | kind | meaning |", "|---|---|---|"]
        lines += [*_rows(stage, model), ""]
    lines.append("Keys in bold are required.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
