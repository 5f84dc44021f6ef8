# ruff: noqa: PTH101, PTH103, PTH106, PTH108, PTH112, PTH113, PTH114, PTH115, PTH118, PTH119, PTH120, PTH123, PTH208, PTH211
# ruff: noqa: SIM105
# Pathlib and contextlib would lengthen every start.
"""The exec agent: process 1 of a sandbox, speaking with the host over its standard input and output.

It stands alone (standard library only, read by whatever Python the sandbox has) and is started as
`python3 -I -S agent.py`. A message is a JSON object after its length in 4 bytes, big-endian. Requests carry `op` and
`id`; answers carry the `id`. Bytes travel in base64. Input that ends means that the host is gone: the agent exits,
and the kernel ends every other process of the namespace with it.

One thread, one poll loop: forking stays cheap and safe, and there is one place that reaps children.
"""

import base64
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import time

CHUNK = 1 << 20
READ_BYTES = 1 << 16
PR_SET_DUMPABLE, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 4, 22, 2
KEYCTL_JOIN_SESSION_KEYRING = 1
# The number of keyctl(2).
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271}
# What the filter of system calls knows a machine by, and the numbers of socket(2), prlimit64(2), io_uring_setup(2).
AUDIT = {
    "x86_64": (0xC000003E, 41, 302, 425),
    "aarch64": (0xC00000B7, 198, 261, 425),
    "riscv64": (0xC00000F3, 198, 261, 425),
    "ppc64le": (0xC0000015, 326, 325, 425),
}
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
X32 = 0x40000000
EPERM, ENOSPC, ENOSYS, EAFNOSUPPORT = 1, 28, 38, 97
# Files by which one that ran before could act in every Python that starts later.
PYTHON_PLACES = ("/etc", "/usr/local/lib", "/root/.local/lib")
PYTHON_HOOKS = ("sitecustomize", "usercustomize")
LOADER_HOOK = "/etc/ld.so.preload"
KILL_SEC = 10.0
# Fewer than this many files that can still be made are as good as a full disk.
FEWEST_FILES = 64


class Capture:
    """One output stream of a command: its head and its tail, never more than `limit` bytes."""

    def __init__(self, fd, limit):
        self.fd = fd
        self.half = limit // 2
        self.head = bytearray()
        self.tail = bytearray()
        self.dropped = 0
        self.wanted = True
        os.set_blocking(fd, False)

    def add(self, data):
        """Take what was read."""
        if not self.wanted:
            return
        room = self.half - len(self.head)
        self.head += data[:room] if room > 0 else b""
        self.tail += data[max(room, 0) :]
        if len(self.tail) > 2 * self.half:
            self._trim()

    def _trim(self):
        excess = len(self.tail) - self.half
        if excess > 0:
            del self.tail[:excess]
            self.dropped += excess

    def value(self):
        """Return head, mark and tail."""
        self._trim()
        mark = b"\n[... %d bytes left out ...]\n" % self.dropped if self.dropped else b""
        return bytes(self.head) + mark + bytes(self.tail)


class Job:
    """One running command."""

    def __init__(self, request, pid, streams):
        self.id = request["id"]
        self.pid = pid
        self.streams = streams
        self.deadline = time.monotonic() + request["timeout"] if request["timeout"] is not None else None
        self.timed_out = False


class Agent:
    """The loop and what it knows."""

    def __init__(self, fd_in, fd_out):
        self.fd_in = fd_in
        self.fd_out = fd_out
        self.pending = bytearray()
        self.jobs = {}
        self.captures = {}
        self.poll = select.poll()
        self.poll.register(fd_in, select.POLLIN)
        os.set_blocking(fd_in, False)
        self.wake, writer = os.pipe()
        for fd in (self.wake, writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.poll.register(self.wake, select.POLLIN)
        self.guarded = {}
        self.rlimits = []

    def send(self, **message):
        """Write one message."""
        payload = json.dumps(message).encode()
        view = memoryview(struct.pack(">I", len(payload)) + payload)
        while view:
            view = view[os.write(self.fd_out, view) :]

    def run(self):
        """Serve until the host is gone."""
        while True:
            for fd, _ in self.poll.poll(self._wait_ms()):
                if fd == self.fd_in:
                    self._receive()
                elif fd == self.wake:
                    self._drain_wake()
                else:
                    self._read(self.captures[fd])
            self._reap()
            self._expire()

    def _wait_ms(self):
        deadlines = [job.deadline for job in self.jobs.values() if job.deadline is not None]
        if not deadlines:
            return None
        return max(0, int((min(deadlines) - time.monotonic()) * 1000) + 1)

    def _drain_wake(self):
        try:
            while os.read(self.wake, 4096):
                pass
        except BlockingIOError:
            pass

    def _receive(self):
        try:
            data = os.read(self.fd_in, CHUNK)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)
        self.pending += data
        while len(self.pending) >= 4:
            (length,) = struct.unpack_from(">I", self.pending)
            if len(self.pending) < 4 + length:
                return
            request = json.loads(bytes(self.pending[4 : 4 + length]))
            del self.pending[: 4 + length]
            self._handle(request)

    def _handle(self, request):
        try:
            getattr(self, "op_" + request["op"])(request)
        except OSError as error:
            self.send(id=request["id"], error=f"{error.filename or request.get('path', '')}: {error.strerror}")
        except ValueError as error:
            # A path that no file can have, such as one with a null byte.
            self.send(id=request["id"], error=f"{request.get('path', '')!r}: {error}")

    def op_init(self, request):
        """Make the skeleton, then bind this process (and so every command) to its limits."""
        os.umask(0o022)
        for path, mode in request["folders"]:
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
        for path, text in request["files"]:
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
        for target, path in request["links"]:
            os.symlink(target, path)
        os.sched_setaffinity(0, request["cpus"])
        for name, wanted in request["rlimits"]:
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(kind, (value, value))
            self.rlimits.append((name, kind, value))
        self.guarded = {path: identity(path) for path in request["guarded"]}
        try:
            # Where the whole machine runs out of memory, the kernel takes a sandbox before its owner.
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
                stream.write("500")
        except OSError:
            pass
        shut_off()
        # Nothing that a command can replace may ever be loaded into this process.
        sys.meta_path.clear()
        self.send(id=request["id"])

    def op_seal(self, request):
        """Make the sandbox fit to judge what was done in it; see `Sandbox.seal`."""
        if request["end_processes"] and not self._end_processes():
            self.send(id=request["id"], error="a process cannot be ended")
            return
        tampered = [path for path, seen in self.guarded.items() if identity(path) != seen]
        tampered += [LOADER_HOOK] if identity(LOADER_HOOK) else []
        tampered += [name for name, kind, value in self.rlimits if resource.getrlimit(kind) != (value, value)]
        remove_python_hooks()
        for path in request["clear"]:
            try:
                make_anew(path)
            except OSError as error:
                # Only what a command put there can hinder this; a full disk is told by what is free.
                if error.errno != ENOSPC:
                    tampered.append(path)
        state = os.statvfs("/")
        free = state.f_bavail * state.f_frsize if state.f_favail > FEWEST_FILES else 0
        self.send(id=request["id"], tampered=tampered, free_bytes=free)

    def _end_processes(self):
        """Kill every process but this one, and wait until they are gone."""
        deadline = time.monotonic() + KILL_SEC
        while time.monotonic() < deadline:
            try:
                # One call reaches all of them at once, and none can fork with the signal pending.
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._reap()
            if not any(name.isdigit() and name != "1" for name in os.listdir("/proc")):
                return True
            time.sleep(0.001)
        return False

    def op_exec(self, request):
        """Start a command."""
        if not os.path.isdir(request["cwd"]):
            self.send(id=request["id"], error=f"{request['cwd']}: no such folder to run in")
            return
        pipes = [os.pipe(), os.pipe()]
        try:
            pid = os.fork()
        except OSError:
            for fd in (*pipes[0], *pipes[1]):
                os.close(fd)
            raise
        if pid == 0:
            self._become(request, pipes)
        streams = []
        for reader, writer in pipes:
            os.close(writer)
            capture = Capture(reader, request["output_bytes"])
            self.captures[reader] = capture
            self.poll.register(reader, select.POLLIN)
            streams.append(capture)
        self.jobs[pid] = Job(request, pid, streams)

    def _become(self, request, pipes):
        try:
            os.setsid()
            null = os.open("/dev/null", os.O_RDONLY)
            for source, target in ((null, 0), (pipes[0][1], 1), (pipes[1][1], 2)):
                os.dup2(source, target)
            # Python ignores these, and what is ignored stays ignored across exec.
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(request["cwd"])
            os.execve("/bin/bash", ["bash", "-c", request["command"]], request["env"])
        except BaseException as error:
            os.write(2, f"sandbox: {error}\n".encode())
        os._exit(127)

    def _read(self, capture):
        try:
            data = os.read(capture.fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.poll.unregister(capture.fd)
            del self.captures[capture.fd]
            os.close(capture.fd)
            return False
        capture.add(data)
        return True

    def _reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            job = self.jobs.pop(pid, None)
            if job:
                self._finish(job, status)

    def _finish(self, job, status):
        outputs = []
        for capture in job.streams:
            # What the command wrote is in the pipe by now. What it left running may write on: that is read and
            # thrown away, so that it meets neither a full pipe nor a closed one.
            for _ in range(32):
                if self.captures.get(capture.fd) is not capture or not self._read(capture):
                    break
            capture.wanted = False
            outputs.append(base64.b64encode(capture.value()).decode())
            capture.head.clear()
            capture.tail.clear()
        code = os.waitstatus_to_exitcode(status)
        self.send(
            id=job.id,
            stdout=outputs[0],
            stderr=outputs[1],
            code=128 - code if code < 0 else code,
            timed_out=job.timed_out,
        )

    def _expire(self):
        now = time.monotonic()
        for job in self.jobs.values():
            if job.deadline is not None and now >= job.deadline:
                job.timed_out = True
                job.deadline = None
                self._kill_group(job)

    def _kill_group(self, job):
        try:
            os.killpg(job.pid, signal.SIGKILL)
        except ProcessLookupError:
            # It has not yet made its group: it is alone.
            os.kill(job.pid, signal.SIGKILL)

    def op_kill(self, request):
        """Kill a command that nobody waits for any more."""
        for job in self.jobs.values():
            if job.id == request["target"]:
                self._kill_group(job)

    def op_put(self, request):
        """Write a file, or a further piece of it."""
        path = request["path"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        if request["append"]:
            flags |= os.O_APPEND
        else:
            # What lies there may be a link to another file, or a pipe that would be waited for.
            flags |= os.O_CREAT | os.O_EXCL
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        with open(os.open(path, flags, 0o600), "wb") as stream:
            stream.write(base64.b64decode(request["data"]))
            os.fchmod(stream.fileno(), request["mode"])
        self.send(id=request["id"])

    def op_get(self, request):
        """Send the regular files at or below a path, in chunks; links and special files below it are left out."""
        top = os.path.realpath(request["path"])
        if os.path.isdir(top):
            for folder, names, files in os.walk(top):
                names.sort()
                for name in sorted(files):
                    path = os.path.join(folder, name)
                    self._send_file(request["id"], path, os.path.relpath(path, top))
        elif os.path.isfile(top):
            self._send_file(request["id"], top, os.path.basename(request["path"].rstrip("/")))
        else:
            raise FileNotFoundError(2, "no such file or folder", request["path"])
        self.send(id=request["id"], done=True)

    def _send_file(self, request_id, path, name):
        name = os.fsencode(name).decode("utf-8", "backslashreplace")
        try:
            # Opened first and looked at then: between the two it could become a pipe that would be waited for.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            if stat.S_ISREG(os.lstat(path).st_mode):
                raise
            return
        with open(fd, "rb") as stream:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                return
            data = stream.read(CHUNK)
            while True:
                self.send(id=request_id, name=name, mode=mode & 0o777, data=base64.b64encode(data).decode())
                data = stream.read(CHUNK)
                if not data:
                    return


def identity(path):
    """Return what tells a file from one put in its place: a link's target, else device and inode; None for no file."""
    try:
        state = os.lstat(path)
        return [os.readlink(path)] if stat.S_ISLNK(state.st_mode) else [state.st_dev, state.st_ino]
    except OSError:
        return None


def remove(path):
    """Remove a file, link or folder with everything in it, where there is one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError:
        for folder, names, files in os.walk(path, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            for name in names:
                below = os.path.join(folder, name)
                os.unlink(below) if os.path.islink(below) else os.rmdir(below)
        os.rmdir(path)


def make_anew(path):
    """Make an empty folder, in place of anything that is there."""
    parent = os.path.dirname(path)
    if os.path.islink(parent) or os.path.isfile(parent):
        os.unlink(parent)
    remove(path)
    os.makedirs(path)
    os.chmod(path, 0o755)


def remove_python_hooks():
    """Remove the files that a system's Python runs at its start, where they can be written."""
    for top in PYTHON_PLACES:
        for folder, names, files in os.walk(top, followlinks=True):
            if folder == top:
                names[:] = [name for name in names if name.startswith("python3")]
                continue
            for name in (*names, *files):
                if name.split(".")[0] in PYTHON_HOOKS or name.endswith(".pth"):
                    try:
                        remove(os.path.join(folder, name))
                    except OSError:
                        pass
            names[:] = [name for name in names if name.endswith("-packages")]


def filter_words(machine):
    """Return the filter of system calls as (code, jump if true, jump if false, value); empty for unknown machines.

    A network namespace does not hold every kind of socket (AF_VSOCK reaches the machine that hosts a virtual one), so
    only local, Internet and netlink sockets can be made; io_uring would make the others. Lowering the limits of this
    process is refused.
    """
    if machine not in AUDIT:
        return []
    number, socket, prlimit, io_uring = AUDIT[machine]
    argument = 16
    # Jumps count from the next word; the last three are where they end.
    return [
        (LOAD, 0, 0, 4),
        (EQUAL, 0, 13, number),
        (LOAD, 0, 0, 0),
        (AT_LEAST, 11, 0, X32),
        (EQUAL, 10, 0, io_uring),
        (EQUAL, 3, 0, socket),
        (EQUAL, 0, 9, prlimit),
        (LOAD, 0, 0, argument),
        (EQUAL, 8, 7, 1),
        (LOAD, 0, 0, argument),
        (EQUAL, 5, 0, 1),
        (EQUAL, 4, 0, 2),
        (EQUAL, 3, 0, 10),
        (EQUAL, 2, 0, 16),
        (RETURN, 0, 0, REFUSE | EAFNOSUPPORT),
        (RETURN, 0, 0, REFUSE | ENOSYS),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE | EPERM),
    ]


def shut_off():
    """Keep commands from tracing this process or opening its pipes, from sockets that leave the sandbox, and from the
    host's session keyring.
    """
    try:
        import ctypes  # a Python built without libffi lacks it
    except ImportError:
        return
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    machine = os.uname().machine
    if machine in KEYCTL:
        libc.syscall(KEYCTL[machine], KEYCTL_JOIN_SESSION_KEYRING, 0)
    words = filter_words(machine)
    if words:
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *word) for word in words))
        program = struct.pack("HxxxxxxP", len(words), ctypes.addressof(code))
        # Kernels without such filters refuse; the namespaces hold all the same.
        libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def main():
    """Take the two pipes out of the reach of commands, then serve."""
    fd_in, fd_out = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    Agent(fd_in, fd_out).run()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
