# The student: its beginning, supervised fine-tuning, reinforcement learning. Checkpoints stand in <artifact>.work, which is
# no output, so that Snakemake leaves them alone and a killed job goes on from the last one.


rule init_model:
    input:
        trajectories=inputs("trajectories"),
        downloads=downloads,
    output:
        "results/init_model/{key}/manifest.json",
    log:
        "results/logs/init_model/{key}.log",
    benchmark:
        "results/benchmarks/init_model/{key}.tsv"
    container:
        image("serve")
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        trajectories=artifacts("trajectories"),
        flags=flags,
        seed=seed,
    shell:
        """
        init-model {params.trajectories:q} {params.flags:q} \
            --seed {params.seed} \
            --cache results/fetch/packages \
            --out results/init_model/{wildcards.key} \
            2>{log:q}
        """


rule train_sft:
    input:
        model=inputs("model"),
        trajectories=inputs("trajectories"),
    output:
        "results/train_sft/{key}/manifest.json",
    log:
        "results/logs/train_sft/{key}.log",
    benchmark:
        "results/benchmarks/train_sft/{key}.tsv"
    container:
        image("sft")
    threads: threads_of
    resources:
        mem_mb=memory_of(6000),
        gres=gres,
        runtime=1440,
        nodes=nodes_of,
        tasks=nodes_of,
        # With a GPU the executor would ask for as many tasks on each of them.
        tasks_per_gpu=0,
        # On several nodes the line is run once on each, and each adds to the log.
        shell_exec=shell_of,
    params:
        model=artifacts("model"),
        trajectories=artifacts("trajectories"),
        flags=flags,
        seed=seed,
    shell:
        """
        exec train-sft {params.model:q} {params.trajectories:q} {params.flags:q} \
            --seed {params.seed} \
            --out results/train_sft/{wildcards.key} \
            2>>{log:q}
        """


rule train_rl:
    input:
        model=inputs("model"),
        tasks=inputs("tasks"),
    output:
        "results/train_rl/{key}/manifest.json",
    log:
        "results/logs/train_rl/{key}.log",
    benchmark:
        "results/benchmarks/train_rl/{key}.tsv"
    container:
        trainer_image
    threads: threads_of
    resources:
        mem_mb=memory_for_trials,
        gres=gres,
        runtime=1440,
        nodes=nodes_of,
        tasks=nodes_of,
        tasks_per_gpu=0,
        # On several nodes Ray is brought up on all of them, and the line is run on the first.
        shell_exec=shell_of,
    params:
        model=artifacts("model"),
        tasks=artifacts("tasks"),
        flags=flags,
        seed=seed,
        date=date,
    shell:
        """
        train-rl {params.model:q} {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --date {params.date} \
            --out results/train_rl/{wildcards.key} \
            2>{log:q}
        """
