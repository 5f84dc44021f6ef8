"""The workflow on one page: read the recipes, include one rule a stage, name a target a recipe.

    snakemake --profile workflow/profiles/local demo

builds everything workflow/recipes/demo.yaml asks for. Recipes that share steps share the artifacts.
"""

import os
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from recipe.plan import artifact_path, load_plan, report_key
from recipe_core.errors import BadInput

min_version("9.27")

# The profile says where the tools are; inside an image they are on PATH already.
if "bin" in config:
    os.environ["PATH"] = (
        f"{Path(config['bin']).resolve()}{os.pathsep}{os.environ['PATH']}"
    )


def read_recipes():
    """Return the plan of every recipe by its name; `--config recipes=FILE` adds a file from elsewhere."""
    files = sorted(Path(workflow.basedir, "workflow", "recipes").glob("*.yaml"))
    files += [
        Path(extra) for extra in str(config.get("recipes", "")).split(",") if extra
    ]
    try:
        return {file.stem: load_plan(file) for file in files}
    except BadInput as error:
        raise WorkflowError(str(error)) from None


RECIPES = read_recipes()
STEPS = {step.key: step for steps in RECIPES.values() for step in steps.values()}


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/rollout.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


for name in RECIPES:

    rule:
        name:
            name
        input:
            f"results/recipes/{name}/summary.json",
        localrule: True


default_target: "demo"
