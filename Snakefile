# The workflow on one page: read the recipes, include one rule a stage, name a target a recipe.
#
#     snakemake --profile workflow/profiles/local demo
#
# builds everything workflow/recipes/demo.yaml asks for. Recipes that share steps share the artifacts.

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"


check_config()
if workflow.is_main_process:
    check_modules()

# The profile says where the tools are (inside an image they are on PATH already) and which sandbox runs on its machines.
PREFIX = f"export SANDBOX_BACKEND={config.get('sandbox', 'auto')}; "
if "bin" in config:
    PREFIX += f"export PATH={Path(config['bin']).resolve()}:$PATH; "
shell.prefix(PREFIX)
let_in_by_profile()
look_as_often_as_set(RemoteExecutor)

FILES = recipe_files(config.get("recipes", ""))
RECIPES = {
    name: steps for file in FILES.values() for name, steps in read_recipes(file).items()
}
STEPS = {step.key: step for steps in RECIPES.values() for step in steps.values()}
REPORTS = {report_key(name, steps): name for name, steps in RECIPES.items()}
RANKS = read_ranks()


wildcard_constraints:
    key="[0-9a-f]{12}",
    recipe="[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)?",


include: "workflow/rules/data.smk"
include: "workflow/rules/rollout.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onstart:
    check_start()


for name in FILES:

    rule:
        name:
            name
        input:
            targets(name),
        localrule: True


# Everything that a recipe downloads; the rest of it can then be built without a network.
for name in FILES:

    rule:
        name:
            f"fetch-{name}"
        input:
            fetched_for(name),
        localrule: True


# All grids of the papers, planned together: what they share is built once.
rule ablations:
    input:
        [file for name in FILES if "-ablate-" in name for file in targets(name)],
    localrule: True


default_target: "demo"
