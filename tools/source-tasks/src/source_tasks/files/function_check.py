"""Run hidden tests on /app/solution.py; exit code 0 if they pass, else 1.

The tests run in a child process with a time limit. Passing means that the child, after the last assertion, repeats a
token that it read before it imported the solution: a solution that ends the process early does not pass.
"""

import secrets
import subprocess
import sys

TIME_LIMIT_SEC = 20

CHILD = """
import sys

token = sys.stdin.readline()
sys.path.insert(0, "/app")
import solution

# The published tests may call the helpers that a prompt defines, so they run in the solution's own namespace.
names = vars(solution)
with open("/tests/hidden_tests.py", encoding="utf-8") as file:
    exec(compile(file.read(), "hidden_tests.py", "exec"), names)
names["check"](names[sys.argv[1]])
print("\\n" + token, end="")
"""


def main(argv):
    """Check the function named `argv[1]`."""
    token = secrets.token_hex(16)
    command = [sys.executable, "-c", CHILD, argv[1]]
    try:
        done = subprocess.run(command, input=token + "\n", capture_output=True, text=True, timeout=TIME_LIMIT_SEC)
    except subprocess.TimeoutExpired:
        print(f"the tests did not finish in {TIME_LIMIT_SEC} s")
        return 1
    passed = done.returncode == 0 and done.stdout.splitlines()[-1:] == [token]
    if not passed:
        print(done.stderr[-2000:])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
