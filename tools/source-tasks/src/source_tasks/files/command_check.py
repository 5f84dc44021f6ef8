"""Run a Bash script in small folders of files and compare what it prints with what is expected.

`check.py expected.json SCRIPT` exits with 0 if the script, run in a fresh copy of every folder, exits with 0, changes
nothing there and prints the lines expected, else with 1 and one line. `check.py expected.json SCRIPT probe` prints what
the script does as JSON instead: for every folder the runs in two copies whose files were made in opposite orders, since
the order in which a file system lists names may follow from that.

`expected.json` is `{"ordered": bool, "folders": [{"files": {path: [text, mode]}, "output": text}, ...]}`; modes are
octal text. Blanks at the end of a line and of the output do not count, nor does the order of lines unless `ordered`.
"""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

TIME_LIMIT_SEC = 10
# What a script may print, in KiB, before it is stopped.
OUTPUT_KIB = 1024
# A file system in memory lists names in the order in which they were made; others hash them, which hides that the order
# of an output follows from nothing in the files.
MEMORY = "/dev/shm"


def lay_out(root, files, backwards=False):
    """Write the files of a folder; `backwards` makes them in the opposite order of their paths."""
    root.mkdir(parents=True)
    for path in sorted(files, reverse=backwards):
        text, mode = files[path]
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode())
        target.chmod(int(mode, 8))
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)


def state(root):
    """Return the files below a folder as `lay_out` takes them; what is no regular file has no text."""
    found = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            text = path.read_bytes().decode("utf-8", "replace") if stat.S_ISREG(mode) else None
            found[path.relative_to(root).as_posix()] = [text, f"{stat.S_IMODE(mode):o}"]
    return found


def run(script, files, backwards=False):
    """Run a script in a fresh copy of a folder.

    Returns `{"code", "output", "changed"}`: the exit code (None if it ran out of time), what it printed (None if that
    is not UTF-8 text) and whether it changed the folder.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as place:
        root = Path(place) / "files"
        lay_out(root, files, backwards)
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": place}
        limited = ["bash", "-c", f'ulimit -f {OUTPUT_KIB}; exec bash "$0"', str(script)]
        with tempfile.TemporaryFile() as printed:
            process = subprocess.Popen(
                limited,
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                code = process.wait(TIME_LIMIT_SEC)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            printed.seek(0)
            content = printed.read()
        try:
            output = content.decode()
        except UnicodeDecodeError:
            output = None
        return {"code": code, "output": output, "changed": state(root) != files}


def lines_of(output, ordered):
    """Return the lines of an output in the form in which they are compared."""
    lines = [line.rstrip() for line in output.rstrip().split("\n")]
    return lines if ordered else sorted(lines)


def problem(result, output, ordered):
    """Return what is wrong with a run, or None."""
    if result["code"] is None:
        return f"did not finish in {TIME_LIMIT_SEC} s"
    if result["code"] != 0:
        return f"exited with {result['code']}"
    if result["changed"]:
        return "changed the files"
    if result["output"] is None:
        return "printed something that is no text"
    found, wanted = lines_of(result["output"], ordered), lines_of(output, ordered)
    return None if found == wanted else f"printed {found[:50]!r}, expected {wanted!r}"


def main(argv):
    """Judge the script `argv[2]`, or probe it."""
    expected = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    script = Path(argv[2])
    if len(argv) > 3:
        orders = (False, True)
        print(json.dumps([[run(script, folder["files"], order) for order in orders] for folder in expected["folders"]]))
        return 0
    if not script.is_file():
        print(f"{script} does not exist")
        return 1
    for number, folder in enumerate(expected["folders"], 1):
        wrong = problem(run(script, folder["files"]), folder["output"], expected["ordered"])
        if wrong:
            print(f"in folder {number}, the script {wrong}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
