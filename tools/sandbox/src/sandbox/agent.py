# ruff: noqa: PTH101, PTH103, PTH112, PTH113, PTH118, PTH119, PTH120, PTH123, PTH211
# Pathlib would lengthen every start.
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
PR_SET_DUMPABLE = 4
KEYCTL_JOIN_SESSION_KEYRING = 1
# The number of keyctl(2).
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271}


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
        try:
            # Where the whole machine runs out of memory, the kernel takes a sandbox before its owner.
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
                stream.write("500")
        except OSError:
            pass
        shut_off()
        self.send(id=request["id"])

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
        with open(path, "ab" if request["append"] else "wb") as stream:
            stream.write(base64.b64decode(request["data"]))
        os.chmod(path, request["mode"])
        self.send(id=request["id"])

    def op_get(self, request):
        """Send the regular files at or below a path, in chunks; links and special files below it are left out."""
        top = os.path.realpath(request["path"])
        if os.path.isdir(top):
            for folder, names, files in os.walk(top):
                names.sort()
                for name in sorted(files):
                    path = os.path.join(folder, name)
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        self._send_file(request["id"], path, os.path.relpath(path, top))
        elif os.path.isfile(top):
            self._send_file(request["id"], top, os.path.basename(request["path"].rstrip("/")))
        else:
            raise FileNotFoundError(2, "no such file or folder", request["path"])
        self.send(id=request["id"], done=True)

    def _send_file(self, request_id, path, name):
        name = os.fsencode(name).decode("utf-8", "backslashreplace")
        with open(path, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode & 0o777
            data = stream.read(CHUNK)
            while True:
                self.send(id=request_id, name=name, mode=mode, data=base64.b64encode(data).decode())
                data = stream.read(CHUNK)
                if not data:
                    return


def shut_off():
    """Keep commands from tracing this process or opening its pipes, and the host's session keyring from all of them."""
    try:
        import ctypes  # a Python built without libffi lacks it

        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        number = KEYCTL.get(os.uname().machine)
        if number:
            libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, 0)
    except ImportError:
        pass


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
