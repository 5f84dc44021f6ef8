"""Run a repository's tests and compare what they say with what is expected; exit code 0 if it is so, else 1.

The argument is a JSON file with `command`, `restore` (paths that git takes from the tag `start` first), `expected`
(test name to outcome), `exact` (whether no other test may run) and `names`: `path` for
`tests/test_a.py::TestB::test_c`, `test` for `TestB.test_c`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

TIME_LIMIT_SEC = 840
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# pytest's short test summary: the outcome, the test, and for some outcomes " - " and a message.
LINE = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S.*)")


def outcomes(output, names):
    """Return test name to outcome, as pytest's short test summary has it."""
    found = {}
    for line in COLOUR.sub("", output).splitlines():
        match = LINE.fullmatch(line.strip())
        if match and "::" in match[2]:
            name = match[2].partition(" - ")[0].strip()
            found[name if names == "path" else ".".join(name.split("::")[1:])] = match[1]
    return found


def problems(found, expected, exact):
    """Return what differs, one line a test."""
    # Colours are part of some recorded names.
    wanted = {COLOUR.sub("", name).partition(" - ")[0]: outcome for name, outcome in expected.items()}
    differing = ((name, outcome) for name, outcome in wanted.items() if found.get(name) != outcome)
    wrong = [f"{name}: {found.get(name, 'missing')}, expected {outcome}" for name, outcome in differing]
    if exact:
        wrong += [f"{name}: {outcome}, not expected" for name, outcome in found.items() if name not in wanted]
    return wrong


def main(argv):
    """Check what the file `argv[1]` describes."""
    task = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    if task["restore"]:
        subprocess.run(["git", "checkout", "-q", "start", "--", *task["restore"]])
    try:
        done = subprocess.run(
            ["bash", "-c", task["command"]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIME_LIMIT_SEC,
        )
    except subprocess.TimeoutExpired:
        print(f"the tests did not finish in {TIME_LIMIT_SEC} s")
        return 1
    wrong = problems(outcomes(done.stdout.decode("utf-8", "replace"), task["names"]), task["expected"], task["exact"])
    for line in wrong[:50]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
