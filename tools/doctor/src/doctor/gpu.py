"""Whether the driver here runs the CUDA that the stacks for GPUs bring."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from doctor.commands import Answer, ask, find
from doctor.findings import Finding
from doctor.profile import Profile

CHECK = "gpu"
Version = tuple[int, int]


@dataclass(frozen=True)
class Facts:
    """What `nvidia-smi` says, or None where there is none.

    `cuda` is the newest CUDA that the driver runs, `needs` what each stack's lock brings; `given` are the GPUs that
    Slurm gave to this job.
    """

    answer: Answer | None = None
    gpus: tuple[str, ...] = ()
    cuda: Version | None = None
    needs: Mapping[str, Version] = field(default_factory=dict)
    given: str = ""


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them."""
    return judge(gather(Path("envs")))


def gather(envs: Path) -> Facts:
    """Ask `nvidia-smi` and read the stacks' locks."""
    needs = {}
    for lock in sorted(envs.glob("*/requirements.lock")):
        version = cuda_of_lock(lock.read_text(errors="replace"))
        if version:
            needs[lock.parent.name] = version
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "") if "SLURM_JOB_ID" in os.environ else ""
    program = find("nvidia-smi")
    if program is None:
        return Facts(needs=needs, given=given)
    query = ask([program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], 60)
    gpus = tuple(row.strip() for row in query.output.splitlines() if row.strip()) if query.code == 0 else ()
    cuda = driver_cuda(ask([program], 60).output) if gpus else None
    return Facts(query, gpus, cuda, needs, given)


def cuda_of_lock(text: str) -> Version | None:
    """Return the CUDA version that a lock's packages are made for, or None where it has none.

    It is that of the runtime's own package, `nvidia-cuda-runtime==13.0.96` or `nvidia-cuda-runtime-cu12==12.8.90`, else
    that in torch's version, `torch==2.9.0+cu128`.
    """
    if match := re.search(r"^nvidia-cuda-runtime(?:-cu\d+)?==(\d+)\.(\d+)", text, re.M):
        return int(match[1]), int(match[2])
    if match := re.search(r"^torch==[^\s+]+\+cu(\d+)(\d)\b", text, re.M):
        return int(match[1]), int(match[2])
    return None


def driver_cuda(text: str) -> Version | None:
    """Return the CUDA version in the heading of `nvidia-smi`: the newest that its driver runs."""
    match = re.search(r"CUDA(?: [A-Z]+)? Version\s*:\s*(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def judge(facts: Facts) -> list[Finding]:
    """Return what the facts mean for the workflow.

    A driver runs programs of its own CUDA major version, newer minor ones too (NVIDIA, CUDA Compatibility, "minor
    version compatibility"), but then not code that is compiled while it runs. It runs no newer major version.
    """
    needs = ", ".join(f"{stack} {number(version)}" for stack, version in facts.needs.items())
    wanted = f"stacks need CUDA: {needs}" if needs else "no stack here needs CUDA"
    if facts.answer is None:
        if facts.given:
            text = f"Slurm gave GPU {facts.given}, but nvidia-smi is not on PATH"
            return [Finding("warn", CHECK, text, "ask the site where its driver's programs are")]
        return [Finding("ok", CHECK, f"no GPU here (no nvidia-smi); {wanted}")]
    if not facts.gpus:
        text = f"nvidia-smi shows no GPU: {facts.answer.complaint}"
        return [Finding("warn", CHECK, text, "look at a node that has some: doctor --node PARTITION")]
    cuda = number(facts.cuda) if facts.cuda else "unknown"
    found = [
        Finding(
            "ok", CHECK, f"{len(facts.gpus)} GPU: {facts.gpus[0]} (name, driver, memory), CUDA up to {cuda}; {wanted}"
        )
    ]
    for stack, version in facts.needs.items():
        found += _compare(stack, version, facts.cuda)
    return found


def _compare(stack: str, needed: Version, here: Version | None) -> list[Finding]:
    if here is None:
        text = f"stack {stack} needs CUDA {number(needed)}; nvidia-smi does not say what the driver runs"
        return [Finding("warn", CHECK, text, "run nvidia-smi and compare")]
    mend = f"use a partition, or ask for a driver, with CUDA {number(needed)} or newer"
    text = f"stack {stack} needs CUDA {number(needed)}, the driver runs up to {number(here)}"
    if here[0] < needed[0]:
        return [Finding("fail", CHECK, text, mend)]
    if here < needed:
        return [Finding("warn", CHECK, f"{text}: kernels compiled while running fail", mend)]
    return []


def number(version: Version) -> str:
    """Return a version as people write it."""
    return f"{version[0]}.{version[1]}"
