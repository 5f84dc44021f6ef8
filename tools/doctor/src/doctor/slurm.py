"""Whether Slurm takes the workflow's jobs."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doctor.commands import OK, Answer, ask, find
from doctor.findings import Finding, one_line
from doctor.profile import Profile, Target
from doctor.rules import gather as gather_rules
from recipe.executor import must_remember
from recipe_core.errors import nearest

CHECK = "slurm"
# The executor calls all four; srun also on the nodes, where it starts the job's step.
COMMANDS = ("sbatch", "squeue", "sacct", "srun")
_LOAD = "load the site's Slurm module, or run doctor where jobs are submitted"


@dataclass(frozen=True)
class Facts:
    """What was asked of Slurm.

    `remembered_sec` is how long squeue shows a job that has ended; `partitions` is `scontrol show partition` by name;
    `accounts` the user's, or None where the database does not say; `trials` how `sbatch --test-only` ended for each
    target; `minutes` what the rules ask for, or why that is not known.
    """

    missing: tuple[str, ...] = ()
    version: str = ""
    accounting: Answer = OK
    remembered_sec: int | None = None
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    accounts: frozenset[str] | None = None
    trials: Mapping[Target, Answer] = field(default_factory=dict)
    minutes: Mapping[str, int | None] | Answer = field(default_factory=dict)


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them; a node has only to have srun."""
    if node:
        return judge_node(find("srun"))
    if profile.executor != "slurm":
        return [Finding("ok", CHECK, f"not looked at: the profile's executor is {profile.executor or 'not set'}")]
    return judge(gather(profile, Path("Snakefile")), profile)


def gather(profile: Profile, snakefile: Path) -> Facts:
    """Ask Slurm; jobs are only tried (`--test-only`), none is submitted."""
    missing = tuple(name for name in COMMANDS if find(name) is None)
    if missing:
        return Facts(missing)
    user = pwd.getpwuid(os.getuid()).pw_name
    minutes = gather_rules(snakefile, profile.config)
    names = [] if isinstance(minutes, Answer) else list(minutes)
    targets = targets_of(profile, names)
    config = ask(["scontrol", "show", "config"])
    remembered = re.search(r"^MinJobAge\s*=\s*(\d+)", config.output, re.M)
    return Facts(
        missing=(),
        version=ask(["sbatch", "--version"]).output.strip(),
        accounting=ask(["sacct", "--user", user, "--noheader", "--parsable2", "--format", "JobID"]),
        remembered_sec=int(remembered[1]) if remembered else None,
        partitions=parse_partitions(ask(["scontrol", "show", "partition", "--oneliner"]).output),
        accounts=_accounts(user),
        trials={target: ask(trial_words(target, profile), 60) for target in targets},
        minutes=minutes,
    )


def _accounts(user: str) -> frozenset[str] | None:
    for words in (
        ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=Account"],
        ["sshare", "--users", user, "--noheader", "--parsable2", "--format", "Account"],
    ):
        answer = ask(words)
        found = frozenset(line.strip() for line in answer.output.splitlines() if line.strip())
        if answer.code == 0 and found:
            return found
    return None


def trial_words(target: Target, profile: Profile) -> list[str]:
    """Return the sbatch command that asks whether a job may go to a target, without submitting one."""
    return ["sbatch", "--test-only", "--ntasks=1", "--time=1", *profile.memory, *target.words(), "--wrap=true"]


def targets_of(profile: Profile, rules: Sequence[str]) -> dict[Target, list[str]]:
    """Return where the profile sends jobs, and which rules' jobs go there.

    Args:
        profile: as read.
        rules: names of all rules that run as jobs; empty where they are not known.
    """
    found: dict[Target, list[str]] = {}
    for rule in rules or ["", *profile.by_rule]:
        found.setdefault(profile.target(rule), []).append(rule)
    return found


def parse_partitions(text: str) -> dict[str, dict[str, str]]:
    """Return the partitions of `scontrol show partition --oneliner`, each with its fields."""
    found = {}
    for row in text.splitlines():
        fields = dict(word.split("=", 1) for word in row.split() if "=" in word)
        if name := fields.get("PartitionName"):
            found[name] = fields
    return found


def parse_minutes(text: str) -> int | None:
    """Return a Slurm or Snakemake duration in whole minutes, or None where there is no limit or it is not understood.

    Forms: `60`, `60:30`, `2:00:00`, `1-12`, `1-12:00:00` of Slurm (man sbatch, --time), `90m`, `2h`, `1d` of Snakemake.

    >>> parse_minutes("1-12:00:00")
    2160
    """
    if match := re.fullmatch(r"(\d+)\s*([mhd])[a-z]*", text.strip()):
        return int(match[1]) * {"m": 1, "h": 60, "d": 1440}[match[2]]
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        return None
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is not None or match[4] is not None:
        # With days, the next numbers are hours, minutes, seconds; so are three numbers without.
        return days * 1440 + first * 60 + second + (third > 0)
    return first + (second > 0)


def default_partition(partitions: Mapping[str, Mapping[str, str]]) -> str:
    """Return the partition that jobs go to which name none, or the empty string."""
    return next((name for name, fields in partitions.items() if fields.get("Default") == "YES"), "")


def asked_minutes(profile: Profile, rule: str, stated: int | None) -> int | None:
    """Return the minutes a rule's job asks for: set-resources over the rule over default-resources.

    Args:
        profile: as read.
        rule: its name.
        stated: what the rule says: 0 where it says nothing, None where it computes it, and so it is not known.
    """
    over = profile.by_rule.get(rule, {}).get("runtime")
    if over is not None:
        return parse_minutes(over)
    return parse_minutes(profile.defaults.get("runtime", "")) if stated == 0 else stated


def judge(facts: Facts, profile: Profile) -> list[Finding]:
    """Return what the facts mean for the workflow."""
    if facts.missing:
        return [Finding("fail", CHECK, f"not on PATH: {', '.join(facts.missing)}", _LOAD)]
    minutes = facts.minutes if not isinstance(facts.minutes, Answer) else {}
    found = [Finding("ok", CHECK, f"{', '.join(COMMANDS)} of {facts.version}")]
    if isinstance(facts.minutes, Answer):
        mend = "set the workflow up (make setup-cluster) and mend what it says"
        found.append(Finding("fail", CHECK, f"the workflow does not load: {facts.minutes.complaint}", mend))
    found += [_accounting(facts, profile), *_account(facts, profile)]
    for target, rules in targets_of(profile, list(minutes)).items():
        found += _target(facts, profile, target)
        found += _time(facts, profile, target, rules, minutes)
    found += [*_requeue(facts, profile, list(minutes)), *_remembered(facts, profile)]
    # Targets that differ in their GPUs alone share what is said of their partition.
    return list(dict.fromkeys(found))


def _accounting(facts: Facts, profile: Profile) -> Finding:
    if facts.accounting.code == 0:
        return Finding("ok", CHECK, "accounting answers (sacct)")
    text = f"accounting does not answer: {facts.accounting.complaint}"
    if profile.settings.get("slurm-status-command") == "squeue":
        return Finding("warn", CHECK, text, "the state of jobs is taken from squeue, as the profile says")
    return Finding("fail", CHECK, text, "write `slurm-status-command: squeue` into the site file")


def _account(facts: Facts, profile: Profile) -> list[Finding]:
    yours = f"yours: {', '.join(sorted(facts.accounts))}" if facts.accounts else "ask the site for yours"
    named = sorted({target.account for target in facts.trials if target.account})
    if not named:
        if profile.settings.get("slurm-no-account", "").lower() == "true":
            return [Finding("ok", CHECK, "jobs name no account, as the profile says")]
        mend = f"name one in the site file: default-resources, slurm_account=… ({yours})"
        return [Finding("warn", CHECK, "the profile names no account; one is guessed from old jobs", mend)]
    found = []
    for account in named:
        if facts.accounts is None:
            found.append(Finding("warn", CHECK, f"account {account}: the database does not say whether it is yours"))
        # Slurm takes account names in any case.
        elif account.lower() in {name.lower() for name in facts.accounts}:
            found.append(Finding("ok", CHECK, f"account {account} is yours"))
        else:
            mend = f"correct slurm_account in the site file ({yours})"
            found.append(Finding("fail", CHECK, f"account {account} is not yours", mend))
    return found


def _target(facts: Facts, profile: Profile, target: Target) -> list[Finding]:
    name = target.partition or default_partition(facts.partitions)
    if not name:
        mend = f"name one in the site file: default-resources, slurm_partition=… ({_known(facts)})"
        return [Finding("fail", CHECK, "the profile names no partition and Slurm has no default", mend)]
    fields = facts.partitions.get(name)
    # A job may go to the first free of several partitions.
    if fields is None and "," not in name:
        hint = nearest(name, list(facts.partitions))
        mend = f"correct slurm_partition in the site file ({_known(facts)}){hint}"
        return [Finding("fail", CHECK, f"no partition {name}", mend)]
    nodes = f" ({fields.get('TotalNodes', '?')} nodes)" if fields else ""
    trial = facts.trials.get(target, OK)
    if trial.code:
        mend = f"correct the site file, or ask the site; tried: {' '.join(trial_words(target, profile))}"
        text = f"partition {name}{nodes} refuses a job of yours: {refusal(trial)}"
        return [Finding("fail", CHECK, text, mend)]
    words = " ".join([*profile.memory, *target.words()])
    return [Finding("ok", CHECK, f"partition {name}{nodes} takes a job of yours (sbatch {words})")]


def refusal(trial: Answer) -> str:
    """Return why sbatch refuses, without the words that all its refusals have."""
    return one_line(re.sub(r"^(sbatch: )?(error: )?(allocation failure: )?", "", trial.complaint))


def _known(facts: Facts) -> str:
    return f"there are {', '.join(facts.partitions)}" if facts.partitions else "sinfo lists them"


def _time(
    facts: Facts, profile: Profile, target: Target, rules: Sequence[str], minutes: Mapping[str, int | None]
) -> list[Finding]:
    name = target.partition or default_partition(facts.partitions)
    fields = facts.partitions.get(name)
    asked = {rule: asked_minutes(profile, rule, minutes.get(rule)) for rule in rules}
    # What fetches runs here, and is no job, where the nodes have no network.
    network = profile.config.get("network") == "on"
    known = {
        rule: wanted
        for rule, wanted in asked.items()
        if rule and wanted is not None and (network or not rule.startswith("fetch_"))
    }
    if fields is None or not known:
        return []
    longest = max(known, key=lambda rule: known[rule] or 0)
    limit = parse_minutes(fields.get("MaxTime", ""))
    text = f"partition {name}: time limit {f'{limit} min' if limit is not None else 'none'}, "
    text += f"the longest rule asks for {known[longest]} min ({longest})"
    over = sorted(rule for rule, wanted in known.items() if limit is not None and (wanted or 0) > limit)
    if not over:
        return [Finding("ok", CHECK, text)]
    mend = f"in the site file's set-resources give less runtime, or another partition, to {', '.join(over)}"
    # sbatch refuses such a job where limits are enforced (EnforcePartLimits); else it takes the job, which then waits
    # for ever (PartitionTimeLimit), but for one whose quality of service may go beyond the limit.
    if any(word.startswith(("--qos", "-q")) for word in target.words()):
        return [Finding("warn", CHECK, text, f"{mend}, unless its quality of service allows that")]
    return [Finding("fail", CHECK, text, mend)]


def _requeue(facts: Facts, profile: Profile, rules: Sequence[str]) -> list[Finding]:
    """Whether preempted jobs go back into the queue; a build would refuse to begin where the profile does not ask."""
    if profile.settings.get("slurm-requeue", "").lower() != "true":
        mend = "write `slurm-requeue: true` into the site file"
        return [Finding("fail", CHECK, "the profile does not have preempted jobs requeued", mend)]
    default = default_partition(facts.partitions)
    names = [name for target in targets_of(profile, rules) for name in (target.partition or default).split(",")]
    # A partition's mode is the cluster's where it has none of its own. CANCEL ends also a job that asks for requeueing.
    cancelling = [
        name
        for name in dict.fromkeys(names)
        if "CANCEL" in facts.partitions.get(name, {}).get("PreemptMode", "").split(",")
    ]
    mend = "name another in the site file; on this one `retries` is how often a job is submitted again"
    text = "preempted jobs are cancelled, not requeued (PreemptMode=CANCEL)"
    if cancelling:
        return [Finding("warn", CHECK, f"partition {name}: {text}", mend) for name in cancelling]
    return [Finding("ok", CHECK, "preempted jobs are requeued, as the profile says")]


def _remembered(facts: Facts, profile: Profile) -> list[Finding]:
    """Whether the executor sees how jobs end; a build would refuse to begin."""
    first = int(profile.settings.get("slurm-init-seconds-before-status-checks", "40"))
    interval = int(profile.settings.get("seconds-between-status-checks", "10"))
    if facts.remembered_sec is None or facts.remembered_sec >= must_remember(first, interval):
        return []
    most = {
        "slurm-init-seconds-before-status-checks": (first, facts.remembered_sec // 3),
        "seconds-between-status-checks": (interval, facts.remembered_sec - 1),
    }
    lower = ", ".join(f"`{name}: {allowed}`" for name, (now, allowed) in most.items() if now > allowed)
    mend = f"set {lower} in the site file"
    if facts.remembered_sec < 3:
        mend = "ask the site's administrators for a longer one"
    return [Finding("fail", CHECK, f"squeue forgets a job {facts.remembered_sec} s after its end (MinJobAge)", mend)]


def judge_node(srun: str | None) -> list[Finding]:
    """Return what a compute node needs of Slurm: srun, by which the job starts its step."""
    if srun:
        return [Finding("ok", CHECK, f"srun is on PATH ({srun})")]
    return [Finding("fail", CHECK, "srun is not on PATH inside a job", "load the site's Slurm module before snakemake")]
