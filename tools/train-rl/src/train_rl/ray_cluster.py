"""Run a command on a Ray cluster that spans a Slurm allocation, and take the cluster down with it.

    python -m train_rl.ray_cluster -- python train.py

Inside an allocation (sbatch, salloc): starts Ray's head on the allocation's first node and a worker on each of the
others, each as a job step (`srun --nodes=1 --nodelist=NODE`), waits until every node has joined, runs the command with
RAY_ADDRESS set, and stops Ray on every node whatever way the command ends. A node that is lost meanwhile ends the
command, with one line that names the node. The exit code is the command's, 2 when the cluster could not be had or kept.

Every node is a custom Ray resource `slurm:NODE`, so that work can be placed by name. Only who holds the job's token may
join: it lies in a file that only the user can read (below the folder --shared), and its path, not the token, is passed
on. Ray's own files go to a folder of the job's on each node's local disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from recipe_core.cli import Parser, above_zero, entry, natural, positive
from recipe_core.errors import BadInput

# Above Ray's default ports for workers and below the range from which the kernel hands out ports by itself.
_FIRST_PORT, _LAST_PORT = 20000, 32767
# Starts Ray in a folder of its own and removes the folder afterwards; a folder of that name that is there already is
# not ours. Ray is told to stop (it then drains its node) by a signal, or by the end of standard input: srun meets a
# signal with SIGKILL for everything, but passes on the end of its input, which comes also when this process is killed.
_ON_NODE = """
umask 077
folder=$1; shift
mkdir "$folder" || exit 73
exec 3<&0
"$@" </dev/null 3<&- & ray=$!
trap 'kill $ray 2>/dev/null' TERM INT HUP
{ cat <&3 >/dev/null; kill $ray 2>/dev/null; } & reader=$!
wait $ray; code=$?
while kill -0 $ray 2>/dev/null; do wait $ray; code=$?; done
kill $reader 2>/dev/null
rm -rf "$folder"
exit $code
"""
# Waits until the nodes named in its second argument have joined, at most as many seconds as its first says; prints
# those that have not, as a JSON list. The head may still be starting.
_WAIT = """
import json, sys, time, ray
deadline = time.monotonic() + float(sys.argv[1])
missing = set(json.loads(sys.argv[2]))
while missing and time.monotonic() < deadline:
    try:
        ray.is_initialized() or ray.init(log_to_driver=False, logging_level="ERROR")
        alive = [name for node in ray.nodes() if node["Alive"] for name in node["Resources"]]
        missing -= {name.removeprefix("slurm:") for name in alive}
    except (ConnectionError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
    time.sleep(0.5)
print(json.dumps(sorted(missing)))
"""
_SECONDS_TO_STOP = 60.0


@dataclass(frozen=True)
class Allocation:
    """A Slurm job's nodes, in Slurm's order; `gpus` are a node's, 0 for none."""

    job_id: int
    nodes: tuple[str, ...]
    gpus: int = 0


def gpus_of(environment: Mapping[str, str]) -> int | None:
    """Return the GPUs a node that Slurm's variables speak of, or None where they are silent.

    `SLURM_GPUS_PER_NODE` may name a type (`a100:4`) and several types (`a100:2,h100:2`).
    """
    text = environment.get("SLURM_GPUS_ON_NODE") or environment.get("SLURM_GPUS_PER_NODE")
    if not text:
        return None
    try:
        return sum(int(part.partition("(")[0].rpartition(":")[2]) for part in text.split(","))
    except ValueError:
        raise BadInput(f"SLURM_GPUS_PER_NODE={text}: not a number of GPUs such as 4 or a100:4") from None


def allocation(environment: Mapping[str, str]) -> Allocation:
    """Return the allocation that this process runs in.

    Raises:
        BadInput: there is none, or scontrol cannot say what its nodes are called.
    """
    job, nodelist = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_JOB_NODELIST", "")
    if not (job.isdigit() and nodelist):
        raise BadInput("no Slurm allocation here (SLURM_JOB_ID, SLURM_JOB_NODELIST); start this with sbatch or salloc")
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True)
    except FileNotFoundError:
        raise BadInput("scontrol: not found on PATH; it says what the nodes are called") from None
    nodes = tuple(done.stdout.split())
    if done.returncode or not nodes:
        raise BadInput(f"scontrol show hostnames {nodelist}: {done.stderr.strip() or 'named no node'}")
    return Allocation(int(job), nodes, gpus_of(environment) or 0)


def head_port(job_id: int) -> int:
    """Return the TCP port of a job's Ray head, so that jobs that share a node do not meet there."""
    return _FIRST_PORT + job_id % (_LAST_PORT - _FIRST_PORT + 1)


def address_of(node: str) -> str:
    """Return the IPv4 address by which other nodes reach a node.

    Where the name leads to the loopback interface, as on a cluster that is emulated on one machine, it is this
    machine's address on the way out: Ray replaces loopback addresses in the same way.
    """
    with contextlib.suppress(OSError):
        found = socket.gethostbyname(node)
        if not found.startswith("127."):
            return found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # No packet is sent: connecting a datagram socket only looks up the route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def srun_words(node: str) -> list[str]:
    """Return the words that run something once on a node, beside the job's other steps, with all of its resources."""
    return ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "--overlap", "--export=ALL", "--quiet"]


def ray_words(
    ray: str, node: str, *, head: str, port: int, is_head: bool, folder: str, cpus: int | None, gpus: int
) -> list[str]:
    """Return the words that start Ray on a node and stay with it.

    Only the head's port has to be known to others: every other port is one that is free, and the head tells it on. So
    nodes that share an address, and jobs that share a node, get along.
    """
    words = [ray, "start", "--block", f"--temp-dir={folder}", f"--num-gpus={gpus}"]
    words += [f"--resources={json.dumps({f'slurm:{node}': 1})}", "--disable-usage-stats"]
    words += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    if cpus is not None:
        words.append(f"--num-cpus={cpus}")
    if is_head:
        return [*words, "--head", f"--node-ip-address={head}", f"--port={port}", "--include-dashboard=false"]
    own = address_of(node)
    return [*words, f"--address={head}:{port}", f"--node-ip-address={own}"]


class RayCluster:
    """Context manager: Ray on every node of an allocation.

    Args:
        allocation: the nodes.
        shared: a folder that every node sees, for the token.
        local: a folder on each node's own disk. Ray's sockets lie below it, whose paths may have 107 bytes: short.
        log: a file for what Ray's processes print.
        cpus: CPUs a node that Ray may hand out; by default those it finds.
        ray: the command `ray`, the same path on every node.
        timeout: seconds until every node has to have joined.
        enter: words that enter an image, before those of Ray and of what waits for it; `ray` is then a path in there.

    Attributes:
        address: for RAY_ADDRESS.
    """

    def __init__(
        self,
        allocation: Allocation,
        shared: Path,
        *,
        local: Path = Path("/tmp"),
        log: Path | None = None,
        cpus: int | None = None,
        ray: str | None = None,
        timeout: float = 300.0,
        enter: Sequence[str] = (),
    ) -> None:
        self._allocation = allocation
        self._enter = enter
        self._shared = shared
        self._local = local
        self._log = log or Path(os.devnull)
        self._cpus = cpus
        # The command stands beside this interpreter, which need not be on PATH.
        self._ray = ray or shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
        self._timeout = timeout
        self._head = address_of(allocation.nodes[0])
        self.address = f"{self._head}:{head_port(allocation.job_id)}"
        self._steps: dict[str, subprocess.Popen[bytes]] = {}
        self._waiter: subprocess.Popen[str] | None = None
        self._stack = contextlib.ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """The variables of programs that use the cluster, besides this process's, in an image too."""
        return _let_in({**self._ray_environment, "RAY_ADDRESS": self.address})

    def __enter__(self) -> RayCluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, words: Sequence[str]) -> int:
        """Run a command on the cluster and return its exit code.

        Raises:
            BadInput: no such command, or a node was lost meanwhile; the command has been ended.
        """
        try:
            process = subprocess.Popen(words, env={**os.environ, **self.environment}, start_new_session=True)
        except FileNotFoundError:
            raise BadInput(f"{words[0]}: not found on PATH") from None
        try:
            while process.poll() is None:
                self._check()
                time.sleep(0.5)
            return process.returncode
        finally:
            _end_group(process)

    def _start(self) -> None:
        self._shared.mkdir(parents=True, exist_ok=True)
        handle, token = tempfile.mkstemp(prefix=f"ray-{self._allocation.job_id}-", dir=self._shared)
        self._stack.callback(Path(token).unlink, missing_ok=True)
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))
        self._ray_environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._output = self._stack.enter_context(self._log.open("ab"))
        head, *workers = self._allocation.nodes
        self._start_node(head, is_head=True)
        # A worker that finds the head's port but not yet its record gives up.
        self._wait([head])
        for node in workers:
            self._start_node(node, is_head=False)
        self._wait(workers)

    def _start_node(self, node: str, *, is_head: bool) -> None:
        job = self._allocation.job_id
        # Nodes of an emulated cluster share a disk: the node's number keeps them apart there.
        folder = self._local / f"ray-{job}-{self._allocation.nodes.index(node)}"
        started = ray_words(
            self._ray,
            node,
            head=self._head,
            port=head_port(job),
            is_head=is_head,
            folder=str(folder),
            cpus=self._cpus,
            gpus=self._allocation.gpus,
        )
        words = [*srun_words(node), *self._enter, "sh", "-c", _ON_NODE, "ray-node", str(folder)]
        try:
            self._steps[node] = subprocess.Popen(
                [*words, *started],
                env={**os.environ, **_let_in(self._ray_environment)},
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise BadInput("srun: not found on PATH; it starts Ray on the nodes") from None

    def _wait(self, nodes: Sequence[str]) -> None:
        python = Path(self._ray).with_name("python")
        words = [
            *self._enter,
            str(python) if self._enter or python.is_file() else sys.executable,
            "-c",
            _WAIT,
            str(self._timeout),
            json.dumps(nodes),
        ]
        self._waiter = subprocess.Popen(
            words,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
            start_new_session=True,
        )
        # Connecting to a head that does not answer has a limit of Ray's own, which comes on top.
        deadline = time.monotonic() + self._timeout + 60
        while self._waiter.poll() is None and time.monotonic() < deadline:
            self._check()
            time.sleep(0.2)
        assert self._waiter.stdout is not None
        said = self._waiter.stdout.read() if self._waiter.poll() == 0 else json.dumps(nodes)
        _end_group(self._waiter)
        missing = [node for node in nodes if node in json.loads(said)]
        if missing:
            raise BadInput(f"{', '.join(missing)}: did not join the Ray cluster in {self._timeout:g} s{self._where()}")

    def _check(self) -> None:
        for node, step in self._steps.items():
            code = step.poll()
            if code is not None:
                raise BadInput(
                    f"{node}: lost from the Ray cluster of job {self._allocation.job_id} (its step ended with code "
                    f"{code}){self._where()}"
                )

    def _where(self) -> str:
        if self._log == Path(os.devnull):
            return ""
        lines = self._log.read_text(errors="replace").split("\n")
        # What srun and Slurm say of a step is the reason more often than what Ray does.
        said = [line for line in lines if line.startswith(("srun:", "slurmstepd"))] or [line for line in lines if line]
        return f": {said[-1]} (all of it: {self._log})" if said else f"; {self._log} is empty"

    def _stop(self) -> None:
        if self._waiter is not None:
            _end_group(self._waiter)
        # The workers leave before the head that they are registered with.
        head, *workers = self._allocation.nodes
        for nodes in (workers, [head]):
            steps = [self._steps[node] for node in nodes if node in self._steps]
            for step in steps:
                assert step.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    step.stdin.close()
            for step in steps:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    step.wait(_SECONDS_TO_STOP)
                _end_group(step)
        self._stack.close()


def _let_in(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables, each with the twin by which Apptainer lets it into an image."""
    return {**variables, **{f"APPTAINERENV_{name}": value for name, value in variables.items()}}


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS_TO_STOP)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="ray_cluster", description=__doc__)
    parser.add_argument(
        "--shared", type=Path, default=Path(), metavar="DIR", help="folder every node sees, for the token (default .)"
    )
    parser.add_argument(
        "--local", type=Path, default=Path("/tmp"), metavar="DIR", help="folder on each node's disk (default /tmp)"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="what Ray's processes print (default: nowhere)")
    parser.add_argument("--cpus", type=positive, help="CPUs a node for Ray's tasks (default: those Ray finds)")
    parser.add_argument("--gpus", type=natural, help="GPUs a node (default: what Slurm says, else 0)")
    parser.add_argument("--timeout", type=above_zero, default=300.0, help="seconds for the nodes to join (default 300)")
    parser.add_argument("--ray", metavar="FILE", help="the command ray (default: the one beside this Python)")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run, after --")
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the command on the cluster and exit with its code."""
    found = allocation(os.environ)
    if args.gpus is not None:
        found = Allocation(found.job_id, found.nodes, args.gpus)
    options = {"local": args.local, "log": args.log, "cpus": args.cpus, "ray": args.ray, "timeout": args.timeout}
    with RayCluster(found, args.shared.resolve(), **options) as cluster:
        print(f"Ray on {len(found.nodes)} nodes: {shlex.join(found.nodes)}", file=sys.stderr, flush=True)
        code = cluster.run(args.command)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
