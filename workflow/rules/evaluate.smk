# A model works on held-out tasks and is scored. Several jobs may share the trials, as with rollouts.


rule evaluate_shard:
    input:
        model=inputs("model"),
        tasks=inputs("tasks"),
    output:
        temp(touch("results/evaluate/{key}.shards/{shard}.done")),
    log:
        "results/logs/evaluate/{key}-{shard}.log",
    wildcard_constraints:
        shard="[1-9][0-9]*",
    container:
        image("harness")
    threads: cores_for_trials
    resources:
        mem_mb=memory_for_trials,
        gres=gres,
        runtime=1440,
    params:
        model=artifacts("model"),
        tasks=artifacts("tasks"),
        flags=flags,
        shards=shards_of,
        seed=seed,
        date=date,
    shell:
        # To jobs that find the old artifact nothing is left to do, and Snakemake removes it only for the job that writes it.
        """
        rm -f results/evaluate/{wildcards.key}/manifest.json
        evaluate pull {params.model:q} {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --date {params.date} \
            --shard {wildcards.shard}/{params.shards} \
            --out results/evaluate/{wildcards.key} \
            2>{log:q}
        """


rule evaluate:
    input:
        model=inputs("model"),
        tasks=inputs("tasks"),
        shards=shards,
    output:
        "results/evaluate/{key}/manifest.json",
    log:
        "results/logs/evaluate/{key}.log",
    benchmark:
        "results/benchmarks/evaluate/{key}.tsv"
    container:
        image("harness")
    threads: cores_for_trials
    resources:
        mem_mb=memory_for_trials,
        gres=gres,
        runtime=1440,
    params:
        model=artifacts("model"),
        tasks=artifacts("tasks"),
        flags=flags,
        merge=merge,
        seed=seed,
        date=date,
    shell:
        """
        evaluate {params.model:q} {params.tasks:q} {params.flags:q} {params.merge:q} \
            --seed {params.seed} \
            --date {params.date} \
            --out results/evaluate/{wildcards.key} \
            2>{log:q}
        """
