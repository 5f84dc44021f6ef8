"""How a model is served, as flags: of `serve` itself and of every tool that starts it for a model folder."""

from __future__ import annotations

import argparse

from recipe_core.cli import above_zero, positive, real
from serve.engine import DTYPES


def add_serving_flags(group: argparse._ArgumentGroup | argparse.ArgumentParser, when: str = "") -> None:
    """Add the flags that :func:`serving_words` reads.

    Args:
        group: of a tool's parser.
        when: what the help of each flag begins with, such as `with --model: `.
    """
    group.add_argument(
        "--tensor-parallel", type=positive, default=1, metavar="N", help=f"{when}GPUs a copy of the model (default 1)"
    )
    group.add_argument(
        "--data-parallel",
        type=positive,
        default=1,
        metavar="N",
        help=f"{when}copies that share the requests (default 1)",
    )
    group.add_argument(
        "--gpu-memory",
        type=real(0, 1, above=True),
        metavar="SHARE",
        help=f"{when}of each GPU's memory (default 0.92, vLLM's)",
    )
    group.add_argument(
        "--dtype", choices=DTYPES, help=f"{when}of the weights (default bfloat16 on GPUs, float32 on CPUs)"
    )
    group.add_argument(
        "--start-timeout", type=above_zero, default=600.0, metavar="S", help=f"{when}seconds (default 600)"
    )


def serving_given(args: argparse.Namespace) -> dict[str, object]:
    """Return the flags that differ from their defaults, with their values; that of the start's time is never one."""
    values = {
        "--tensor-parallel": args.tensor_parallel if args.tensor_parallel != 1 else None,
        "--data-parallel": args.data_parallel if args.data_parallel != 1 else None,
        "--gpu-memory": args.gpu_memory,
        "--dtype": args.dtype,
    }
    return {flag: value for flag, value in values.items() if value is not None}


def serving_words(args: argparse.Namespace) -> list[str]:
    """Return the words for `serve` that say the same."""
    return [str(word) for pair in serving_given(args).items() for word in pair]
