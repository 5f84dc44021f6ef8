# A teacher works on tasks in sandboxes.


rule rollout:
    input:
        tasks=inputs("tasks"),
        model=inputs("model-dir"),
    output:
        "results/rollout/{key}/manifest.json",
    log:
        "results/logs/rollout/{key}.log",
    benchmark:
        "results/benchmarks/rollout/{key}.tsv"
    threads: 2
    resources:
        mem_mb=6000,
        runtime=1440,
    params:
        tasks=artifacts("tasks"),
        model=lambda wildcards: [
            word
            for folder in artifacts("model-dir")(wildcards)
            for word in ("--model-dir", folder)
        ],
        flags=flags,
        seed=seed,
        date=date,
    shell:
        """
        rollout --tasks {params.tasks:q} {params.model:q} {params.flags:q} \
            --seed {params.seed} \
            --date {params.date} \
            --out results/rollout/{wildcards.key} \
            2>{log:q}
        """
