"""From a recipe to the steps to build: every step gets a key, and its place below results/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recipe.files import cells, read_extended
from recipe.schema import Recipe, Stages, Step
from recipe_core.artifact import value_digest
from recipe_core.errors import BadInput, nearest

STAGES = list(Stages().by_name())
KEY_DIGITS = 12
# Stages whose jobs run trials, and how many at the same time where the recipe does not say: the tools' defaults.
CONCURRENCY = {"rollout": 4, "evaluate": 4, "train-rl": 8}
# Flags that take one word for each of several values; others take them in one, with commas.
_SEVERAL_WORDS = {"benchmarks"}
# What flags take that are not named after it.
_ACCEPTED = {"rows": ("tasks", "trajectories"), "held-out": ("tasks",)}
# Rules of the workflow beside the stages'; a recipe is a rule too, so it cannot have the name of one.
_RULES = {*STAGES, "report", "rank", "link", "ablations"}

_DEFAULT_MAY_BE_YES = ("flash-attention", "gradient-checkpointing")


@dataclass(frozen=True)
class PlannedStep:
    """One step of a recipe, keyed.

    Attributes:
        name: `stage/step` as the recipe writes it.
        key: short digest of stage, parameters, seed and the keys of its inputs: equal keys mean equal artifacts.
        inputs: artifact folders by the flag that takes them.
    """

    name: str
    stage: str
    key: str
    parameters: dict[str, Any]
    seed: int
    date: str
    inputs: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """The jobs that share the step's work; with more than one, another writes its artifact."""
        return int(self.parameters.get("shards", 1))

    @property
    def marks(self) -> list[str]:
        """The files that say which of the jobs that share the step's work have done theirs; none where one job does."""
        return [f"{self.artifact}.shards/{shard}.done" for shard in range(1, self.shards + 1) if self.shards > 1]

    @property
    def outside(self) -> str:
        """What the step reaches over a network while it runs: an endpoint or a remote provider; empty for nothing."""
        place = self.parameters.get("environment", "sandbox")
        return str(self.parameters.get("endpoint") or (place if place != "sandbox" else ""))

    @property
    def trainer(self) -> str:
        """The trainer of a step of reinforcement learning, by the recipe or the tool's default; empty for others."""
        return str(self.parameters.get("trainer", "trl")) if self.stage == "train-rl" else ""

    @property
    def gpus(self) -> int:
        """The GPUs of each of its nodes that the step's tool uses on a machine with GPUs; 0 where it uses none."""
        if self.stage == "train-sft":
            return int(self.parameters.get("processes-per-node", 1))
        if self.stage == "train-rl":
            return int(self.parameters.get("gpus", 1)) if self.trainer == "skyrl" else 0
        # A tool that serves a model; one behind an API has GPUs of its own.
        served = "model" in self.inputs
        return int(self.parameters.get("tensor-parallel", 1)) * int(self.parameters.get("data-parallel", 1)) * served

    @property
    def trials(self) -> int:
        """The trials that the step's job runs at the same time, each in a sandbox."""
        return int(self.parameters.get("concurrency", CONCURRENCY[self.stage])) if self.stage in CONCURRENCY else 0

    @property
    def artifact(self) -> Path:
        """The artifact's folder, relative to the project."""
        return artifact_path(self.stage, self.key)

    @property
    def flags(self) -> list[str]:
        """The tool's flags for the parameters, but those that decide how many jobs there are."""
        return [word for name, value in self.parameters.items() if name != "shards" for word in _flag(name, value)]


def artifact_path(stage: str, key: str) -> Path:
    """Return where the artifact of a stage with that key goes."""
    return Path("results") / stage.replace("-", "_") / key


def _flag(name: str, value: Any) -> Iterator[str]:
    if value is False:
        # Where the tool's own default may be yes, no has to be said.
        if name in _DEFAULT_MAY_BE_YES:
            yield f"--no-{name}"
        return
    yield f"--{name}"
    if value is True:
        return
    if name in _SEVERAL_WORDS:
        yield from value
    elif isinstance(value, list):
        yield ",".join(map(str, value))
    elif name == "extra-body":
        yield json.dumps(value, sort_keys=True)
    elif isinstance(value, dict):
        yield ",".join(f"{key}={item}" for key, item in sorted(value.items()))
    else:
        yield str(value)


def _key_path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "function-wrap[dict]()")


def _known_names(location: tuple[int | str, ...]) -> list[str]:
    """Return the names allowed where an unknown one stands."""
    model: Any = Recipe
    if location[:1] == ("stages",):
        model = Stages
        if len(location) >= 4 and location[1] in STAGES:
            annotation = Stages.model_fields[str(location[1]).replace("-", "_")].annotation
            model = annotation.__args__[1]  # type: ignore[union-attr]
    return [info.alias or name for name, info in model.model_fields.items()]


def check_recipe(raw: dict[str, Any], path: Path, cell: str = "") -> Recipe:
    """Check a recipe as read.

    Args:
        raw: what it says, after `extends` and `grid`.
        path: its file, whose name it has.
        cell: which of a grid's it is, for errors.

    Raises:
        BadInput: an unknown key (the nearest known one is named) or a value that does not fit.
    """
    place = f"{path}: cell {cell}" if cell else str(path)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = _key_path(first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_names(first["loc"])
            unknown = str(first["loc"][-1])
            hint = nearest(unknown, known) or f"; known keys are {', '.join(known)}"
            raise BadInput(f"{place}: unknown key {unknown!r} at {where}{hint}") from None
        said = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] == "value_error" else f"; got {first.get('input')!r}"
        raise BadInput(f"{place}: {where}: {said}{got}") from None
    if recipe.recipe in _RULES:
        raise BadInput(f"{place}: recipe: {recipe.recipe!r} is the name of a rule; choose another")
    if recipe.recipe != path.stem:
        raise BadInput(f"{place}: recipe: {recipe.recipe!r} is not the file's name; rename one of the two")
    return recipe


def plan(recipe: Recipe, where: str) -> dict[str, PlannedStep]:
    """Key every step of a recipe, inputs before what is made from them.

    Args:
        recipe: the recipe.
        where: its file, for errors.

    Raises:
        BadInput: a reference to a step that is not there, or steps that need each other in a circle.
    """
    steps = {
        f"{stage}/{name}": step for stage, group in recipe.stages.by_name().items() for name, step in group.items()
    }
    planned: dict[str, PlannedStep] = {}

    def visit(name: str, chain: tuple[str, ...]) -> PlannedStep:
        if name in planned:
            return planned[name]
        if name in chain:
            raise BadInput(f"{where}: steps need each other in a circle: {' -> '.join((*chain, name))}")
        step = steps[name]
        inputs: dict[str, list[PlannedStep]] = {}
        for flag, references in step.inputs().items():
            for reference in references:
                if reference not in steps:
                    hint = nearest(reference, list(steps)) or f"; there are {', '.join(steps)}"
                    raise BadInput(f"{where}: {name} refers to {reference!r}, which is no step of this recipe{hint}")
                if steps[reference].produces not in _ACCEPTED.get(flag, (flag,)):
                    raise BadInput(f"{where}: {name} needs {flag}, but {reference} makes {steps[reference].produces}")
            inputs[flag] = [visit(reference, (*chain, name)) for reference in references]
        planned[name] = _keyed(recipe, name, step, inputs)
        return planned[name]

    for name in steps:
        if not re.fullmatch(r"[a-z-]+/[a-z0-9][a-z0-9-]*", name):
            raise BadInput(f"{where}: {name}: a step's name is lower-case letters, digits and hyphens")
        visit(name, ())
    _check_evaluations(recipe, planned, where)
    return {name: planned[name] for name in steps}


def _check_evaluations(recipe: Recipe, planned: Mapping[str, PlannedStep], where: str) -> None:
    """Raise BadInput where two evaluations have one label, or a model is scored on what it was trained on."""
    labels: dict[str, str] = {}
    sources: dict[Path, set[str]] = {}
    # Inputs come before what is made from them.
    for planned_step in planned.values():
        above = [sources[path] for paths in planned_step.inputs.values() for path in paths]
        own = {planned_step.name} if planned_step.stage == "source-tasks" else set()
        sources[planned_step.artifact] = own.union(*above)
    for name, step in recipe.stages.evaluate.items():
        full = f"evaluate/{name}"
        if step.label in labels:
            raise BadInput(f"{where}: {labels[step.label]} and {full} are both labelled {step.label!r}; relabel one")
        labels[step.label] = full
        tasks, *_ = planned[full].inputs["tasks"]
        for model in planned[full].inputs.get("model", []):
            shared = sorted(sources[tasks] & sources[model])
            if shared:
                raise BadInput(
                    f"{where}: {full} scores a model on {shared[0]}, which it was trained on; make tasks of split test"
                )


# Stages whose rows or card carry a date; for the others the recipe's date decides nothing and is no part of the key.
DATED_STAGES = ("rollout", "answers", "export-data", "train-rl", "evaluate")


def _keyed(recipe: Recipe, name: str, step: Step, inputs: dict[str, list[PlannedStep]]) -> PlannedStep:
    stage = name.split("/", maxsplit=1)[0]
    seed = recipe.seed if step.seed is None else step.seed
    date = recipe.date.isoformat()
    identity = {
        "stage": stage,
        "parameters": {name: value for name, value in step.parameters().items() if name not in step.execution},
        "seed": seed,
        "date": date if stage in DATED_STAGES else None,
        "inputs": {flag: [entry.key for entry in entries] for flag, entries in inputs.items()},
    }
    return PlannedStep(
        name=name,
        stage=stage,
        key=value_digest(identity)[:KEY_DIGITS],
        parameters=step.parameters(),
        seed=seed,
        date=date,
        inputs={flag: [entry.artifact for entry in entries] for flag, entries in inputs.items()},
    )


def load_plans(path: Path) -> dict[str, dict[str, PlannedStep]]:
    """Read, check and key the recipes of a file, by name: `demo`, or `ablate/longest` and the others of a grid.

    Raises:
        BadInput: see :mod:`recipe.files`, :func:`check_recipe` and :func:`plan`.
    """
    plans = {}
    for cell, raw in cells(read_extended(path), str(path)).items():
        recipe = check_recipe(raw, path, cell)
        if cell:
            plans[f"{recipe.recipe}/{cell}"] = _without_unused_sources(plan(recipe, f"{path}: cell {cell}"))
        else:
            plans[recipe.recipe] = plan(recipe, str(path))
    return plans


def _without_unused_sources(steps: dict[str, PlannedStep]) -> dict[str, PlannedStep]:
    """Return a grid's recipe without the sources that it inherits and makes nothing from."""
    used = {artifact for step in steps.values() for artifacts in step.inputs.values() for artifact in artifacts}
    return {name: step for name, step in steps.items() if step.stage != "source-tasks" or step.artifact in used}


def load_plan(path: Path, cell: str = "") -> dict[str, PlannedStep]:
    """Return the steps of one recipe of a file; errors as in :func:`load_plans`, or no such cell."""
    plans = load_plans(path)
    name = f"{path.stem}/{cell}" if cell else path.stem
    if name not in plans:
        known = [known.partition("/")[2] for known in plans]
        hint = nearest(cell, known) or f"; it has {', '.join(known[:5])}{' …' if len(known) > 5 else ''}"
        raise BadInput(f"{path}: no recipe {name!r} in it{hint}" if known != [""] else f"{path}: has no cells")
    return plans[name]


@dataclass(frozen=True)
class PlannedRank:
    """The ranking of a grid's recipes.

    Attributes:
        key: short digest of what is ranked.
        seed: the recipe's, for the intervals.
        candidates: each recipe's evaluation, by the part of the recipe's name behind the file's.
    """

    key: str
    seed: int
    candidates: dict[str, Path]

    @property
    def artifact(self) -> Path:
        """The artifact's folder, relative to the project."""
        return artifact_path("rank", self.key)


def load_rank(path: Path, plans: Mapping[str, Mapping[str, PlannedStep]]) -> PlannedRank | None:
    """Return the ranking that a recipe file asks for, or None.

    Args:
        path: the file.
        plans: its recipes, as :func:`load_plans` returns them.

    Raises:
        BadInput: it ranks by what is no evaluation of every recipe, or there is only one recipe.
    """
    by = read_extended(path).get("rank")
    if by is None:
        return None
    if not isinstance(by, str) or not by.startswith("evaluate/"):
        raise BadInput(f"{path}: rank: expected an evaluation such as evaluate/sft, got {by!r}")
    candidates: dict[str, PlannedStep] = {}
    for name, steps in plans.items():
        if by not in steps:
            hint = nearest(by, list(steps)) or ""
            raise BadInput(f"{path}: rank: {name} has no step {by!r}{hint}")
        candidates[name.partition("/")[2]] = steps[by]
    if len(candidates) < 2:
        raise BadInput(f"{path}: rank: the grid has one recipe, which there is nothing to rank against")
    seed = min(step.seed for step in candidates.values())
    identity = {"stage": "rank", "seed": seed, "candidates": {name: step.key for name, step in candidates.items()}}
    folders = {name: step.artifact for name, step in candidates.items()}
    return PlannedRank(value_digest(identity)[:KEY_DIGITS], seed, folders)


def report_key(recipe: str, steps: dict[str, PlannedStep]) -> str:
    """Return the key of the report over all steps of the recipe with that name."""
    identity = {"stage": "report", "recipe": recipe, "steps": {name: step.key for name, step in steps.items()}}
    return value_digest(identity)[:KEY_DIGITS]
