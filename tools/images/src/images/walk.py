# ruff: noqa: PTH115, PTH118, PTH123, PTH208
"""Runs inside an image, alone, from standard input: prints a line of JSON for every file below the given folders.

[path, mode, what]     what: sha256 of a file's bytes, `-> target` of a link, `dir`, or `unreadable: why`
"""

import hashlib
import json
import os
import stat
import sys

# What the container's start puts there, and not the image.
NOT_OF_THE_IMAGE = {"/dev", "/proc", "/sys", "/tmp", "/run", "/var/tmp", "/mnt", "/root", "/home"}
NOT_OF_THE_IMAGE |= {"/etc/resolv.conf", "/etc/hosts", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/hostname"}
# The time of the build.
NOT_OF_THE_IMAGE |= {"/.singularity.d/labels.json"}


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


def main(folders):
    """Print every path in order."""
    pending = sorted(folders, reverse=True)
    while pending:
        path = pending.pop()
        if path in NOT_OF_THE_IMAGE:
            continue
        try:
            line = describe(path)
            if line[2] == "dir":
                pending += sorted((os.path.join(path, name) for name in os.listdir(path)), reverse=True)
        except OSError as error:
            line = [path, "", "unreadable: " + (error.strerror or str(error))]
        print(json.dumps(line))


main(sys.argv[1:])
