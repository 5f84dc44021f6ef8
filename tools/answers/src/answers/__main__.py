"""Sample answers to questions from a teacher, and filter them: one row a sample.

    answers --tasks results/dedup/aaa --endpoint http://localhost:8000/v1 --model-name qwq --samples 16 \\
        --filter none --out results/answers/bbb
    answers --tasks results/dedup/aaa --teacher reference --filter verifier --out results/answers/bbb

filters (--filter), each among the samples of one question:
  none      keep every answer
  random    keep --keep-per-question of them, drawn by a hash of seed, task id and sample
  length    keep the --keep-per-question longest or shortest (--prefer), inside --min-answer-tokens and
            --max-answer-tokens
  majority  keep those whose final answer is the most frequent one
  llm       keep those that the same teacher, asked as a judge, calls correct
  verifier  keep those that equal the reference answer (meta.answer), or whose code passes meta.tests in a sandbox

A question is a task row: its instruction is asked, its meta may hold answer, domain (math, code, science), tests and
solution. Answers that were cut at --max-tokens, refused or empty are dropped whatever the filter. What is dropped goes
to rejects.parquet with the reason. A run that was killed goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, iso_date, positive
from recipe_core.errors import BadInput
from teacher.flags import add_teacher_flags, teacher_inputs, teacher_parameters, teacher_tier

FILTERS = ("none", "random", "length", "majority", "llm", "verifier")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="answers", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="tasks artifact: the questions")
    parser.add_argument("--samples", type=positive, default=1, metavar="N", help="answers to a question (default 1)")
    parser.add_argument("--system", metavar="TEXT", help="system message before each question (default none)")
    parser.add_argument(
        "--question-suffix", metavar="TEXT", help="paragraph after each question, such as 'Put the answer in \\boxed{}'"
    )
    group = parser.add_argument_group("filter")
    group.add_argument("--filter", choices=FILTERS, default="none", help="which answers are kept (default none: all)")
    group.add_argument(
        "--keep-per-question",
        type=positive,
        metavar="K",
        help="random, length: how many of a question's answers to keep",
    )
    group.add_argument("--prefer", choices=("longest", "shortest"), help="length: which of them (default longest)")
    group.add_argument("--min-answer-tokens", type=positive, metavar="N", help="length: drop shorter answers")
    group.add_argument("--max-answer-tokens", type=positive, metavar="N", help="length: drop longer answers")
    group.add_argument(
        "--time-limit", type=positive, default=10, metavar="S", help="verifier: CPU seconds of code (default 10)"
    )
    group.add_argument("--keep-cut", action="store_true", help="let answers pass that were cut at --max-tokens")
    group.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="questions filtered at once (default 2)"
    )
    add_teacher_flags(
        parser, reference="give the known answer of each row: meta.answer, or meta.solution to a code question"
    )
    add_common(parser)
    parser.add_argument("--date", type=iso_date, default="1970-01-01", help="recorded in every row")
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise BadInput for flags that do not belong together or ask for nothing; see the teacher's for its own."""
    bounds = {"--min-answer-tokens": args.min_answer_tokens, "--max-answer-tokens": args.max_answer_tokens}
    for flag, value, filters in (
        ("--keep-per-question", args.keep_per_question, ("random", "length")),
        ("--prefer", args.prefer, ("length",)),
        *((flag, value, ("length",)) for flag, value in bounds.items()),
    ):
        if value is not None and args.filter not in filters:
            raise BadInput(f"{flag} belongs to --filter {' or '.join(filters)}; leave it out")
    if args.filter == "random" and args.keep_per_question is None:
        raise BadInput("--filter random needs --keep-per-question, how many answers to keep")
    if args.filter == "length" and args.keep_per_question is None and not any(bounds.values()):
        raise BadInput("--filter length needs --keep-per-question, --min-answer-tokens or --max-answer-tokens")
    if all(bounds.values()) and args.min_answer_tokens > args.max_answer_tokens:
        raise BadInput(
            f"--min-answer-tokens {args.min_answer_tokens} is above --max-answer-tokens {args.max_answer_tokens}; "
            "no answer lies between them"
        )
    if args.prefer is not None and args.keep_per_question is None:
        raise BadInput("--prefer needs --keep-per-question, how many answers to keep")


def parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the rows, for the manifest."""
    ranks = args.filter == "length" and args.keep_per_question is not None
    return {
        **teacher_parameters(args),
        "samples": args.samples,
        "system": args.system,
        "question_suffix": args.question_suffix,
        "filter": args.filter,
        "keep_per_question": args.keep_per_question,
        "prefer": (args.prefer or "longest") if ranks else None,
        "min_answer_tokens": args.min_answer_tokens,
        "max_answer_tokens": args.max_answer_tokens,
        "time_limit": args.time_limit if args.filter == "verifier" else None,
        "keep_cut": args.keep_cut,
        "date": args.date,
    }


def run(args: argparse.Namespace) -> None:
    """Check the flags, then ask, filter and publish the artifact."""
    check_flags(args)
    inputs = {"tasks": open_artifact(args.tasks), **teacher_inputs(args)}
    with ArtifactWriter(
        args.out,
        stage="answers",
        params=parameters(args),
        seed=args.seed,
        inputs=inputs,
        tier=teacher_tier(args),
        package=["answers", "teacher", *(["sandbox"] if args.filter == "verifier" else [])],
        commands=["serve"] if args.model else [],
    ) as writer:
        if not writer.up_to_date:
            from answers.stage import write_artifact

            write_artifact(args, inputs["tasks"], writer)


main = entry(build_parser, run, packages=["teacher", "sandbox"])

if __name__ == "__main__":
    main()
