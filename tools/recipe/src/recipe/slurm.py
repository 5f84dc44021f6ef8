"""What Slurm knows of jobs: one question to squeue, one to sacct, and what their answers mean.

Jobs are Snakemake's: its executor gives all jobs of a run the run's id as their name, and each the comment
`rule_<rule>_wildcards_<key>`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from recipe_core.errors import BadInput

# Free text stands last: it may hold the separator.
_SQUEUE = "%i|%T|%r|%N|%M|%j|%k|%Z"
_SACCT = ("JobID", "JobName", "State", "ExitCode", "MaxRSS", "ReqMem", "NodeList", "Elapsed", "Timelimit", "Comment")
_COMMENT = re.compile(r"rule_(?P<rule>[A-Za-z0-9_]+?)_wildcards_(?P<key>.+)")
_QUERY_TIMEOUT_SEC = 60

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}

# How slurmstepd and the kernel tell of memory that ran out; `oom_kill` is the cgroup's counter of it.
_OUT_OF_MEMORY_SAID = re.compile(r"oom[-_]kill|task \d+: Out Of Memory|\bOUT_OF_MEMORY\b", re.I)
_KILLED_SAID = re.compile(r"\bKilled$", re.M)
# Slurm's own exit code of a step whose memory ran out, and a shell's of a program that signal 9 ended.
_MEMORY_SIGNAL, _SHELL_KILLED, _KILL = 125, 137, 9


@dataclass(frozen=True)
class QueuedJob:
    """A job as squeue shows it.

    Attributes:
        state: one word, such as `PENDING`.
        reason: why it waits, in Slurm's word; `None` where it does not.
        node: where it runs; empty while it waits.
        elapsed: seconds since it started.
        name: the id of Snakemake's run.
        rule: the rule it runs, and `key` its wildcard; both empty for what is no job of Snakemake's with one.
        folder: where it was submitted.
    """

    id: str
    state: str
    reason: str
    node: str
    elapsed: int
    name: str
    rule: str
    key: str
    folder: str


@dataclass(frozen=True)
class Part:
    """A step of a job in accounting: the batch script or what srun started in it.

    Attributes:
        state: one word.
        exit_code: the code, and the signal that ended it or 0.
        memory: its largest resident set in bytes; None where it was not measured.
    """

    id: str
    state: str
    exit_code: tuple[int, int]
    memory: int | None


@dataclass(frozen=True)
class AccountedJob:
    """A job, or one try of a job that was requeued, as sacct shows it.

    Attributes:
        state: as Slurm says it, such as `COMPLETED` or `CANCELLED by 1000`.
        exit_code: the batch script's code, and the signal that ended it or 0.
        requested: the memory it asked for, in Slurm's words, such as `400M`.
        limit: its time limit, in Slurm's words.
        elapsed: seconds that it ran.
        comment: empty on clusters whose accounting does not keep comments.
    """

    id: str
    name: str
    state: str
    exit_code: tuple[int, int]
    requested: str
    node: str
    elapsed: int
    limit: str
    comment: str
    parts: tuple[Part, ...] = ()

    @property
    def word(self) -> str:
        """The state's first word: `CANCELLED` of `CANCELLED by 1000`."""
        return self.state.split()[0].rstrip("+") if self.state else ""

    @property
    def memory(self) -> int | None:
        """The largest resident set of a step, in bytes; None where none was measured."""
        return max((part.memory for part in self.parts if part.memory is not None), default=None)


def step_of(comment: str) -> tuple[str, str]:
    """Return the rule and the key that a job's comment names; two empty texts where it names none.

    A job that shares a step's work with others is one of that step's.

    >>> step_of("rule_train_sft_wildcards_0123456789ab"), step_of("rule_rollout_shard_wildcards_0123456789ab_3")
    (('train_sft', '0123456789ab'), ('rollout', '0123456789ab'))
    """
    match = _COMMENT.fullmatch(comment)
    if not match:
        return "", ""
    rule, key = match["rule"], match["key"]
    return (rule.removesuffix("_shard"), key.rpartition("_")[0]) if rule.endswith("_shard") else (rule, key)


def seconds(text: str) -> int:
    """Return the seconds of a Slurm duration, `[[days-]hours:]minutes:seconds`; 0 for any other text.

    >>> seconds("1-02:03:04")
    93784
    """
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?", text.strip())
    if not match:
        return 0
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def size(text: str) -> int | None:
    """Return the bytes of a Slurm amount of memory such as `12K` or `1.5G`; None for no such text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)[nc]?", text.strip())
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2] or " ")) if match else None


def _exit_code(text: str) -> tuple[int, int]:
    code, _, signal = text.partition(":")
    return (int(code), int(signal)) if code.isdigit() and signal.isdigit() else (0, 0)


def parse_squeue(text: str) -> list[QueuedJob]:
    """Return the jobs that squeue shows; lines of another form are left out."""
    jobs = []
    for line in text.splitlines():
        words = line.split("|", 7)
        if len(words) == 8:
            number, state, reason, node, elapsed, name, comment, folder = words
            rule, key = step_of(comment)
            jobs.append(QueuedJob(number, state, reason, node, seconds(elapsed), name, rule, key, folder))
    return jobs


def parse_sacct(text: str) -> list[AccountedJob]:
    """Return the jobs that sacct shows with their steps, in its order; a requeued job is there once a try."""
    jobs: list[AccountedJob] = []
    for line in text.splitlines():
        words = line.split("|", len(_SACCT) - 1)
        if len(words) != len(_SACCT) or words[0] == "JobID":
            continue
        row = dict(zip(_SACCT, words, strict=True))
        number, dot, _ = row["JobID"].partition(".")
        code = _exit_code(row["ExitCode"])
        if dot:
            if jobs and jobs[-1].id == number:
                part = Part(row["JobID"], row["State"].split()[0], code, size(row["MaxRSS"]))
                jobs[-1] = replace(jobs[-1], parts=(*jobs[-1].parts, part))
            continue
        jobs.append(
            AccountedJob(
                id=number,
                name=row["JobName"],
                state=row["State"],
                exit_code=code,
                requested=row["ReqMem"],
                node="" if row["NodeList"] == "None assigned" else row["NodeList"],
                elapsed=seconds(row["Elapsed"]),
                limit=row["Timelimit"],
                comment=row["Comment"],
            )
        )
    return jobs


def failure(job: AccountedJob, log: str = "") -> tuple[str, str]:
    """Return why a job ended without success: the kind in Slurm's word, and the reason in a line.

    A step that ran out of memory leaves the job itself FAILED when the batch script goes on after it, as Snakemake's
    does. So all steps count, and so does what Slurm wrote into the job's log.

    Args:
        job: an ended job.
        log: the end of the job's own log.
    """
    codes = [job.exit_code, *(part.exit_code for part in job.parts)]
    states = {job.word, *(part.state for part in job.parts)}
    memory = (
        "OUT_OF_MEMORY" in states
        or any(signal == _MEMORY_SIGNAL for _, signal in codes)
        or bool(_OUT_OF_MEMORY_SAID.search(log))
    )
    asked = f"it had {job.requested} of memory{_used(job)}; give the rule more mem_mb"
    if job.word in ("FAILED", "OUT_OF_MEMORY", "COMPLETED") and memory:
        return "OUT_OF_MEMORY", f"out of memory: {asked}"
    killed = any(signal == _KILL or code == _SHELL_KILLED for code, signal in codes) or bool(_KILLED_SAID.search(log))
    if job.word == "FAILED" and killed:
        return "OUT_OF_MEMORY", f"killed by signal 9, which memory that ran out does: {asked}"
    return job.word, _reason(job) + ("; memory ran out in it as well" if memory else "")


def _used(job: AccountedJob) -> str:
    """Return what was seen of the memory in use; nothing where it was looked at too seldom to tell."""
    asked, seen = size(job.requested), job.memory
    return f", of which {seen / 1024**2:,.0f}M were seen in use" if asked and seen and seen > asked / 2 else ""


def _reason(job: AccountedJob) -> str:
    code, signal = job.exit_code
    if job.word == "FAILED":
        return f"ended by signal {signal}" if signal else f"exit code {code}"
    if job.word == "CANCELLED":
        return f"cancelled by {job.state.partition(' by ')[2] or 'Slurm'}"
    reasons = {
        "TIMEOUT": f"out of time: its limit is {job.limit}; give the rule more runtime",
        "NODE_FAIL": f"its node {job.node} failed",
        "PREEMPTED": "preempted by a job of higher priority and not requeued",
        "BOOT_FAIL": f"its node {job.node} did not start",
        "DEADLINE": "its deadline passed",
        "COMPLETED": "the job completed, but its artifact is not there",
    }
    return reasons.get(job.word, f"Slurm says {job.state}")


def available() -> bool:
    """Tell whether this machine submits to Slurm."""
    return shutil.which("squeue") is not None


def _environment() -> dict[str, str]:
    """Return the environment without the user's own formats of squeue's and sacct's answers."""
    unwanted = ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def _ask(words: Sequence[str]) -> str:
    """Return what a command of Slurm's prints.

    Raises:
        BadInput: it is missing, failed, or did not answer in time.
    """
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUERY_TIMEOUT_SEC,
            env=_environment(),
        )
    except FileNotFoundError:
        raise BadInput(f"{words[0]}: not found on PATH") from None
    except subprocess.TimeoutExpired:
        raise BadInput(f"{words[0]}: no answer in {_QUERY_TIMEOUT_SEC} s; is the cluster up?") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise BadInput(f"{words[0]}: {said}")
    return done.stdout


def queue(users: Iterable[int]) -> list[QueuedJob]:
    """Return the jobs of users, by number, that wait, run, or ended a moment ago.

    Raises:
        BadInput: squeue gave no answer.
    """
    who = ",".join(map(str, sorted(set(users))))
    return parse_squeue(_ask(["squeue", "--noheader", "--states=all", f"--user={who}", f"--format={_SQUEUE}"]))


def accounting(ids: Iterable[str]) -> list[AccountedJob]:
    """Return what accounting says of jobs, each try of a requeued one.

    Raises:
        BadInput: sacct gave no answer.
    """
    wanted = ",".join(ids)
    words = ["sacct", "--noheader", "--parsable2", "--duplicates", f"--jobs={wanted}", f"--format={','.join(_SACCT)}"]
    return parse_sacct(_ask(words)) if wanted else []


def cancel(ids: Iterable[str]) -> None:
    """End jobs.

    Raises:
        BadInput: scancel refused.
    """
    wanted = list(ids)
    if wanted:
        _ask(["scancel", *wanted])
