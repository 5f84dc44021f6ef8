from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sandbox import Sandbox
from sandbox.backends import BACKENDS


def sandboxes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"/opt/sandbox/agent.py" in path.read_bytes():
                found.add(path.parent.name)
        except OSError:
            continue
    return found


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
        for step in range(24):
            await cancel_after(step * 0.002)

    before = sandboxes()
    asyncio.run(all_moments())
    assert sandboxes() <= before
