# One table, one page and one summary a recipe, and the pointers by which people find its artifacts.

REPORTS = {report_key(steps): steps for steps in RECIPES.values()}


def reported_manifests(wildcards):
    """The manifests of every step of the recipe."""
    return [
        f"{step.artifact}/manifest.json" for step in REPORTS[wildcards.key].values()
    ]


def reported_artifacts(wildcards):
    """`--artifact stage/step=FOLDER` for every step of the recipe, in pipeline order."""
    return [
        word
        for name, step in REPORTS[wildcards.key].items()
        for word in ("--artifact", f"{name}={step.artifact}")
    ]


def report_manifest(wildcards):
    """The manifest of the recipe's report."""
    return f"{artifact_path('report', report_key(RECIPES[wildcards.recipe]))}/manifest.json"


rule report:
    input:
        reported_manifests,
    output:
        "results/report/{key}/manifest.json",
    log:
        "results/logs/report/{key}.log",
    benchmark:
        "results/benchmarks/report/{key}.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        artifacts=reported_artifacts,
    shell:
        "report {params.artifacts:q} --quiet --out results/report/{wildcards.key} 2> {log:q}"


rule link:
    input:
        report_manifest,
    output:
        "results/recipes/{recipe}/summary.json",
    log:
        "results/logs/link/{recipe}.log",
    localrule: True
    shell:
        "recipe link {wildcards.recipe} 2> {log:q}"
