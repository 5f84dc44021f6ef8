# A teacher works on tasks in sandboxes. Several jobs may pull trials from one heap; one more then writes the artifact.


rule rollout_shard:
    input:
        tasks=inputs("tasks"),
        model=inputs("model"),
    output:
        temp(touch("results/rollout/{key}.shards/{shard}.done")),
    log:
        "results/logs/rollout/{key}-{shard}.log",
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
        tasks=artifacts("tasks"),
        model=artifacts("model"),
        flags=flags,
        shards=shards_of,
        seed=seed,
        date=date,
    shell:
        # To jobs that find the old artifact nothing is left to do, and Snakemake removes it only for the job that writes it.
        """
        rm -f results/rollout/{wildcards.key}/manifest.json
        rollout pull {params.tasks:q} {params.model:q} {params.flags:q} \
            --seed {params.seed} \
            --date {params.date} \
            --shard {wildcards.shard}/{params.shards} \
            --out results/rollout/{wildcards.key} \
            2>{log:q}
        """


rule rollout:
    input:
        tasks=inputs("tasks"),
        model=inputs("model"),
        shards=shards,
    output:
        "results/rollout/{key}/manifest.json",
    log:
        "results/logs/rollout/{key}.log",
    benchmark:
        "results/benchmarks/rollout/{key}.tsv"
    container:
        image("harness")
    threads: cores_for_trials
    resources:
        mem_mb=memory_for_trials,
        gres=gres,
        runtime=1440,
    params:
        tasks=artifacts("tasks"),
        model=artifacts("model"),
        flags=flags,
        merge=merge,
        seed=seed,
        date=date,
    shell:
        """
        rollout {params.tasks:q} {params.model:q} {params.flags:q} {params.merge:q} \
            --seed {params.seed} \
            --date {params.date} \
            --out results/rollout/{wildcards.key} \
            2>{log:q}
        """
