"""Harbor's verifier in a sandbox that is sealed first, so that nothing of the agent's runs on or was put in its way."""

from __future__ import annotations

from typing import override

from harbor.models.verifier.result import VerifierResult
from harbor.verifier.verifier import Verifier

from rollout.environment import SandboxEnvironment


class SealedVerifier(Verifier):
    """Harbor's own after :meth:`sandbox.Sandbox.seal`; `rollout.verifier:SealedVerifier` for Harbor's command line."""

    @override
    async def verify(self) -> VerifierResult:
        """Seal the sandbox, then judge; environments of other providers are judged in as they are.

        Raises:
            SandboxKilled: what was done in the sandbox leaves it unfit to judge in; it counts as the agent's failure.
        """
        if isinstance(self.environment, SandboxEnvironment):
            await self.environment.seal()
        return await super().verify()
