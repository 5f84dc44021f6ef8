"""Whether an answer is right: equal to the reference answer, or code that passes the question's tests in a sandbox."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from answers.final import final_answer
from answers.same import Comparer
from recipe_core.artifact import value_digest
from recipe_core.tasks import TaskFile
from teacher.request import Reply
from teacher.store import Store

# Time that passes without being used counts too, but less tightly: it depends on how busy the machine is.
_WALL_PER_CPU_SECOND = 6
_TRIES = 3
# The code is a module, so that its `if __name__ == "__main__"` does not run; the tests see its names. What ends the
# process before the tests are through (`sys.exit(0)`) does not pass: only the word given on the command line does.
_RUNNER = b"""\
import os
import sys

word = sys.argv.pop()
sys.path.insert(0, "/app")
import solution

with open("/app/check.py") as stream:
    exec(compile(stream.read(), "check.py", "exec"), vars(solution))
sys.stdout.flush()
os.write(1, f"\\n{word}\\n".encode())
os._exit(0)
"""


async def passes(code: str, tests: str, cpu_sec: int) -> bool:
    """Run code and then tests about it, in a fresh sandbox; tell whether the tests went through.

    Args:
        code: a Python module.
        tests: statements that see the module's names and raise when it is wrong.
        cpu_sec: CPU seconds for both. Six times as many seconds may pass in all.

    Raises:
        SandboxError: the sandbox failed, which says nothing of the code.
    """
    from sandbox import Sandbox, SandboxKilled

    word = value_digest([code, tests])
    files = {"/app/solution.py": code.encode(), "/app/check.py": tests.encode(), "/check/run.py": _RUNNER}
    try:
        async with Sandbox.start() as box:
            await box.upload({path: TaskFile(content) for path, content in files.items()})
            command = f"ulimit -t {cpu_sec}; exec python3 /check/run.py {word}"
            result = await box.exec(command, cwd="/app", timeout=cpu_sec * _WALL_PER_CPU_SECOND)
    except SandboxKilled:
        # It went over the sandbox's memory or processes: the code's doing.
        return False
    return not result.timed_out and result.code == 0 and word in result.stdout


class Verifier:
    """Judges answers, each once: verdicts are kept on disk. A context manager, for several threads.

    Args:
        folder: where verdicts are kept.
        cpu_sec: what `passes` allows.
    """

    def __init__(self, folder: Path, cpu_sec: int) -> None:
        self._exit = ExitStack()
        self._store = self._exit.enter_context(Store(folder))
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[Comparer] = queue.SimpleQueue()
        self._cpu_sec = cpu_sec

    def _once(self, key: str, judge: Callable[[], bool]) -> bool:
        with self._lock:
            known = self._store.get(key)
        if known is not None:
            return known.text == "yes"
        verdict = judge()
        with self._lock:
            self._store.put(key, Reply(text="yes" if verdict else "no"))
        return verdict

    def same(self, left: str, right: str) -> bool:
        """Tell whether two final answers are the same, as :meth:`Comparer.same` does."""
        return self._once(value_digest({"same": sorted([left, right])}), lambda: self._compare(left, right))

    def is_answer(self, reference: str, answer: str) -> bool:
        """Tell whether an answer's final answer is the same as a reference's; one that has none is not."""
        final = final_answer(answer)
        return bool(final) and self.same(final_answer(reference), final)

    def _compare(self, left: str, right: str) -> bool:
        try:
            comparer = self._idle.get_nowait()
        except queue.Empty:
            comparer = Comparer()
            with self._lock:
                self._exit.enter_context(comparer)
        try:
            return comparer.same(left, right)
        finally:
            self._idle.put(comparer)

    def passes(self, code: str, tests: str) -> bool:
        """Tell whether code passes tests, as :func:`passes` does, trying again where the sandbox fails.

        Raises:
            SandboxError: the sandbox failed each time.
        """
        key = value_digest({"code": code, "tests": tests, "cpu_sec": self._cpu_sec})
        return self._once(key, lambda: self._run(code, tests))

    def _run(self, code: str, tests: str) -> bool:
        from sandbox import SandboxError

        for _ in range(_TRIES - 1):
            try:
                return asyncio.run(passes(code, tests, self._cpu_sec))
            except SandboxError:
                continue
        return asyncio.run(passes(code, tests, self._cpu_sec))

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()
