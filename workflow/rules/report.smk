# One table, one page and one summary a recipe, and the pointers by which people find its artifacts.


rule report:
    input:
        reported_manifests,
    output:
        "results/report/{key}/manifest.json",
    log:
        "results/logs/report/{key}.log",
    benchmark:
        "results/benchmarks/report/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        artifacts=reported_artifacts,
        recipe=reported_recipe,
    shell:
        """
        report {params.artifacts:q} \
            --recipe {params.recipe:q} \
            --quiet \
            --out results/report/{wildcards.key} \
            2>{log:q}
        """


rule link:
    input:
        report_manifest,
    output:
        "results/recipes/{recipe}/summary.json",
    log:
        "results/logs/link/{recipe}.log",
    localrule: True
    container:
        image("workflow")
    params:
        recipe=recipe_words,
    shell:
        "recipe link {params.recipe:q} 2> {log:q}"


rule rank:
    input:
        ranked_manifests,
    output:
        "results/rank/{key}/manifest.json",
    log:
        "results/logs/rank/{key}.log",
    benchmark:
        "results/benchmarks/rank/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        candidates=ranked_candidates,
        seed=lambda wildcards: rank_of(wildcards).seed,
    shell:
        """
        rank {params.candidates:q} \
            --seed {params.seed} \
            --out results/rank/{wildcards.key} \
            >{log:q} 2>&1
        """


rule link_rank:
    input:
        rank_manifest,
    output:
        "results/recipes/{name}/rank.json",
    log:
        "results/logs/link/{name}-rank.log",
    wildcard_constraints:
        name="[a-z0-9][a-z0-9-]*",
    localrule: True
    container:
        image("workflow")
    shell:
        "recipe link {wildcards.name} 2> {log:q}"
