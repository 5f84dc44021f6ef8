"""What runs of Snakemake in a folder have started: its logs, its locks, and the processes that still run.

Snakemake writes a log a run below `.snakemake/log`, with a block for every job it starts and one for every job that
fails, and holds `.snakemake/locks` while it runs. A job is told by the first file it makes, which for a stage is the
artifact's manifest.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

_LOGS = Path(".snakemake") / "log"
_LOCKS = Path(".snakemake") / "locks"
_LOG_SUFFIX = ".snakemake.log"
# What Snakemake builds when it is told nothing.
_DEFAULT_RECIPE = "demo"
# Older runs than these tell nothing of today's jobs. Linting and asking for the version leave logs of a line or none.
_RUNS_READ = 50
_SHORTEST_LOG = 200
_BLOCK = re.compile(r"(?:(?:local)?(?:rule|checkpoint) (?P<rule>\w+)|Error in rule (?P<failed>\w+)):")
_FIELD = re.compile(r" {4}(jobid|output|log|message): (.*)")
_SUBMITTED = re.compile(r"Job (\d+) has been submitted with SLURM jobid (\S+) \(log: (.*)\)\.")
_FINISHED = re.compile(r"Finished jobid: (\d+) ")
_HOST = re.compile(r" {2}Host: (.*)")
# What a shell says of its last command: a code, or 128 and the number of the signal that ended it.
_CODE = re.compile(r"Command '(.*?)' (?:returned non-zero exit status (\d+)|died with <Signals\.\w+: (\d+)>)", re.S)
_OUT = re.compile(r"--out\s+(\S+)")
_SHARD = re.compile(r"--shard\s+([1-9][0-9]*)/")
_RUN_ID = re.compile(r"SLURM run ID: (\S+)")


@dataclass
class Attempt:
    """What a run did about one of its jobs.

    Attributes:
        state: `started`, `failed` or `finished`.
        slurm: the numbers of the Slurm jobs that ran it, oldest first; a job that is retried has several.
        slurm_log: where Slurm writes what the newest of them says.
        message: what Snakemake says of the failure.
        code: the exit code of a tool that Snakemake ran on its own machine; None where it is not told.
    """

    output: str
    state: str = "started"
    slurm: list[str] = field(default_factory=list)
    slurm_log: str = ""
    message: str = ""
    code: int | None = None


@dataclass
class Run:
    """A run of Snakemake, as its log tells.

    Attributes:
        log: the log.
        host: where it runs or ran.
        id: the name of its Slurm jobs; empty where it submits none.
        attempts: its jobs, by the first file that each makes.
    """

    log: Path
    host: str = ""
    id: str = ""
    attempts: dict[str, Attempt] = field(default_factory=dict)

    @property
    def started(self) -> datetime:
        """When it began, by the clock of its machine: Snakemake names the log by it."""
        return datetime.fromisoformat(self.log.name.removesuffix(_LOG_SUFFIX))


@dataclass(frozen=True)
class Process:
    """A running Snakemake.

    Attributes:
        user: whose it is, by number.
        words: its command line.
        log: the log it writes.
    """

    pid: int
    user: int
    words: tuple[str, ...]
    log: Path


def parse_run(text: str, log: Path) -> Run:
    """Return what the log of a run tells."""
    run = Run(log)
    by_number: dict[str, Attempt] = {}
    block: dict[str, str] | None = None
    failed = False

    def close() -> None:
        if block is None or "jobid" not in block or not block.get("output"):
            return
        output = block["output"].split(", ")[0].removesuffix(" (update)")
        attempt = run.attempts.setdefault(output, Attempt(output))
        by_number[block["jobid"]] = attempt
        attempt.state = "failed" if failed else "started"
        message = block.get("message", "")
        attempt.message = "" if message == "None" else message

    for line in text.splitlines():
        if block is not None:
            found = _FIELD.match(line)
            if found:
                block.setdefault(found[1], found[2])
            if line.startswith(" "):
                continue
            close()
            block = None
        if opened := _BLOCK.fullmatch(line):
            block, failed = {}, opened["failed"] is not None
        elif (found := _SUBMITTED.match(line)) and found[1] in by_number:
            attempt = by_number[found[1]]
            attempt.slurm.append(found[2])
            attempt.slurm_log, attempt.state = found[3], "started"
        elif (found := _FINISHED.match(line)) and found[1] in by_number:
            by_number[found[1]].state = "finished"
        elif found := _RUN_ID.match(line):
            run.id = found[1]
        elif found := _HOST.match(line):
            run.host = found[1]
    close()
    for command, code, number in _CODE.findall(text):
        shard = _SHARD.search(command)
        for place in _OUT.findall(command):
            made = f"{place}.shards/{shard[1]}.done" if shard else f"{place}/manifest.json"
            if made in run.attempts:
                run.attempts[made].code = int(code) if code else 128 + int(number)
    return run


def read_runs(folder: Path) -> list[Run]:
    """Return the last runs of Snakemake in a folder, newest first."""
    logs = [log for log in (folder / _LOGS).glob(f"*{_LOG_SUFFIX}") if log.stat().st_size >= _SHORTEST_LOG]
    newest = sorted(logs, reverse=True)[:_RUNS_READ]
    return [parse_run(log.read_text(errors="replace"), log.resolve()) for log in newest]


def claims(folder: Path, past: Sequence[Run]) -> dict[str, Run | None]:
    """Return the files that runs of Snakemake hold a lock on, each with the run, or None where its log is not read.

    A lock does not say whose it is: it is that of the last run that began before it was taken.

    Args:
        folder: where Snakemake runs.
        past: its runs, newest first.
    """
    found: dict[str, Run | None] = {}
    for lock in (folder / _LOCKS).glob("*.output.lock"):
        with contextlib.suppress(FileNotFoundError):
            taken = datetime.fromtimestamp(lock.stat().st_mtime)
            holder = next((run for run in past if run.started <= taken), None)
            found.update(dict.fromkeys(lock.read_text().splitlines(), holder))
    return found


def processes(folder: Path) -> list[Process]:
    """Return the runs of Snakemake that go on in a folder on this machine, and that this user may look at.

    A process counts only if it runs snakemake, works in the folder, and holds a log of the folder's open for writing:
    jobs that a run has started, an editor or `tail -f` are none.
    """
    found = []
    logs = (folder / _LOGS).resolve()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = tuple((entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
            if not is_snakemake(words) or (entry / "cwd").resolve() != folder.resolve():
                continue
            user = entry.stat().st_uid
            found += [Process(int(entry.name), user, words, log) for log in _written(entry) if log.parent == logs]
    return sorted(found, key=lambda process: process.pid)


def is_snakemake(words: Iterable[str]) -> bool:
    """Tell whether a command line is Snakemake's: as a script, or as a module of Python's.

    >>> is_snakemake(["/x/bin/python3.11", "/x/bin/snakemake", "demo"])
    True
    """
    first = list(words)[:6]
    names = [Path(word).name for word in first[:2]]
    return "snakemake" in names or ("-m" in first and "snakemake" in first[first.index("-m") + 1 :][:1])


def targets(words: Sequence[str], recipes: Collection[str]) -> list[str]:
    """Return the recipe files that a command line of Snakemake's builds.

    Args:
        words: the command line.
        recipes: the names of all recipe files.

    >>> targets(["snakemake", "--profile", "workflow/profiles/slurm", "--", "mine"], ["demo", "mine"])
    ['mine']
    """
    found = []
    for name in recipes:
        grids = "ablations" in words and "-ablate-" in name
        if grids or any(word == name or word.startswith(f"results/recipes/{name}/") for word in words):
            found.append(name)
    if found or any(word.startswith("results/") for word in words):
        return found
    return [_DEFAULT_RECIPE] if _DEFAULT_RECIPE in recipes else []


def _written(entry: Path) -> Iterator[Path]:
    """Yield the logs of Snakemake that a process holds open for writing."""
    for descriptor in (entry / "fd").iterdir():
        with contextlib.suppress(OSError):
            file = descriptor.readlink()
            if file.name.endswith(".snakemake.log"):
                flags = (entry / "fdinfo" / descriptor.name).read_text().split("flags:")[1].split()[0]
                if int(flags, 8) & os.O_ACCMODE == os.O_WRONLY:
                    yield file


def parents() -> dict[int, tuple[int, int]]:
    """Return the parent and the process group of every process, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # A command's name may hold spaces and parentheses; what follows the last one does not.
                rest = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = (int(rest[1]), int(rest[2]))
    return found


def foreground(pid: int, tree: dict[int, tuple[int, int]]) -> list[int]:
    """Return a process's descendants that are in its process group: those that Ctrl-C in a terminal reaches with it.

    Args:
        pid: the process.
        tree: as :func:`parents` returns it.
    """
    if pid not in tree:
        return []
    group = tree[pid][1]
    found, seen = [], {pid}
    while new := [child for child, (parent, _) in tree.items() if parent in seen and child not in seen]:
        seen.update(new)
        found += [child for child in new if tree[child][1] == group]
    return sorted(found)


def heeds_interrupt(pid: int) -> bool:
    """Tell whether a process reacts to SIGINT; one that a script started in the background ignores it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    return not ignored & (1 << (signal.SIGINT - 1))


def still(process: Process, folder: Path) -> bool:
    """Tell whether a run of Snakemake still goes on; another process that got its number is not it."""
    return process in processes(folder)
