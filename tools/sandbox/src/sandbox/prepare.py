# ruff: noqa: PTH103, PTH110, PTH112, PTH120, PTH123, PTH211
# Pathlib would lengthen every start.
"""First program of an Apptainer sandbox: makes the root that bubblewrap makes by itself, then becomes the exec agent.

`apptainer exec` gives a user namespace with every capability in it, a process namespace, /proc and /dev. Left to do
here: the other namespaces, a fresh root of limited size, read-only places, and giving the capabilities up. It stands
alone (standard library only). Its one argument is a JSON object:

    new_root       where in the image the new root is put together
    root_options   mount options of its tmpfs
    first          [[target, options]]: tmpfs that binds and links are put into
    binds          [[source, target]]: read-only binds; target below the new root
    devices        [[source, target]]: the same for device files
    tmpfs          [[target, options, read_only]]
    links          [[link target, link]]
    read_only      paths to make read-only where they exist
    hostname       name of the host inside
    capabilities   numbers of the capabilities to keep
    argv, env      what to become
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1 << 10, 1 << 12, 1 << 14, 1 << 18, 1 << 21
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = (
    0x20000,
    0x2000000,
    0x4000000,
    0x8000000,
    1 << 30,
)
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
CAPABILITY_VERSION_3 = 0x20080522
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "riscv64": 41}

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    """Raise OSError when a C function says that it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source, target, kind, flags, options=""):
    """Call mount(2)."""
    words = [word.encode() if word else None for word in (source, target, kind, options)]
    check(libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def bind(source, target, read_only):
    """Bind a file or folder of the host's part of the image."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb"):
            pass
    mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        make_read_only(target)


def make_read_only(target):
    """Remount one mount read-only, keeping the flags that a user namespace must not take away."""
    state = os.statvfs(target).f_flag
    flags = [(os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC)]
    flags += [(os.ST_NOATIME, MS_NOATIME), (os.ST_RELATIME, MS_RELATIME)]
    kept = sum(flag for seen, flag in flags if state & seen)
    mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def bring_loopback_up():
    """Give the fresh network namespace what every machine has: 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interface:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(interface, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(interface, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def give_up_capabilities(kept):
    """Keep only these capabilities, for this process and for everything after it."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as stream:
        last = int(stream.read())
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(last + 1):
        if number not in kept:
            check(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)), "capset")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def main():
    """Put the new root together, enter it, and become the agent."""
    plan = json.loads(sys.argv[1])
    root = plan["new_root"]
    if os.getpid() != 1:
        raise OSError(0, "not process 1 of a process namespace", "apptainer")
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET), "unshare")
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    check(libc.sethostname(plan["hostname"].encode(), len(plan["hostname"])), "sethostname")
    bring_loopback_up()
    with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as stream:
        stream.write("0")
    os.umask(0o022)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, plan["root_options"])
    bind("/proc", root + "/proc", read_only=False)
    os.makedirs(root + "/dev")
    mount("tmpfs", root + "/dev", "tmpfs", MS_NOSUID | MS_NODEV, "size=65536,mode=0755")
    for source, target in plan["devices"]:
        bind(source, root + target, read_only=False)
    os.makedirs(root + "/dev/pts")
    mount("devpts", root + "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    for target, options in plan["first"]:
        os.makedirs(root + target)
        mount("tmpfs", root + target, "tmpfs", MS_NOSUID | MS_NODEV, options)
    for source, target in plan["binds"]:
        if os.path.exists(source):
            bind(source, root + target, read_only=True)
    for target, options, read_only in plan["tmpfs"]:
        os.makedirs(root + target, exist_ok=True)
        mount("tmpfs", root + target, "tmpfs", MS_NOSUID | MS_NODEV, options)
        if read_only:
            make_read_only(root + target)
    for target, link in plan["links"]:
        os.makedirs(os.path.dirname(root + link), exist_ok=True)
        os.symlink(target, root + link)
    for path in plan["read_only"]:
        if os.path.exists(root + path):
            if not os.path.ismount(root + path):
                mount(root + path, root + path, None, MS_BIND | MS_REC)
            make_read_only(root + path)
    os.chdir(root)
    check(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the image")
    os.chdir("/")
    give_up_capabilities(plan["capabilities"])
    os.execve(plan["argv"][0], plan["argv"], plan["env"])


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
