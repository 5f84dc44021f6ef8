"""The flags of every tool that asks a model, and what of them a manifest records."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from recipe_core.artifact import Artifact, open_artifact
from recipe_core.cli import above_zero, check_endpoint, natural, positive, real, top_k
from recipe_core.errors import BadInput
from serve.flags import add_serving_flags, serving_given
from teacher.request import Sampling

REFERENCE = "reference"
_CHOICES = ("--teacher", "--model", "--endpoint")
# Keys that --extra-body may not set: another conversation, model or form of answer than the tool counts on.
_OWN_KEYS = frozenset({"model", "messages", "n", "stream", "input", "encoding_format"})


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object, for `--extra-body`."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    for name in sorted(_OWN_KEYS & value.keys()):
        raise argparse.ArgumentTypeError(f"the key {name!r} is set by the tool itself; leave it out")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def add_teacher_flags(parser: argparse.ArgumentParser, *, reference: str, max_tokens: int = 1024) -> None:
    """Add the flags that say which model is asked, how, and how gently.

    Args:
        parser: a tool's parser.
        reference: what `--teacher reference` does in this tool, for its help.
        max_tokens: default of `--max-tokens`.
    """
    group = parser.add_argument_group("teacher (one of --teacher, --model, --endpoint)")
    group.add_argument("--teacher", choices=(REFERENCE,), help=reference)
    group.add_argument("--model", type=Path, metavar="DIR", help="model artifact, served here for the time of the run")
    group.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible URL that ends in /v1")
    group.add_argument("--model-name", metavar="NAME", help="with --endpoint: the model's name there")
    group.add_argument("--api-key-env", metavar="VAR", help="with --endpoint: environment variable that holds the key")
    group.add_argument(
        "--extra-body",
        type=json_object,
        default={},
        metavar="JSON",
        help="further keys of every request; null leaves out a key that the endpoint does not know",
    )
    group.add_argument(
        "--max-model-len", type=positive, default=4096, metavar="N", help="with --model: context (default 4096)"
    )
    add_serving_flags(group, "with --model: ")
    group = parser.add_argument_group("requests")
    defaults = Sampling()
    group.add_argument("--temperature", type=real(), default=defaults.temperature, help="default 1.0")
    group.add_argument("--top-p", type=real(0.0, 1.0, above=True), default=defaults.top_p, help="default 1.0")
    group.add_argument("--top-k", type=top_k, default=defaults.top_k, help="default -1: no limit")
    group.add_argument(
        "--max-tokens", type=positive, default=max_tokens, metavar="N", help=f"of an answer (default {max_tokens})"
    )
    group.add_argument(
        "--concurrency", type=positive, default=16, metavar="N", help="requests at the same time (default 16)"
    )
    group.add_argument(
        "--requests-per-minute", type=above_zero, metavar="N", help="most requests a minute (default no limit)"
    )
    group.add_argument(
        "--retries", type=natural, default=6, metavar="N", help="repetitions of a failed request (default 6)"
    )
    group.add_argument("--request-timeout", type=above_zero, default=600.0, metavar="S", help="seconds (default 600)")
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="where replies are kept (default OUT.work; give one to share them)"
    )


def check_teacher_flags(args: argparse.Namespace) -> None:
    """Raise BadInput unless exactly one model is named, by flags that belong together."""
    given = [flag for flag in _CHOICES if getattr(args, flag.removeprefix("--")) is not None]
    if len(given) != 1:
        said = f"{' and '.join(given)} exclude each other" if given else "no teacher"
        raise BadInput(f"{said}; give one of {', '.join(_CHOICES)}")
    if (args.endpoint is None) != (args.model_name is None):
        raise BadInput("--endpoint and --model-name belong together; give both or neither")
    if args.api_key_env is not None and args.endpoint is None:
        raise BadInput("--api-key-env belongs to --endpoint; leave it out")
    for flag in serving_given(args) if args.model is None else ():
        raise BadInput(f"{flag} belongs to --model; leave it out")
    if args.model is not None and args.max_tokens >= args.max_model_len:
        raise BadInput(
            f"--max-tokens {args.max_tokens} leaves no room for a prompt in --max-model-len {args.max_model_len}; "
            "lower the one or raise the other"
        )
    if args.endpoint is not None:
        check_endpoint(args.endpoint)


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Return the sampling parameters that the flags state."""
    return Sampling(args.temperature, args.top_p, args.top_k, args.max_tokens)


def teacher_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return what of the teacher's flags decides the answers, for the manifest."""
    if args.teacher:
        return {"teacher": args.teacher}
    # How many GPUs serve a model, and with how much memory, decides no more than the last bits, as the hardware does.
    return {
        **({"dtype": args.dtype} if args.dtype else {}),
        "teacher": None,
        "endpoint": args.endpoint,
        "model_name": args.model_name,
        "sampling": dataclasses.asdict(sampling_of(args)),
        "extra_body": dict(args.extra_body),
        "max_model_len": args.max_model_len if args.model else None,
    }


def teacher_inputs(args: argparse.Namespace) -> dict[str, Artifact]:
    """Return the model artifact that answers, for the manifest's inputs; checks the flags.

    Raises:
        BadInput: flags that do not belong together, or no model there.
    """
    check_teacher_flags(args)
    return {"model": open_artifact(args.model)} if args.model else {}


def teacher_tier(args: argparse.Namespace) -> str:
    """Return how exactly the answers come again: T0 from the reference, T1 from a served model, T2 from an endpoint."""
    return "T0" if args.teacher else "T1" if args.model else "T2"
