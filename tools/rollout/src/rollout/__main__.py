"""Run the agent terminus-2 on every task of an artifact and record trajectories.

    rollout --tasks results/mix/aaa --teacher reference --out results/rollout/bbb
    rollout --tasks results/mix/aaa --endpoint http://localhost:8000/v1 --model-name qwen3 --out OUT
    rollout --tasks results/mix/aaa --endpoint https://api.example.org/v1 --model-name big --api-key-env KEY …
    rollout --tasks results/mix/aaa --model results/train_sft/ccc --out OUT

Each trial runs in a sandbox of its own, in a real tmux, and ends with the task's verifier. A run that was killed goes
on where it was when the same command is given again. Rows are sorted by task and attempt. Tasks that went through
upsample get --attempts times their own number of attempts.

On several nodes, the work is shared through the folder OUT.work; the artifact is the same:

    rollout pull --tasks results/mix/aaa --model results/train_sft/ccc --shard 1/8 --out OUT   # one on each node
    rollout --tasks results/mix/aaa --model results/train_sft/ccc --merge --out OUT            # when all have ended

other commands (each with --help):
  rollout pull                run trials until none is left to take, with others or alone
  rollout reference-teacher   serve the built-in teacher to other harnesses
  rollout worker              run trials for another program, JSON lines in and out
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from recipe_core.artifact import Artifact, ArtifactWriter, open_artifact, value_digest
from recipe_core.cli import (
    Parser,
    above_zero,
    add_common,
    check_endpoint,
    entry,
    iso_date,
    natural,
    positive,
    real,
    seed,
    top_k,
)
from recipe_core.errors import BadInput
from recipe_core.records import ATTEMPTS, TRAJECTORY_SCHEMA, TableWriter, read_rows
from recipe_core.tasks import check_runnable
from recipe_core.terms import INFRASTRUCTURE
from rollout.pull import Queue, Serving, Trials, run_queue
from rollout.remote import ENVIRONMENTS, check_environment
from rollout.settings import REFERENCE, REFERENCE_ENDPOINT, SANDBOX, Endpoint, Sampling, Settings, requests_for
from rollout.shared import DEFAULT_TIMEOUT_SEC, Worker, clear_old, shared_folder
from serve.flags import add_serving_flags, serving_given, serving_words

_PULL = """Run trials of a rollout until none is left to take, alone or beside others.

    rollout pull --tasks results/mix/aaa --model results/train_sft/ccc --shard 3/8 --out OUT

As many as there are nodes share the folder OUT.work: each takes the next trial that nobody has, so that none waits for
another, and ends as soon as the rest is with others that are at it. When a process is lost, finished trials stay, and
the others, or the same command again, take over the rest. Afterwards `rollout … --merge --out OUT`, with the same
flags, writes the artifact. Nothing here decides what is in it.
"""


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


def shard_of(text: str) -> tuple[int, int]:
    """Parse `K/N`, for `--shard`: the K-th of N, from 1."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N, such as 3/8")
    return int(found[1]), int(found[2])


def add_model_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags that :func:`model_endpoint` and :func:`serving_of` read, but those of sampling."""
    group.add_argument("--model", type=Path, metavar="DIR", help="model artifact, served for the time of the run")
    group.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible API, ending in /v1")
    group.add_argument("--model-name", metavar="NAME", help="the model's name there")
    group.add_argument("--api-key-env", metavar="VAR", help="environment variable that holds the API key")
    add_serving_flags(group, "with --model: ")


def serving_of(args: argparse.Namespace) -> Serving | None:
    """Return how the model folder of `--model` is served, if there is one."""
    if not args.model:
        return None
    options = ["--max-model-len", str(args.max_model_len), *serving_words(args)]
    return Serving(args.model, options, args.start_timeout)


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the rows besides what every manifest records, where the flags name it.

    How many GPUs serve a model, and with how much memory, decides no more than the last bits, as the hardware does.
    """
    found = {"dtype": args.dtype, "environment": args.environment if args.environment != SANDBOX else None}
    return {name: value for name, value in found.items() if value is not None}


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
    for flag in serving_given(args) if args.endpoint else ():
        raise BadInput(f"{flag} belongs to --model, not to --endpoint; leave it out")
    if args.endpoint and not args.model_name:
        raise BadInput("--endpoint needs --model-name, the model's name there")
    if args.endpoint:
        check_endpoint(args.endpoint)
    return Endpoint(
        model=args.model_name or args.model.name,
        base_url=args.endpoint or "",
        provider="openai-compatible" if args.endpoint else "vllm",
        api_key_env=args.api_key_env,
        sampling=sampling_of(args),
        extra_body=args.extra_body,
        request_timeout_sec=args.request_timeout,
    )


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
    trials.add_argument(
        "--environment",
        choices=ENVIRONMENTS,
        default=SANDBOX,
        help="where trials run: the sandbox here (default), or a remote provider by Harbor",
    )
    trials.add_argument(
        "--worker-timeout",
        type=above_zero,
        default=DEFAULT_TIMEOUT_SEC,
        metavar="S",
        help="silence after which another process that works on the same OUT counts as lost (default %(default)g s)",
    )


def add_merge_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--merge`."""
    parser.add_argument(
        "--merge",
        action="store_true",
        help=f"only write the artifact; what `{parser.prog} pull` left is an error",
    )


def add_shard_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--shard`."""
    parser.add_argument(
        "--shard",
        type=shard_of,
        metavar="K/N",
        help="begin with the K-th of N parts of the tasks; an earlier process of the same shard is replaced",
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
        environment=args.environment,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = _parser("rollout", str(__doc__))
    add_merge_flag(parser)
    return parser


def build_pull_parser() -> argparse.ArgumentParser:
    """Return the parser of `rollout pull`."""
    parser = _parser("rollout pull", _PULL)
    add_shard_flag(parser)
    return parser


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = Parser(prog=prog, description=description)
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
    for flag in serving_given(args):
        raise BadInput(f"{flag} belongs to --model, not to --teacher; leave it out")
    return REFERENCE_ENDPOINT


def parameters(args: argparse.Namespace, endpoint: Endpoint) -> dict[str, Any]:
    """Return what decides the rows, for the manifest."""
    common = {
        "attempts": args.attempts,
        "max_turns": args.max_turns,
        "agent_timeout_sec": args.agent_timeout,
        "settle_sec": args.settle,
        "date": args.date,
        **chosen(args),
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


def run_id_of(fingerprint: Mapping[str, Any]) -> str:
    """Return what names a run in its rows: a digest of what it was asked to do."""
    return value_digest({key: fingerprint[key] for key in ("parameters", "seed", "inputs")})[:16]


def finish_trials(
    args: argparse.Namespace, trials: Trials, endpoint: Endpoint, fingerprint: Mapping[str, Any], label: str
) -> tuple[Path, int]:
    """Run the trials that nobody has finished, or with `--merge` check that there are none.

    Args:
        args: the flags of trials and of the model, `--merge` and `--out`.
        trials: which.
        endpoint: the model.
        fingerprint: what the artifact is made of.
        label: of the progress.

    Returns:
        The folder of finished trials, and how many were run here.

    Raises:
        BadInput: the model cannot be used, or trials are missing.
    """
    if not args.merge:
        check_environment(args.environment)
    work = shared_folder(args.out, fingerprint)
    if args.merge:
        left = [name for name in trials.names() if not (work / "trials" / f"{name}.json").exists()]
        if left:
            raise BadInput(
                f"{work}: {len(left)} of {len(trials)} trials are not finished, the first of them {left[0]}; "
                f"run `{args.prog} pull` with the same flags until it ends without an error"
            )
        return work, 0
    with Worker(work, timeout=args.worker_timeout) as worker:
        queue = Queue(trials, worker, to_the_end=True)
        settings = settings_of(args, run_id_of(fingerprint))
        return work, run_queue(queue, endpoint, settings, serving_of(args), label=label)


def pull_trials(
    args: argparse.Namespace, trials: Trials, endpoint: Endpoint, fingerprint: Mapping[str, Any], label: str
) -> None:
    """Run trials until none is left to take; arguments and errors as in :func:`finish_trials`, with `--shard`."""
    check_environment(args.environment)
    work = shared_folder(args.out, fingerprint)
    shard, shards = args.shard or (1, 1)
    name = f"{shard}/{shards}" if args.shard else ""
    with Worker(work, shard=name, timeout=args.worker_timeout) as worker:
        queue = Queue(trials, worker, shard=shard, shards=shards)
        settings = settings_of(args, run_id_of(fingerprint))
        done = run_queue(queue, endpoint, settings, serving_of(args), label=label, stop_early=True)
    print(f"{args.prog} pull: {done} trials done here; none is left to take", file=sys.stderr)


def read_finished(work: Path, name: str) -> dict[str, Any]:
    """Return what is kept of a finished trial; one that a failing disk cut off is an error, and next time run again."""
    from rollout import engine

    found = engine.finished_trial(work, name)
    if found is None:
        raise BadInput(f"{engine.trial_path(work, name)}: cut off, and removed; run the same command again")
    return found


def trials_of(args: argparse.Namespace, tasks: Artifact, endpoint: Endpoint) -> Trials:
    """Check the tasks and return their trials.

    Raises:
        BadInput: a task that cannot be run, or that occurs twice.
    """
    path = tasks.data("tasks.parquet")
    asked = check_tasks(path, solution=endpoint.is_reference)
    return Trials(path, {task_id: args.attempts * n for task_id, n in asked.items()})


def write_artifact(args: argparse.Namespace, tasks: Artifact, endpoint: Endpoint, writer: ArtifactWriter) -> None:
    """Run what is not finished yet and fill the artifact."""
    trials = trials_of(args, tasks, endpoint)
    started = time.monotonic()
    work, run_here = finish_trials(args, trials, endpoint, writer.fingerprint, "rollout")
    elapsed = time.monotonic() - started
    total, turns, last_error = len(trials), 0, None
    classes: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    with TableWriter(writer.path("trajectories.parquet"), TRAJECTORY_SCHEMA) as table:
        for name in trials.names():
            found = read_finished(work, name)
            row = found["row"]
            hosts[found["host"]] += 1
            classes[row["error_class"] or "none"] += 1
            last_error = row["error_message"] or last_error
            turns += row["turns"]
            table.write(row)
    if total and classes[INFRASTRUCTURE] == total:
        forget(work, trials)
        raise BadInput(
            f"all {total} trials failed outside the model, the last with: {last_error}; nothing was published"
        )
    writer.count(rows_in=total, rows_out=total)
    writer.provenance(
        trials_per_minute=round(run_here / elapsed * 60, 1) if run_here else None,
        trials_run_here=run_here,
        trials_by_host=dict(sorted(hosts.items())),
        turns=turns,
        error_classes=dict(sorted(classes.items())),
        **served_by(args),
    )
    clear_old(args.out)
    if classes[INFRASTRUCTURE]:
        print(f"rollout: {classes[INFRASTRUCTURE]} of {total} trials failed outside the model", file=sys.stderr)


def served_by(args: argparse.Namespace) -> dict[str, Any]:
    """Return what provenance says of the model's server."""
    if not args.model:
        return {}
    return {
        "tensor_parallel": args.tensor_parallel,
        "data_parallel": args.data_parallel,
        "gpu_memory": args.gpu_memory,
    }


def forget(work: Path, trials: Trials) -> None:
    """Remove the finished trials, so that the next run tries them again."""
    from rollout import engine

    for name in trials.names():
        engine.trial_path(work, name).unlink(missing_ok=True)


def _writer(args: argparse.Namespace, endpoint: Endpoint, tasks: Artifact) -> ArtifactWriter:
    inputs: dict[str, Artifact] = {"tasks": tasks}
    if args.model:
        inputs["model"] = open_artifact(args.model)
    return ArtifactWriter(
        args.out,
        stage="rollout",
        params=parameters(args, endpoint),
        seed=args.seed,
        inputs=inputs,
        tier="T1" if endpoint.is_reference and args.environment == SANDBOX else "T2",
        package=["rollout", "sandbox"],
        commands=["serve"] if args.model else [],
    )


def run(args: argparse.Namespace) -> None:
    """Check the flags, then run the trials and publish the artifact."""
    args.prog = "rollout"
    endpoint = endpoint_of(args)
    tasks = open_artifact(args.tasks)
    with _writer(args, endpoint, tasks) as writer:
        if not writer.up_to_date:
            write_artifact(args, tasks, endpoint, writer)


def run_pull(args: argparse.Namespace) -> None:
    """Check the flags, then run trials until none is left to take."""
    args.prog = "rollout"
    endpoint = endpoint_of(args)
    tasks = open_artifact(args.tasks)
    writer = _writer(args, endpoint, tasks)
    if writer.up_to_date:
        print(f"{args.out}: up to date", file=sys.stderr)
        return
    pull_trials(args, trials_of(args, tasks, endpoint), endpoint, writer.fingerprint, "rollout")


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
    "pull": entry(build_pull_parser, run_pull),
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
