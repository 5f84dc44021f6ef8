"""Run a package's own tests on its code in /app and report or judge the outcome.

`run.py suite.json` prints a JSON report; `run.py suite.json expected.json` exits with 0 if no test fails, at least as
many ran as expected and the tests that used to fail are among those that passed, else with 1.

The tests run in a child process with a time limit. A report counts only with the token that the child reads before it
imports the code, so that code which ends the process early does not pass. The hash seed is fixed: what a faulty program
prints must not depend on the order of a set.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

# A fault that loops for ever is stopped by CPU time, which does not depend on how busy the machine is.
CPU_LIMIT_SEC = 10
TIME_LIMIT_SEC = 50
# One reason for loops, crashes and memory: which of them comes first depends on the machine.
UNFINISHED = "the tests do not run to their end"

CHILD = r"""
import io
import json
import os
import re
import resource
import sys
import unittest

token = sys.stdin.readline().strip()
suite = json.loads(sys.argv[1])
seconds = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
report = os.dup(1)
os.dup2(2, 1)
# Tests open their fixtures below the folder that holds the tests, as they do in the package's own repository.
os.chdir(suite["tests"])
sys.path.insert(0, suite["code"])

ADDRESS = re.compile("0x[0-9a-f]{4}| object at |chars\\][0-9a-f]+>")


class Result(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.passed = []
        self.failed = {}

    def addSuccess(self, test):
        self.passed.append(test.id())

    def note(self, test, error):
        lines = str(error[1]).strip().splitlines() or [""]
        text = "%s: %s" % (error[0].__name__, lines[0])
        # An address differs from run to run, and unittest may cut one in two: then the kind of error has to do.
        self.failed[test.id()] = (text.partition(":")[0] if ADDRESS.search(text) else text)[:300]

    def addFailure(self, test, error):
        self.note(test, error)

    def addError(self, test, error):
        self.note(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.note(test, error)

    def addUnexpectedSuccess(self, test):
        self.failed[test.id()] = "unexpected success"


result = Result()
loader = unittest.TestLoader()
tests = loader.discover(suite["start"], pattern=suite["pattern"], top_level_dir=suite["top"])
tests.run(result)
passed = sorted(set(result.passed) - set(result.failed))
outcome = {"token": token, "ran": result.testsRun, "passed": passed, "failed": result.failed}
os.write(report, b"\n" + json.dumps(outcome).encode() + b"\n")
"""


def run_suite(suite):
    """Return `{"ran", "passed", "failed"}`, or `{"error"}` if the tests did not finish."""
    token = secrets.token_hex(16)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "TZ": "UTC"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    # Where Python's own library lies beside it rather than in the system, it is found by this variable alone.
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    command = [sys.executable, "-c", CHILD, json.dumps(suite), str(CPU_LIMIT_SEC)]
    try:
        done = subprocess.run(
            command, input=token + "\n", capture_output=True, text=True, timeout=TIME_LIMIT_SEC, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"error": UNFINISHED}
    lines = done.stdout.splitlines()
    try:
        outcome = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"error": UNFINISHED}
    if not isinstance(outcome, dict) or outcome.pop("token", None) != token:
        return {"error": UNFINISHED}
    return outcome


def solved(outcome, expected):
    """Tell whether an outcome is that of the repaired package."""
    if "error" in outcome or outcome["failed"]:
        return False
    return outcome["ran"] >= expected["ran"] and set(expected["failed"]) <= set(outcome["passed"])


def main(argv):
    """Report (one argument) or judge (two arguments)."""
    outcome = run_suite(json.loads(Path(argv[1]).read_text(encoding="utf-8")))
    if len(argv) == 2:
        print(json.dumps(outcome))
        return 0
    expected = json.loads(Path(argv[2]).read_text(encoding="utf-8"))
    print(outcome.get("error") or json.dumps(outcome["failed"], indent=1))
    return 0 if solved(outcome, expected) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
