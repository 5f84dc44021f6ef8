"""Run the agent terminus-2 on every task of an artifact and record trajectories.

    rollout --tasks results/mix/aaa --teacher reference --out results/rollout/bbb
    rollout --tasks results/mix/aaa --endpoint http://localhost:8000/v1 --model-name qwen3 --out OUT
    rollout --tasks results/mix/aaa --endpoint https://api.example.org/v1 --model-name big --api-key-env KEY …
    rollout --tasks results/mix/aaa --model results/train_sft/ccc --out OUT

Each trial runs in a sandbox of its own, in a real tmux, and ends with the task's verifier. A run that was killed goes
on where it was when the same command is given again. Rows are sorted by task and attempt. Tasks that went through
upsample get --attempts times their own number of attempts.

other commands (each with --help):
  rollout reference-teacher   serve the built-in teacher to other harnesses
  rollout worker              run trials for another program, JSON lines in and out
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from recipe_core.artifact import Artifact, ArtifactWriter, open_artifact, value_digest, work_dir
from recipe_core.cli import Parser, above_zero, add_common, entry, iso_date, natural, positive, real, seed, top_k
from recipe_core.errors import BadInput
from recipe_core.progress import progress
from recipe_core.records import ATTEMPTS, TRAJECTORY_SCHEMA, TableWriter, read_rows
from recipe_core.tasks import check_runnable
from recipe_core.terms import INFRASTRUCTURE
from rollout.settings import REFERENCE, REFERENCE_ENDPOINT, Endpoint, Sampling, Settings, TrialRequest, requests_for


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"min_p": 0.05}}')
    return value


def add_sampling_flags(parser: argparse.ArgumentParser, title: str = "sampling") -> None:
    """Add the flags that :func:`sampling_of` reads, and those of a request."""
    sampling = parser.add_argument_group(title)
    default = Sampling()
    sampling.add_argument("--temperature", type=real(), default=default.temperature, help="default %(default)s")
    sampling.add_argument("--top-p", type=real(0, 1, above=True), default=default.top_p, help="default %(default)s")
    sampling.add_argument("--top-k", type=top_k, default=default.top_k, help="default %(default)s: no limit")
    sampling.add_argument(
        "--max-tokens", type=positive, default=default.max_tokens, help="of one answer (default %(default)s)"
    )
    sampling.add_argument(
        "--extra-body", type=json_object, default={}, metavar="JSON", help="further keys of every request"
    )


def add_model_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags that :func:`model_endpoint` reads, but those of sampling."""
    group.add_argument("--model", type=Path, metavar="DIR", help="model artifact, served for the time of the run")
    group.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible API, ending in /v1")
    group.add_argument("--model-name", metavar="NAME", help="the model's name there")
    group.add_argument("--api-key-env", metavar="VAR", help="environment variable that holds the API key")


def model_endpoint(args: argparse.Namespace, choices: Sequence[str]) -> Endpoint:
    """Return the endpoint that the flags name; for `--model` it has no URL yet.

    Args:
        args: the command line.
        choices: the flags of which one has to be given, for the error.

    Raises:
        BadInput: no model or two of them, or flags that do not belong together.
    """
    if bool(args.model) == bool(args.endpoint):
        given = "--model and --endpoint" if args.model else "none of them"
        raise BadInput(f"expected one of {', '.join(choices)}; got {given}")
    for flag, value in (("--model-name", args.model_name), ("--api-key-env", args.api_key_env)):
        if value and not args.endpoint:
            raise BadInput(f"{flag} belongs to --endpoint, not to --model; leave it out")
    if args.endpoint and not args.model_name:
        raise BadInput("--endpoint needs --model-name, the model's name there")
    if args.endpoint and not _is_url(args.endpoint):
        raise BadInput(f"--endpoint {args.endpoint!r}: expected a URL such as http://localhost:8000/v1")
    return Endpoint(
        model=args.model_name or args.model.name,
        base_url=args.endpoint or "",
        provider="openai-compatible" if args.endpoint else "vllm",
        api_key_env=args.api_key_env,
        sampling=sampling_of(args),
        extra_body=args.extra_body,
        request_timeout_sec=args.request_timeout,
    )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def add_trial_flags(parser: argparse.ArgumentParser, attempts: int) -> None:
    """Add the flags that :func:`settings_of` reads, and `--attempts` with its default."""
    trials = parser.add_argument_group("trials")
    trials.add_argument(
        "--attempts", type=positive, default=attempts, metavar="N", help="attempts at each task (default %(default)s)"
    )
    trials.add_argument(
        "--max-turns", type=positive, default=32, metavar="N", help="answers a trial may take (default 32)"
    )
    trials.add_argument(
        "--max-model-len",
        type=positive,
        default=4096,
        metavar="N",
        help="with --model: tokens of a conversation (default 4096)",
    )
    trials.add_argument(
        "--agent-timeout", type=above_zero, metavar="S", help="seconds for the agent (default: the task's own)"
    )
    trials.add_argument(
        "--settle", type=above_zero, default=10.0, metavar="S", help="longest wait for a command (default 10 s)"
    )
    trials.add_argument(
        "--request-timeout", type=above_zero, default=300.0, metavar="S", help="of one request (default 300 s)"
    )
    trials.add_argument(
        "--retries", type=natural, default=2, metavar="N", help="of a trial after an infrastructure error (default 2)"
    )
    trials.add_argument("--concurrency", type=positive, default=4, metavar="N", help="trials at a time (default 4)")
    trials.add_argument(
        "--backend", choices=["auto", "apptainer", "bubblewrap"], default="auto", help="of the sandbox (default auto)"
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Return the sampling parameters that the flags name."""
    return Sampling(args.temperature, args.top_p, args.top_k, args.max_tokens)


def settings_of(args: argparse.Namespace, run_id: str) -> Settings:
    """Return how trials run, by the flags."""
    return Settings(
        seed=args.seed,
        date=args.date,
        run_id=run_id,
        concurrency=args.concurrency,
        max_turns=args.max_turns,
        agent_timeout_sec=args.agent_timeout,
        trial_retries=args.retries,
        settle_sec=args.settle,
        backend=args.backend,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="rollout", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="tasks artifact")
    teacher = parser.add_argument_group("teacher (one of --teacher, --model, --endpoint)")
    teacher.add_argument("--teacher", choices=[REFERENCE], help="the built-in teacher, which plays reference solutions")
    add_model_flags(teacher)
    add_sampling_flags(parser, "sampling (not for --teacher)")
    add_trial_flags(parser, attempts=1)
    add_common(parser)
    parser.add_argument("--date", type=iso_date, default="1970-01-01", help="recorded in every row")
    return parser


def endpoint_of(args: argparse.Namespace) -> Endpoint:
    """Return the teacher's endpoint; for `--model` it has no URL yet.

    Raises:
        BadInput: none or several teachers, or flags that do not belong together.
    """
    if not args.teacher:
        return model_endpoint(args, ("--teacher", "--model", "--endpoint"))
    for name in ("model", "endpoint", "model_name", "api_key_env"):
        if getattr(args, name):
            raise BadInput(f"--{name.replace('_', '-')} does not go with --teacher; leave one of them out")
    return REFERENCE_ENDPOINT


def parameters(args: argparse.Namespace, endpoint: Endpoint) -> dict[str, Any]:
    """Return what decides the rows, for the manifest."""
    common = {
        "attempts": args.attempts,
        "max_turns": args.max_turns,
        "agent_timeout_sec": args.agent_timeout,
        "settle_sec": args.settle,
        "date": args.date,
    }
    if endpoint.is_reference:
        return {**common, "teacher": REFERENCE}
    return {
        **common,
        "endpoint": endpoint.base_url or None,
        "model": endpoint.model if endpoint.base_url else None,
        "sampling": dataclasses.asdict(endpoint.sampling),
        "extra_body": dict(endpoint.extra_body),
        "max_model_len": args.max_model_len if args.model else None,
    }


def check_tasks(path: Path, *, solution: bool, verdict: bool = False) -> dict[str, int]:
    """Read all tasks once and return, by id, the attempts that each row asks for itself: 1 but for upsampled tasks.

    Args:
        path: a `tasks.parquet`.
        solution: whether reference solutions are needed.
        verdict: whether verifiers' verdicts are.

    Raises:
        BadInput: a task that cannot be run, or that occurs twice.
    """
    from rollout.engine import checked_files

    attempts: dict[str, int] = {}
    for row in read_rows(path):
        check_runnable(row, f"task {row['path']} ({row['task_id']})", verdict=verdict)
        checked_files(requests_for(row, 1)[0], solution=solution)
        if row["task_id"] in attempts:
            raise BadInput(
                f"{path}: task {row['task_id']} occurs more than once; make the rows distinct and ask for --attempts"
            )
        attempts[row["task_id"]] = row.get(ATTEMPTS) or 1
    return attempts


@contextlib.contextmanager
def served(endpoint: Endpoint, model: Path | None, max_model_len: int) -> Iterator[Endpoint]:
    """Yield the endpoint, with a model server behind it while the block runs where a model folder was given."""
    if model is None:
        yield endpoint
        return
    from serve.client import ModelServer

    with ModelServer(model, options=("--max-model-len", str(max_model_len))) as server:
        yield dataclasses.replace(endpoint, base_url=server.base_url, model=server.model)


def write_artifact(args: argparse.Namespace, tasks: Artifact, endpoint: Endpoint, writer: ArtifactWriter) -> None:
    """Run what is not finished yet and fill the artifact."""
    from rollout import engine

    path = tasks.data("tasks.parquet")
    asked = check_tasks(path, solution=endpoint.is_reference)
    names = [f"{task_id}__{n}" for task_id in sorted(asked) for n in range(args.attempts * asked[task_id])]
    run_id = value_digest({key: writer.fingerprint[key] for key in ("parameters", "seed", "inputs")})[:16]
    settings = settings_of(args, run_id)
    work = work_dir(args.out, writer.fingerprint)
    total = len(names)
    classes: Counter[str] = Counter()
    started = time.monotonic()

    def requests() -> Iterator[TrialRequest]:
        for row in read_rows(path):
            yield from requests_for(row, args.attempts * asked[row["task_id"]])

    with progress(total, "rollout") as bar:

        def finished(row: Mapping[str, Any]) -> None:
            classes[row["error_class"] or "none"] += 1
            bar.advance()

        with served(endpoint, args.model, args.max_model_len) as ready:
            asyncio.run(engine.run_each(requests(), ready, settings, work, finished))
    elapsed = time.monotonic() - started
    if total and classes[INFRASTRUCTURE] == total:
        message = _forget(work, names)
        raise BadInput(f"all {total} trials failed outside the model, the first with: {message}; nothing was published")
    turns = 0
    with TableWriter(writer.path("trajectories.parquet"), TRAJECTORY_SCHEMA) as table:
        for name in names:
            row = engine.finished_row(work, name)
            assert row is not None  # run_each returns when every trial is finished
            turns += row["turns"]
            table.write(row)
    writer.count(rows_in=total, rows_out=total)
    writer.provenance(
        trials_per_minute=round(total / elapsed * 60, 1), turns=turns, error_classes=dict(sorted(classes.items()))
    )
    if classes[INFRASTRUCTURE]:
        print(f"rollout: {classes[INFRASTRUCTURE]} of {total} trials failed outside the model", file=sys.stderr)


def _forget(work: Path, names: Sequence[str]) -> str:
    """Remove the finished trials, so that the next run tries them again; return the first one's error."""
    from rollout import engine

    row = engine.finished_row(work, names[0])
    for name in names:
        engine.trial_path(work, name).unlink(missing_ok=True)
    return str(row["error_message"]) if row else ""


def run(args: argparse.Namespace) -> None:
    """Check the flags, then run the trials and publish the artifact."""
    endpoint = endpoint_of(args)
    tasks = open_artifact(args.tasks)
    inputs: dict[str, Artifact] = {"tasks": tasks}
    if args.model:
        inputs["model"] = open_artifact(args.model)
    with ArtifactWriter(
        args.out,
        stage="rollout",
        params=parameters(args, endpoint),
        seed=args.seed,
        inputs=inputs,
        tier="T1" if endpoint.is_reference else "T2",
        package=["rollout", "sandbox"],
        commands=["serve"] if args.model else [],
    ) as writer:
        if not writer.up_to_date:
            write_artifact(args, tasks, endpoint, writer)


def build_worker_parser() -> argparse.ArgumentParser:
    """Return the parser of `rollout worker`."""
    from rollout import worker

    return Parser(prog="rollout worker", description=worker.__doc__)


def run_worker(args: argparse.Namespace) -> None:
    """Answer requests on standard input."""
    from rollout import worker

    worker.serve(sys.stdin)


def build_teacher_parser() -> argparse.ArgumentParser:
    """Return the parser of `rollout reference-teacher`."""
    from rollout import server

    parser = Parser(prog="rollout reference-teacher", description=server.__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="tasks artifact")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8199, help="port to listen on (default %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of looks and mistakes (default 0)")
    return parser


def run_teacher(args: argparse.Namespace) -> None:
    """Serve the built-in teacher."""
    from rollout import server

    server.serve(args.tasks, args.host, args.port, args.seed)


_COMMANDS: dict[str, Callable[[Sequence[str] | None], None]] = {
    "worker": entry(build_worker_parser, run_worker),
    "reference-teacher": entry(build_teacher_parser, run_teacher),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _COMMANDS:
        _COMMANDS[words[0]](words[1:])
    else:
        entry(build_parser, run, packages=["sandbox"])(words)


if __name__ == "__main__":
    main()
