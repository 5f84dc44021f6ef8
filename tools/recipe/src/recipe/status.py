"""How far the build of a recipe is: the state of every step, why steps failed, and about when it ends.

The state comes from what is there: artifacts, the logs and locks of Snakemake's runs in the folder, the tools' logs,
and where Slurm is, one question to squeue and at most one to sacct.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pwd
import re
import socket
import statistics
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe import runs, slurm
from recipe.estimate import Cost, Estimator
from recipe.plan import PlannedStep
from recipe_core.artifact import PROVENANCE, is_artifact, open_artifact
from recipe_core.errors import BadInput

BUILT, RUNNING, WAITING, FAILED, TO_BUILD = "built", "running", "waiting", "failed", "to build"
STOPPED = "was stopped"
STATES = (BUILT, RUNNING, WAITING, FAILED, TO_BUILD)

_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 5
# A plain line of recipe_core.progress: `rollout: 434/490`, at the end `rollout: 490/490 done`.
_LINE = re.compile(r"(?P<label>[^\s:][^:]*): (?P<done>\d+)/(?P<total>\d+)(?: done)?")
# A trainer's own bar; a bar with a label is of something small within, such as writing a file.
_BAR = re.compile(r"\s*\d+%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+) \[.*")
_SLURM_SAYS = re.compile(r"^(?:slurmstepd|srun|slurm)\b.*: error:|\bKilled$|^[^ ]*(?:bash|sh): ")
# Of less than this share done, how long the rest takes cannot be said.
_TELLING_SHARE = 0.02
_SAMPLES_READ = 50
# The parameters that make the work of a stage another kind of work.
_KINDS = ("source", "teacher", "method", "model-name", "hub", "pretrained")
# The exit codes of tools that were interrupted or terminated, and of one that signal 9 killed.
_INTERRUPTED, _KILLED = (130, 143), 137
# What the clocks of nodes may differ by.
_CLOCK_SECONDS = 5


@dataclass(frozen=True)
class Progress:
    """The last count that a tool wrote into its log."""

    done: int
    total: int

    def __str__(self) -> str:
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        return f"{self.done:,}/{self.total:,}{share}"


@dataclass(frozen=True)
class Status:
    """Where a step is.

    Attributes:
        name: `stage/step`.
        artifact: its folder.
        state: one of :data:`STATES`.
        reason: why it waits, in Slurm's word; or what else there is to say.
        jobs: the numbers of its Slurm jobs, oldest first.
        node: where it runs, or ended.
        elapsed: seconds that it runs, or ran; None where nothing tells.
        progress: None where nothing tells.
    """

    name: str
    key: str
    artifact: Path
    state: str
    reason: str = ""
    jobs: tuple[str, ...] = ()
    node: str = ""
    elapsed: float | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Failure:
    """A step that failed.

    Attributes:
        kind: in Slurm's word, such as `OUT_OF_MEMORY`; `FAILED` for a local job.
        reason: in a line.
        logs: the last lines of each log, by the log's path.
    """

    step: str
    kind: str
    reason: str
    job: str
    logs: dict[str, list[str]]


@dataclass(frozen=True)
class Sample:
    """What a built step took.

    Attributes:
        rows: it wrote.
        bytes: of its files together.
        parameters: of its manifest, which its tool's flags name with underscores.
    """

    seconds: float
    rows: float
    bytes: float
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """About how long the rest takes once it runs.

    Attributes:
        low: seconds, if everything that can runs at once.
        high: seconds, if one step runs after another.
        basis: how many steps are estimated from what; `unknown` ones are counted as nothing.
    """

    low: float
    high: float
    basis: dict[str, int]


@dataclass(frozen=True)
class Evidence:
    """What is known of the folder's builds.

    Attributes:
        runs: Snakemake's, newest first.
        alive: the logs of those that go on.
        locked: files that runs have claimed to make.
        queue: Slurm's jobs that were submitted in this folder.
        notes: what could not be asked, in a line each.
    """

    runs: list[runs.Run]
    alive: frozenset[Path]
    locked: frozenset[str]
    queue: list[slurm.QueuedJob]
    notes: list[str]


@dataclass(frozen=True)
class Trace:
    """What tells of one step that is not built.

    Attributes:
        job: its newest Slurm job in the queue.
        tried: what the newest run of Snakemake that tells did about it.
        alive: whether that run goes on.
        account: its newest job in accounting, where the queue does not show one that goes on.
    """

    job: slurm.QueuedJob | None = None
    tried: runs.Attempt | None = None
    alive: bool = False
    account: slurm.AccountedJob | None = None

    @property
    def jobs(self) -> tuple[str, ...]:
        """The numbers of its Slurm jobs, oldest first."""
        return tuple(dict.fromkeys([*(self.tried.slurm if self.tried else []), *([self.job.id] if self.job else [])]))

    @property
    def word(self) -> str:
        """Slurm's word for the state of its newest job; empty where there is none."""
        return self.job.state if self.job else self.account.word if self.account else ""


def outputs(step: PlannedStep) -> list[str]:
    """Return the files by which Snakemake knows a step's jobs: its manifest, then the marks of those that share it."""
    return [f"{step.artifact}/manifest.json", *step.marks]


def rule(stage: str) -> str:
    """Return the name of a stage's rule."""
    return stage.replace("-", "_")


def queued(jobs: Iterable[slurm.QueuedJob], step: PlannedStep) -> slurm.QueuedJob | None:
    """Return the newest of the jobs that build a step; of several that share it one that runs, if any does."""
    found = [job for job in jobs if (job.rule, job.key) == (rule(step.stage), step.key)]
    if step.shards > 1:
        # One of them that is done says nothing of the step.
        found = [job for job in found if job.state != "COMPLETED"]
    return max(found, key=lambda job: (step.shards > 1 and job.state in slurm.RUNNING, _number(job.id)), default=None)


def _number(job: str) -> int:
    match = re.match(r"\d+", job)
    return int(match[0]) if match else 0


def attempt(evidence: Evidence, files: Sequence[str]) -> tuple[runs.Attempt | None, bool]:
    """Return what the newest run that tells did about a step, and whether that run goes on.

    What earlier runs did is past once a run that goes on has claimed the step's files and not started on them.

    Args:
        evidence: what is known.
        files: the step's, as :func:`outputs` gives them.
    """
    for run in evidence.runs:
        alive = run.log in evidence.alive
        made, *shared = [run.attempts.get(file) for file in files]
        if made:
            return made, alive
        for state in ("failed", "started"):
            for tried in shared:
                if tried and tried.state == state:
                    return tried, alive
        if alive and not evidence.locked.isdisjoint(files):
            return None, True
    return None, False


def parse_progress(text: str) -> Progress | None:
    """Return the last count in a log: a plain progress line, or a trainer's bar.

    >>> parse_progress("rollout: 12/40\\n")
    Progress(done=12, total=40)
    """
    for line in reversed(re.split(r"[\r\n]+", text)):
        if match := _LINE.fullmatch(line) or _BAR.fullmatch(line):
            return Progress(int(match["done"]), int(match["total"]))
    return None


def state_of(trace: Trace) -> tuple[str, str]:
    """Return the state of a step that is not built, and what there is to say about it."""
    word, tried = trace.word, trace.tried
    if word in slurm.WAITING:
        return WAITING, trace.job.reason if trace.job else ""
    if word in slurm.RUNNING:
        return RUNNING, "" if word == "RUNNING" else word.lower()
    if word:
        # Files of another node may take seconds to be seen; Snakemake waits for them.
        awaited = word == "COMPLETED" and trace.alive and tried is not None and tried.state == "started"
        return (RUNNING, "its artifact is awaited") if awaited else (FAILED, word)
    if tried and tried.state == "failed":
        return (TO_BUILD, STOPPED) if tried.code in _INTERRUPTED else (FAILED, "FAILED")
    if tried and tried.state == "started":
        return (RUNNING, "") if trace.alive else (TO_BUILD, STOPPED)
    return TO_BUILD, ""


def remaining(status: Status, duration: float | None) -> float | None:
    """Return how many seconds a step has still to run, or None where nothing tells.

    Args:
        status: where it is.
        duration: what a whole run of it takes.
    """
    if status.state == BUILT:
        return 0.0
    if status.state != RUNNING or status.elapsed is None:
        return duration
    done = status.progress and status.progress.total and status.progress.done / status.progress.total
    if done and done >= _TELLING_SHARE:
        return status.elapsed * (1 - min(done, 1.0)) / done
    return None if duration is None else max(duration - status.elapsed, 0.0)


def estimated_end(rest: Mapping[str, float | None], needs: Mapping[str, Collection[str]], basis: dict[str, int]) -> End:
    """Return how long the rest takes, between two bounds.

    Args:
        rest: the seconds that each step still has to run; None where nothing tells.
        needs: for each step, the steps it is made from; inputs stand before what is made from them.
        basis: see :class:`End`.
    """
    ends: dict[str, float] = {}
    for name, need in needs.items():
        ends[name] = max((ends[before] for before in need), default=0.0) + (rest[name] or 0.0)
    return End(max(ends.values(), default=0.0), sum(seconds or 0.0 for seconds in rest.values()), basis)


def duration(samples: Sequence[tuple[float, float]], rows: float) -> float | None:
    """Return the seconds a step takes by what steps of its stage took: in proportion to rows, the shortest at least.

    Args:
        samples: seconds and rows of steps that are built.
        rows: of the step.

    >>> duration([(10, 100), (30, 300), (50, 500)], 1000)
    100.0
    """
    if not samples:
        return None
    each = statistics.median(seconds / max(count, 1) for seconds, count in samples)
    return max(each * rows, min(seconds for seconds, _ in samples))


def gather(folder: Path) -> Evidence:
    """Ask the folder's runs of Snakemake, and Slurm where there is one."""
    notes: list[str] = []
    jobs: list[slurm.QueuedJob] = []
    if slurm.available():
        home = folder / ".snakemake"
        users = {os.getuid(), *([home.stat().st_uid] if home.is_dir() else [])}
        try:
            jobs = [job for job in slurm.queue(users) if Path(job.folder).resolve() == folder.resolve()]
        except BadInput as error:
            notes.append(str(error))
    found = runs.read_runs(folder)
    alive = {process.log for process in runs.processes(folder)}
    locked = runs.claims(folder, found)
    if locked and not alive:
        elsewhere = next((run for run in locked.values() if run and run.host not in ("", socket.gethostname())), None)
        if elsewhere:
            # A lock is the only sign of a run on another machine.
            alive.add(elsewhere.log)
            notes.append(f"Snakemake's lock is held: a run on {elsewhere.host} goes on, or was killed")
        else:
            notes.append(
                "Snakemake's lock is held, but no run that you may see goes on here; "
                "after one that was killed, `snakemake --unlock` removes it"
            )
    return Evidence(found, frozenset(alive), frozenset(locked), jobs, notes)


def statuses(folder: Path, steps: Collection[PlannedStep]) -> tuple[list[Status], list[Failure], Evidence]:
    """Return where every step is, which failed, and what was known.

    Args:
        folder: the project's, in which Snakemake runs.
        steps: the steps; one a key.
    """
    evidence = gather(folder)
    traces = {}
    for step in steps:
        if not is_artifact(folder / step.artifact):
            tried, alive = attempt(evidence, outputs(step))
            traces[step.key] = Trace(queued(evidence.queue, step), tried, alive)
    accounts = _accounts(evidence, traces)
    found, failures = [], []
    for step in steps:
        if step.key not in traces:
            found.append(_built(folder, step, evidence))
            continue
        trace = dataclasses.replace(traces[step.key], account=accounts.get(step.key))
        status = _unbuilt(folder, step, trace)
        if status.state == FAILED:
            failures.append(_failure(folder, step, trace))
            status = dataclasses.replace(status, reason=failures[-1].kind)
        found.append(status)
    return found, failures, evidence


def _accounts(evidence: Evidence, traces: Mapping[str, Trace]) -> dict[str, slurm.AccountedJob]:
    """Return what accounting says of each step's newest job that the queue does not show as going on."""
    wanted = {
        key: max(trace.jobs, key=_number)
        for key, trace in traces.items()
        if trace.jobs and trace.word not in slurm.WAITING | slurm.RUNNING
    }
    if not wanted or not slurm.available():
        return {}
    try:
        answered = slurm.accounting(wanted.values())
    except BadInput as error:
        evidence.notes.append(str(error))
        return {}
    names = {run.id for run in evidence.runs} | {trace.job.name for trace in traces.values() if trace.job}
    # Numbers start again when a cluster is set up anew; the job's name tells whose it is. The last try stands last.
    last = {account.id: account for account in answered if account.name in names}
    return {key: last[number] for key, number in wanted.items() if number in last}


def _built(folder: Path, step: PlannedStep, evidence: Evidence) -> Status:
    try:
        facts = open_artifact(folder / step.artifact).provenance()
    except (BadInput, ValueError) as error:
        evidence.notes.append(str(error))
        return Status(step.name, step.key, step.artifact, BUILT, "damaged")
    number = facts.get("slurm_job_id")
    return Status(
        step.name,
        step.key,
        step.artifact,
        BUILT,
        jobs=(str(number),) if number else (),
        node=str(facts.get("host", "")),
        elapsed=facts.get("seconds"),
    )


def _unbuilt(folder: Path, step: PlannedStep, trace: Trace) -> Status:
    state, reason = state_of(trace)
    node, elapsed = "", None
    if state in (RUNNING, FAILED):
        if trace.job and trace.job.node:
            node, elapsed = trace.job.node, float(trace.job.elapsed)
        elif trace.account:
            node, elapsed = trace.account.node, float(trace.account.elapsed)
        elif not trace.jobs and state == RUNNING:
            node, elapsed = _local(folder, step)
    # A log that was last written before the job started is an earlier try's.
    since = time.time() - elapsed - _CLOCK_SECONDS if state == RUNNING and elapsed is not None else 0.0
    telling = state in (RUNNING, FAILED) or reason == STOPPED
    progress = _progress(folder, step, since) if telling else None
    return Status(step.name, step.key, step.artifact, state, reason, trace.jobs, node, elapsed, progress)


def _local(folder: Path, step: PlannedStep) -> tuple[str, float | None]:
    """Return where a local job runs and for how many seconds: Snakemake marks what it makes when it starts."""
    import base64

    marks = folder / ".snakemake" / "incomplete"
    for file in outputs(step):
        with contextlib.suppress(OSError):
            started = (marks / base64.urlsafe_b64encode(file.encode()).decode()).stat().st_mtime
            return socket.gethostname(), time.time() - started
    return socket.gethostname(), None


def tool_logs(step: PlannedStep) -> dict[str, Path]:
    """Return the logs of a step's tool by the file that each of its jobs makes."""
    made, *marks = outputs(step)
    logs = Path("results") / "logs" / rule(step.stage)
    return {made: logs / f"{step.key}.log"} | {mark: logs / f"{step.key}-{Path(mark).stem}.log" for mark in marks}


def _progress(folder: Path, step: PlannedStep, since: float) -> Progress | None:
    """Return the last count in a step's logs that were written to after a time, the tool's own first.

    A trainer that runs for days writes a log of its own into the folder of unfinished work.
    """
    work = folder / step.artifact.with_name(f"{step.key}.work")
    for log in (*(folder / log for log in tool_logs(step).values()), *sorted(work.glob("*.log"))):
        if (text := tail(log, since)) and (progress := parse_progress(text)):
            return progress
    return None


def tail(path: Path, since: float = 0.0) -> str:
    """Return the end of a file; nothing where it is not there, or was last written before a time."""
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mtime < since:
                return ""
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def last_lines(text: str) -> list[str]:
    """Return the last lines of a log that say anything, without what a bar has written over."""
    lines = [line.rsplit("\r", maxsplit=1)[-1].rstrip() for line in text.replace("\r\n", "\n").splitlines()]
    return [line for line in lines if line][-_TAIL_LINES:]


def slurm_lines(text: str) -> list[str]:
    """Return the last lines of a job's log that are Slurm's or the shell's; the rest is Snakemake's within the job."""
    return [line for line in text.splitlines() if _SLURM_SAYS.search(line)][-_TAIL_LINES:]


def _failure(folder: Path, step: PlannedStep, trace: Trace) -> Failure:
    tried, account = trace.tried, trace.account
    own = Path(tried.slurm_log) if tried and tried.slurm_log else None
    said = tail(own) if own else ""
    if account:
        kind, reason = slurm.failure(_with_name(account), said)
    elif trace.job:
        kind, reason = trace.job.state, f"Slurm says {trace.job.state}, accounting says no more"
    elif tried and tried.code == _KILLED:
        kind, reason = "OUT_OF_MEMORY", "killed by signal 9, which memory that ran out does"
    else:
        code = f"exit code {tried.code}" if tried and tried.code else "Snakemake says it failed"
        kind, reason = "FAILED", (tried.message if tried else "") or code
    logs_of = tool_logs(step)
    log = logs_of.get(tried.output if tried else "", logs_of[outputs(step)[0]])
    logs = {str(log): last_lines(tail(folder / log))}
    if own:
        shown = own.relative_to(folder.resolve()) if own.is_relative_to(folder.resolve()) else own
        logs[str(shown)] = slurm_lines(said) or last_lines(said)
    number = max(trace.jobs, key=_number, default="")
    return Failure(step.name, kind, reason, number, {log: lines for log, lines in logs.items() if lines})


def _with_name(account: slurm.AccountedJob) -> slurm.AccountedJob:
    """Return a job whose canceller is named rather than numbered."""
    state, found, number = account.state.partition(" by ")
    if found and number.isdigit():
        try:
            return dataclasses.replace(account, state=f"{state} by {pwd.getpwuid(int(number)).pw_name}")
        except KeyError:
            pass
    return account


def end_of(folder: Path, found: Sequence[Status], steps: Collection[PlannedStep]) -> End:
    """Return about how long the rest takes: from what steps of the same stage took, else from the plan's GPU hours."""
    estimator = Estimator(steps)
    stages = {step.key: step for step in steps}
    samples: dict[str, list[Sample]] = {}
    rest: dict[str, float | None] = {}
    basis: dict[str, int] = {}
    for status in found:
        if status.state == BUILT:
            rest[status.key] = 0.0
            continue
        step = stages[status.key]
        if step.stage not in samples:
            samples[step.stage] = _samples(folder, step)
        cost = estimator.cost(step)
        whole, source = expected([sample for sample in samples[step.stage] if alike(step, cost, sample)], cost)
        rest[status.key] = remaining(status, whole)
        if status.state == RUNNING and status.progress and rest[status.key] is not None:
            source = "progress"
        basis[source] = basis.get(source, 0) + 1
    by_artifact = {step.artifact: step.key for step in steps}
    needs = {
        step.key: [by_artifact[path] for paths in step.inputs.values() for path in paths if path in by_artifact]
        for step in _in_order(steps, by_artifact)
    }
    return estimated_end(rest, needs, basis)


def alike(step: PlannedStep, cost: Cost, sample: Sample) -> bool:
    """Tell whether what a built step of the stage took says anything of this one.

    It does not where another source, method, teacher or model makes it other work; nor, of training, where its model is
    an order of magnitude larger or smaller.
    """
    for name in _KINDS:
        if name in step.parameters and sample.parameters.get(name.replace("-", "_")) != step.parameters[name]:
            return False
    if step.stage in ("train-sft", "train-rl"):
        return 0.1 < max(cost.disk_bytes, 1.0) / max(sample.bytes, 1.0) < 10
    return True


def expected(samples: Sequence[Sample], cost: Cost) -> tuple[float | None, str]:
    """Return the seconds a step takes and what says so: `measured`, `plan` (its GPU hours, on one GPU) or `unknown`."""
    whole = duration([(sample.seconds, sample.rows) for sample in samples], cost.rows)
    if whole is not None:
        return whole, "measured"
    return (cost.gpu_hours * 3600, "plan") if cost.gpu_hours else (None, "unknown")


def _in_order(steps: Collection[PlannedStep], by_artifact: Mapping[Path, str]) -> list[PlannedStep]:
    """Return the steps, inputs before what is made from them."""
    keyed = {step.key: step for step in steps}
    ordered: dict[str, PlannedStep] = {}

    def visit(step: PlannedStep) -> None:
        if step.key in ordered:
            return
        for paths in step.inputs.values():
            for path in paths:
                if path in by_artifact:
                    visit(keyed[by_artifact[path]])
        ordered[step.key] = step

    for step in steps:
        visit(step)
    return list(ordered.values())


def _samples(folder: Path, step: PlannedStep) -> list[Sample]:
    """Return what built steps of a stage took."""
    found = []
    for path in sorted((folder / step.artifact.parent).glob(f"*/{PROVENANCE}"))[:_SAMPLES_READ]:
        try:
            artifact = open_artifact(path.parent)
            size = sum(entry["bytes"] for entry in artifact.manifest["files"].values())
            seconds, rows = float(artifact.provenance()["seconds"]), float(artifact.manifest["rows_out"])
        except (BadInput, KeyError, TypeError, ValueError):
            # What cannot be read tells nothing of durations; whoever needs the artifact is told what is wrong.
            continue
        found.append(Sample(seconds, rows, size, artifact.manifest["parameters"]))
    return found


def time_text(seconds: float | None) -> str:
    """Return a duration in two units.

    >>> time_text(3725)
    '1 h 2 min'
    """
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def end_text(end: End, now: datetime.datetime) -> str:
    """Return the estimated end in a line that says what it is made from."""
    if not end.basis:
        return "everything is built"
    said = {
        "progress": "by their own progress",
        "measured": "by what built steps of their stage took",
        "plan": "by the plan's GPU hours on one GPU",
        "unknown": "counted as nothing, as nothing tells",
    }
    made = ", ".join(f"{end.basis[source]} {text}" for source, text in said.items() if source in end.basis)
    if not end.high:
        return f"estimated end: unknown ({made})"
    low, high = (now + datetime.timedelta(seconds=seconds) for seconds in (end.low, end.high))
    return (
        f"estimated end, roughly: in {time_text(end.low)} ({low:%Y-%m-%d %H:%M}) if everything that can runs at once, "
        f"in {time_text(end.high)} ({high:%Y-%m-%d %H:%M}) if one step runs after another; waiting in the queue is not "
        f"counted; steps: {made}"
    )


def as_json(
    name: str, found: Sequence[Status], failures: Sequence[Failure], end: End, notes: list[str]
) -> dict[str, Any]:
    """Return the whole as JSON values."""
    steps = []
    for status in found:
        step = dataclasses.asdict(status) | {"artifact": str(status.artifact), "jobs": list(status.jobs)}
        step["elapsed_seconds"] = step.pop("elapsed")
        steps.append(step)
    return {
        "recipe": name,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "counts": counts(found),
        "steps": steps,
        "failures": [dataclasses.asdict(failure) for failure in failures],
        "rest": {"seconds_at_once": end.low, "seconds_one_by_one": end.high, "steps_by_basis": end.basis},
        "notes": notes,
    }


def counts(found: Iterable[Status]) -> dict[str, int]:
    """Return how many steps are in each state."""
    states = [status.state for status in found]
    return {state: states.count(state) for state in STATES}
