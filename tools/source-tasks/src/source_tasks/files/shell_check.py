"""Decide whether the files below /app are as expected; exit code 0 if they are, 1 with one line a difference if not.

The expected state is a JSON list of objects with `path`, `kind` and what that kind needs:

- `absent`: nothing is there;
- `directory`: a directory is there;
- `file`: a regular file; optional `lines` (trailing blanks and a missing last newline do not matter), optional `mode`
  (octal permission bits);
- `link`: a symbolic link that leads to `target`;
- `tar`: an archive whose regular files are exactly `members`, a mapping from path to lines.
"""

import json
import os
import posixpath
import stat
import sys
import tarfile

APP = "/app"


def lines_of(content):
    """Return the lines of `content` (bytes) without trailing blanks."""
    return [line.rstrip() for line in content.decode("utf-8", "replace").splitlines()]


def file_problem(path, expected):
    """Return what is wrong with a regular file, or None."""
    if os.path.islink(path) or not os.path.isfile(path):
        return "not a regular file"
    if "lines" in expected:
        with open(path, "rb") as file:
            found = lines_of(file.read())
        if found != expected["lines"]:
            return f"holds {found!r}, expected {expected['lines']!r}"
    if "mode" in expected:
        mode = f"{stat.S_IMODE(os.stat(path).st_mode):o}"
        if mode != expected["mode"]:
            return f"has mode {mode}, expected {expected['mode']}"
    return None


def tar_problem(path, members):
    """Return what is wrong with a tar archive, or None."""
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    found[posixpath.normpath(member.name)] = lines_of(archive.extractfile(member).read())
    except (OSError, tarfile.TarError, EOFError) as error:
        return f"not a readable archive: {error}"
    if found != members:
        return f"holds {found!r}, expected {members!r}"
    return None


def problem(expected, root=APP):
    """Return what is wrong with one expected path, or None."""
    path = os.path.join(root, expected["path"])
    kind = expected["kind"]
    if kind == "absent":
        return "still exists" if os.path.lexists(path) else None
    if not os.path.lexists(path):
        return "does not exist"
    if kind == "directory":
        return None if os.path.isdir(path) and not os.path.islink(path) else "not a directory"
    if kind == "file":
        return file_problem(path, expected)
    if kind == "link":
        if not os.path.islink(path):
            return "not a symbolic link"
        leads = os.path.realpath(path) == os.path.realpath(os.path.join(root, expected["target"]))
        return None if leads else f"does not lead to {expected['target']}"
    if kind == "tar":
        return tar_problem(path, expected["members"])
    raise ValueError(f"unknown kind {kind!r}")


def main(argv):
    """Check every path of the JSON file `argv[1]`."""
    with open(argv[1], encoding="utf-8") as file:
        checks = json.load(file)
    found = [(expected["path"], problem(expected)) for expected in checks]
    for path, wrong in found:
        if wrong:
            print(f"{path}: {wrong}")
    return 1 if any(wrong for _, wrong in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
