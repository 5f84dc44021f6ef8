"""Where the processes of a training run are and how they are started.

On several nodes this tool is started once on each by `srun`, outside the image, since an image holds no Slurm client.
What Slurm tells each instance is enough to find the others: they name the same first node and the same port.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe_core.errors import BadInput
from train_sft.config import distributed

# Below the ports that Linux hands out for outgoing connections (32768 and up) and above those of well-known services.
_FIRST_PORT, _PORTS = 15000, 15000
# Long enough for the processes to reach the end of a step and write a checkpoint; Slurm's own grace may end it earlier.
SECONDS_TO_SAVE = 600
_KEPT = {"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CC", "CXX"}
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "FI_", "TORCH_", "PYTORCH_", "TRITON_")


@dataclass(frozen=True)
class Place:
    """Where this instance stands among the nodes.

    Attributes:
        nodes: how many there are.
        rank: this node's number, from 0; words stand in for what only a job knows, here and in `port`.
        address: the first node's name; `port` is where its processes meet the others'.
        attempt: names this start of the run, the same on all nodes and another after a requeue.
    """

    nodes: int = 1
    rank: int | str = 0
    address: str = "127.0.0.1"
    port: int | str = 0
    attempt: str = "local"


def first_host(nodes: str) -> str:
    """Return the first name of a Slurm list of nodes.

    >>> first_host("gpu[007-012,020]-ib,login1")
    'gpu007-ib'
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first
    return re.sub(r"\[([^-,\]]*)[^\]]*\]", r"\1", first[0])


def find_place(nodes: int, environment: Mapping[str, str]) -> Place:
    """Return where this instance stands, from what Slurm says of the step it is a task of.

    Args:
        nodes: as many as the run is to have.
        environment: this process's variables.

    Raises:
        BadInput: several nodes, and this is no step of that many nodes with one task on each.
    """
    if nodes == 1:
        return Place()
    start = f"start it once on each node: srun --nodes={nodes} --ntasks-per-node=1 train-sft ..."
    names = ("JOB_ID", "STEP_ID", "STEP_NODELIST", "STEP_NUM_NODES", "STEP_NUM_TASKS", "NODEID")
    missing = [f"SLURM_{name}" for name in names if not environment.get(f"SLURM_{name}")]
    if missing:
        raise BadInput(f"--nodes {nodes}: {', '.join(missing)} not set, so this is no task of a Slurm step; {start}")
    job, step, hosts, count, tasks, rank = (environment[f"SLURM_{name}"] for name in names)
    if (count, tasks) != (str(nodes), str(nodes)):
        raise BadInput(f"--nodes {nodes}: this Slurm step has {tasks} tasks on {count} nodes; {start}")
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    return Place(nodes, int(rank), first_host(hosts), _FIRST_PORT + int(job) % _PORTS, f"{job}.{step}.{restart}")


def words(args: argparse.Namespace, place: Place, config: Path) -> list[str]:
    """Return the command that trains on this node.

    Args:
        args: the command line.
        place: this node's.
        config: LLaMA-Factory's configuration.
    """
    worker = ["-m", "train_sft.worker", str(config)]
    if not distributed(args):
        return [sys.executable, *worker]
    meeting = ["--standalone"]
    if place.nodes > 1:
        meeting = [f"--node-rank={place.rank}", f"--master-addr={place.address}", f"--master-port={place.port}"]
        meeting.append(f"--rdzv-conf=timeout={args.collective_timeout}")
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={place.nodes}", f"--nproc-per-node={args.processes_per_node}", *meeting),
        # A lost process ends the run, which goes on from its checkpoint when it is started again.
        *("--max-restarts=0", f"--shutdown-timeout={SECONDS_TO_SAVE}"),
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        *worker,
    ]


def kept_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that distributed processes get to see: what finds programs, devices and networks.

    Not Slurm's nor MPI's, by which the libraries below would take the processes for ranks of an MPI job.
    """
    return {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
