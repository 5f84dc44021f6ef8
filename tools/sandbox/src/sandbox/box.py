"""One running sandbox."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shlex
import signal
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile
from sandbox.backends import choose
from sandbox.channel import Channel, field
from sandbox.dockerfile import Copy, Env, Run, Workdir, expand, parse
from sandbox.model import ExecResult, Limits, SandboxError, SandboxKilled
from sandbox.skeleton import (
    VERIFIER_BYTES,
    VERIFIER_FOLDERS,
    WORK_FOLDER,
    base_env,
    host_python,
    init_request,
    verifier_env,
)
from sandbox.watchdog import WATCHDOG, Watched, first_process

START_TIMEOUT_SEC = 30.0
# Beyond a command's own time limit, for the agent to say so.
GRACE_SEC = 30.0
RUN_TIMEOUT_SEC = 600.0
# For the last words of a launcher that was killed.
COLLECT_SEC = 2.0
OUTPUT_BYTES = 1 << 20
CHUNK = 1 << 20
DOWNLOAD_BYTES = 256 << 20

_turn = itertools.count(os.getpid())


class Sandbox:
    """A sandbox: make one with :meth:`start`.

    Attributes:
        backend: name of the back end it runs on.
        limits: its limits.
        workdir: folder in which commands run by default.
    """

    def __init__(self, limits: Limits, backend: str, env: Mapping[str, str]) -> None:
        self.limits = limits
        self.workdir = WORK_FOLDER
        self._backend = choose(backend)
        self.backend = self._backend.name
        self._python = host_python()
        self._env = base_env(self._python)
        self._caller_env = dict(env)
        self._process: asyncio.subprocess.Process | None = None
        # A handle, not the process's number: asyncio may have reaped it, and `Process.kill` would race with that.
        self._launcher: int | None = None
        self._channel: Channel | None = None
        self._watched: Watched | None = None
        self._stderr: asyncio.Task[bytes] | None = None

    @classmethod
    def start(
        cls,
        environment_files: Mapping[str, TaskFile] | None = None,
        limits: Limits | None = None,
        backend: str = "auto",
        env: Mapping[str, str] | None = None,
    ) -> Starting:
        """Start a sandbox: `async with Sandbox.start() as box`, or `box = await Sandbox.start()` and `box.stop()`.

        Args:
            environment_files: the task's files below `environment/`; their Dockerfile, where there is one, is followed.
            limits: what it may use.
            backend: `auto`, `apptainer` or `bubblewrap`.
            env: variables for every command, over those of the Dockerfile.

        Raises:
            BadInput: an instruction of the Dockerfile that is not supported or fails, or no back end.
            SandboxError: the back end does not start here.
        """
        return Starting(cls(limits or Limits(), backend, env or {}), environment_files or {})

    async def _open(self, environment_files: Mapping[str, TaskFile]) -> None:
        steps = parse(environment_files)
        try:
            await self._launch()
            await self._build(steps, environment_files)
        except BaseException:
            await self.stop()
            raise
        self._env.update(self._caller_env)

    async def _launch(self) -> None:
        argv = self._backend.argv(self.limits, self._python)
        spawn = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        )
        try:
            # Cancelled half-way, asyncio would kill the launcher, keep the agent's input open and wait for it for ever.
            self._process = await asyncio.shield(spawn)
        except asyncio.CancelledError:
            self._process = await spawn
            assert self._process.stdin
            self._process.stdin.close()
            raise
        except OSError as error:
            raise SandboxError(f"{self.backend}: {argv[0]} cannot be run: {error.strerror}") from None
        with suppress(ProcessLookupError):
            # It may have failed and be gone; the first request finds out.
            self._launcher = os.pidfd_open(self._process.pid)
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._channel = Channel(self._process.stdout, self._process.stdin)
        self._stderr = asyncio.create_task(_last_bytes(self._process.stderr))
        try:
            async with asyncio.timeout(START_TIMEOUT_SEC):
                await self._ask(**init_request(self.limits, _cpus(self.limits.cpus)))
        except (SandboxError, TimeoutError) as error:
            said = (await self._kill_and_collect()).decode(errors="replace").strip()
            why = said.splitlines()[-1] if said else str(error) or f"no answer in {START_TIMEOUT_SEC:g} s"
            raise SandboxError(
                f"{self.backend} does not start a sandbox here: {why} (`sandbox doctor` tells what is missing)"
            ) from None
        first = first_process(self._process.pid)
        if first is None:
            raise SandboxError(f"{self.backend}: the sandbox has no process namespace of its own")
        try:
            self._watched = Watched(first, os.pidfd_open(first), self.limits)
        except ProcessLookupError:
            raise SandboxError(f"{self.backend}: the sandbox ended as soon as it had started") from None
        WATCHDOG.add(self._watched)

    async def _build(self, steps: list[Workdir | Env | Copy | Run] | None, files: Mapping[str, TaskFile]) -> None:
        if steps is None:
            return
        self.workdir = "/"
        for step in steps:
            match step:
                case Workdir():
                    self.workdir = str(PurePosixPath(self.workdir) / expand(step.path, self._env, step.where))
                    await self._must(f"mkdir -p {shlex.quote(self.workdir)}", step.where, cwd="/")
                case Env():
                    self._env |= {key: expand(value, self._env, step.where) for key, value in step.values.items()}
                case Copy():
                    await self._copy(step, files)
                case Run():
                    await self._must(step.command, step.where)

    async def _copy(self, step: Copy, files: Mapping[str, TaskFile]) -> None:
        target = expand(step.target, self._env, step.where)
        place = str(PurePosixPath(self.workdir) / target)
        chosen = step.select(files, place, is_folder=target.endswith(("/", ".")))
        if step.makes_folder(files, target):
            await self._must(f"mkdir -p {shlex.quote(place)}", step.where)
        else:
            # COPY of one file onto an existing folder puts it into that folder.
            there = await self.exec(f"test -d {shlex.quote(place)}")
            if there.code == 0:
                chosen = step.select(files, place, is_folder=True)
        await self.upload(chosen)

    async def _must(self, command: str, where: str, cwd: str | None = None) -> None:
        result = await self.exec(command, cwd=cwd, timeout=RUN_TIMEOUT_SEC)
        if result.timed_out:
            raise BadInput(f"{where}: `{command}` ran longer than {RUN_TIMEOUT_SEC:g} s; make it shorter")
        if result.code != 0:
            said = (result.stderr or result.stdout).strip().splitlines()
            why = f": {said[-1][:300]}" if said else ""
            raise BadInput(f"{where}: `{command}` failed with code {result.code}{why} (there is no network inside)")

    async def _ask(self, **request: Any) -> dict[str, Any]:
        """Send a request that has one answer, and return the answer."""
        channel = self._open_channel()
        number = 0
        try:
            number = await channel.open(**request)
            answer = await channel.answer(number)
        except SandboxError as error:
            raise self._why(error) from None
        finally:
            channel.close_request(number)
        if "error" in answer:
            raise SandboxError(f"{request['op']}: {field(answer, 'error', str)}")
        return answer

    def _open_channel(self) -> Channel:
        if self._channel is None:
            raise SandboxError("the sandbox is not running")
        return self._channel

    def _why(self, error: SandboxError) -> SandboxError:
        if self._watched and self._watched.verdict:
            return SandboxKilled(*self._watched.verdict)
        return error

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = 30.0,
    ) -> ExecResult:
        """Run a command with `bash -c`, in a session and process group of its own, without input.

        It is done when bash exits; what it left running in the background lives on and its further output is dropped.

        Args:
            command: the command line.
            cwd: folder to run in, by default the Dockerfile's WORKDIR.
            env: variables over the sandbox's own.
            timeout: seconds, after which the process group is killed; None for no limit.

        Raises:
            SandboxKilled: the sandbox went over a limit.
            SandboxError: the sandbox ended or does not answer; `cwd` does not exist.
        """
        request = {
            "op": "exec",
            "command": command,
            "cwd": str(PurePosixPath(self.workdir) / (cwd or "")),
            "env": {**self._env, **(env or {})},
            "timeout": timeout,
            "output_bytes": OUTPUT_BYTES,
        }
        channel = self._open_channel()
        number = 0
        try:
            number = await channel.open(**request)
            async with asyncio.timeout(None if timeout is None else timeout + GRACE_SEC):
                answer = await channel.answer(number)
        except TimeoutError:
            self._kill()
            raise SandboxError("the sandbox's agent does not answer; the sandbox was killed") from None
        except SandboxError as error:
            raise self._why(error) from None
        except asyncio.CancelledError:
            with suppress(SandboxError):
                await channel.send(op="kill", id=0, target=number)
            raise
        finally:
            channel.close_request(number)
        if "error" in answer:
            raise SandboxError(f"exec: {field(answer, 'error', str)}")
        return ExecResult(
            stdout=field(answer, "stdout", bytes).decode("utf-8", errors="replace"),
            stderr=field(answer, "stderr", bytes).decode("utf-8", errors="replace"),
            code=field(answer, "code", int),
            timed_out=field(answer, "timed_out", bool),
        )

    async def upload(self, files: Mapping[str, TaskFile]) -> None:
        """Write files at absolute paths, with their modes; folders are made as needed.

        Raises:
            BadInput: a path is not absolute or contains `..`.
            SandboxError: the sandbox's disk is full, or the place is read-only.
        """
        for path, (content, mode) in files.items():
            if not path.startswith("/") or ".." in PurePosixPath(path).parts:
                raise BadInput(f"upload to {path!r}: expected an absolute path without '..'")
            for start in range(0, max(len(content), 1), CHUNK):
                data = base64.b64encode(content[start : start + CHUNK]).decode()
                await self._ask(op="put", path=path, data=data, mode=mode & 0o777, append=start > 0)

    async def download(self, path: str) -> dict[str, TaskFile]:
        """Return the regular files at or below a path: keys are relative to a folder, or the name of a single file.

        Links and special files below the path are left out; never more than 256 MiB.

        Raises:
            SandboxError: the path does not exist, or holds more than 256 MiB.
        """
        channel = self._open_channel()
        found: dict[str, list[bytes]] = {}
        modes: dict[str, int] = {}
        total = number = 0
        try:
            number = await channel.open(op="get", path=str(PurePosixPath(self.workdir) / path))
            while True:
                answer = await channel.answer(number)
                if "error" in answer:
                    raise SandboxError(f"download: {field(answer, 'error', str)}")
                if answer.get("done"):
                    break
                name, data = field(answer, "name", str), field(answer, "data", bytes)
                if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
                    raise SandboxError(f"the sandbox's agent named a file {name!r} outside what was asked for")
                total += len(data)
                if total > DOWNLOAD_BYTES:
                    raise SandboxError(f"download of {path}: more than {DOWNLOAD_BYTES >> 20} MiB")
                found.setdefault(name, []).append(data)
                modes[name] = field(answer, "mode", int) & 0o777
        except SandboxError as error:
            raise self._why(error) from None
        finally:
            channel.close_request(number)
        return {name: TaskFile(b"".join(parts), modes[name]) for name, parts in found.items()}

    async def seal(self, *, end_processes: bool = True) -> None:
        """Make the sandbox fit to judge what was done in it: to be called between the agent's work and the verifier's.

        Every process is ended; `/tests` and `/logs/verifier` are made anew and empty, whatever was put there; files
        that Python would run at its start are removed. Commands from now on find the sandbox's programs before any
        that were put on PATH, and no packages of the home. Other files stay as they are: they are what is judged.

        Args:
            end_processes: False for a task whose result is a running process. What it leaves running can then change
                the verdict.

        Raises:
            SandboxKilled: a program or library of the sandbox was replaced, or a limit of its first process lowered
                (`tampered`), or no disk is left for the verifier (`disk`).
            SandboxError: the sandbox does not answer.
        """
        try:
            async with asyncio.timeout(GRACE_SEC):
                answer = await self._ask(op="seal", end_processes=end_processes, clear=VERIFIER_FOLDERS)
        except TimeoutError:
            self._kill()
            raise SandboxError("the sandbox's agent does not answer; the sandbox was killed") from None
        tampered, free = field(answer, "tampered", list), field(answer, "free_bytes", int)
        if tampered:
            self._kill()
            raise SandboxKilled("tampered", f"{', '.join(map(str, tampered))} is not what it was at the start")
        if free < VERIFIER_BYTES:
            self._kill()
            needed = VERIFIER_BYTES >> 10
            raise SandboxKilled("disk", f"{free >> 10} KiB of disk left, the verifier needs {needed} KiB")
        self._env = verifier_env(self._env)

    def _kill(self) -> None:
        # Process 1 first: what ends the sandbox even where the launcher does not pass its own end on.
        if self._launcher is None:
            return
        for pidfd in (self._watched.pidfd if self._watched else self._launcher, self._launcher):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    async def _kill_and_collect(self) -> bytes:
        self._kill()
        if self._stderr is None:
            return b""
        # An agent that outlives its launcher holds the pipe open, until `stop` closes its input.
        done, _ = await asyncio.wait({self._stderr}, timeout=COLLECT_SEC)
        return self._stderr.result() if done else b""

    async def stop(self) -> None:
        """End the sandbox and everything in it; it may be called again."""
        process, channel = self._process, self._channel
        self._process = self._channel = None
        try:
            if channel:
                await channel.close()
            if process:
                try:
                    await asyncio.wait_for(process.wait(), 2.0)
                except TimeoutError:
                    self._kill()
                    await process.wait()
        finally:
            # Also when this is cancelled: nothing may be left.
            self._kill()
            self._release()

    def _release(self) -> None:
        if self._watched:
            WATCHDOG.remove(self._watched)
        if self._launcher is not None:
            os.close(self._launcher)
            self._launcher = None
        if self._stderr:
            self._stderr.cancel()


class Starting:
    """What :meth:`Sandbox.start` returns: await it, or enter it."""

    def __init__(self, box: Sandbox, files: Mapping[str, TaskFile]) -> None:
        self._box = box
        self._files = files

    async def _start(self) -> Sandbox:
        await self._box._open(self._files)
        return self._box

    def __await__(self) -> Generator[Any, None, Sandbox]:
        return self._start().__await__()

    async def __aenter__(self) -> Sandbox:
        return await self._start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._box.stop()


def _cpus(count: int) -> list[int]:
    """Return `count` of the CPUs this process may use, taking turns so that sandboxes spread."""
    usable = sorted(os.sched_getaffinity(0))
    first = next(_turn)
    return sorted({usable[(first + offset) % len(usable)] for offset in range(min(count, len(usable)))})


async def _last_bytes(stream: asyncio.StreamReader, limit: int = 4096) -> bytes:
    """Read a stream to its end and return its last bytes."""
    kept = b""
    while data := await stream.read(limit):
        kept = (kept + data)[-limit:]
    return kept
