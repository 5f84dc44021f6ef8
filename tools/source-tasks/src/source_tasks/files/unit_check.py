"""Run unit tests on /app/solution.py; exit code 0 if at least one ran and all passed, else 1.

The tests are functions `test...` without arguments and classes of `unittest`; they see what the solution defines. They
run in a child process with a time limit. Passing means that the child, after the last test, repeats a token that it
read before it imported the solution: a solution that ends the process early does not pass.
"""

import secrets
import subprocess
import sys

TIME_LIMIT_SEC = 30

CHILD = """
import inspect, sys, types, unittest

token = sys.stdin.readline()
sys.path.insert(0, "/app")
import solution

names = dict(vars(solution))
before = set(names)
with open("/tests/unit_tests.py", encoding="utf-8") as file:
    exec(compile(file.read(), "unit_tests.py", "exec"), names)
suite = unittest.TestSuite()
for name in sorted(set(names) - before):
    value = names[name]
    if isinstance(value, type) and issubclass(value, unittest.TestCase):
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(value))
    elif isinstance(value, types.FunctionType) and name.startswith("test") and not inspect.signature(value).parameters:
        suite.addTest(unittest.FunctionTestCase(value))
result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
ran = result.testsRun - len(result.skipped)
if not (ran and result.wasSuccessful()):
    sys.exit(1)
print("\\n" + token, end="")
"""


def main():
    """Check the solution."""
    token = secrets.token_hex(16)
    command = [sys.executable, "-c", CHILD]
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
    sys.exit(main())
