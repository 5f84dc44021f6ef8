"""Check recipe files and show what they build.

    recipe check demo          read workflow/recipes/demo.yaml, say in one line what is wrong with it
    recipe plan demo           every step with its key, what of it is built, its rows, tokens, GPU hours and disk
    recipe digests demo        a line for each built file of each step: to compare two builds with diff
    recipe link demo           point results/recipes/demo/<stage>/<step> at the artifacts
    recipe schema              the JSON schema of recipe files

A recipe is named, or given as a path to its file; --cell names one of a grid's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from recipe.estimate import ASSUMED, Estimator
from recipe.plan import PlannedStep, artifact_path, load_plan, load_plans, load_rank, report_key
from recipe.schema import RecipeFile
from recipe_core.artifact import is_artifact, open_artifact
from recipe_core.cli import Parser, entry
from recipe_core.errors import BadInput

RECIPES = Path("workflow") / "recipes"


def recipe_path(name: str) -> Path:
    """Return the file of a recipe given by name or path."""
    return Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="recipe", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("check", "check recipe files"),
        ("plan", "show every step, what of it is built, and what it is estimated to cost"),
        ("digests", "print the SHA-256 of every file of every step, to compare two builds with diff"),
        ("link", "point results/recipes/<recipe>/ at the artifacts"),
    ):
        told = f"{text}\n\n{ASSUMED}" if name == "plan" else text
        command = commands.add_parser(name, help=text, description=told)
        command.add_argument("recipe", nargs="+" if name == "check" else None, help="a recipe's name or file")
        if name != "check":
            command.add_argument("--cell", default="", metavar="CELL", help="which recipe of a grid")
    commands.add_parser("schema", help="print the JSON schema of recipe files")
    return parser


def show_plan(name: str, steps: dict[str, PlannedStep]) -> None:
    """Print a table of the steps, in the order they are built, with what each is estimated to cost."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"recipe {name}")
    for column in ("step", "key", "state"):
        table.add_column(column, no_wrap=True)
    for column in ("rows", "tokens", "GPU hours", "disk"):
        table.add_column(column, justify="right", no_wrap=True)
    estimator = Estimator(steps.values())
    for step in steps.values():
        cost = estimator.cost(step)
        rows = f"{'≤ ' if cost.bound else ''}{cost.rows:,.0f}"
        built = is_artifact(step.artifact)
        if built:
            rows = f"{open_artifact(step.artifact).manifest['rows_out']:,}"
        table.add_row(
            step.name,
            step.key,
            "built" if built else "to build",
            rows,
            amount(cost.tokens),
            f"{cost.gpu_hours:,.1f}" if cost.gpu_hours else "",
            amount(cost.disk_bytes, "B"),
        )
    # A key that is cut helps nobody, so the table is wider than a narrow terminal rather than cut.
    Console(width=max(Console().width, 110)).print(table)
    show_total({step.key: step for step in steps.values()}, estimator)


def show_total(steps: dict[str, PlannedStep], estimator: Estimator) -> None:
    """Print how many jobs there are and what they are estimated to cost together."""
    total = estimator.total()
    missing = sum(not is_artifact(step.artifact) for step in steps.values())
    print(
        f"{len(steps)} steps, {missing} of them to build, a job each; estimated {'at most ' if total.bound else ''}"
        f"{amount(total.tokens) or 'no'} model tokens, {total.gpu_hours:,.1f} GPU hours, "
        f"{amount(total.disk_bytes, 'B')} of disk (recipe plan --help says from what)"
    )


def amount(value: float, unit: str = "") -> str:
    """Return a count in thousands, millions and so on; nothing for 0.

    >>> amount(1234567)
    '1.23 M'
    """
    if not value:
        return ""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def show_cells(plans: dict[str, dict[str, PlannedStep]]) -> None:
    """Print a table of a grid's recipes: how many steps each has, and how many are its own and not built yet."""
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "steps", "of no recipe above it", "to build")
    seen: dict[str, PlannedStep] = {}
    for name, steps in plans.items():
        keyed = {step.key: step for step in steps.values()}
        missing = [step for step in steps.values() if not is_artifact(step.artifact)]
        table.add_row(name, str(len(steps)), str(len(keyed.keys() - seen.keys())), str(len(missing)))
        seen |= keyed
    Console().print(table)
    print(f"{len(plans)} recipes, {sum(map(len, plans.values()))} steps, {len(seen)} of them distinct")
    show_total(seen, Estimator(seen.values()))


def show_digests(steps: dict[str, PlannedStep]) -> None:
    """Print `tier stage/step file sha256` for each file of each step, its manifest last.

    Raises:
        BadInput: a step that is not built.
    """
    for step in steps.values():
        artifact = open_artifact(step.artifact)
        for file, entry_ in sorted(artifact.manifest["files"].items()):
            print(artifact.manifest["tier"], step.name, file, entry_["sha256"])
        print(artifact.manifest["tier"], step.name, "manifest.json", artifact.digest)


def _point(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() or link.exists():
        link.unlink()
    link.symlink_to(os.path.relpath(target, link.parent))


def link_artifacts(name: str, steps: dict[str, PlannedStep]) -> None:
    """Make the pointers by which people find a recipe's artifacts without typing a key, and remove old ones.

    Raises:
        BadInput: a step that is not built.
    """
    home = Path("results") / "recipes" / name
    report = artifact_path("report", report_key(name, steps))
    for artifact in [*(step.artifact for step in steps.values()), report]:
        if not is_artifact(artifact):
            raise BadInput(f"{artifact}: not built, so nothing was linked; run `make build RECIPE={name}`")
    for old in home.glob("*/*"):
        if old.is_symlink():
            old.unlink()
    for step in steps.values():
        _point(home / step.name, step.artifact)
    for file in ("summary.json", "index.html"):
        _point(home / file, report / file)


def link_rank(path: Path, plans: dict[str, dict[str, PlannedStep]]) -> None:
    """Make the pointer to the ranking of a grid's recipes.

    Raises:
        BadInput: the file asks for none, or it is not built.
    """
    rank = load_rank(path, plans)
    if rank is None:
        raise BadInput(f"{path}: is a grid without `rank`; say which of its recipes with --cell")
    if not is_artifact(rank.artifact):
        raise BadInput(f"{rank.artifact}: not built, so nothing was linked; run `make build RECIPE={path.stem}`")
    _point(Path("results") / "recipes" / path.stem / "rank.json", rank.artifact / "rank.json")


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks."""
    if args.command == "schema":
        json.dump(RecipeFile.model_json_schema(), sys.stdout, indent=2, sort_keys=True)
        print()
    elif args.command == "check":
        for name in args.recipe:
            path = recipe_path(name)
            plans = load_plans(path)
            load_rank(path, plans)
            keys = {step.key for plan in plans.values() for step in plan.values()}
            recipes = f"{len(plans)} recipes, " if len(plans) > 1 else ""
            print(f"{path}: {recipes}{len(keys)} steps, no errors")
    elif args.command == "plan" and not args.cell and len(plans := load_plans(recipe_path(args.recipe))) > 1:
        show_cells(plans)
    elif args.command == "link" and not args.cell and len(plans := load_plans(recipe_path(args.recipe))) > 1:
        link_rank(recipe_path(args.recipe), plans)
    else:
        path = recipe_path(args.recipe)
        steps = load_plan(path, args.cell)
        name = f"{path.stem}/{args.cell}" if args.cell else path.stem
        if args.command == "plan":
            show_plan(name, steps)
        elif args.command == "digests":
            show_digests(steps)
        else:
            link_artifacts(name, steps)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
