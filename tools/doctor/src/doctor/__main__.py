"""Say whether this cluster can run the workflow, and what mends it where it cannot.

    doctor --site workflow/profiles/mine               everything, from where jobs are submitted
    doctor --site workflow/profiles/mine --node gpu    the same, and on a compute node of the partition gpu
    doctor --only apptainer sandbox                    two of the checks

One line a finding: ok, warn (a part may not work) or fail (a build cannot work); the machine; the check; the figure
seen; what mends it. Exit code 0 when nothing fails, 1 when something does, 2 on bad input. Nothing is changed. --node
submits a job of one core, at most ten minutes and, where the partition has any, one GPU, and waits for it.

    slurm       commands, accounting, account, partitions (sbatch --test-only), their time limits, requeueing
    apptainer   version, user namespaces, a real `apptainer exec --userns`, fakeroot, mounts
    sandbox     the sandboxes that trials run in, where the command is installed
    storage     room and type of the project's folder, bound folders, TMPDIR, /dev/shm and tmux's folder; quota
    gpu         driver against the CUDA that the stacks' locks bring
    hub         whether HF_ENDPOINT answers
    images      whether the images of this commit are here, and start
    secrets     that the file of secrets is private; it is not read
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from doctor import apptainer, gpu, hub, images, node, sandbox, secrets, slurm, storage
from doctor.findings import Finding, dump, line, summary
from doctor.profile import Profile, read_profile
from recipe_core.cli import Parser, entry, positive
from recipe_core.errors import BadInput

CHECKS = {each.CHECK: each.examine for each in (slurm, apptainer, sandbox, storage, gpu, hub, images, secrets)}
PROFILE = Path("workflow") / "profiles" / "slurm"
WAIT_SECONDS = 600


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="doctor", description=__doc__)
    parser.add_argument(
        "--profile", type=Path, default=PROFILE, metavar="DIR", help=f"profile of Snakemake (default {PROFILE})"
    )
    parser.add_argument("--site", type=Path, metavar="DIR", help="the site's profile, whose keys replace the other's")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), metavar="CHECK", help="only these checks")
    parser.add_argument(
        "--node", nargs="+", default=[], metavar="PARTITION", help="also on a compute node of each of these partitions"
    )
    parser.add_argument(
        "--wait",
        type=positive,
        default=WAIT_SECONDS,
        metavar="SEC",
        help=f"longest wait for such a node (default {WAIT_SECONDS})",
    )
    # What doctor tells itself on a compute node: lines of JSON, and no questions to Slurm.
    parser.add_argument("--as-node", action="store_true", help=argparse.SUPPRESS)
    return parser


def judge_profile(profile: Profile) -> list[Finding]:
    """Return findings where the profile names variables that the environment lacks, or a site's key hides entries."""
    found = []
    if profile.undefined:
        names = ", ".join(f"${name}" for name in profile.undefined)
        mend = "export them, or write the values into the site file"
        found.append(Finding("fail", "profile", f"not set here: {names}", mend))
    if profile.lost:
        text = f"the site file's keys replace whole keys; lost with them: {', '.join(profile.lost)}"
        found.append(Finding("warn", "profile", text, "repeat in the site file what should stay"))
    return found


def findings(args: argparse.Namespace) -> Iterator[tuple[str, Finding]]:
    """Yield each finding with the machine it is of, as soon as there is one."""
    profile = read_profile(args.profile, args.site, os.environ)
    # Slurm's name for a node is the one that people know it by.
    machine = os.environ.get("SLURMD_NODENAME", "") if args.as_node else ""
    machine = machine or socket.gethostname().partition(".")[0]
    if not args.as_node:
        yield from ((machine, finding) for finding in judge_profile(profile))
    shared = profile.executor == "slurm" and not args.node and not args.as_node
    checks = args.only or list(CHECKS)
    for check in checks:
        for finding in CHECKS[check](profile, node=args.as_node, shared=shared):
            yield machine, finding
    if args.node:
        words = ["--as-node", "--profile", str(args.profile)]
        words += ["--site", str(args.site)] if args.site else []
        for partition in args.node:
            yield from node.judge(node.gather(profile, partition, [*words, "--only", *checks], args.wait), partition)


def run(args: argparse.Namespace) -> None:
    """Print every finding; exit with code 1 where one fails."""
    if not Path("Snakefile").is_file():
        raise BadInput("no Snakefile here; run doctor in the project's folder")
    found = []
    for machine, finding in findings(args):
        found.append(finding)
        print(dump(finding, machine) if args.as_node else line(finding, machine), flush=True)
    if not args.as_node:
        print(summary(found))
    if any(finding.level == "fail" for finding in found):
        raise SystemExit(1)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
