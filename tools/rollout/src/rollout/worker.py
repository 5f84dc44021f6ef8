"""Trials for another Python: one JSON request a line on standard input, one JSON answer a line on standard output.

A request: `{"tasks": FILE, "trials": [{"task_id": …, "attempt": …, "seed": …}], "endpoint": {…}, "settings": {…},
"work": DIR, "out": FILE}`. `tasks` is a tasks.parquet; `trials` may be left out for attempt 0 of every task; `endpoint`
and `settings` are the fields of :class:`rollout.settings.Endpoint` and :class:`rollout.settings.Settings`; `work` keeps
finished trials and may be left out. The answer is `{"rows": [...]}`, or `{"file": FILE}` when `out` names a file to
hold the rows as JSON lines, or `{"error": "one line"}` for bad input, after which the worker takes the next request.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from recipe_core.artifact import write_atomically
from recipe_core.errors import BadInput
from recipe_core.records import read_rows
from recipe_core.tasks import is_verifiable
from rollout.engine import run_trials
from rollout.settings import Endpoint, Settings, TrialRequest, from_json

_KEYS = ("tasks", "trials", "endpoint", "settings", "work", "out")


def read_request(line: str) -> dict[str, Any]:
    """Read one request line; BadInput when it is not a request."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadInput(f"request: not JSON ({error})") from None
    if not isinstance(value, dict) or not {"tasks", "endpoint"} <= value.keys() <= set(_KEYS):
        raise BadInput(f"request: expected an object with tasks and endpoint, and no keys but {', '.join(_KEYS)}")
    return value


def trial_requests(tasks: Path, trials: list[Mapping[str, Any]] | None) -> list[TrialRequest]:
    """Return the requests for the named trials, or for attempt 0 of every task."""
    wanted = {str(trial["task_id"]) for trial in trials} if trials is not None else None
    rows = {row["task_id"]: row for row in read_rows(tasks) if wanted is None or row["task_id"] in wanted}
    chosen = trials if trials is not None else [{"task_id": task_id} for task_id in rows]
    requests = []
    for trial in chosen:
        row = rows.get(str(trial["task_id"]))
        if row is None:
            raise BadInput(f"{tasks}: has no task {trial['task_id']!r}")
        requests.append(
            TrialRequest(
                row["task_id"],
                row["path"],
                row["task_binary"],
                row["source"],
                int(trial.get("attempt", 0)),
                trial.get("seed"),
                is_verifiable(row),
            )
        )
    return requests


def answer(line: str) -> dict[str, Any]:
    """Serve one request."""
    try:
        request = read_request(line)
        try:
            requests = trial_requests(Path(request["tasks"]), request.get("trials"))
            endpoint = from_json(Endpoint, request["endpoint"], "request: endpoint")
            settings = from_json(Settings, request.get("settings") or {}, "request: settings")
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"request: a key is missing or its value is of the wrong kind ({error!r})") from None
        if request.get("work"):
            rows = asyncio.run(run_trials(requests, endpoint, settings, Path(request["work"])))
        else:
            with tempfile.TemporaryDirectory(prefix="rollout-") as work:
                rows = asyncio.run(run_trials(requests, endpoint, settings, Path(work)))
        if not request.get("out"):
            return {"rows": rows}
        out = Path(request["out"])
        write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return {"file": str(out)}
    except (BadInput, OSError) as error:
        return {"error": " ".join(str(error).split())}


def serve(requests: TextIO) -> None:
    """Answer requests until the input ends. Only answers reach standard output; what libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        for line in requests:
            if line.strip():
                print(json.dumps(answer(line), ensure_ascii=False), file=answers, flush=True)
