"""What hostile commands try from inside a sandbox, on every back end that this machine has.

Three groups: reaching the host or another sandbox, using more than was given, and bending the verdict.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from recipe_core.tasks import TaskFile
from sandbox import Limits, Sandbox, SandboxError, SandboxKilled, agent, validate_task
from sandbox.backends import BACKENDS
from sandbox.skeleton import SYMLINKS, verifier_env

SECRET = "hunter2-9c1f"
PYTHON = "python3 - <<'END'\n{}\nEND"


@pytest.fixture
def inside(backend: str) -> Callable[..., object]:
    """Return a function that runs a coroutine function with a fresh sandbox."""

    def run(body: Callable[[Sandbox], Awaitable[object]], **options):
        async def main() -> object:
            async with Sandbox.start(backend=backend, **options) as box:
                return await body(box)

        return asyncio.run(main())

    return run


def processes(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def sleep_mark() -> str:
    return f"7{os.getpid()}{time.time_ns() % 1_000_000}"


# Reaching the host or another sandbox


def test_files_of_the_host_cannot_be_read(inside, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    planted = Path.home() / f".sandbox-escape-{os.getpid()}"
    planted.write_text(SECRET)
    places = [
        tmp_path / "secret",
        planted,
        f"/proc/1/root{planted}",
        f"/proc/1/cwd{planted}",
        f"/oldroot{planted}",
        f"/host{planted}",
    ]
    try:
        climb = (
            "cd /proc/1/cwd; for n in 1 2 3 4 5 6; do cd ..; cat root/.sandbox-escape* home/*/.sandbox-escape*; done"
        )
        reads = [f"cat {place}; grep -rsa {SECRET} {Path(str(place)).parent}" for place in places]
        result = inside(
            lambda box: box.exec("; ".join([*reads, climb, f"grep -rsl {SECRET} /app /tmp /mnt /run /var"]))
        )
    finally:
        planted.unlink()
    assert SECRET not in result.stdout + result.stderr
    assert "/app" not in result.stdout


def test_another_trial_cannot_be_read_written_or_signalled(backend):
    mark = sleep_mark()

    async def main():
        async with Sandbox.start(backend=backend) as victim, Sandbox.start(backend=backend) as thief:
            await victim.exec(f"echo {SECRET} > /app/work; echo {SECRET} > /dev/shm/work; setsid sleep {mark} &")
            theft = f"grep -rsa {SECRET} /app /dev/shm /tmp /proc/[0-9]*/root/app /proc/[0-9]*/environ; pgrep -f {mark}"
            stolen = await thief.exec(f"{theft}; kill -9 -1; pkill -9 sleep; rm -rf /app/* /dev/shm/*")
            left = await victim.exec("cat /app/work /dev/shm/work; pgrep -xc sleep")
            return stolen.stdout, left.stdout

    stolen, left = asyncio.run(main())
    assert SECRET not in stolen and mark not in stolen
    assert left == f"{SECRET}\n{SECRET}\n1\n"


def test_secrets_of_the_environment_are_not_there(inside, monkeypatch):
    monkeypatch.setenv("TEACHER_API_KEY", SECRET)
    looks = "env; cat /proc/*/environ /proc/*/cmdline /proc/*/task/*/environ | tr '\\0' '\\n'; keyctl show 2>&1"
    result = inside(lambda box: box.exec(looks))
    assert "HOME=/root" in result.stdout
    assert SECRET not in result.stdout + result.stderr and "TEACHER_API_KEY" not in result.stdout


def test_nothing_outside_can_be_written(inside, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    tries = [f"echo changed > {kept}", f"mkdir -p {tmp_path} && echo changed > {kept}", f"rm -f {kept}"]
    tries += ["rm -rf /usr/bin", "mount -o remount,rw /usr", "umount -l /usr", "mount --bind /app /usr"]
    tries += ["mknod /app/disk b 254 0 && head -c 1 /app/disk", "chroot /proc/1/root true", "nsenter -t 1 -m true"]
    tries += [
        "unshare -Urm true",
        "unshare -m true",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo b > /proc/sysrq-trigger",
    ]

    async def body(box: Sandbox):
        codes = {each: (await box.exec(f"{each} 2>/dev/null")).code for each in tries[3:]}
        await box.exec("; ".join(tries[:3]))
        return codes

    codes = inside(body)
    assert kept.read_text() == "as it was"
    assert Path("/usr/bin/env").exists()
    # Its own root is all that /proc/1/root leads to.
    assert {each for each, code in codes.items() if code == 0} <= {"chroot /proc/1/root true"}


def test_no_kind_of_socket_leads_out(inside, tmp_path):
    name = f"sandbox-escape-{os.getpid()}"
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{name}")
    abstract.listen()
    named = socket.socket(socket.AF_UNIX)
    named.bind(str(tmp_path / "s"))
    named.listen()
    script = f"""
import os, socket
for family, address in (
    (socket.AF_INET, ("127.0.0.1", {listener.getsockname()[1]})),
    (socket.AF_INET, ("{socket.gethostbyname(socket.gethostname())}", {listener.getsockname()[1]})),
    (socket.AF_INET, ("169.254.169.254", 80)),
    (socket.AF_UNIX, "\\0{name}"),
    (socket.AF_UNIX, "{tmp_path}/s"),
    (socket.AF_VSOCK, (2, 22)),
    (socket.AF_VSOCK, (1, 22)),
    (socket.AF_PACKET, ("lo", 0)),
):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(0.3)
            one.connect(address)
        print("reached", address)
    except OSError:
        print("no")
"""
    with listener, abstract, named:
        result = inside(lambda box: box.exec(PYTHON.format(script)))
    assert result.stdout == "no\n" * 8, result.stderr


def test_sockets_that_programs_use_among_themselves_work(inside):
    script = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), 2)
socket.create_server(("::1", 0), family=socket.AF_INET6)
socket.socketpair()
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
print("fine")
"""
    assert inside(lambda box: box.exec(PYTHON.format(script))).stdout == "fine\n"


# Using more than was given


def test_a_fork_bomb_ends_its_sandbox_alone(backend):
    async def main():
        async with Sandbox.start(backend=backend) as bystander:
            began = time.monotonic()
            with pytest.raises(SandboxKilled) as caught:
                async with Sandbox.start(limits=Limits(processes=100), backend=backend) as box:
                    await box.exec("bomb() { bomb | bomb & }; bomb; sleep 30", timeout=30)
            seconds = time.monotonic() - began
            return caught.value.reason, seconds, (await bystander.exec("echo alive")).stdout

    reason, seconds, said = asyncio.run(main())
    assert (reason, said) == ("processes", "alive\n") and seconds < 15


def test_a_full_disk_is_the_sandboxes_own(inside):
    def used() -> int:
        return sum(shutil.disk_usage(place).used for place in ("/tmp", "/dev/shm"))

    fill = "for place in / /tmp /app /var/tmp /usr/local /dev/shm; do head -c 200M /dev/zero > $place/fill; done; "
    fill += "du -cbs /fill /*/fill /*/*/fill | tail -1"
    before = used()
    result = inside(lambda box: box.exec(fill, timeout=60), limits=Limits(disk_mb=48))
    assert "No space left" in result.stderr
    assert int(result.stdout.split()[0]) <= (48 + 64 + 64) << 20
    # The test's own machine has other work; what was tried to be written is a multiple of this.
    assert used() - before < 150 << 20


@pytest.mark.full
def test_files_without_number_end(inside):
    script = "import os\nos.mkdir('/app/x')\nfor n in range(400_000): open(f'/app/x/{n}', 'x').close()"
    try:
        result = inside(lambda box: box.exec(PYTHON.format(script), timeout=60))
        assert "No space left" in result.stderr
    except SandboxKilled as error:
        assert error.reason == "files"


@pytest.mark.full
@pytest.mark.parametrize(
    "hog",
    [
        "held = []\nwhile True: held.append(bytearray(8 << 20))",
        "import mmap\nheld = mmap.mmap(-1, 4 << 30)\nfor at in range(0, 4 << 30, 4096): held[at] = 1",
        "import os\nfor n in range(64):\n if os.fork() == 0: held = bytearray(16 << 20); import time; time.sleep(30)\n"
        "import time; time.sleep(30)",
    ],
    ids=["one process", "shared", "many processes"],
)
def test_memory_without_end_is_reported(inside, hog):
    began = time.monotonic()
    with pytest.raises(SandboxKilled) as caught:
        inside(lambda box: box.exec(PYTHON.format(hog), timeout=60), limits=Limits(memory_mb=128))
    assert caught.value.reason == "memory" and time.monotonic() - began < 20


DAEMON = """
import os, signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
os.execvp("sleep", ["sleep", "{mark}"])
"""


def test_no_process_outlives_its_sandbox(inside):
    mark = sleep_mark()

    async def body(box: Sandbox) -> int:
        await box.exec(PYTHON.format(DAEMON.format(mark=mark)))
        await box.exec(f"setsid nohup sleep {mark} >/dev/null 2>&1 & disown; tmux new-session -d 'sleep {mark}'")
        for _ in range(100):
            if len(processes(mark)) >= 3:
                break
            await asyncio.sleep(0.02)
        return len(processes(f"sleep\0{mark}"))

    assert inside(body) >= 2
    assert processes(mark) == []


# Bending the verdict


async def seal_and_look(box: Sandbox, prepare: str, verifier: str):
    """Let an agent prepare, then judge as the harness does: seal, upload tests, run them, read the verdict."""
    prepared = await box.exec(prepare)
    assert prepared.code == 0, prepared.stderr
    await box.seal()
    await box.upload(
        {"/tests/test.sh": TaskFile(verifier.encode(), 0o755), "/tests/check.py": TaskFile(CHECK.encode())}
    )
    await box.exec("(/tests/test.sh) > /logs/verifier/test-stdout.txt 2>&1")
    return await box.download("/logs/verifier")


CHECK = "import json, pathlib\nprint(1 if pathlib.Path('/app/done').exists() else 0)\n"
VERIFIER = "#!/bin/bash\npython3 /tests/check.py > /logs/verifier/reward.txt\n"
SYSTEM_VERIFIER = (
    "#!/bin/bash\nfor python in /usr/bin/python3.*[0-9]; do $python /tests/check.py; done > /logs/verifier/reward.txt\n"
)
SHELL_VERIFIER = "#!/bin/bash\nif grep -q right /app/answer; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n"
WINS = "#!/bin/bash\\necho 1 > /logs/verifier/reward.txt; echo 1; exit 0\\n"
WATCHER = (
    'setsid bash -c \'trap "" TERM HUP INT; while sleep 0.01; do '
    'echo 1 > /logs/verifier/reward.txt; echo "print(1)" > /tests/check.py; done\' >/dev/null 2>&1 & disown; sleep 0.1'
)
ALWAYS = "while sleep 0.01; do echo 1 > /logs/verifier/reward.txt; done"
HOOK = "echo 'print(1); import os; os._exit(0)'"
TRICKS = {
    "a verdict written before": "cd /logs/verifier; echo 1 > reward.txt; echo '{\"reward\": 1}' > reward.json",
    "a process that waits for the tests": WATCHER,
    "a process in a terminal": f"tmux new-session -d '{ALWAYS}'",
    "a module beside the tests": "mkdir /tests; echo 'print(1); raise SystemExit' > /tests/json.py",
    "tests through a link": "mkdir /app/t; echo 'print(1); raise SystemExit' > /app/t/json.py; ln -s /app/t /tests",
    "a test that is a pipe": "mkdir /tests; mkfifo /tests/test.sh /tests/check.py",
    "a verdict that is a pipe": "rm -rf /logs/verifier; mkdir /logs/verifier; mkfifo /logs/verifier/reward.txt",
    "logs that are a link": "mkdir -p /app/v; mv /logs /old; ln -s /app /logs; ln -s /app/v /app/verifier",
    "a program on PATH": f"cd /usr/local/bin; printf '{WINS}' > python3; chmod +x python3; cp python3 grep",
    "a module in the home": "for v in 3.11 3.12 3.13 3.14; do d=/root/.local/lib/python$v/site-packages; mkdir -p $d; "
    f"{HOOK} | tee $d/usercustomize.py > $d/sitecustomize.py; done",
    "a module of the system": "for v in 3.9 3.10 3.11 3.12 3.13; do "
    "for d in /etc/python$v /usr/local/lib/python$v/dist-packages; do "
    f"mkdir -p $d; {HOOK} > $d/sitecustomize.py; done; done",
    "a path file through a link": "for v in 3.9 3.10 3.11 3.12 3.13; do d=/srv/python$v/dist-packages; mkdir -p $d; "
    "echo 'import os; os.write(1, b\"1\\n\"); os._exit(0)' > $d/a.pth; ln -s /srv/python$v /usr/local/lib/; done",
    "variables in files": "for f in /etc/environment /root/.bashrc /root/.profile /root/.bash_profile /etc/profile; do "
    "echo 'PATH=/app:$PATH; BASH_ENV=/app/x; echo 1 > /logs/verifier/reward.txt' >> $f; done; "
    f"printf '{WINS}' > /app/grep; chmod +x /app/grep",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_verdict_is_not_bent(inside, trick):
    files = inside(lambda box: seal_and_look(box, TRICKS[trick], VERIFIER))
    assert files["reward.txt"].content == b"0\n", files
    assert set(files) == {"reward.txt", "test-stdout.txt"}


@pytest.mark.parametrize("trick", ["a program on PATH", "variables in files", "a process in a terminal"])
def test_a_verdict_of_the_shell_is_not_bent(inside, trick):
    files = inside(lambda box: seal_and_look(box, TRICKS[trick], SHELL_VERIFIER))
    assert files["reward.txt"].content == b"0\n", files


@pytest.mark.parametrize("trick", ["a module of the system", "a path file through a link", "a module in the home"])
def test_a_verdict_of_the_systems_python_is_not_bent(inside, trick):
    files = inside(lambda box: seal_and_look(box, TRICKS[trick], SYSTEM_VERIFIER))
    if b"No such file" in files["test-stdout.txt"].content:
        pytest.skip("the system has no Python in /usr/bin")
    assert set(files["reward.txt"].content.split()) == {b"0"}, files


def test_an_honest_result_is_judged_as_such(inside):
    prepare = "touch /app/done; mkdir -p /root/.local/bin; echo 127.0.0.1 me >> /etc/hosts; setsid sleep 60 &"
    assert inside(lambda box: seal_and_look(box, prepare, VERIFIER))["reward.txt"].content == b"1\n"
    installs = "printf '#!/bin/bash\\necho right\\n' > /usr/local/bin/mine; chmod +x /usr/local/bin/mine"
    runs = "#!/bin/bash\n[[ $(mine) == right ]] && echo 1 > /logs/verifier/reward.txt\n"
    assert inside(lambda box: seal_and_look(box, installs, runs))["reward.txt"].content == b"1\n"


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("mv /opt /old; mkdir -p /opt/python/bin; ln -s /usr/bin/true /opt/python/bin/python3", "/opt/python"),
        ("/usr/bin/cp -a /usr/bin/bash /app/; /usr/bin/rm /bin; /usr/bin/ln -s /app /bin", "/bin"),
        ("echo /app/evil.so > /etc/ld.so.preload", "/etc/ld.so.preload"),
        ("mv /etc /old; mkdir /etc; cp -a /old/. /etc/ 2>/dev/null || true", "/etc/ld.so.cache"),
        ("python3 -c \"import os; os.rename('/lib64', '/l'); os.symlink('/app', '/lib64')\"", "/lib64"),
    ],
    ids=["python", "programs", "preload", "libraries", "loader"],
)  # fmt: skip
def test_replaced_programs_are_found_before_the_verdict(inside, prepare, said):
    async def body(box: Sandbox):
        await box.exec(prepare)
        with pytest.raises(SandboxKilled) as caught:
            await box.seal()
        with pytest.raises(SandboxError):
            await box.exec("true")
        return caught.value

    caught = inside(body)
    assert caught.reason == "tampered" and said in str(caught)


def test_the_agent_cannot_be_hindered(inside):
    async def body(box: Sandbox):
        done = await box.exec("prlimit --pid 1 --fsize=0 --nofile=4 --cpu=1; ulimit -f 0; touch /app/one; kill -9 -1")
        await box.seal()
        await box.upload({"/tests/a": TaskFile(b"x" * (1 << 20))})
        return done.stderr, await box.download("/tests")

    stderr, files = inside(body)
    assert "Operation not permitted" in stderr and len(files["a"].content) == 1 << 20


def test_a_verdict_needs_room(inside):
    async def body(box: Sandbox):
        await box.exec("head -c 100M /dev/zero > /app/fill")
        with pytest.raises(SandboxKilled) as caught:
            await box.seal()
        return caught.value

    caught = inside(body, limits=Limits(disk_mb=16))
    assert caught.reason == "disk" and "0 KiB of disk left" in str(caught)


def test_what_fills_the_verifiers_folders_is_no_hindrance(inside):
    files = inside(
        lambda box: seal_and_look(
            box, "head -c 100M /dev/zero > /logs/verifier/fill || true; touch /app/done", VERIFIER
        ),
        limits=Limits(disk_mb=32),
    )
    assert files["reward.txt"].content == b"1\n"


def test_a_task_may_keep_its_processes(inside):
    async def body(box: Sandbox):
        await box.exec("setsid sleep 60 & mkdir /tests; touch /tests/json.py")
        await box.seal(end_processes=False)
        return await box.exec("pgrep -xc sleep; ls /tests")

    assert inside(body).stdout == "1\n"


def test_a_command_that_still_runs_ends_with_its_work(inside):
    async def body(box: Sandbox):
        running = asyncio.create_task(box.exec("sleep 60", timeout=None))
        await asyncio.sleep(0.1)
        await box.seal()
        return await asyncio.wait_for(running, 5)

    assert inside(body).code == 137


def test_a_download_does_not_wait_for_pipes(inside):
    async def body(box: Sandbox):
        swap = "while :; do rm -f a; mkfifo a; rm -f a; echo x > a; done"
        await box.exec(f"mkdir /app/d; cd /app/d; setsid bash -c '{swap}' & sleep 0.05")
        for _ in range(30):
            try:
                found = await asyncio.wait_for(box.download("/app/d"), 5)
            except SandboxError as error:
                # Gone between being listed and being opened.
                assert "No such file" in str(error)
                continue
            assert set(found) <= {"a"}
        return (await box.exec("echo alive")).stdout

    assert inside(body) == "alive\n"


def test_validation_does_not_believe_a_solution_that_cheats(backend):
    cheat = "mkdir -p /logs/verifier; echo '{\"reward\": 1}' > /logs/verifier/reward.json; " + WATCHER
    files = {
        "environment/Dockerfile": TaskFile(b"FROM scratch\nWORKDIR /app\n"),
        "solution/solve.sh": TaskFile(cheat.encode()),
        "tests/test.sh": TaskFile(b"sleep 0.3; echo 0 > /logs/verifier/reward.txt\n"),
    }
    found = asyncio.run(validate_task(files, backend=backend))
    assert (found.oracle, found.noop) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/local/bin:/usr/bin:/bin", "/usr/bin:/bin:/usr/local/bin"),
        ("/app/bin:/opt/python/bin:/usr/local/bin:/bin", "/opt/python/bin:/bin:/app/bin:/usr/local/bin"),
        ("", ""),
        (":/usr/bin::", "/usr/bin"),
    ],
)
def test_programs_of_the_sandbox_come_first_for_a_verifier(path, expected):
    given = {"PATH": path, "HOME": "/root"}
    assert verifier_env(given) == {"PATH": expected, "HOME": "/root", "PYTHONNOUSERSITE": "1"}
    assert given == {"PATH": path, "HOME": "/root"}


@pytest.mark.full
@pytest.mark.parametrize("network", [(), ("--net", "--network", "none")], ids=["network", "no network"])
def test_a_sandbox_in_a_container_is_as_closed(tmp_path, network):
    apptainer = BACKENDS["apptainer"].program()
    if apptainer is None or BACKENDS["bubblewrap"].program() is None:
        pytest.skip("needs apptainer and bubblewrap")
    image = tmp_path / "image"
    for folder in ("usr", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "root", "opt"):
        (image / folder).mkdir(parents=True)
    for link, target in SYMLINKS.items():
        (image / link.strip("/")).symlink_to(target)
    words = [apptainer, "--silent", "exec", "--fakeroot" if os.geteuid() == 0 else "--userns", "--cleanenv"]
    words += ["--no-home", "--no-mount", "cwd,bind-paths", *network]
    checkout = Path(__file__).resolve().parents[2]
    for place in ("/usr", os.path.realpath(sys.base_prefix), checkout):
        words += ["--bind", str(place)]
    look = (
        f"id -u; tail -n +3 /proc/net/dev | cut -d: -f1; touch /usr/x || echo kept; ls {checkout} || ls -d /proc/[0-9]*"
    )
    sandbox = [sys.executable, "-m", "sandbox", "run", "--backend", "bubblewrap", "--", "bash", "-c", look]
    done = subprocess.run([*words, image, *sandbox], capture_output=True, text=True, timeout=120)
    user, interface, kept, *seen = done.stdout.split()
    assert (user, interface, kept) == ("0", "lo", "kept"), done.stderr
    assert len(seen) < 8 and "/proc/1" in seen


def decide(words: list[tuple[int, int, int, int]], data: dict[int, int]) -> int:
    """Run a filter as the kernel would; `data` gives the 32-bit words of the call by their offset."""
    held = at = 0
    while True:
        code, if_true, if_false, value = words[at]
        at += 1
        if code == agent.LOAD:
            held = data[value]
        elif code == agent.RETURN:
            return value
        else:
            at += if_true if (held == value if code == agent.EQUAL else held >= value) else if_false


@pytest.mark.parametrize("machine", agent.AUDIT)
def test_the_filter_refuses_what_it_says_and_nothing_more(machine):
    audit, make_socket, prlimit, io_uring = agent.AUDIT[machine]
    words = agent.filter_words(machine)

    def call(number: int, first: int = 0, kind: int = audit) -> int:
        found = decide(words, {0: number, 4: kind, 16: first})
        return 0 if found == agent.ALLOW else found & 0xFFFF

    families = [family for family in range(46) if call(make_socket, family) == 0]
    assert families == [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK]
    assert call(make_socket, socket.AF_VSOCK) == errno.EAFNOSUPPORT
    assert [call(prlimit, pid) for pid in (0, 1, 2)] == [0, errno.EPERM, 0]
    assert call(io_uring) == errno.ENOSYS
    assert call(0, kind=0x40000003) == call(0x40000000 | make_socket) == errno.ENOSYS
    assert [call(number, 1) for number in (0, 1, 40, 59, 300, 435)] == [0] * 6


def test_unknown_machines_have_no_filter():
    assert agent.filter_words("pdp11") == []
