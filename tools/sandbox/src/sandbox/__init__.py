"""Rootless sandboxes for agents: one interface, two back ends (bubblewrap, Apptainer), no network, nothing of the host.

Example:
    async with Sandbox.start({"Dockerfile": TaskFile(b"FROM scratch\\nWORKDIR /app\\n")}) as box:
        result = await box.exec("echo hello")
"""

from sandbox.box import Sandbox
from sandbox.model import ExecResult, Limits, SandboxError, SandboxKilled
from sandbox.validate import Validation, validate_task

__all__ = ["ExecResult", "Limits", "Sandbox", "SandboxError", "SandboxKilled", "Validation", "validate_task"]
