"""An API key goes to its endpoint and nowhere else, though the endpoint says it again in all it answers."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.conftest import write_tasks
from tests.contract.endpoint import Body, Endpoint, Failure, last_words
from tests.contract.test_rollout_cli import BIN, COMMON, environment, one_line, rows_of, run, task, task_of

# With what JSON and URLs write otherwise.
KEY = 'sk-planted/"7Qe9+Xw'
FORMS = [KEY, json.dumps(KEY)[1:-1], quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode(), "planted"]


def answer(body: Body) -> str | Failure:
    """Say the key in an error to one task, in words to another, and to all look for it in the sandbox."""
    if "write twice 0 to" in str(body["messages"][0]["content"]):
        return Failure(status=500, message=f"Incorrect API key provided: {KEY}, {quote(KEY, safe='')}")
    look = "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; sleep 2\n"
    said = {"analysis": f"The key is {KEY}.", "plan": FORMS[3], "commands": [{"keystrokes": look, "duration": 3}]}
    if "current terminal screen" in last_words(body).lower() or len(body["messages"]) > 1:
        said = {**said, "commands": [], "task_complete": True}
    return json.dumps(said)


def command_lines_and_sandboxes(found: set[str], stop: threading.Event) -> None:
    """Collect the words of all processes, and the environment of those that are sandboxes, until told to stop."""
    while not stop.is_set():
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            try:
                words = (path / "cmdline").read_text(errors="replace")
                found.add(words)
                if "bwrap" in words or "/sandbox/agent" in words or "--noprofile" in words or "tmux" in words:
                    found.add((path / "environ").read_text(errors="replace"))
            except OSError:
                continue
        time.sleep(0.05)


def contents(top: Path) -> bytes:
    """Return what all files below a folder hold, and their names; those that go meanwhile are left out."""
    found = []
    for folder, _, names in os.walk(top):
        for name in names:
            with contextlib.suppress(OSError):
                found += [name.encode(), Path(folder, name).read_bytes()]
    return b"\n".join(found)


@pytest.mark.full
def test_a_key_is_in_nothing_that_is_written_shown_or_started(tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(index), f"task-{index}") for index in range(3)])
    seen: set[str] = set()
    stop = threading.Event()
    watch = threading.Thread(target=command_lines_and_sandboxes, args=(seen, stop))
    watch.start()
    try:
        with Endpoint(answer) as endpoint:
            words = ("--tasks", tasks, *endpoint.flags, "--retries", 0, "--max-turns", 3, *COMMON)
            words += ("--api-key-env", "PLANTED_KEY", "--out", tmp_path / "out")
            process = subprocess.Popen(
                [str(word) for word in (BIN / "rollout", *words)],
                env=environment(PLANTED_KEY=KEY),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            written = b""
            while process.poll() is None:
                # What is kept while it runs, and gone afterwards.
                written += contents(tmp_path)
                time.sleep(0.2)
            said = process.communicate()[0]
            assert endpoint.headers[-1]["Authorization"] == f"Bearer {KEY}"
    finally:
        stop.set()
        watch.join()
    assert process.returncode == 0, said
    rows = rows_of(tmp_path / "out")
    assert {row["error_class"] for row in rows} == {None, "infrastructure"}
    assert "Incorrect API key provided: [key], [key]" in next(
        row["error_message"] for row in rows if row["error_class"]
    )
    assert any("The key is [key]." in part["content"] for row in rows for part in row["conversations"])
    assert len(seen) > 3 and any("bwrap" in words or "apptainer" in words for words in seen)
    written += contents(tmp_path)
    everywhere = [said, written.decode(errors="replace"), json.dumps(rows), *seen]
    for form in FORMS:
        assert not [text[:300] for text in everywhere if form in text], form


def test_an_endpoint_whose_url_holds_a_secret_is_refused_without_showing_it(tasks_artifact, tmp_path):
    for url in ("http://user:hunter2@host/v1", "http://host/v1?key=hunter2"):
        words = ("--tasks", tasks_artifact(1, name=url[-7:]), "--endpoint", url, "--model-name", "m")
        line = one_line(run(*words, *COMMON, "--out", tmp_path / "out"))
        assert "holds more than host and path" in line and "hunter2" not in line
