"""Check recipe files, show what they build, and look after the build.

    recipe check demo          read workflow/recipes/demo.yaml, say in one line what is wrong with it
    recipe plan demo           every step with its key, what of it is built, its rows, tokens, GPU hours and disk
    recipe status demo         what of it is built, runs, waits or failed and why, and about when it ends
    recipe cancel demo         end its build: its Slurm jobs, and the Snakemake that submits them
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
from collections.abc import Mapping, Sequence
from pathlib import Path

from recipe.estimate import ASSUMED, Cost, Estimator
from recipe.plan import PlannedRank, PlannedStep, artifact_path, load_plan, load_plans, load_rank, report_key
from recipe.schema import RecipeFile
from recipe_core.artifact import is_artifact, open_artifact
from recipe_core.cli import Parser, entry, real
from recipe_core.errors import BadInput

RECIPES = Path("workflow") / "recipes"
_SECONDS_BETWEEN_LOOKS = 30.0
_STATUS = """States: built; running; waiting, with Slurm's reason; failed; to build. It is to be run in the folder in
which Snakemake runs, and asks squeue and sacct once each where Slurm is. The estimated end is rough: between everything
that can running at once and one step after another, by a running step's own progress, else by what built steps of the
same stage took a row, else by the plan's GPU hours on one GPU. Waiting in the queue is not counted."""
_CANCEL = """Ends what this user has going in this folder: on this machine, the Snakemake that was told to build the
recipe (with all else it builds; with --cell it goes on); and the Slurm jobs of the recipe's steps, unless another
Snakemake that goes on submitted them. It refuses where a Snakemake on another machine builds the recipe, and names
that machine. What is built stays, and unfinished work is kept for the next build."""


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
        ("status", "show which steps are built, run, wait or failed and why, and about when the build ends"),
        ("cancel", "end the build: the recipe's Slurm jobs of this folder, and the Snakemake that submits them"),
        ("digests", "print the SHA-256 of every file of every step, to compare two builds with diff"),
        ("link", "point results/recipes/<recipe>/ at the artifacts"),
    ):
        told = {"plan": f"{text}\n\n{ASSUMED}", "status": f"{text}\n\n{_STATUS}", "cancel": f"{text}\n\n{_CANCEL}"}
        command = commands.add_parser(name, help=text, description=told.get(name, text))
        command.add_argument("recipe", nargs="+" if name == "check" else None, help="a recipe's name or file")
        if name != "check":
            command.add_argument("--cell", default="", metavar="CELL", help="which recipe of a grid")
        if name == "status":
            command.add_argument(
                "--watch",
                nargs="?",
                type=real(5),
                const=_SECONDS_BETWEEN_LOOKS,
                metavar="SECONDS",
                help="look again every so many seconds (default %(const)s, at least 5) until nothing moves any more",
            )
            command.add_argument("--json", action="store_true", help="print JSON; with --watch a line a look")
        if name == "cancel":
            command.add_argument("--dry-run", action="store_true", help="print what would end, and end nothing")
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
    table.add_section()
    for label, cost in totals({step.key: step for step in steps.values()}, estimator).items():
        table.add_row(label, "", "", "", amount(cost.tokens), f"{cost.gpu_hours:,.1f}", amount(cost.disk_bytes, "B"))
    # A key that is cut helps nobody, so the table is wider than a narrow terminal rather than cut.
    Console(width=max(Console().width, 110)).print(table)
    report = artifact_path("report", report_key(name, steps))
    show_jobs({step.key: step for step in steps.values()}, [report], estimator)


def totals(steps: Mapping[str, PlannedStep], estimator: Estimator) -> dict[str, Cost]:
    """Return the estimates of all steps together and of those that are still to build."""
    missing = [step for step in steps.values() if not is_artifact(step.artifact)]
    return {"all": estimator.total(), "left to build": estimator.total(missing)}


def show_jobs(steps: Mapping[str, PlannedStep], closing: Sequence[Path], estimator: Estimator) -> None:
    """Print how many jobs are left to run and what they are estimated to cost together.

    Args:
        steps: distinct steps by their keys.
        closing: the artifacts of the jobs behind the steps: reports, and a grid's ranking.
        estimator: of these steps.
    """
    unbuilt = [step for step in steps.values() if not is_artifact(step.artifact)]
    # Where several jobs share a step, one more writes its artifact.
    sharing = sum(step.shards for step in unbuilt if step.shards > 1)
    missing, behind = len(unbuilt), sum(not is_artifact(artifact) for artifact in closing)
    left = totals(steps, estimator)["left to build"]
    more = amount(left.work_bytes, "B")
    checkpoints = f", and {more} of checkpoints if all models train at once" if more else ""
    print(
        f"{len(steps)} steps, {missing} of them to build; left to run: {missing + sharing + behind} jobs "
        f"({missing + sharing} of steps, "
        f"{behind} of reports and rankings; downloads come on top), estimated {'at most ' if left.bound else ''}"
        f"{amount(left.tokens) or 'no'} model tokens, {left.gpu_hours:,.1f} GPU hours, "
        f"{amount(left.disk_bytes, 'B') or 'no bytes'} of disk{checkpoints} (recipe plan --help says from what)"
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


def show_cells(plans: dict[str, dict[str, PlannedStep]], rank: PlannedRank | None) -> None:
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
    closing = [artifact_path("report", report_key(name, steps)) for name, steps in plans.items()]
    show_jobs(seen, [*closing, *([rank.artifact] if rank else [])], Estimator(seen.values()))


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


def look_after(args: argparse.Namespace) -> None:
    """Do `recipe status` or `recipe cancel`.

    Raises:
        BadInput: see :func:`load_plans` and :func:`recipe.cancel.find`, or scancel refused.
    """
    path = recipe_path(args.recipe)
    plans = load_plans(path)
    rank = None if args.cell else load_rank(path, plans)
    name = f"{path.stem}/{args.cell}" if args.cell else path.stem
    others = {other: steps for other, steps in plans.items() if other != name} if args.cell else {}
    if args.cell:
        plans = {name: load_plan(path, args.cell)}
    recipes = sorted({path.stem, *(file.stem for file in RECIPES.glob("*.yaml"))})
    if args.command == "status":
        from recipe.status_view import show

        show(Path(), name, plans, rank, recipes, every=args.watch, as_values=args.json)
        return
    from recipe.cancel import cancel, find
    from recipe.status_view import keyed

    beside = keyed(others, None).values()
    found = find(Path(), path.stem, keyed(plans, rank).values(), recipes, cell=args.cell, beside=beside)
    cancel(Path(), name, found, dry_run=args.dry_run)


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks."""
    if args.command == "schema":
        json.dump(RecipeFile.model_json_schema(), sys.stdout, indent=2, sort_keys=True)
        print()
    elif args.command in ("status", "cancel"):
        look_after(args)
    elif args.command == "check":
        for name in args.recipe:
            path = recipe_path(name)
            plans = load_plans(path)
            load_rank(path, plans)
            keys = {step.key for plan in plans.values() for step in plan.values()}
            recipes = f"{len(plans)} recipes, " if len(plans) > 1 else ""
            print(f"{path}: {recipes}{len(keys)} steps, no errors")
    elif args.command == "plan" and not args.cell and len(plans := load_plans(recipe_path(args.recipe))) > 1:
        show_cells(plans, load_rank(recipe_path(args.recipe), plans))
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
