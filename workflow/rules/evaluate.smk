# A model works on held-out tasks and is scored.


rule evaluate:
    input:
        model=inputs("model"),
        tasks=inputs("tasks"),
    output:
        "results/evaluate/{key}/manifest.json",
    log:
        "results/logs/evaluate/{key}.log",
    benchmark:
        "results/benchmarks/evaluate/{key}.tsv"
    container:
        image("harness")
    threads: 2
    resources:
        mem_mb=6000,
        runtime=1440,
    params:
        model=artifacts("model"),
        tasks=artifacts("tasks"),
        flags=flags,
        seed=seed,
        date=date,
    shell:
        """
        evaluate {params.model:q} {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --date {params.date} \
            --out results/evaluate/{wildcards.key} \
            2>{log:q}
        """
