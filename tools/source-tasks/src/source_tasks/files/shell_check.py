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
import posixpath
import stat
import sys
import tarfile
from pathlib import Path

APP = Path("/app")


def lines_of(content):
    """Return the lines of `content` (bytes) without trailing blanks."""
    return [line.rstrip() for line in content.decode("utf-8", "replace").splitlines()]


def file_problem(path, expected):
    """Return what is wrong with a regular file, or None."""
    if path.is_symlink() or not path.is_file():
        return "not a regular file"
    if "lines" in expected:
        found = lines_of(path.read_bytes())
        if found != expected["lines"]:
            return f"holds {found!r}, expected {expected['lines']!r}"
    if "mode" in expected:
        mode = f"{stat.S_IMODE(path.stat().st_mode):o}"
        if mode != expected["mode"]:
            return f"has mode {mode}, expected {expected['mode']}"
    return None


def tar_problem(path, members):
    """Return what is wrong with a tar archive, or None."""
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream:
                    found[posixpath.normpath(member.name)] = lines_of(stream.read())
    except (OSError, tarfile.TarError, EOFError) as error:
        return f"not a readable archive: {error}"
    if found != members:
        return f"holds {found!r}, expected {members!r}"
    return None


def directory_problem(path):
    """Return what is wrong with a directory, or None."""
    return None if path.is_dir() and not path.is_symlink() else "not a directory"


def link_problem(path, target):
    """Return what is wrong with a symbolic link, or None."""
    if not path.is_symlink():
        return "not a symbolic link"
    return None if path.resolve() == target.resolve() else f"does not lead to {target}"


def problem(expected, root=APP):
    """Return what is wrong with one expected path, or None."""
    path, kind = root / expected["path"], expected["kind"]
    there = path.is_symlink() or path.exists()
    if kind == "absent":
        return "still exists" if there else None
    if not there:
        return "does not exist"
    checks = {
        "directory": lambda: directory_problem(path),
        "file": lambda: file_problem(path, expected),
        "link": lambda: link_problem(path, root / expected["target"]),
        "tar": lambda: tar_problem(path, expected["members"]),
    }
    return checks[kind]()


def main(argv):
    """Check every path of the JSON file `argv[1]`."""
    checks = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    found = [(expected["path"], problem(expected)) for expected in checks]
    for path, wrong in found:
        if wrong:
            print(f"{path}: {wrong}")
    return 1 if any(wrong for _, wrong in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
