"""Run /app/solution.py on inputs and compare what it prints; exit code 0 if all outputs are as expected, else 1.

The argument is a JSON list of `{"input": ..., "output": ...}`. Outputs are compared word by word: blanks and line ends
do not count.
"""

import json
import subprocess
import sys
from pathlib import Path

TIME_LIMIT_SEC = 10


def problem(number, case, program="/app/solution.py"):
    """Return what is wrong with one case, or None."""
    try:
        done = subprocess.run(
            [sys.executable, program],
            input=case["input"].encode(),
            capture_output=True,
            timeout=TIME_LIMIT_SEC,
        )
    except subprocess.TimeoutExpired:
        return f"case {number}: not finished in {TIME_LIMIT_SEC} s"
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return f"case {number}: exit code {done.returncode}: {''.join(last)[:500]}"
    if done.stdout.decode("utf-8", "replace").split() != case["output"].split():
        return f"case {number}: another output than expected"
    return None


def main(argv):
    """Check the cases in the file `argv[1]`, up to the first that is wrong."""
    cases = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    for number, case in enumerate(cases, 1):
        wrong = problem(number, case)
        if wrong:
            print(wrong)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
