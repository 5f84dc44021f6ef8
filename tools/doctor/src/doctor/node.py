"""The same checks on a compute node: doctor starts itself there through srun and reads what it finds."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from doctor.commands import TIMED_OUT, Answer, ask, find
from doctor.findings import Finding, load, one_line
from doctor.profile import Profile, Target
from doctor.slurm import default_partition, parse_partitions

CHECK = "node"
# An Apptainer start, a sandbox and a name that does not resolve fit; the job ends by itself long before.
MINUTES = 10
MEMORY_MB = 1000
_SECONDS_TO_CANCEL = 15.0


def target(profile: Profile, partition: str, partitions: Mapping[str, Mapping[str, str]]) -> Target:
    """Return how a job gets onto a node of a partition.

    Args:
        profile: whose rules' jobs that go to the partition show what it wants; else the defaults.
        partition: its name.
        partitions: as Slurm describes them; where the partition has GPUs and the profile is silent, one is asked for.
    """
    candidates = [profile.target(rule) for rule in profile.by_rule] + [profile.target()]
    usual = default_partition(partitions)
    fitting = [each for each in candidates if (each.partition or usual) == partition]
    base = fitting[0] if fitting else profile.target()
    has_gpus = "gres/gpu" in partitions.get(partition, {}).get("TRES", "")
    gres = base.gres or ("gpu:1" if has_gpus and not base.gpus else "")
    return Target(base.account, partition, base.qos, base.constraint, gres, base.gpus, base.extra)


def command(where: Target, arguments: Sequence[str], *, memory: bool = True) -> list[str]:
    """Return the srun command that runs doctor on a node; `memory` tells whether Slurm may be asked for some.

    A warning before the end of a job (`--signal`) is left out: it would come at once in so short a job, and end it.
    """
    words = where.words()
    signals = [at for at, word in enumerate(words) if word == "--signal" or word.startswith("--signal=")]
    # The value may be the next word.
    dropped = {*signals, *(at + 1 for at in signals if words[at] == "--signal")}
    kept = [word for at, word in enumerate(words) if at not in dropped]
    size = ["--nodes=1", "--ntasks=1", "--cpus-per-task=1", f"--time={MINUTES}"]
    size += [f"--mem={MEMORY_MB}"] if memory else []
    return ["srun", "--job-name=doctor", *size, *kept, sys.executable, "-m", "doctor", *arguments]


def gather(profile: Profile, partition: str, arguments: Sequence[str], seconds: float) -> Answer:
    """Run doctor on a node of a partition.

    Args:
        profile: for the account and what else the partition wants.
        partition: its name.
        arguments: for the doctor there.
        seconds: how long to wait for the node and the answer; then the job is cancelled.
    """
    if find("srun") is None:
        return Answer(127, errors="srun is not on PATH")
    partitions = parse_partitions(ask(["scontrol", "show", "partition", "--oneliner"]).output)
    where = target(profile, partition, partitions)
    words = command(where, arguments, memory=profile.defaults.get("mem_mb") != "0")
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    began = time.monotonic()
    try:
        output, errors = process.communicate(timeout=seconds)
        return Answer(process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        return Answer(TIMED_OUT, errors=f"no answer from the partition within {time.monotonic() - began:.0f} s")
    finally:
        _cancel(process)


def _cancel(process: subprocess.Popen[str]) -> None:
    # srun passes the signal on: a job that waits is taken out of the queue, one that runs is killed.
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_SECONDS_TO_CANCEL)
    process.kill()
    process.wait()


def judge(answer: Answer, partition: str) -> list[tuple[str, Finding]]:
    """Return the node's findings, each with the node's name, or one that says why there are none."""
    found = [each for row in answer.output.splitlines() if (each := load(row))]
    if answer.code in (0, 1) and found:
        return found
    what = "doctor did not end there" if found else "doctor did not run there"
    return [*found, (partition, Finding("fail", CHECK, f"{what}: {reason(answer)}", mend(answer)))]


def reason(answer: Answer) -> str:
    """Return why srun failed: the node's first complaint, else srun's own, of which later ones are consequences."""
    for program in ("slurmstepd", "doctor", "srun"):
        for row in answer.errors.splitlines():
            if re.match(rf"{program}\S*: error: ", row):
                return one_line(row)
    return answer.complaint


def mend(answer: Answer) -> str:
    """Return what to do about a node that did not answer."""
    if answer.code == TIMED_OUT:
        return "run it again when the queue is shorter, or give --wait more seconds"
    if "Exec format error" in answer.errors:
        return "the nodes have another processor than this machine: set up on one of them"
    if re.search(r"No such file or directory|chdir|execve", answer.errors):
        return "the nodes must see this folder and its .venvs under the same path: clone it to a shared file system"
    return "correct the account and the partition in the site file: doctor --only slurm"
