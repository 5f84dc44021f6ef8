# The same small units, making and validating one shell task each, as a job each and as one job: for bench_slurm.py.

from pathlib import Path

from images.names import image_path

ROOT = Path(workflow.basedir).parent
shell.prefix("export SANDBOX_BACKEND=bubblewrap; ")


container: str(ROOT / image_path(ROOT, "data"))


rule jobs:
    input:
        expand("jobs/{unit}/manifest.json", unit=range(int(config["units"]))),
    localrule: True


rule unit:
    output:
        "jobs/{unit}/manifest.json",
    log:
        "logs/{unit}.log",
    resources:
        mem_mb=800,
        runtime=10,
    shell:
        """
        source-tasks --source shell --split train --count 1 \
            --seed {wildcards.unit} \
            --workers 1 \
            --out jobs/{wildcards.unit} \
            2>{log:q}
        """


rule together:
    output:
        "together/manifest.json",
    log:
        "logs/together.log",
    threads: 2
    resources:
        mem_mb=800,
        runtime=60,
    params:
        units=config["units"],
    shell:
        """
        source-tasks --source shell --split train --count {params.units} \
            --seed 0 \
            --workers 4 \
            --out together \
            2>{log:q}
        """
