"""`recipe status`: prints where the build of a recipe is, once or again and again."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recipe import runs
from recipe.plan import PlannedRank, PlannedStep, report_key
from recipe.status import (
    BUILT,
    FAILED,
    RUNNING,
    STATES,
    WAITING,
    End,
    Evidence,
    Failure,
    Status,
    as_json,
    counts,
    end_of,
    end_text,
    statuses,
    time_text,
)

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {BUILT: "green", RUNNING: "cyan", WAITING: "yellow", FAILED: "bold red"}


@dataclass(frozen=True)
class Shown:
    """What one look at a build gives.

    Attributes:
        steps: where each of all steps is.
        recipes: the names of recipes with the keys of their steps; one for a recipe, several for a grid.
    """

    name: str
    steps: list[Status]
    failures: list[Failure]
    evidence: Evidence
    end: End
    recipes: dict[str, list[str]]

    @property
    def moving(self) -> bool:
        """Whether anything runs, waits, or is going to be started."""
        claimed = bool(self.evidence.alive) and any(
            step.state != BUILT and f"{step.artifact}/manifest.json" in self.evidence.locked for step in self.steps
        )
        return claimed or any(step.state in (RUNNING, WAITING) for step in self.steps)


def with_report(name: str, steps: Mapping[str, PlannedStep], called: str = "report") -> dict[str, PlannedStep]:
    """Return the steps of a recipe and, last, the report that is made of all of them."""
    inputs = {"artifact": [step.artifact for step in steps.values()]}
    report = PlannedStep(called, "report", report_key(name, dict(steps)), {}, 0, "", inputs)
    return {**steps, called: report}


def rank_step(rank: PlannedRank) -> PlannedStep:
    """Return a grid's ranking as a step."""
    return PlannedStep("rank", "rank", rank.key, {}, rank.seed, "", {"candidate": list(rank.candidates.values())})


def keyed(plans: Mapping[str, Mapping[str, PlannedStep]], rank: PlannedRank | None) -> dict[str, PlannedStep]:
    """Return the distinct steps of recipes by their keys, with the reports and the ranking that end a build.

    Steps that are made alike are one job, and have the names of all of them.
    """
    found: dict[str, PlannedStep] = {}
    for recipe, steps in plans.items():
        called = "report" if len(plans) == 1 else f"report/{recipe.partition('/')[2]}"
        for step in with_report(recipe, steps, called).values():
            known = found.get(step.key)
            names = known.name.split(", ") if known else []
            found[step.key] = replace(step, name=", ".join(dict.fromkeys([*names, step.name])))
    if rank:
        found[rank.key] = rank_step(rank)
    return found


def look(folder: Path, name: str, plans: Mapping[str, Mapping[str, PlannedStep]], rank: PlannedRank | None) -> Shown:
    """Look at the build of a recipe, or of all of a grid.

    Args:
        folder: the project's.
        name: what to call it.
        plans: the steps of each recipe by its name.
        rank: the grid's ranking, if it has one.
    """
    steps = keyed(plans, rank)
    found, failures, evidence = statuses(folder, steps.values())
    end = end_of(folder, found, steps.values())
    recipes = {
        recipe: [*(step.key for step in own.values()), report_key(recipe, dict(own))] for recipe, own in plans.items()
    }
    return Shown(name, found, failures, evidence, end, recipes)


def notes(shown: Shown, folder: Path, recipes: Collection[str]) -> list[str]:
    """Return what else there is to say: which Snakemake goes on, and what could not be asked.

    Args:
        shown: the look.
        folder: the project's.
        recipes: the names of all recipe files.
    """
    said = [
        f"Snakemake goes on with {', '.join(built)} as process {process.pid}; "
        f"it writes {process.log.relative_to(folder.resolve())}"
        for process in runs.processes(folder)
        if shown.name.partition("/")[0] in (built := runs.targets(process.words, recipes))
    ]
    if not said and not shown.evidence.alive and any(step.state in (RUNNING, WAITING) for step in shown.steps):
        said.append(
            "no Snakemake goes on here: jobs in the queue end by themselves, but nothing follows them until it is "
            "started again"
        )
    return [*said, *shown.evidence.notes]


def render(shown: Shown, said: Sequence[str], console: Console) -> None:
    """Print the table, the failures below it, and the estimated end."""
    if len(shown.recipes) == 1:
        _table_of_steps(shown, console)
    else:
        _table_of_recipes(shown, console)
    total = counts(shown.steps)
    console.print(
        f"{len(shown.steps)} steps: " + ", ".join(f"{total[state]} {state}" for state in STATES if total[state]),
        highlight=False,
    )
    for failure in shown.failures:
        job = f" (job {failure.job})" if failure.job else ""
        console.print()
        console.print(f"{failure.step}{job}: {failure.kind}: {failure.reason}", style="red", markup=False)
        for log, lines in failure.logs.items():
            console.print(f"  {log}", markup=False, highlight=False)
            for line in lines:
                console.print(f"    {line}", markup=False, highlight=False)
    if shown.failures:
        console.print()
    for note in said:
        console.print(note, markup=False, highlight=False)
    console.print(end_text(shown.end, datetime.datetime.now()), markup=False, highlight=False)


def _table_of_steps(shown: Shown, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"recipe {shown.name}")
    for column in ("step", "state"):
        table.add_column(column, no_wrap=column == "step")
    for column in ("job", "node", "elapsed", "progress"):
        table.add_column(column, no_wrap=column != "job")
    for step in shown.steps:
        state = f"{step.state} ({step.reason})" if step.reason and step.reason != step.state else step.state
        table.add_row(
            step.name,
            Text(state, style=_COLOURS.get(step.state, "")),
            " ".join(step.jobs),
            step.node,
            time_text(step.elapsed),
            str(step.progress or ""),
        )
    console.print(table)


def _table_of_recipes(shown: Shown, console: Console) -> None:
    from rich.table import Table

    table = Table("recipe", *STATES, title=f"recipes of {shown.name}")
    by_key = {step.key: step for step in shown.steps}
    for recipe, keys in shown.recipes.items():
        total = counts(by_key[key] for key in keys)
        table.add_row(recipe, *(str(total[state] or "") for state in STATES))
    console.print(table)
    moving = [step for step in shown.steps if step.state in (RUNNING, WAITING)]
    if moving:
        _table_of_steps(replace(shown, name=f"{shown.name}: what runs and waits", steps=moving), console)


def show(
    folder: Path,
    name: str,
    plans: Mapping[str, Mapping[str, PlannedStep]],
    rank: PlannedRank | None,
    recipes: Collection[str],
    *,
    every: float | None = None,
    as_values: bool = False,
) -> None:
    """Print where the build is.

    Args:
        folder: the project's.
        name: what to call it.
        plans: the steps of each recipe by its name.
        rank: the grid's ranking, if it has one.
        recipes: the names of all recipe files.
        every: seconds between looks, until nothing moves any more; None for one look.
        as_values: print JSON, a line a look where there are several.
    """
    from rich.console import Console

    wide = Console()
    # What is cut helps nobody, so a table is wider than a narrow terminal rather than cut.
    console = Console(width=max(wide.width, 110), highlight=False)
    while True:
        shown = look(folder, name, plans, rank)
        said = notes(shown, folder, recipes)
        if as_values:
            value = as_json(name, shown.steps, shown.failures, shown.end, said)
            print(json.dumps(value, indent=None if every else 2, sort_keys=True), flush=True)
        else:
            if every and console.is_terminal:
                console.clear()
            render(shown, said, console)
        if every is None or not shown.moving:
            return
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            # Looking is over; nothing was interrupted.
            return
