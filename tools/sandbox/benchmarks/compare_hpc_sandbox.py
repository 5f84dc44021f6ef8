"""Time start, exec and stop of hpc-sandbox's layouts and of this library's back ends, in turns on one machine.

Run as an unprivileged user, with hpc-sandbox 0.5.1 on the path and a SIF that holds bash and /app:

    python compare_hpc_sandbox.py image.sif --rounds 10 --network none --scratch /tmp/scratch
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from hpc_sandbox import SandboxSpec, SingularityProvider

from sandbox import Sandbox

EXECS = 5
Times = tuple[float, list[float], float]


async def timed(start: Awaitable[Any], run: Callable[[Any], Awaitable[object]]) -> Times:
    """Return the seconds of a start, of each of some commands, and of the stop."""
    began = time.perf_counter()
    box = await start
    started = time.perf_counter() - began
    execs = []
    for _ in range(EXECS):
        began = time.perf_counter()
        await run(box)
        execs.append(time.perf_counter() - began)
    began = time.perf_counter()
    await box.stop()
    return started, execs, time.perf_counter() - began


async def main() -> None:
    """Measure and print; the first round, which fills caches, is printed apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--network", choices=["host", "none"], default="none")
    parser.add_argument("--scratch", required=True)
    args = parser.parse_args()
    layouts: dict[str, dict[str, Any]] = {
        "copy": {"rootfs_layout": "copy"},
        "copy with templates": {"rootfs_layout": "copy", "rootfs_templates": True},
        "fuse-overlay": {"rootfs_layout": "fuse-overlay"},
    }
    spec = SandboxSpec(image=args.image, network=args.network)
    cases: dict[str, Callable[[], Awaitable[Times]]] = {}
    for name in ("bubblewrap", "apptainer"):
        cases[f"sandbox, {name}"] = lambda name=name: timed(  # type: ignore[misc]
            Sandbox.start(backend=name)._start(), lambda box: box.exec("true")
        )
    for name, options in layouts.items():
        provider = SingularityProvider(
            scratch_root=args.scratch, image_cache=f"{args.scratch}/cache", allow_network_none=True, **options
        )
        cases[f"hpc-sandbox, {name}"] = lambda provider=provider: timed(  # type: ignore[misc]
            provider.start(spec), lambda box: box.exec("true", timeout_s=30)
        )
    found: dict[str, list[Times]] = {name: [] for name in cases}
    for _ in range(args.rounds + 1):
        for name, case in cases.items():
            found[name].append(await case())
    for name, times in found.items():
        first, rest = times[0], times[1:]
        columns = (
            ("start", [t[0] for t in rest]),
            ("exec", [e for t in rest for e in t[1]]),
            ("stop", [t[2] for t in rest]),
        )
        text = ", ".join(f"{what} {1000 * statistics.median(v):.0f} (max {1000 * max(v):.0f})" for what, v in columns)
        print(f"{name}: first start {1000 * first[0]:.0f}; median ms: {text}")


if __name__ == "__main__":
    asyncio.run(main())
