"""Run whole Harbor trials of made tasks with the reference solution, and write what each gave and took.

    sandbox_trials.py TASKS OUT --environment ours --backend bubblewrap --at-once 8

Needs the stack `harness`. OUT gets one JSON object: seconds and processor seconds of all trials together (imports left
out; of ended processes only) and, for each trial, its reward, its exception and the seconds of its phases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OURS = "rollout.environment:SandboxEnvironment"
PHASES = ("environment_setup", "agent_execution", "verifier")
# Every third solution is wrong, so that equal rewards say something.
WRONG_EVERY = 3


def make_tasks(folder: Path, count: int, image: Path) -> None:
    """Write Harbor task folders: sums of squares by shell and Python, a third of them with a wrong solution."""
    for index in range(count):
        task = folder / f"task-{index:04d}"
        wrong = 1 if index % WRONG_EVERY == WRONG_EVERY - 1 else 0
        count_to = 50 + index
        files = {
            "instruction.md": f"Write the sum of the squares of 1 to {count_to} to /app/sum.txt.\n",
            "task.toml": f'version = "1.0"\n[environment]\ndocker_image = "{image}"\n',
            "environment/Dockerfile": "FROM scratch\nWORKDIR /app\n",
            "solution/solve.sh": (
                f"#!/bin/bash\nseq {count_to} | awk '{{s += $1 * $1}} END {{print s + {wrong}}}' > /app/sum.txt\n"
            ),
            "tests/test.sh": "#!/bin/bash\npython3 /tests/check.py > /logs/verifier/reward.txt\n",
            "tests/check.py": (
                "from pathlib import Path\n"
                f"wanted = sum(n * n for n in range(1, {count_to + 1}))\n"
                "print(int(Path('/app/sum.txt').read_text().strip() == str(wanted)))\n"
            ),
        }
        for name, text in files.items():
            path = task / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name.endswith(".sh") else 0o644)


async def run_trials(tasks: list[Path], environment: dict[str, Any], at_once: int) -> list[dict[str, Any]]:
    """Run one trial a task, some at once, and return what each gave."""
    from harbor.models.trial.config import AgentConfig, EnvironmentConfig, TaskConfig, TrialConfig
    from harbor.trial.trial import Trial

    found: list[dict[str, Any]] = []
    source = iter(tasks)

    async def serve(scratch: Path) -> None:
        for task in source:
            config = TrialConfig(
                task=TaskConfig(path=task),
                trial_name=task.name,
                trials_dir=scratch,
                agent=AgentConfig(name="oracle"),
                environment=EnvironmentConfig(**environment),
            )
            trial = await Trial.create(config)
            found.append(summary(task.name, await trial.run()))
            print(f"{len(found)} of {len(tasks)} trials", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="bench-sandbox-") as scratch:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(serve(Path(scratch)))
    return sorted(found, key=lambda each: each["task"])


def summary(task: str, result: Any) -> dict[str, Any]:
    """Return the plain values of a Harbor trial's result."""
    timings = {name: getattr(result, name) for name in PHASES}
    return {
        "task": task,
        "reward": result.verifier_result.rewards.get("reward") if result.verifier_result else None,
        "exception": result.exception_info.exception_type if result.exception_info else None,
        "seconds": {
            name: (timing.finished_at - timing.started_at).total_seconds()
            for name, timing in timings.items()
            if timing and timing.started_at and timing.finished_at
        },
    }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="folder of task folders")
    parser.add_argument("out", type=Path, help="where the JSON object goes")
    parser.add_argument("--environment", choices=["ours", "singularity"], required=True)
    parser.add_argument("--backend", default="bubblewrap", help="of our environment (default bubblewrap)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="trials at once (default 1)")
    args = parser.parse_args()
    # Harbor reports usage and looks up prices over the network unless told not to, when it is imported.
    os.environ.update({"HARBOR_TELEMETRY": "0", "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    import harbor.trial.trial  # noqa: F401

    kind = {"import_path": OURS, "kwargs": {"backend": args.backend}}
    environment = kind if args.environment == "ours" else {"type": args.environment}
    tasks = sorted(path for path in args.tasks.iterdir() if path.is_dir())
    began, began_cpu = time.perf_counter(), _cpu_seconds()
    trials = asyncio.run(run_trials(tasks, environment, args.at_once))
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds() - began_cpu
    args.out.write_text(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "trials": trials}))


if __name__ == "__main__":
    main()
