# What the stages' definitions share: the recipes, and what each needs to know of its step. A step's output is its
# manifest: the last file an artifact gets; what other files there are depends on the stage.

import difflib
import json
import os
import shutil
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from images.names import for_gpus, image_path
from recipe import slurm
from recipe.containers import let_in, let_secrets_in
from recipe.executor import (
    look_as_often_as_set,
    lose_no_job,
    refuse_twice,
    refuse_what_harms,
)
from recipe.plan import (
    DATED_STAGES,
    artifact_path,
    load_plans,
    load_rank,
    report_key,
)
from recipe_core.errors import BadInput


def recipe_files(extra):
    """Return the file of every recipe by its name.

    Args:
        extra: recipe files from elsewhere, separated by commas (`--config recipes=FILE,FILE`).
    """
    files = sorted(Path(workflow.basedir, "workflow", "recipes").glob("*.yaml"))
    files += [Path(file) for file in str(extra).split(",") if file]
    found = {}
    for file in files:
        if file.stem in found:
            raise WorkflowError(
                f"{file}: {found[file.stem]} has that name already; rename one of the two"
            )
        found[file.stem] = file
    return found


def read_recipes(file):
    """Return the plans of a file's recipes; what is wrong with it ends the run in one line."""
    try:
        return load_plans(file)
    except BadInput as error:
        raise WorkflowError(str(error)) from None


def read_ranks():
    """Return the rankings that recipe files ask for, by the file's name."""
    found = {}
    for name, file in FILES.items():
        plans = {
            recipe: steps
            for recipe, steps in RECIPES.items()
            if recipe.partition("/")[0] == name
        }
        try:
            rank = load_rank(file, plans)
        except BadInput as error:
            raise WorkflowError(str(error)) from None
        if rank:
            found[name] = rank
    return found


def image(stack, gpus=True):
    """The image of a stack, named by what it is made of: an image of other locks or other tools has another name.

    Args:
        gpus: whether it is the one for GPUs where the profile has them.
    """
    root = Path(workflow.basedir)
    name = for_gpus(root, stack) if gpus and config.get("cuda") == "on" else stack
    return str(root / image_path(root, name))


def trainer_image(wildcards):
    """The image that has the step's trainer: SkyRL is in the one for GPUs alone, TRL in the one for CPUs alone."""
    return image("rl", gpus=STEPS[wildcards.key].trainer == "skyrl")


def expanded(path):
    """A path of the profile with ~ and $NAME replaced."""
    return os.path.expandvars(os.path.expanduser(path))


# What a profile's `config` may say, docs/add-your-cluster.md how.
CONFIG = {
    *("bin", "bind", "cuda", "gpus", "memory"),
    *("modules", "network", "pass", "recipes", "sandbox", "secrets"),
}


def check_config():
    """Refuse an entry that nothing reads."""
    for name in config:
        if name not in CONFIG:
            near = difflib.get_close_matches(name, CONFIG, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise WorkflowError(
                f"config {name}={config[name]}: not known; {meant}known are {', '.join(sorted(CONFIG))}"
            )


def let_in_by_profile():
    """Let into containers what the profile names: variables (`pass`), folders (`bind`), a file of keys (`secrets`)."""
    folders = [
        expanded(path) for path in str(config.get("bind", "")).split(",") if path
    ]
    try:
        let_in(os.environ, str(config.get("pass", "")).split(","), folders)
        if "secrets" in config:
            let_secrets_in(os.environ, Path(expanded(config["secrets"])))
    except BadInput as error:
        raise WorkflowError(str(error)) from None


def check_executor(jobs):
    """Mend or refuse what Slurm's executor gets wrong, and refuse to do what jobs of an earlier run still do."""
    import snakemake_executor_plugin_slurm
    from snakemake_executor_plugin_slurm.job_status_query import get_min_job_age

    try:
        refuse_what_harms(
            workflow.executor_settings,
            workflow.group_settings.overwrite_groups,
            interval=workflow.remote_execution_settings.seconds_between_status_checks,
            remembered=get_min_job_age(),
        )
        wanted = {
            (job.rule.name.removesuffix("_shard"), job.wildcards.key)
            for job in jobs
            if "key" in job.wildcards.keys()
        }
        refuse_twice(slurm.queue([os.getuid()]), wanted, Path.cwd())
    except BadInput as error:
        raise WorkflowError(str(error)) from None
    lose_no_job(snakemake_executor_plugin_slurm)


def check_modules():
    """Refuse to start without the modules that the profile names; jobs get the environment of this shell.

    It comes before Snakemake itself looks for what the modules give.
    """
    loaded = os.environ.get("LOADEDMODULES", "").split(":")
    named = [name for name in str(config.get("modules", "")).split(",") if name]
    missing = [
        name
        for name in named
        if not any(f"{module}/".startswith(f"{name}/") for module in loaded)
    ]
    if missing:
        raise WorkflowError(
            f"modules that the profile names are not loaded: {', '.join(missing)}; in this shell: module load {' '.join(missing)}"
        )


def check_start():
    """Refuse, before the first job, what the executor gets wrong, a trainer without its GPUs, a missing image or network."""
    jobs = list(workflow.dag.needrun_jobs())
    if hasattr(workflow.executor_settings, "array_jobs"):
        check_executor(jobs)
    if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
        keys = {job.wildcards.get("key") for job in jobs}
        steps = [step for key, step in STEPS.items() if key in keys]
        if config.get("cuda") != "on":
            on_gpus = sorted(step.name for step in steps if step.trainer == "skyrl")
            if on_gpus:
                raise WorkflowError(
                    f"steps with trainer skyrl, which the images for CPUs have not: {', '.join(on_gpus)}; "
                    "in the site file write `cuda=on` into config, or for a small model `trainer: trl` into the recipe"
                )
        images = {job.container_img_url for job in jobs if job.container_img_url}
        missing = sorted(Path(url).name for url in images if not Path(url).is_file())
        if missing:
            names = " ".join(name.rpartition("-")[0] for name in missing)
            raise WorkflowError(
                f"images are not built: {', '.join(missing)}; build them: images build {names}"
            )
        if config.get("network") != "on":
            asking = sorted(
                f"{step.name} ({step.outside})" for step in steps if step.outside
            )
            if asking:
                raise WorkflowError(
                    f"steps that need a network, which the profile's containers have not: {', '.join(asking)}; "
                    "in the site file write `network=on` into config, and apptainer-args without `--net --network none`"
                )
            fetches = sorted(
                file
                for job in jobs
                for file in job.output
                if Path(file).is_relative_to(FETCHED)
            )
            if fetches:
                raise WorkflowError(
                    f"not fetched yet: {', '.join(fetches)}; fetch them where there is a network: make fetch RECIPE=..."
                )


def inputs(flag):
    """Return an input function: the manifests of the artifacts that the flag takes."""

    def manifests(wildcards):
        return [
            f"{artifact}/manifest.json"
            for artifact in STEPS[wildcards.key].inputs.get(flag, [])
        ]

    return manifests


# Where the rules that need a network put what they fetch; nothing else needs one.
FETCHED = Path("results/fetch")

# What a step with this value of a parameter needs downloaded first.
DOWNLOADS = {
    ("source", "pybugs"): "results/fetch/packages.done",
    ("pretrained", "smollm2"): "results/fetch/smollm2.done",
}


def downloads_of(step):
    """What a step needs downloaded first."""
    found = [
        file
        for (name, value), file in DOWNLOADS.items()
        if step.parameters.get(name) == value
    ]
    if "hub" in step.parameters:
        repo = "--".join(Path(step.parameters["hub"]).parts)
        found.append(f"results/fetch/hub/{repo}@{step.parameters['revision']}.done")
    return found


PINS = "tools/source-tasks/src/source_tasks/sources.lock.json"


def pinned_at(wildcards):
    """The commit at which a data set is pinned: with another one it is fetched again."""
    lock = Path(workflow.basedir, PINS)
    return json.loads(lock.read_text()).get(wildcards.name, "")


# The parameters that name files or folders which no step makes.
GIVEN = ("input", "benchmarks", "positives", "negatives", "prompt-file", "tokenizer")


def files_of(step):
    """The files that a step reads beside artifacts: what the user obtained, or a rule fetches."""
    values = [step.parameters[name] for name in GIVEN if name in step.parameters]
    files = [
        file
        for value in values
        for file in (value if isinstance(value, list) else [value])
    ]
    # A tokenizer may also be a built-in one, by name.
    return [file for file in files if Path(file).suffix or len(Path(file).parts) > 1]


def fetched_for(name):
    """What the rules that fetch make for a recipe file."""
    steps = [
        step
        for recipe, plan in RECIPES.items()
        if recipe.partition("/")[0] == name
        for step in plan.values()
    ]
    found = {file for step in steps for file in (*downloads_of(step), *files_of(step))}
    return sorted(file for file in found if Path(file).is_relative_to(FETCHED))


def downloads(wildcards):
    """What a step needs downloaded first."""
    return downloads_of(STEPS[wildcards.key])


def given_files(wildcards):
    """The files that a step reads beside artifacts."""
    return files_of(STEPS[wildcards.key])


def artifacts(flag):
    """Return a params function: the flag and the artifact folders it takes, or nothing."""

    def words(wildcards):
        folders = [
            str(artifact) for artifact in STEPS[wildcards.key].inputs.get(flag, [])
        ]
        return [f"--{flag}", *folders] if folders else []

    return words


def all_inputs(wildcards):
    """The manifests of all artifacts that a step is made from."""
    return [
        manifest
        for flag in STEPS[wildcards.key].inputs
        for manifest in inputs(flag)(wildcards)
    ]


def all_artifacts(wildcards):
    """Every flag that takes artifacts, and the folders it takes."""
    return [
        word
        for flag in STEPS[wildcards.key].inputs
        for word in artifacts(flag)(wildcards)
    ]


def made_from(wildcards):
    """`--step stage/step=FOLDER` for every step that a step is made from, in pipeline order."""
    key = wildcards.key
    steps = next(
        steps
        for steps in RECIPES.values()
        if key in {step.key for step in steps.values()}
    )
    wanted = {STEPS[key].artifact}
    found = []
    for name, step in reversed(steps.items()):
        if step.artifact in wanted:
            # Evaluation tasks that it was compared with are no part of it.
            wanted.update(
                path
                for flag, paths in step.inputs.items()
                if flag != "held-out"
                for path in paths
            )
            found.append((name, step))
    return [
        word
        for name, step in reversed(found)
        if step.key != key
        for word in ("--step", f"{name}={step.artifact}")
    ]


def flags(wildcards, threads):
    """The flags for the step's parameters, as the recipe states them.

    Snakemake does a step again when a parameter of its rule changes, but for those that are made from its threads, as these
    seem to be: what decides an artifact is in its key, and another `tensor-parallel` makes no other.
    """
    return STEPS[wildcards.key].flags


def nodes_of(wildcards):
    """The nodes that the step's training runs on."""
    return STEPS[wildcards.key].parameters.get("nodes", 1)


def merges(wildcards):
    """Whether the job only writes what several others have done."""
    return "shard" not in wildcards.keys() and shards_of(wildcards) > 1


def gpus_of(wildcards):
    """The GPUs of each node that the step's job gets: none where the images are for CPUs, or others did its work."""
    wanted = config.get("cuda") == "on" and not merges(wildcards)
    return STEPS[wildcards.key].gpus if wanted else 0


def gres(wildcards):
    """The GPUs in Slurm's words, where the profile says what the cluster calls them (`gpus=gpu`, `gpus=gpu:a100`)."""
    count = gpus_of(wildcards)
    return f"{config['gpus']}:{count}" if count and "gpus" in config else ""


def memory(megabytes):
    """What a job asks for: none (0) where the profile says that the cluster takes no such words (`memory=off`)."""
    return 0 if config.get("memory") == "off" else megabytes


def memory_of(least):
    """Return a resource function: so many MB on CPUs, 60 GB for each GPU."""
    return lambda wildcards: memory(60000 * gpus_of(wildcards) or least)


def cores(least):
    """Return a function for threads: so many on CPUs, eight for each GPU, which its sandboxes share."""
    return lambda wildcards: 8 * gpus_of(wildcards) or least


def trials_of(wildcards):
    """The trials that the step's job runs at the same time: none where others did its work."""
    return 0 if merges(wildcards) else STEPS[wildcards.key].trials


def memory_for_trials(wildcards):
    """60 GB for each GPU; on CPUs 6 GB, or 4 and 250 MB for each sandbox, which may take 1 GB and mostly takes 100 MB."""
    on_cpus = max(6000, 4000 + 250 * trials_of(wildcards))
    return memory(max(60000 * gpus_of(wildcards), on_cpus))


def cores_needed(wildcards):
    """Eight cores for each GPU, and one for eight sandboxes, which mostly wait for the model."""
    return max(8 * gpus_of(wildcards), -(-trials_of(wildcards) // 8))


def cores_for_trials(wildcards):
    """The cores of a step that runs trials: at least two."""
    return max(2, cores_needed(wildcards))


def threads_of(wildcards):
    """The cores of a training step: its threads, by the recipe or the tools' default, and no fewer than GPUs and trials need."""
    return max(
        cores_needed(wildcards), STEPS[wildcards.key].parameters.get("threads", 2)
    )


def shell_of(wildcards):
    """The shell that runs a training step's line: in a Slurm job one that brings up what the tool needs on its nodes."""
    tool = STEPS[wildcards.key].stage
    on_nodes = Path(workflow.basedir, "tools", tool, "nodes", "bash")
    # Only where Slurm's executor has submitted the job: what a user's own script runs is not Snakemake's to requeue.
    submitted = workflow.remote_exec
    return (
        str(on_nodes) if nodes_of(wildcards) > 1 or submitted else shutil.which("bash")
    )


def shards_of(wildcards):
    """The jobs that share the step's work."""
    return STEPS[wildcards.key].shards


def shards(wildcards):
    """The marks of the jobs that share a step's work; none where one job does all of it."""
    return STEPS[wildcards.key].marks


def merge(wildcards):
    """The word for the job that writes what several jobs have done."""
    return ["--merge"] if merges(wildcards) else []


def seed(wildcards):
    """The step's seed."""
    return STEPS[wildcards.key].seed


def date(wildcards):
    """The date written into the step's rows."""
    return STEPS[wildcards.key].date


def workers_of(most):
    """Return a params function: `--workers` for a tool that has the flag, none for one that works in one process."""
    return lambda wildcards, threads: ["--workers", threads] if most > 1 else []


def dated(stage):
    """Return a params function: the flag for the date, for a stage whose rows carry one."""
    return lambda wildcards: (
        ["--date", date(wildcards)] if stage in DATED_STAGES else []
    )


def reported_manifests(wildcards):
    """The manifests of every step of the recipe."""
    return [
        f"{step.artifact}/manifest.json"
        for step in RECIPES[REPORTS[wildcards.key]].values()
    ]


def reported_artifacts(wildcards):
    """`--artifact stage/step=FOLDER` for every step of the recipe, in pipeline order."""
    return [
        word
        for name, step in RECIPES[REPORTS[wildcards.key]].items()
        for word in ("--artifact", f"{name}={step.artifact}")
    ]


def reported_recipe(wildcards):
    """The recipe that a report is about."""
    return REPORTS[wildcards.key]


def report_manifest(wildcards):
    """The manifest of the recipe's report."""
    return f"{artifact_path('report', report_key(wildcards.recipe, RECIPES[wildcards.recipe]))}/manifest.json"


def targets(name):
    """What is built for a recipe file: the summary of its recipe or of each of its grid's, and their ranking."""
    recipes = [recipe for recipe in RECIPES if recipe.partition("/")[0] == name]
    ranking = [f"results/recipes/{name}/rank.json"] if name in RANKS else []
    return [f"results/recipes/{recipe}/summary.json" for recipe in recipes] + ranking


def rank_of(wildcards):
    """The ranking with a key."""
    return next(rank for rank in RANKS.values() if rank.key == wildcards.key)


def ranked_manifests(wildcards):
    """The manifests of the evaluations that are ranked."""
    return [
        f"{folder}/manifest.json" for folder in rank_of(wildcards).candidates.values()
    ]


def ranked_candidates(wildcards):
    """`--candidate NAME=FOLDER` for each."""
    return [
        word
        for name, folder in rank_of(wildcards).candidates.items()
        for word in ("--candidate", f"{name}={folder}")
    ]


def rank_manifest(wildcards):
    """The manifest of a recipe file's ranking."""
    return f"{RANKS[wildcards.name].artifact}/manifest.json"


def recipe_words(wildcards):
    """The recipe's file, and its cell where it is one of a grid."""
    name, _, cell = wildcards.recipe.partition("/")
    return [str(FILES[name]), *(["--cell", cell] if cell else [])]
