# A teacher works on tasks in sandboxes.


rule rollout:
    input:
        tasks=inputs("tasks"),
        model=inputs("model"),
    output:
        "results/rollout/{key}/manifest.json",
    log:
        "results/logs/rollout/{key}.log",
    benchmark:
        "results/benchmarks/rollout/{key}.tsv"
    container:
        image("harness")
    threads: 2
    resources:
        mem_mb=6000,
        runtime=1440,
    params:
        tasks=artifacts("tasks"),
        model=artifacts("model"),
        flags=flags,
        seed=seed,
        date=date,
    shell:
        """
        rollout {params.tasks:q} {params.model:q} {params.flags:q} \
            --seed {params.seed} \
            --date {params.date} \
            --out results/rollout/{wildcards.key} \
            2>{log:q}
        """
