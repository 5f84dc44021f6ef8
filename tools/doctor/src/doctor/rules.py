"""What the workflow's rules ask of a cluster, as Snakemake reads them.

    python -m doctor.rules SNAKEFILE [NAME=VALUE ...]

prints, as JSON, the minutes of each rule that runs as a job: 0 where a rule states none, null where it computes them.
It is a program of its own because Snakemake changes the process that loads a workflow. NAME=VALUE are the
profile's `config` entries. The exit code is not 0 where the workflow cannot be loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from doctor.commands import Answer, ask


def job_minutes(snakefile: Path, config: Mapping[str, str]) -> dict[str, int | None]:
    """Return the minutes of every rule that is not a localrule: 0 for none, None for those that are computed."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

    with SnakemakeApi(OutputSettings()) as api:
        loaded = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=dict(config)),
            snakefile=snakefile,
        )
        # The public interface can only print rules, without their resources.
        workflow = loaded._workflow
        found: dict[str, int | None] = {}
        for rule in workflow.rules:
            # Workflow.is_local says yes to every rule until an executor is chosen.
            if not rule.norun and rule.name not in workflow._localrules:
                value = getattr(rule.resources.get("runtime"), "value", 0)
                found[rule.name] = value if isinstance(value, int) else None
        return found


def gather(snakefile: Path, config: Mapping[str, str]) -> dict[str, int | None] | Answer:
    """Return :func:`job_minutes`, found by a process of its own, or how that process failed."""
    words = [sys.executable, "-m", "doctor.rules", str(snakefile)]
    answer = ask([*words, *(f"{name}={value}" for name, value in config.items())], seconds=180)
    if answer.code:
        return answer
    rules: dict[str, int | None] = json.loads(answer.output.splitlines()[-1])
    return rules


if __name__ == "__main__":
    print(json.dumps(job_minutes(Path(sys.argv[1]), dict(text.split("=", 1) for text in sys.argv[2:]))))
