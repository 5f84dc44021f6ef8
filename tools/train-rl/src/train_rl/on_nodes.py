"""Run a rule's line, which enters an image, with Ray on every node of the Slurm job, started in the same image.

    python -m train_rl.on_nodes "apptainer exec ... IMAGE bash -c 'train-rl --trainer skyrl --nodes 2 ...'"

It runs outside the image, on the job's first node, where srun and scontrol are (tools/train-rl/nodes/bash starts it).
What Ray prints on all nodes is in results/logs/train_rl/ray-JOB.log, which stays unless the line ends with code 0.

A job that is to be preempted is told so some time before (the partition's GraceTime), by SIGTERM to its steps. That
ends Ray, and the line with it; the job is then given back to the queue.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from recipe_core.cli import Parser, entry
from recipe_core.errors import BadInput
from train_rl.ray_cluster import Allocation, RayCluster, allocation

# Instances that train together need each other's network, which the profile takes from images.
_NO_NETWORK = " --net --network none"
# Beside the logs of the workflow's steps.
_LOGS = Path("results") / "logs" / "train_rl"
_ENTERED = re.compile(r"(.*?\s(?:apptainer|singularity)\s.*?\bexec\s.*?\.sif)\s+bash\s+-c\s", re.DOTALL)
# Slurm ends a requeued job within its KillWait, the steps of this process among the first.
_SECONDS_TO_BE_ENDED = 600.0
# Each node lets in the GPUs that it has itself.
_GPUS = '[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || export APPTAINERENV_CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES"'


def entering(line: str) -> list[str]:
    """Return the words that enter the image that a line enters, with the shell's expansions made on each node.

    Args:
        line: `apptainer exec <words> IMAGE bash -c '<command>'`, as Snakemake writes it.

    Raises:
        BadInput: the line enters no image.
    """
    found = _ENTERED.match(f" {line}")
    if not found:
        raise BadInput("the line enters no image (apptainer exec ... IMAGE.sif bash -c ...); several nodes need one")
    return ["/bin/bash", "-c", f'{_GPUS}; exec env {found[1].strip()} "$@"', "enter"]


def isolated(enter: str) -> bool:
    """Return whether the words that enter an image take the network away."""
    words = enter.split()
    text = " ".join(words)
    return "--network none" in text or "--network=none" in text or ("--net" in words and "--network" not in text)


def nodes_of_job(line: str) -> Allocation:
    """Return the nodes of the job, all of them: the step that this runs in has the first alone.

    Args:
        line: says how many the tool counts on (`--nodes`), and how many GPUs on each (`--gpus`).

    Raises:
        BadInput: no job, or another number of nodes.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    listed = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%N"], capture_output=True, text=True)
    nodes = allocation({"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": listed.stdout.strip()})
    asked = {name: re.search(rf"--{name}[ =](\d+)", line) for name in ("nodes", "gpus")}
    if asked["nodes"] and int(asked["nodes"][1]) != len(nodes.nodes):
        raise BadInput(f"--nodes {asked['nodes'][1]}: job {job} has {len(nodes.nodes)} ({', '.join(nodes.nodes)})")
    return dataclasses.replace(nodes, gpus=int(asked["gpus"][1])) if asked["gpus"] else nodes


def ray_in(enter: Sequence[str]) -> str:
    """Return where the image has the command `ray`.

    Raises:
        BadInput: it has none.
    """
    script = "ls -d /opt/agent-recipes/.venvs/*/bin/ray 2>/dev/null || command -v ray"
    done = subprocess.run([*enter, "bash", "-c", script], capture_output=True, text=True)
    paths = done.stdout.split()
    if not paths:
        raise BadInput(f"the image has no Ray: {done.stderr.strip() or 'build it with images build --cuda rl'}")
    return paths[0]


def preempted(job_id: int) -> bool:
    """Return whether Slurm has told a job that still runs that it is to give way."""
    # It says how times are written.
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_TIME_FORMAT"}
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", str(job_id)], capture_output=True, text=True, env=environment
        ).stdout
    except OSError:
        # What made the line fail is what the user has to read.
        return False
    fields = {
        name: found[1]
        for name in ("JobState", "StartTime", "PreemptTime")
        if (found := re.search(rf"(?<!\S){name}=(\S+)", shown))
    }
    told, began = fields.get("PreemptTime", "None"), fields.get("StartTime", "Unknown")
    if fields.get("JobState") != "RUNNING" or not (told[0].isdigit() and began[0].isdigit()):
        return False
    # Slurm may not have forgotten an earlier run's, after which a run that fails would be requeued for ever.
    return told >= began


def give_way(job_id: int) -> None:
    """Have a job that is being preempted requeued, and wait for Slurm to end it; return at once for any other.

    Slurm would take a job that ends by itself before its grace is over for failed.
    """
    if not preempted(job_id):
        return
    print(f"on_nodes: job {job_id} is being preempted; it goes back into the queue", file=sys.stderr, flush=True)
    if subprocess.run(["scontrol", "requeue", str(job_id)]).returncode == 0:
        time.sleep(_SECONDS_TO_BE_ENDED)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="on_nodes", description=__doc__)
    parser.add_argument("line", help="what to run on the first node")
    return parser


def run(args: argparse.Namespace) -> None:
    """Bring Ray up, run the line and exit with its code; in a job that is being preempted, have it requeued.

    Raises:
        BadInput: the line enters no image, or one without a network; the job has not the nodes that the line counts on;
            Ray could not be had or kept on one of them.
    """
    line = args.line.replace(_NO_NETWORK, "", 1)
    enter = entering(line)
    if isolated(" ".join(enter)):
        raise BadInput(
            "several nodes need a network, and apptainer-args in the site file take it away: write `--net --network "
            "none`, in these words, which are left out for such steps, or nothing of the kind"
        )
    nodes = nodes_of_job(line)
    ray = ray_in(enter)
    log = (_LOGS / f"ray-{nodes.job_id}.log").absolute()
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with RayCluster(nodes, Path.cwd(), ray=ray, enter=enter, log=log) as cluster:
            code = cluster.run(["/bin/bash", "-c", f"{_GPUS}; {line}"])
    except (BadInput, SystemExit):
        # Ray's steps were told to end, or this process was.
        give_way(nodes.job_id)
        raise
    if code:
        give_way(nodes.job_id)
        code = code if code > 0 else 128 - code
        print(f"on_nodes: error: the line ended with code {code}; what Ray printed is in {log}", file=sys.stderr)
        raise SystemExit(code)
    log.unlink()


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
