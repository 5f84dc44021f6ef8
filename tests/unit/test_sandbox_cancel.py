from __future__ import annotations

import asyncio
import os

import pytest
from tests.processes import descendants, wait_until_gone

from sandbox import Sandbox
from sandbox.backends import BACKENDS


def sandboxes() -> list[int]:
    """The sandboxes of this process; other tests may have theirs at the same time."""
    return descendants(os.getpid(), lambda words: "/opt/sandbox/agent.py" in words)


@pytest.mark.skipif(BACKENDS["bubblewrap"].program() is None, reason="bubblewrap is not installed")
def test_a_start_that_is_cancelled_at_any_moment_ends_and_leaves_nothing():
    async def cancel_after(seconds: float) -> None:
        async def start() -> None:
            async with Sandbox.start(backend="bubblewrap"):
                await asyncio.sleep(60)

        task = asyncio.create_task(start())
        await asyncio.sleep(seconds)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=20)
        assert done, f"hangs when cancelled after {seconds * 1000:.1f} ms"

    async def all_moments() -> None:
        async with Sandbox.start(backend="bubblewrap"):
            assert sandboxes()
        for step in range(24):
            await cancel_after(step * 0.002)

    asyncio.run(all_moments())
    assert not wait_until_gone(sandboxes())
