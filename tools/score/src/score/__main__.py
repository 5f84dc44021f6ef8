"""Measure tasks: add a column of numbers that filters select by.

    score --tasks results/mix/aaa --method response-length --endpoint https://api.example.org/v1 --model-name big \\
        --api-key-env KEY --max-tokens 8192 --out results/score/bbb
    score --tasks results/mix/aaa --method fasttext --positives good.jsonl --out results/score/ccc

methods:
  response-length  tokens of a model's answer to the instruction; of the reference teacher, words of the solution
  difficulty       a model's rating of the task from 1 to 10
  ask-llm          the probability that a model answers "yes" when asked whether the task is informative (AskLLM)
  embedding        mean cosine similarity of the instruction's embedding to those of --positives
  fasttext         probability of a fastText classifier that the instruction is like --positives rather than like
                   --negatives (default: the instructions of these tasks)
  random           a number from 0 to 1 that depends on --seed and the task's id alone

All rows are kept, with their columns. A row without a value has null there; provenance.json counts why
(no-instruction, no-solution, refused, no-count, unparsable, zero-vector) and what was asked in tokens. Files of texts
are files or folders as `decontaminate --benchmarks` takes them. Replies are
kept as they come: a run that was killed asks nothing twice.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from recipe_core.artifact import ArtifactWriter, open_artifact, value_digest
from recipe_core.cli import Parser, add_common, entry
from recipe_core.errors import BadInput
from score import classify
from score.prompts import BUILT_IN, PLACE, read_prompt
from teacher.flags import REFERENCE, add_teacher_flags, teacher_inputs, teacher_parameters, teacher_tier

ASKING = ("response-length", "difficulty", "ask-llm", "embedding")
METHODS = (*ASKING, "fasttext", "random")
# Which methods a flag belongs to.
_BELONGS = {
    "positives": ("embedding", "fasttext"),
    "negatives": ("fasttext",),
    "prompt_file": tuple(BUILT_IN),
    "teacher": ASKING,
    "model": ASKING,
    "endpoint": ASKING,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="score", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact to measure")
    parser.add_argument("--method", choices=METHODS, required=True, help="what is measured")
    parser.add_argument("--column", metavar="NAME", help="the new column (default: the method, with _ for -)")
    parser.add_argument("--positives", type=Path, metavar="FILE", help="embedding, fasttext: texts of the wanted kind")
    parser.add_argument("--negatives", type=Path, metavar="FILE", help="fasttext: texts of the unwanted kind")
    parser.add_argument(
        "--prompt-file",
        type=Path,
        metavar="FILE",
        help=f"difficulty, ask-llm: what the model is asked; {PLACE} is where the task goes",
    )
    add_teacher_flags(parser, reference="response-length: words of the task's own solution", max_tokens=2048)
    add_common(parser)
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise BadInput for flags that do not belong to the method, or that it lacks."""
    for name, methods in _BELONGS.items():
        if getattr(args, name) is not None and args.method not in methods:
            flag = f"--{name.replace('_', '-')}"
            raise BadInput(f"{flag} belongs to --method {' or '.join(methods)}, not to {args.method}; leave it out")
    if args.method in _BELONGS["positives"] and args.positives is None:
        raise BadInput(f"--method {args.method} needs --positives, a file of texts of the wanted kind")
    if args.teacher == REFERENCE and args.method != "response-length":
        raise BadInput(f"--method {args.method} needs a model that answers; give --model or --endpoint")
    if args.model is not None and args.method == "embedding":
        raise BadInput(
            "--method embedding: a model that is served here only writes text; give an --endpoint that embeds"
        )


def check_column(name: str, known: list[str], where: Path) -> None:
    """Raise BadInput unless a column of this name can be added.

    Args:
        name: of the new column.
        known: names that are taken.
        where: the tasks.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BadInput(f"--column {name!r}: not a column's name; use small letters, digits and _")
    if name in known:
        raise BadInput(f"{where}: there is a column {name!r} already; give another name by --column")


def run(args: argparse.Namespace) -> None:
    """Measure, and write the artifact."""
    from recipe_core.prompts import find_sets, sets_digest
    from recipe_core.records import ATTEMPTS, TASK_SCHEMA, read_schema
    from recipe_core.signals import COMPUTED

    check_flags(args)
    asks = args.method in ASKING
    inputs: dict[str, Any] = dict(teacher_inputs(args)) if asks else {}
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    column = args.column or args.method.replace("-", "_")
    # Names that mean something else to other tools are taken too.
    check_column(column, [*read_schema(path).names, *TASK_SCHEMA.names, *COMPUTED, ATTEMPTS, "reason", "value"], path)
    for name in ("positives", "negatives"):
        file = getattr(args, name)
        if file is not None:
            inputs[name] = sets_digest(find_sets([file], flag=f"--{name}"))
    params: dict[str, Any] = {"method": args.method, "column": column}
    prompt = read_prompt(args.prompt_file) if args.prompt_file else BUILT_IN.get(args.method)
    if prompt is not None:
        params["prompt"] = f"sha256:{value_digest(prompt)}"
    if asks:
        params |= teacher_parameters(args)
    if args.method == "fasttext":
        params["fasttext"] = classify.SETTINGS
    with ArtifactWriter(
        args.out,
        stage="score",
        params=params,
        seed=args.seed,
        inputs={"tasks": tasks, **inputs},
        tier=teacher_tier(args) if asks else {"fasttext": "T1", "random": "T0"}[args.method],
        package=("score", "teacher"),
        commands=["serve"] if args.model else [],
    ) as writer:
        if not writer.up_to_date:
            from score.stage import write_scores

            write_scores(args, path, column, prompt, writer)


main = entry(build_parser, run, packages=("teacher",))

if __name__ == "__main__":
    main()
