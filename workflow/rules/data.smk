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
        mem_mb=memory(1000),
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
        mem_mb=memory(1000),
        runtime=60,
    shell:
        "init-model fetch {wildcards.model} --cache results/fetch/packages > {log:q} 2>&1"


rule fetch_hub_model:
    output:
        touch("results/fetch/hub/{owner}--{repo}@{revision}.done"),
    log:
        "results/logs/fetch/{owner}--{repo}@{revision}.log",
    wildcard_constraints:
        owner="[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*",
        repo="[A-Za-z0-9][A-Za-z0-9_.-]*",
        revision="[0-9a-f]{40}",
    container:
        image("serve")
    resources:
        mem_mb=memory(1000),
        runtime=600,
    shell:
        """
        init-model fetch --hub {wildcards.owner}/{wildcards.repo} \
            --revision {wildcards.revision} \
            --cache results/fetch/packages \
            >{log:q} 2>&1
        """


rule fetch_tokenizer:
    output:
        "results/fetch/tokenizers/{owner}--{repo}@{revision}/tokenizer.json",
    log:
        "results/logs/fetch/{owner}--{repo}@{revision}-tokenizer.log",
    wildcard_constraints:
        owner="[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*",
        repo="[A-Za-z0-9][A-Za-z0-9_.-]*",
        revision="[0-9a-f]{40}",
    container:
        image("data")
    resources:
        mem_mb=memory(1000),
        runtime=60,
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
    shell:
        """
        hf download {wildcards.owner}/{wildcards.repo} tokenizer.json \
            --revision {wildcards.revision} \
            --local-dir {params.folder:q} \
            >{log:q} 2>&1
        """


rule fetch_data:
    output:
        directory("results/fetch/data/{name}"),
    log:
        "results/logs/fetch/{name}.log",
    wildcard_constraints:
        name="[a-z0-9][a-z0-9-]*",
    container:
        image("data")
    resources:
        mem_mb=memory(2000),
        runtime=600,
    params:
        revision=pinned_at,
    shell:
        "source-tasks fetch {wildcards.name} --out {output:q} > {log:q} 2>&1"


rule source_tasks:
    input:
        downloads=downloads,
        files=given_files,
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
        mem_mb=memory(2000),
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


# The stages that read rows and write some of them: the minutes they may need, and the processes they share the work among. A
# shell command is put together when it runs, long after the loop: what differs between these rules stands in their parameters.
MOVES = {
    "mix": (60, 1),
    "filter-length": (60, 1),
    "filter-tasks": (60, 1),
    "dedup": (120, 1),
    "decontaminate": (240, 2),
    "upsample": (60, 1),
    "filter-turns": (60, 1),
}

for stage, (minutes, workers) in MOVES.items():
    name = stage.replace("-", "_")

    rule:
        name:
            name
        input:
            artifacts=all_inputs,
            files=given_files,
        output:
            f"results/{name}/{{key}}/manifest.json",
        log:
            f"results/logs/{name}/{{key}}.log",
        benchmark:
            f"results/benchmarks/{name}/{{key}}.tsv"
        container:
            image("data")
        threads: workers
        resources:
            mem_mb=memory(2000),
            runtime=minutes,
        params:
            tool=stage,
            out=f"results/{name}/{{key}}",
            artifacts=all_artifacts,
            flags=flags,
            seed=seed,
            workers=workers_of(workers),
        shell:
            """
            {params.tool} {params.artifacts:q} {params.flags:q} \
                --seed {params.seed} {params.workers:q} \
                --out {params.out} \
                2>{log:q}
            """


# The stages that ask a teacher. Replies are kept below results/requests, which no rule owns: what was answered once is not
# asked again, whatever is rebuilt.
ASKS = {"score": 1440, "augment": 1440, "answers": 2880}

for stage, minutes in ASKS.items():

    rule:
        name:
            stage
        input:
            artifacts=all_inputs,
            files=given_files,
        output:
            f"results/{stage}/{{key}}/manifest.json",
        log:
            f"results/logs/{stage}/{{key}}.log",
        benchmark:
            f"results/benchmarks/{stage}/{{key}}.tsv"
        container:
            image("data")
        threads: cores(2)
        resources:
            mem_mb=memory_of(4000),
            gres=gres,
            runtime=minutes,
        params:
            tool=stage,
            out=f"results/{stage}/{{key}}",
            artifacts=all_artifacts,
            flags=flags,
            seed=seed,
            date=dated(stage),
        shell:
            """
            {params.tool} {params.artifacts:q} {params.flags:q} \
                --seed {params.seed} {params.date:q} \
                --cache results/requests \
                --out {params.out} \
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
        mem_mb=memory(2000),
        runtime=120,
    params:
        rows=artifacts("rows"),
        steps=made_from,
        flags=flags,
        seed=seed,
        date=date,
    shell:
        """
        export-data {params.rows:q} {params.flags:q} {params.steps:q} \
            --seed {params.seed} \
            --date {params.date} \
            --out results/export_data/{wildcards.key} \
            2>{log:q}
        """
