"""Work that several processes share through one folder: who does which trial, and who is still at it.

No locks, so any file system will do that several nodes see. Three kinds of files say everything:

- `trials/TRIAL.json`: the trial is finished. Who finishes it first wins, and it is never written again.
- `claims/TRIAL`: a symbolic link to the id of the worker that has taken the trial. A link comes into being with its
  content, and for one alone, on network file systems too. It is never changed: when its owner is gone, the next owner
  makes `claims/TRIAL~OWNER`, again for one alone.
- `workers/ID.json`: a worker's lease: who it is and when it last gave a sign of life. It removes the file when it ends;
  without its lease a worker is gone.

A worker that is taken for gone by mistake (clocks far apart, a file system that stood still) costs a trial done twice,
of which one counts: never a trial lost, never one counted twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from recipe_core.artifact import canonical_json
from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed

TRIALS = "trials"
CLAIMS = "claims"
WORKERS = "workers"
SCRATCH = "scratch"
# Where `recipe_core.artifact.work_dir` and the writer of an artifact look for it.
FINGERPRINT = "fingerprint.json"
_OURS = {TRIALS, CLAIMS, WORKERS, SCRATCH, FINGERPRINT}
DEFAULT_TIMEOUT_SEC = 120.0
_BEATS_PER_TIMEOUT = 8
# Network file systems show a change after some seconds only, so one missed beat says nothing.
_MISSED_BEATS = 3


class Standing(Enum):
    """What others know of a trial's worker."""

    FREE = "nobody has taken the trial"
    PRESENT = "at it"
    SILENT = "not heard of for a while"
    GONE = "gone"

    @property
    def leaves_it(self) -> bool:
        """Whether the trial may be taken."""
        return self in (Standing.FREE, Standing.GONE)


@dataclass(frozen=True)
class Place:
    """Where a process id means something: a boot of a machine and a process namespace on it."""

    host: str
    boot: str
    namespace: str


@dataclass(frozen=True)
class Lease:
    """Who a worker is, and its last sign of life.

    Args:
        id: unique for ever.
        place: where it runs.
        pid: its process there.
        started: when that process started, in clock ticks since boot; tells it from a later one of the same number.
        shard: `K/N`, or empty: a later worker of the same shard replaces it.
        job: the Slurm job, or empty.
        restarts: how often Slurm had put that job back into the queue.
        timeout: seconds of silence after which it counts as gone.
        beat: its last sign of life, in seconds since 1970 by its own clock.
    """

    id: str
    place: Place
    pid: int
    started: int
    shard: str
    job: str
    restarts: int
    timeout: float
    beat: int

    @property
    def name(self) -> str:
        """How people find it."""
        return f"{self.place.host}, process {self.pid}" + (f", job {self.job}" if self.job else "")


def standing(lease: Lease | None, me: Lease, now: float, runs: Callable[[int, int], bool]) -> Standing:
    """Return what is known of a worker.

    Args:
        lease: its lease; None when there is none any more.
        me: the lease of whoever asks.
        now: seconds since 1970.
        runs: tells whether a process of this place, by its number and start, runs.
    """
    if lease is None:
        return Standing.GONE
    if lease.place == me.place and not runs(lease.pid, lease.started):
        return Standing.GONE
    if lease.job and lease.job == me.job and lease.restarts < me.restarts:
        return Standing.GONE
    # Not only old: a time far ahead of this clock tells as little of a worker that may have died since.
    silence = abs(now - lease.beat)
    if silence > lease.timeout:
        return Standing.GONE
    return Standing.PRESENT if silence <= _MISSED_BEATS * lease.timeout / _BEATS_PER_TIMEOUT else Standing.SILENT


def home_shard(task_id: str, shards: int) -> int:
    """Return which of `shards` shards begins with a task, from 1: all attempts at it, so that a server sees its prompt
    again."""
    return row_seed(0, "shard", task_id) % shards + 1


def process_start(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it does not run (any more)."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(rest[18])


def _runs(pid: int, started: int) -> bool:
    return process_start(pid) == started


def here() -> Place:
    """Return the place of this process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Place(socket.gethostname(), boot, str(Path("/proc/self/ns/pid").readlink()))


def _text(lease: Lease) -> str:
    return json.dumps(dataclasses.asdict(lease), sort_keys=True)


def read_lease(path: Path) -> Lease | None:
    """Return a worker's lease, or None where there is none."""
    try:
        value = json.loads(path.read_bytes())
        return Lease(**{**value, "place": Place(**value["place"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def publish_once(path: Path, text: str) -> bool:
    """Write a file that is there whole or not at all, also when this machine fails; return whether it was the first.

    What is there already stays. Where the folder itself is gone, nothing is written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w") as stream:
            stream.write(text)
            stream.flush()
            # Others must not see an empty file when this node is lost before it has sent the bytes.
            os.fsync(stream.fileno())
        _link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if path.parent.is_dir():
            raise
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return True


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without hard links: of two that come at the same moment the last counts, which is as good.
        if path.exists():
            raise FileExistsError from None
        temporary.rename(path)


def shared_folder(out: Path, fingerprint: Mapping[str, Any]) -> Path:
    """Return the folder `<out>.work`, made for this fingerprint if it is not there; many may ask at once.

    What is there for another fingerprint (another command, another version of the tool) is removed.

    Raises:
        BadInput: it holds files of somebody else's, or workers of another run are at it.
    """
    folder, text = out.with_name(f"{out.name}.work"), canonical_json(fingerprint)
    while True:
        try:
            number = folder.stat().st_ino
            found = (folder / FINGERPRINT).read_text() if (folder / FINGERPRINT).exists() else None
            held = {path.name for path in folder.iterdir()}
        except FileNotFoundError:
            number, found, held = 0, None, set()
        if found == text:
            return folder
        if found is None and held - _OURS:
            raise BadInput(f"{folder}: would be used for unfinished work, but holds other files; give another --out")
        if held:
            _put_aside(folder, number)
        else:
            _make(folder, text)


def _make(folder: Path, text: str) -> None:
    fresh = folder.with_name(f"{folder.name}.new.{uuid.uuid4().hex}")
    for name in (TRIALS, CLAIMS, WORKERS, SCRATCH):
        (fresh / name).mkdir(parents=True)
    (fresh / FINGERPRINT).write_text(text)
    try:
        # It takes the place of nothing or of an empty folder; of two, one comes first.
        fresh.rename(folder)
    except OSError:
        shutil.rmtree(fresh)
        if not folder.is_dir():
            raise


def _put_aside(folder: Path, number: int) -> None:
    me = _my_lease("", DEFAULT_TIMEOUT_SEC)
    for path in sorted((folder / WORKERS).glob("*.json")):
        lease = read_lease(path)
        if lease and standing(lease, me, time.time(), _runs) is not Standing.GONE:
            raise BadInput(
                f"{folder}: a worker of another command or version is at it ({lease.name}); "
                "end it or give another --out"
            )
    # The name says which folder is meant. What is left there keeps a second process, which saw the same old folder,
    # from putting the new one aside under that name.
    aside = folder.with_name(f"{folder.name}.old.{number}")
    try:
        folder.rename(aside)
    except OSError:
        # Another process did it; that the place is free or taken anew shows when it is looked at again.
        return
    (aside / "removed").touch()
    for path in aside.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def clear_old(out: Path) -> None:
    """Remove what :func:`shared_folder` left of earlier fingerprints; for when nothing is left to do."""
    for path in out.parent.glob(f"{out.name}.work.old.*"):
        shutil.rmtree(path, ignore_errors=True)


def _my_lease(shard: str, timeout: float) -> Lease:
    pid = os.getpid()
    job = os.environ.get("SLURM_JOB_ID", "")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")
    return Lease(
        id=uuid.uuid4().hex,
        place=here(),
        pid=pid,
        started=process_start(pid) or 0,
        shard=shard,
        job=job,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        timeout=timeout,
        beat=int(time.time()),
    )


class Worker:
    """Context manager: this process as a worker at a shared folder; its lease is kept by a thread.

    Args:
        work: the folder, from :func:`shared_folder`.
        shard: `K/N` or empty; earlier workers of the same shard are replaced.
        timeout: seconds of silence after which others take it for gone.
    """

    def __init__(self, work: Path, *, shard: str = "", timeout: float = DEFAULT_TIMEOUT_SEC) -> None:
        self.work = work
        self.lease = _my_lease(shard, timeout)
        self.scratch = work / SCRATCH / self.lease.id
        self.replaced = False
        self._path = work / WORKERS / f"{self.lease.id}.json"
        self._taken: set[str] = set()
        self._known: dict[str, tuple[float, Standing]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_lease, name="lease", daemon=True)

    def __enter__(self) -> Worker:
        self._path.write_text(_text(self.lease))
        for path in self._path.parent.glob("*.json"):
            lease = read_lease(path)
            if lease is None or lease.id == self.lease.id:
                continue
            replaced = bool(lease.shard) and lease.shard == self.lease.shard
            dead = lease.place == self.lease.place and not _runs(lease.pid, lease.started)
            if replaced or dead:
                path.unlink(missing_ok=True)
                shutil.rmtree(self.work / SCRATCH / lease.id, ignore_errors=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _keep_lease(self) -> None:
        while not self._stop.wait(self.lease.timeout / _BEATS_PER_TIMEOUT):
            lease = dataclasses.replace(self.lease, beat=int(time.time()))
            try:
                # Written over in place, as long as before: a renamed file would be seen later on network file systems.
                with self._path.open("r+b") as stream:
                    stream.write(_text(lease).encode())
            except FileNotFoundError:
                self.replaced = self.work.is_dir()
                return
            except OSError:
                # A file system that stands still or is full; the next beat may get through.
                continue

    def standing(self, owner: str) -> Standing:
        """Return what is known of a worker by its id; looked up at most once a second."""
        now = time.time()
        at, known = self._known.get(owner, (0.0, Standing.GONE))
        if now - at > 1:
            known = standing(read_lease(self.work / WORKERS / f"{owner}.json"), self.lease, now, _runs)
            self._known[owner] = (now, known)
        return known

    def is_finished(self, name: str) -> bool:
        """Tell whether a trial is finished."""
        return (self.work / TRIALS / f"{name}.json").exists()

    def claim(self, name: str) -> bool:
        """Take a trial; return False when it is finished, or somebody has it, or the folder is gone."""
        if name in self._taken or self.is_finished(name):
            return False
        link = self.work / CLAIMS / name
        while True:
            try:
                link.symlink_to(self.lease.id)
                break
            except FileNotFoundError:
                if link.parent.is_dir():
                    raise
                return False
            except FileExistsError:
                owner = link.readlink().name
                if owner == self.lease.id:
                    # The file system made the link and lost the answer.
                    break
                if self.standing(owner) is not Standing.GONE:
                    return False
                link = self.work / CLAIMS / f"{name}~{owner}"
        self._taken.add(name)
        # Its owner before may have finished it between the two looks.
        return not self.is_finished(name)

    def release(self, name: str) -> None:
        """Let this process take a trial again, after its result was removed."""
        self._taken.discard(name)

    def unfinished(self, names: Collection[str]) -> Iterator[tuple[str, Standing]]:
        """Yield the trials that are not finished, with what is known of the worker that has each.

        Those of this worker are left out.
        """
        with os.scandir(self.work / TRIALS) as entries:
            finished = {entry.name.removesuffix(".json") for entry in entries if not entry.name.startswith(".")}
        with os.scandir(self.work / CLAIMS) as entries:
            claims = {entry.name for entry in entries}
        for name in names:
            if name in finished:
                continue
            owner, link = "", name
            while link in claims:
                owner = (self.work / CLAIMS / link).readlink().name
                link = f"{name}~{owner}"
            if owner != self.lease.id:
                yield name, self.standing(owner) if owner else Standing.FREE
