"""The reference teacher as an OpenAI-compatible server, for trying it with other harnesses.

A request carries no task id, so the task is found by its instruction in the first message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_core.artifact import open_artifact
from recipe_core.errors import BadInput
from recipe_core.records import read_rows
from recipe_core.tasks import TaskFile, read_files
from rollout.gateway import TrialKey
from rollout.reference import ReferenceUpstream
from rollout.settings import REFERENCE

if TYPE_CHECKING:
    from aiohttp import web


def find_task(prompt: str, instructions: Mapping[str, str]) -> str | None:
    """Return the id of the task whose instruction occurs in a prompt; of several the longest wins.

    Args:
        prompt: the first user message.
        instructions: task id by instruction.
    """
    found = [text for text in instructions if text in prompt]
    return instructions[max(found, key=len)] if found else None


def load_tasks(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Mapping[str, TaskFile]], dict[str, str]]:
    """Return the files by task id and the task id by instruction, of the rows of a tasks artifact."""
    tasks: dict[str, Mapping[str, TaskFile]] = {}
    instructions: dict[str, str] = {}
    for row in rows:
        where = f"task {row['path']} ({row['task_id']})"
        tasks[row["task_id"]] = read_files(row["task_binary"], where)
        instructions[row["instruction"].strip()] = row["task_id"]
    return tasks, instructions


def application(
    tasks: dict[str, Mapping[str, TaskFile]], instructions: Mapping[str, str], seed: int
) -> web.Application:
    """Return the server: `/v1/models` and `/v1/chat/completions`."""
    from aiohttp import web

    upstream = ReferenceUpstream(tasks)

    def refuse(message: str) -> web.Response:
        return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=400)

    async def models(_: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": REFERENCE, "object": "model", "owned_by": "rollout"}]}
        )

    async def complete(request: web.Request) -> web.Response:
        try:
            payload = json.loads(await request.text())
            prompt = next(message["content"] for message in payload["messages"] if message["role"] == "user")
        except (ValueError, KeyError, TypeError, StopIteration):
            return refuse("expected JSON with messages, one of them by the user")
        task_id = find_task(prompt, instructions)
        if task_id is None:
            return refuse("no task of this server has its instruction in the first user message")
        try:
            reply = await upstream.send(payload, TrialKey(task_id, 0, seed))
        except BadInput as error:
            return refuse(str(error))
        return web.Response(text=reply.body, status=reply.status, content_type="application/json")

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", complete)])
    return app


def serve(tasks_artifact: Path, host: str, port: int, seed: int) -> None:
    """Serve the tasks of an artifact until interrupted."""
    from aiohttp import web

    tasks, instructions = load_tasks(read_rows(open_artifact(tasks_artifact).data("tasks.parquet")))
    web.run_app(application(tasks, instructions, seed), host=host, port=port)
