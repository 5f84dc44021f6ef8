"""Start and stop many sandboxes and say what is left of them: processes, mounts, files.

    sandbox_leftovers.py --sandboxes 1000 --at-once 1 --backend bubblewrap
    sandbox_leftovers.py --sandboxes 64 --at-once 64 --kill-owner

In each sandbox a process of its own session, one in a terminal and some files are left behind. Prints one JSON object.
It runs with fresh file systems over the temporary folders (in a mount namespace of its own), so that every file in them
afterwards is a sandbox's, and every orphan of a sandbox becomes its child, so that other work is not mistaken for it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from sandbox import Sandbox
from sandbox.watchdog import children

TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run")
PR_SET_CHILD_SUBREAPER = 36
# What a killed owner's sandboxes may take to notice.
END_SEC = 20.0
MESS = "setsid sleep 900 & tmux new-session -d 'sleep 900'; touch /tmp/a /dev/shm/b /app/c; mkdir -p /run/d"


def covered() -> list[str]:
    """Return the temporary folders to cover and to look at: those that hold neither this program nor its Python."""
    needed = [Path(__file__).resolve(), Path(sys.prefix), Path(os.path.realpath(sys.base_prefix))]
    return [place for place in TEMPORARY if Path(place).is_dir() and not any(n.is_relative_to(place) for n in needed)]


def in_private_folders(argv: list[str]) -> int:
    """Run this program again where the temporary folders are its own, and return its exit code."""
    unshare = shutil.which("unshare")
    if unshare is None:
        sys.exit("sandbox_leftovers: needs the program unshare (util-linux)")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    covers = "".join(f"mount -t tmpfs tmpfs {place}; " for place in covered())
    inner = ["sh", "-ec", f'{covers}exec "$@"', "sh", sys.executable, *argv, "--inside"]
    return subprocess.run([unshare, "--mount", "--propagation", "private", *user, *inner]).returncode


def descendants() -> list[int]:
    """Return every process below this one."""
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children(todo.pop())
        found += below
        todo += below
    return found


def reap() -> None:
    """Collect the orphans that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def state() -> dict[str, list[str]]:
    """Return what there is: processes below this one, mounts, files in the temporary folders."""
    processes = []
    for pid in descendants():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            processes.append(f"{pid} {words or Path(f'/proc/{pid}/comm').read_text().strip()}")
    return {
        "processes": processes,
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "files": [str(path) for place in covered() for path in Path(place).rglob("*")],
    }


async def one(backend: str) -> float:
    """Start a sandbox, leave things in it, stop it; returns the seconds of its start."""
    began = time.perf_counter()
    async with Sandbox.start(backend=backend) as box:
        seconds = time.perf_counter() - began
        await box.exec(MESS)
    return seconds


async def many(count: int, at_once: int, backend: str) -> list[float]:
    """Run that many, some at once."""
    numbers = iter(range(count))
    starts: list[float] = []

    async def serve() -> None:
        for _ in numbers:
            starts.append(await one(backend))
            if len(starts) % 100 == 0:
                print(f"{len(starts)} of {count} sandboxes", file=sys.stderr, flush=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(serve())
    return starts


async def hold(count: int, backend: str) -> None:
    """Start that many at once, say so, and wait to be killed."""
    boxes = await asyncio.gather(*(Sandbox.start(backend=backend)._start() for _ in range(count)))
    await asyncio.gather(*(box.exec(MESS) for box in boxes))
    print("ready", flush=True)
    await asyncio.sleep(600)


def kill_owner(count: int, backend: str) -> list[float]:
    """Start a process that holds that many sandboxes, and kill it; returns the seconds until it held them."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--hold", "--sandboxes", str(count), "--backend", backend]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert owner.stdout
    if owner.stdout.readline() != b"ready\n":
        sys.exit("sandbox_leftovers: the sandboxes did not start")
    seconds = time.perf_counter() - began
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    return [seconds]


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandboxes", type=int, default=64, metavar="N", help="how many (default 64)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="how many at a time (default 1)")
    parser.add_argument("--backend", default="bubblewrap", help="default bubblewrap")
    parser.add_argument("--kill-owner", action="store_true", help="all at once in another process, which is killed")
    parser.add_argument("--leave", action="store_true", help="leave a process and a file, to see that they are found")
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hold:
        asyncio.run(hold(args.sandboxes, args.backend))
        return
    if not args.inside:
        sys.exit(in_private_folders([__file__, *sys.argv[1:]]))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, began = state(), time.perf_counter()
    if args.kill_owner:
        starts = kill_owner(args.sandboxes, args.backend)
    else:
        starts = asyncio.run(many(args.sandboxes, args.at_once, args.backend))
    seconds = time.perf_counter() - began
    if args.leave:
        subprocess.Popen(["sleep", "2"], start_new_session=True)
        Path("/var/tmp/left").touch()
    deadline = time.monotonic() + (END_SEC if args.kill_owner else 0)
    reap()
    while descendants() and time.monotonic() < deadline:
        time.sleep(0.05)
        reap()
    after = state()
    left = {name: sorted(set(after[name]) - set(before[name])) for name in after}
    print(json.dumps({"started": args.sandboxes, "seconds": seconds, "starts": starts, "left": left}))


if __name__ == "__main__":
    main()
