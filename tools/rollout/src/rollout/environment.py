"""Harbor's environment interface over the rootless sandbox.

It serves Harbor's own command line too: `harbor run -e rollout.environment:SandboxEnvironment …`.

The sandbox has no network. Tasks that ask for `no-network` get exactly that; tasks that do not care get it too.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, override

from harbor.environments.base import BaseEnvironment, ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities, EnvironmentResourceCapabilities
from harbor.environments.definition import DOCKERFILE_NAME

from recipe_core.tasks import TaskFile, read_folder
from sandbox import Limits, Sandbox

# Commands without a limit of their own end with the phase they belong to, which Harbor limits; this is the backstop.
_LONGEST_COMMAND_SEC = 24 * 3600.0


class SandboxEnvironment(BaseEnvironment):
    """One sandbox a trial.

    Args:
        backend: the sandbox's back end: `auto`, `apptainer` or `bubblewrap`.

    The other arguments are Harbor's.
    """

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        self._backend = backend
        self._stack = AsyncExitStack()
        self._box: Sandbox | None = None
        super().__init__(*args, **kwargs)

    @staticmethod
    @override
    def type() -> str:
        """Return the name shown in Harbor's records."""
        return "rootless-sandbox"

    @property
    @override
    def capabilities(self) -> EnvironmentCapabilities:
        """Return what Harbor may ask for: no network."""
        return EnvironmentCapabilities(disable_internet=True)

    @classmethod
    @override
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities | None:
        """Return which limits are enforced."""
        return EnvironmentResourceCapabilities(cpu_limit=True, memory_limit=True)

    @override
    def _validate_definition(self) -> None:
        path = self.environment_dir / DOCKERFILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the sandbox needs the task's Dockerfile")

    def _limits(self) -> Limits:
        config = self.task_env_config
        given = {"cpus": self._effective_cpus, "memory_mb": self._effective_memory_mb, "disk_mb": config.storage_mb}
        return Limits(**{name: value for name, value in given.items() if value is not None})

    @property
    def _running(self) -> Sandbox:
        if self._box is None:
            raise RuntimeError(f"{self.session_id}: the sandbox is not running")
        return self._box

    @override
    async def start(self, force_build: bool) -> None:
        """Start the sandbox and make the task's files as its Dockerfile says."""
        files = read_folder(self.environment_dir)
        box = Sandbox.start(files, limits=self._limits(), backend=self._backend, env=self._startup_env())
        self._box = await self._stack.enter_async_context(box)

    @override
    async def stop(self, delete: bool) -> None:
        """End the sandbox; nothing of it is left."""
        self._box = None
        await self._stack.aclose()

    async def seal(self) -> None:
        """Clear what the agent left running or put in the verifier's way; see `sandbox.Sandbox.seal`."""
        await self._running.seal()

    @override
    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        """Run a command; one that runs longer than `timeout_sec` ends with code 124, as with timeout(1)."""
        who = self._resolve_user(user)
        if who not in (None, "root", 0, "0"):
            raise ValueError(f"the sandbox has no user {who!r}, only root; leave `user` out of task.toml")
        result = await self._running.exec(
            command, cwd=cwd, env=self._merge_env(env), timeout=timeout_sec or _LONGEST_COMMAND_SEC
        )
        return ExecResult(
            stdout=result.stdout, stderr=result.stderr, return_code=124 if result.timed_out else result.code
        )

    @override
    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        """Copy one file into the sandbox."""
        source = Path(source_path)
        await self._running.upload({target_path: TaskFile(source.read_bytes(), source.stat().st_mode & 0o777)})

    @override
    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        """Copy a folder's files into the sandbox."""
        files = {f"{target_dir.rstrip('/')}/{path}": file for path, file in read_folder(Path(source_dir)).items()}
        if files:
            await self._running.upload(files)

    @override
    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        """Copy one file out of the sandbox."""
        files = await self._running.download(source_path)
        if len(files) != 1:
            raise FileNotFoundError(f"{source_path}: not one file in the sandbox")
        (file,) = files.values()
        Path(target_path).write_bytes(file.content)

    @override
    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        """Copy a folder's files out of the sandbox."""
        root = Path(target_dir)
        for path, file in (await self._running.download(source_dir)).items():
            target = root / path
            if not target.resolve().is_relative_to(root.resolve()):
                raise ValueError(f"{path!r}: the sandbox named a file outside {source_dir}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
