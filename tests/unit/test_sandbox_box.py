"""Real sandboxes on every back end that this machine has: what they do, and what they keep apart."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile
from sandbox import Limits, Sandbox, SandboxError, SandboxKilled, validate_task
from sandbox.backends import BACKENDS, choose


@pytest.fixture
def inside(backend: str) -> Callable[..., object]:
    """Return a function that runs a coroutine function with a fresh sandbox."""

    def run(body: Callable[[Sandbox], Awaitable[object]], files: dict[str, TaskFile] | None = None, **options):
        async def main() -> object:
            async with Sandbox.start(files, backend=backend, **options) as box:
                return await body(box)

        return asyncio.run(main())

    return run


def one(inside: Callable[..., object], command: str, **options: object):
    return inside(lambda box: box.exec(command), **options)


def test_a_command_has_output_code_and_root(inside):
    result = one(inside, "echo out; echo err >&2; id -u; pwd; hostname; exit 3")
    assert (result.stdout, result.stderr, result.code, result.timed_out) == (
        "out\n0\n/app\nsandbox\n",
        "err\n",
        3,
        False,
    )


def test_python_has_the_standard_library_and_nothing_more(inside):
    script = (
        "import ssl, sqlite3, sys; assert sys.version_info >= (3, 11)\n"
        "try:\n import pytest\nexcept ImportError:\n print(sys.prefix)"
    )
    result = one(inside, f"python3 -c '{script}'")
    assert result.stdout == "/opt/python\n", result.stderr
    assert one(inside, "ls -A /opt/python/lib/python3*/site-packages").stdout == ""


def test_environment_is_built_from_nothing(inside, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2")
    text = one(inside, "env; cat /proc/*/environ 2>/dev/null", env={"GIVEN": "yes"}).stdout
    assert "hunter2" not in text and "GIVEN=yes" in text
    assert {"HOME=/root", "TZ=UTC", "LANG=C.UTF-8", "TERM=xterm-256color"} <= set(text.split("\n"))


def test_nothing_of_the_host_is_visible(inside, tmp_path):
    (tmp_path / "secret").write_text("hunter2")
    result = one(inside, f"cat {tmp_path}/secret; cat /etc/shadow; ls -A /home /root /mnt /host; ls /")
    assert "hunter2" not in result.stdout
    assert result.stdout.startswith("/home:\n\n/mnt:\n\n/root:\n")
    expected = "app bin dev etc home lib lib64 logs mnt opt proc root run sbin srv tmp usr var"
    assert set(result.stdout.split("/root:\n")[1].split()) <= set(expected.split())


def test_the_host_cannot_be_written(inside):
    for place in ("/usr", "/usr/bin", "/opt/python/lib/python3*", "/dev", "/proc/sys/kernel"):
        assert one(inside, f"touch {place}/x").code != 0, place
    result = one(
        inside, "echo '|/bin/true' > /proc/sys/kernel/core_pattern; mount -t tmpfs none /mnt; unshare -Ur true"
    )
    assert result.code != 0 and "Read-only" in result.stderr


def test_there_is_no_network(inside):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    script = (
        f"import socket\nfor address in (('127.0.0.1', {port}), ('1.1.1.1', 53)):\n"
        " try:\n  socket.create_connection(address, 2); print('reached')\n except OSError:\n  print('no')"
    )
    with listener:
        assert one(inside, f'python3 -c "{script}"').stdout == "no\nno\n"
    names = one(inside, "cut -d: -f1 /proc/net/dev | tail -n +3").stdout.split()
    assert names == ["lo"]


def test_only_its_own_processes_are_visible(inside):
    assert int(one(inside, "ls -d /proc/[0-9]* | wc -l").stdout) < 8


def test_commands_cannot_reach_the_agent(inside):
    result = one(inside, "kill -9 1; kill -INT 1; kill -STOP 1; kill -9 -1; ls /proc/1/fd/0 >/dev/null && echo reached")
    assert result.stdout == ""

    async def body(box: Sandbox):
        await box.exec("kill -9 1; kill -STOP 1; kill -9 -1")
        return await box.exec("echo alive; readlink /proc/1/fd/1")

    assert inside(body).stdout == "alive\n"


def test_timeout_kills_the_group_and_what_left_it_goes_with_the_sandbox(inside):
    async def body(box: Sandbox):
        began = time.monotonic()
        slow = await box.exec("sleep 321 & sleep 321", timeout=0.3)
        left = await box.exec("pgrep -x sleep")
        return slow, left, time.monotonic() - began

    slow, left, seconds = inside(body)
    assert slow.timed_out and slow.code == 137 and left.code == 1 and seconds < 100


def test_background_processes_do_not_hold_a_command(inside):
    async def body(box: Sandbox):
        began = time.monotonic()
        first = await box.exec("(while echo noise; do sleep 0.01; done) & echo started")
        seconds = time.monotonic() - began
        await asyncio.sleep(0.2)
        return first, seconds, await box.exec("pgrep -fc 'while echo'")

    first, seconds, still = inside(body)
    assert "started" in first.stdout and seconds < 20 and int(still.stdout) >= 1


def test_cancelled_commands_are_killed(inside):
    async def body(box: Sandbox):
        task = asyncio.create_task(box.exec("sleep 654"))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await box.exec("for n in $(seq 100); do pgrep -x -f 'sleep 654' || exit 1; sleep 0.1; done")

    assert inside(body).code == 1


def test_commands_run_at_the_same_time(inside):
    async def body(box: Sandbox):
        began = time.monotonic()
        results = await asyncio.gather(*(box.exec(f"sleep 2; echo {n}") for n in range(8)))
        return [result.stdout for result in results], time.monotonic() - began

    outputs, seconds = inside(body)
    assert outputs == [f"{n}\n" for n in range(8)] and seconds < 14


def test_output_is_bounded_and_keeps_both_ends(inside):
    result = one(inside, "echo first; yes | head -c 50000000; echo last")
    assert len(result.stdout) < 1_100_000 and result.stdout.startswith("first\n") and result.stdout.endswith("last\n")
    assert "bytes left out" in result.stdout


def test_files_go_in_and_come_out(inside):
    data = bytes(range(256)) * 20_000

    async def body(box: Sandbox):
        await box.upload({"/in/deep/a.bin": TaskFile(data, 0o755), "/in/empty": TaskFile(b"")})
        await box.exec("cd /in && ln -s /etc/passwd link && mkfifo pipe && mkdir none")
        return await box.download("/in"), await box.download("/in/deep/a.bin")

    folder, single = inside(body)
    assert folder == {"deep/a.bin": TaskFile(data, 0o755), "empty": TaskFile(b"", 0o644)}
    assert single == {"a.bin": TaskFile(data, 0o755)}


def test_transfers_that_cannot_be_say_why(inside):
    async def body(box: Sandbox):
        with pytest.raises(BadInput, match="absolute"):
            await box.upload({"relative": TaskFile(b"")})
        with pytest.raises(BadInput, match=r"\.\."):
            await box.upload({"/a/../b": TaskFile(b"")})
        with pytest.raises(SandboxError, match="Read-only"):
            await box.upload({"/usr/a": TaskFile(b"")})
        with pytest.raises(SandboxError, match="/nope: no such file"):
            await box.download("/nope")
        with pytest.raises(SandboxError, match="no such folder"):
            await box.exec("true", cwd="/nope")

    inside(body)


def test_a_download_that_is_too_large_ends_alone(inside, monkeypatch):
    monkeypatch.setattr("sandbox.box.DOWNLOAD_BYTES", 1 << 20)

    async def body(box: Sandbox):
        await box.exec("head -c 40000000 /dev/zero > /tmp/big")
        with pytest.raises(SandboxError, match="more than 1 MiB"):
            await box.download("/tmp/big")
        return await box.exec("echo alive")

    assert inside(body).stdout == "alive\n"


def test_disk_is_bounded(inside):
    result = one(inside, "head -c 100000000 /dev/zero > /app/big; stat -c %s /app/big", limits=Limits(disk_mb=32))
    assert int(result.stdout) <= 32 << 20
    both = "head -c 30000000 /dev/zero > /tmp/a; head -c 30000000 /dev/zero > /root/b; du -cbs /tmp/a /root/b | tail -1"
    result = one(inside, both, limits=Limits(disk_mb=32))
    assert "No space left" in result.stderr and int(result.stdout.split()[0]) <= 32 << 20


@pytest.mark.parametrize(
    ("command", "limits", "reason"),
    [
        (":(){ :|:& };:; sleep 20", Limits(processes=64), "processes"),
        ("python3 -c 'x = bytearray(400 << 20); import time; time.sleep(20)'", Limits(memory_mb=128), "memory"),
        ("sleep 20", Limits(wall_sec=0.5), "wall"),
    ],
)
def test_the_watchdog_kills_what_is_over_its_limit(inside, command, limits, reason):
    began = time.monotonic()
    with pytest.raises(SandboxKilled) as caught:
        one(inside, command, limits=limits)
    assert caught.value.reason == reason
    assert time.monotonic() - began < 15


def test_the_limits_of_processes_are_set(inside):
    result = one(inside, "ulimit -c; ulimit -n; nproc")
    assert result.stdout == "0\n4096\n1\n"


def test_dockerfile_is_followed(inside):
    text = "FROM scratch\nENV NAME=world\nWORKDIR /srv/work\nCOPY data/ in/\nCOPY a.sh .\nRUN echo hello $NAME > out\n"
    files = {
        "Dockerfile": TaskFile(text.encode()),
        "data/x": TaskFile(b"x"),
        "a.sh": TaskFile(b"#!/bin/bash\n", 0o755),
    }
    result = one(inside, "pwd; cat out in/x; test -x a.sh && echo $NAME", files=files)
    assert result.stdout == "/srv/work\nhello world\nxworld\n"


def test_a_failing_run_step_is_one_line(inside):
    files = {"Dockerfile": TaskFile(b"FROM a\nRUN echo why >&2; exit 7\n")}
    with pytest.raises(BadInput, match=r"line 2: .*code 7: why"):
        one(inside, "true", files=files)


def test_the_terminal_is_plain_and_the_same_everywhere(inside):
    tmux = "tmux new-session -x 80 -y 5 -d -s t 'bash --login' && sleep 0.5 && tmux send-keys -t t 'echo hi' Enter"
    result = one(inside, f"{tmux} && sleep 0.5 && tmux capture-pane -ep -t t && ls -A /root")
    if "tmux: command not found" in result.stderr:
        pytest.skip("tmux is not installed")
    assert result.stdout == "root@sandbox:/app# echo hi\nhi\nroot@sandbox:/app#\n\n\n", result.stderr


def test_back_ends_show_the_same_contents():
    missing = [name for name, backend in BACKENDS.items() if backend.program() is None]
    if missing:
        pytest.skip(f"needs every back end; not installed: {', '.join(missing)}")
    folders = "/app /etc /logs /root /tmp /var /dev /opt/python/bin"
    without_times = "sed -E 's/ [A-Z][a-z]{2} .{2} .{5} / /'"
    command = f"env | sort; ls -lAR {folders} | {without_times}; ls /; grep CapEff /proc/self/status; ulimit -a"

    async def look(name: str):
        async with Sandbox.start(backend=name) as box:
            return (await box.exec(command)).stdout

    seen = [asyncio.run(look(name)) for name in BACKENDS]
    assert seen[0] == seen[1]


HOLDER = """
import asyncio, sys
from sandbox import Sandbox
async def main():
    async with Sandbox.start(backend=sys.argv[1]) as box:
        await box.exec("setsid sleep {mark} & tmux new-session -d 'sleep {mark}'")
        task = asyncio.create_task(box.exec("sleep {mark}"))
        await asyncio.sleep(0.2)
        print("ready", flush=True)
        await task
asyncio.run(main())
"""


def sleeping(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"sleep\0{mark}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_killing_the_parent_leaves_no_process(backend):
    mark = f"9{os.getpid()}{time.time_ns() % 1000}"
    parent = subprocess.Popen([sys.executable, "-c", HOLDER.format(mark=mark), backend], stdout=subprocess.PIPE)
    assert parent.stdout and parent.stdout.readline() == b"ready\n"
    assert len(sleeping(mark)) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while sleeping(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleeping(mark) == []


def test_stopping_leaves_no_process(inside):
    mark = f"8{os.getpid()}{time.time_ns() % 1000}"
    one(inside, f"setsid sleep {mark} & nohup sleep {mark} & true")
    assert sleeping(mark) == []


def test_a_stopped_sandbox_says_so(backend):
    async def main():
        box = await Sandbox.start(backend=backend)
        await box.stop()
        await box.stop()
        with pytest.raises(SandboxError, match="not running"):
            await box.exec("true")

    asyncio.run(main())


def task(solution: str, check: str) -> dict[str, TaskFile]:
    return {
        "environment/Dockerfile": TaskFile(b"FROM scratch\nWORKDIR /app\n"),
        "solution/solve.sh": TaskFile(solution.encode()),
        "tests/test.sh": TaskFile(check.encode()),
        "task.toml": TaskFile(b"[verifier]\ntimeout_sec = 2.0\n"),
    }


SOUND = "if test -f done; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n"


@pytest.mark.parametrize(
    ("solution", "check", "expected", "said"),
    [
        ("touch done", SOUND, (1.0, 0.0), ""),
        ("exit 3", SOUND, (0.0, 0.0), "solution exited with 3"),
        ("touch done", "echo soon > /logs/verifier/reward.txt", (None, None), "no readable reward"),
        pytest.param("touch done", "sleep 30", (None, None), "verifier ran out of time", marks=pytest.mark.full),
    ],
)
def test_validate_runs_solution_and_nothing(backend, solution, check, expected, said):
    found = asyncio.run(validate_task(task(solution, check), backend=backend))
    assert (found.oracle, found.noop) == expected
    assert said in found.detail and "\n" not in found.detail


def test_unknown_and_missing_back_ends_are_one_line(monkeypatch):
    with pytest.raises(BadInput, match=r"'apptaner' is unknown.*did you mean 'apptainer'"):
        choose("apptaner")
    for one_backend in BACKENDS.values():
        monkeypatch.setattr(one_backend, "program", lambda: None)
    with pytest.raises(BadInput, match="no sandbox back end is installed"):
        choose("auto")
    with pytest.raises(BadInput, match="apptainer: not installed; install"):
        choose("apptainer")


def test_a_back_end_that_does_not_start_says_why(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("SANDBOX_BWRAP", str(broken))
    with pytest.raises(SandboxError, match=r"bubblewrap does not start .*No permissions"):
        asyncio.run(Sandbox.start(backend="bubblewrap")._start())


def test_an_unprivileged_user_has_the_same(backend):
    python = Path("/usr/bin/python3")
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not python.exists():
        pytest.skip("needs root, to become nobody, and a /usr/bin/python3 that nobody may read")
    sources = [Path(sys.modules[name].__file__ or "").parent.parent for name in ("sandbox", "recipe_core")]
    program = BACKENDS[backend].program() or ""
    environment = {
        "PATH": "/usr/bin:/bin:/usr/sbin",
        "PYTHONPATH": ":".join(map(str, sources)),
        "SANDBOX_BWRAP" if backend == "bubblewrap" else "SANDBOX_APPTAINER": program,
        "SECRET": "hunter2",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    become = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    probe = subprocess.run(
        [*become, python, "-c", "import sys, sandbox; print(sys.version_info >= (3, 11))"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if probe.stdout != "True\n":
        pytest.skip(f"nobody cannot run this checkout with {python}: {probe.stderr[-200:]}")
    inner = "id -u; python3 -c 'import sys; print(sys.prefix)'; env | grep -c SECRET; touch /usr/x || echo kept"
    command = [*become, python, "-m", "sandbox", "run", "--backend", backend, "--", "bash", "-c", inner]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    assert done.stdout == "0\n/opt/python\n0\nkept\n", done.stderr
