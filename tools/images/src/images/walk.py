# ruff: noqa: PTH112, PTH114, PTH115, PTH118, PTH123, PTH208
"""Runs inside an image, alone, from standard input or a build's /mnt: prints a line of JSON for every file there is.

Arguments are the folders to begin with.

[path, mode, what]     what: sha256 of a file's bytes, `-> target` of a link, `dir`, or `unreadable: why`
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import stat
import sys

# What the container's start puts there, and not the image.
NOT_OF_THE_IMAGE = {"/dev", "/proc", "/sys", "/tmp", "/run", "/var/tmp", "/mnt", "/root", "/home"}
NOT_OF_THE_IMAGE |= {"/etc/resolv.conf", "/etc/hosts", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/hostname"}
# The time of the build, the definition with this machine's folders in it, and what is there only while %post runs.
NOT_OF_THE_IMAGE |= {"/.singularity.d/labels.json", "/.singularity.d/Singularity", "/.post.script"}


def describe(path):
    """Return mode and content of one path."""
    status = os.lstat(path)
    mode = oct(stat.S_IMODE(status.st_mode))
    if stat.S_ISLNK(status.st_mode):
        return [path, mode, "-> " + os.readlink(path)]
    if stat.S_ISDIR(status.st_mode):
        return [path, mode, "dir"]
    if not stat.S_ISREG(status.st_mode):
        return [path, mode, "special"]
    with open(path, "rb") as stream:
        return [path, mode, hashlib.file_digest(stream, "sha256").hexdigest()]


def paths_below(folders):
    """Return every path of the image, those of folders that cannot be read among them."""
    found, pending = [], list(folders)
    while pending:
        path = pending.pop()
        if path in NOT_OF_THE_IMAGE:
            continue
        found.append(path)
        if os.path.isdir(path) and not os.path.islink(path):
            with contextlib.suppress(OSError):
                pending += [os.path.join(path, name) for name in os.listdir(path)]
    return sorted(found)


def describe_line(path):
    """Return the line of one path."""
    try:
        return json.dumps(describe(path))
    except OSError as error:
        return json.dumps([path, "", "unreadable: " + (error.strerror or str(error))])


def main(folders):
    """Print every path in order; an image is read through one file system process, so two readers keep it busy."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for line in pool.imap(describe_line, paths_below(folders), chunksize=64):
            print(line)


main(sys.argv[1:])
