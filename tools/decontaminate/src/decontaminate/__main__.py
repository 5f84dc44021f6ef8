"""Drop tasks that share text with the prompts of benchmarks.

    decontaminate --tasks results/dedup/aaa --benchmarks swebench.jsonl aime.txt --out results/decontaminate/bbb

methods: a task is dropped when for some prompt of some benchmark
  openthoughts3  they share 13 successive tokens, or their Indel similarity is at least 75 per cent
  agent          they share 8 successive tokens, or their similarity, or that of a part of the longer, is at least 80
  ngram          they share 13 successive tokens
  indel          their Indel similarity is at least 75 per cent

--ngram and --similarity change the numbers. A benchmark is a file and has its name: .jsonl or .parquet with a column of
prompts (--benchmark-column, by default the first of prompt, question, instruction, problem_statement, text), or .txt
with one prompt a line. Tokens are words and signs. A prompt of fewer tokens is one gram of them all if it has four.

Clean rows stay in the order of the input; dropped ones go to rejects.parquet with what they hit, and the first of them
by task id are shown in report.html, each beside its prompt. With --max-share it fails if more than that is dropped.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_core.artifact import ArtifactWriter, canonical_json, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput, nearest

if TYPE_CHECKING:
    import pyarrow as pa

    from decontaminate.rules import Hit, Rule
    from decontaminate.sets import Benchmark, Prompt

# Their numbers are in decontaminate.rules, which loads rapidfuzz; --help does without.
METHODS = ("openthoughts3", "agent", "ngram", "indel")
TOKENIZERS = ("words",)
REJECT_COLUMNS = ("reason", "benchmark", "benchmark_row", "similarity", "gram")


def per_cent(text: str) -> float:
    """Parse a similarity: above 1, so that a share is not taken for one, and at most 100."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a similarity in per cent, above 1 and at most 100")
    return value


def share(text: str) -> str:
    """Check that a share is from 0 to 1; it stays text, so that it is taken exactly as written."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="decontaminate", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact to go through")
    parser.add_argument(
        "--benchmarks", type=Path, nargs="+", required=True, metavar="FILE", help="files of prompts, one a benchmark"
    )
    parser.add_argument(
        "--benchmark-column", metavar="NAME", help="where a .jsonl or .parquet has its prompts (default: see above)"
    )
    parser.add_argument(
        "--method", choices=METHODS, default="openthoughts3", help="what is too close (default openthoughts3)"
    )
    parser.add_argument("--column", default="instruction", metavar="NAME", help="column compared (default instruction)")
    parser.add_argument(
        "--ngram", type=positive, metavar="N", help="tokens that may not be shared (default: by method)"
    )
    parser.add_argument(
        "--similarity", type=per_cent, metavar="X", help="per cent that are too similar (default: by method)"
    )
    parser.add_argument("--tokenizer", choices=TOKENIZERS, default="words", help="what a token is (default words)")
    parser.add_argument(
        "--max-share",
        type=share,
        metavar="F",
        help="fail, writing nothing, when more than this share of rows is dropped",
    )
    add_common(parser)
    return parser


def choose_rule(method: str, ngram: int | None, similarity: float | None) -> Rule:
    """Return a method's rule with the numbers that were given instead of its own.

    Raises:
        BadInput: a number for what the method does not look at.
    """
    from decontaminate.rules import RULES

    rule = RULES[method]
    for flag, given, own in (("--ngram", ngram, rule.ngram), ("--similarity", similarity, rule.similarity)):
        if given is not None and own is None:
            raise BadInput(f"{flag} decides nothing with --method {method}; drop one of the two")
    return rule._replace(
        ngram=rule.ngram if ngram is None else ngram,
        similarity=rule.similarity if similarity is None else similarity,
    )


def check_column(schema: pa.Schema, column: str, where: Path) -> None:
    """Raise BadInput unless the file has the column, of text, and none that the rejects need."""
    import pyarrow.types as kinds

    known = [field.name for field in schema if kinds.is_string(field.type) or kinds.is_large_string(field.type)]
    if column not in known:
        what = f"column {column!r} holds no text" if column in schema.names else f"no column {column!r}"
        hint = nearest(column, known) or f"; name one of {', '.join(known)}"
        raise BadInput(f"{where}: {what}{hint}")
    for name in REJECT_COLUMNS:
        if name in schema.names:
            raise BadInput(f"{where}: has a column {name!r} already, which rejects.parquet needs; rename it first")


def check_share(
    task_ids: Sequence[str], hits: Sequence[Hit | None], prompts: Sequence[Prompt], most: str | None
) -> None:
    """Raise BadInput when more than the share `most` of all rows hit a prompt; None is no limit."""
    found = sorted((task_id, hit.prompt) for task_id, hit in zip(task_ids, hits, strict=True) if hit is not None)
    if most is None or not found or Fraction(len(found), len(hits)) <= Fraction(most):
        return
    counts = Counter(prompts[prompt].benchmark for _, prompt in found)
    worst, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    task_id, example = next((task, prompts[prompt]) for task, prompt in found if prompts[prompt].benchmark == worst)
    raise BadInput(
        f"{len(found)} of {len(hits)} rows ({len(found) / len(hits):.2%}) hit a benchmark, --max-share is {most}; most "
        f"({count}) hit {worst!r}, for example task {task_id} its row {example.row}; look at the source of these "
        "tasks, or run without --max-share and open report.html"
    )


def run(args: argparse.Namespace) -> None:
    """Compare, and write the artifact."""
    from decontaminate.sets import find_sets, sets_digest

    rule = choose_rule(args.method, args.ngram, args.similarity)
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    sets = find_sets(args.benchmarks)
    params = {
        "method": args.method,
        **rule._asdict(),
        "column": args.column,
        "benchmark-column": args.benchmark_column,
        "tokenizer": args.tokenizer,
        # Decides no row, but an artifact that passed one limit has not passed a lower one.
        "max-share": args.max_share,
    }
    with ArtifactWriter(
        args.out,
        stage="decontaminate",
        params=params,
        seed=args.seed,
        inputs={"tasks": tasks, "benchmarks": sets_digest(sets)},
        tier="T0",
        package="decontaminate",
    ) as writer:
        if not writer.up_to_date:
            _write(args, rule, sets, path, writer)


def _write(args: argparse.Namespace, rule: Rule, sets: list[Benchmark], path: Path, writer: ArtifactWriter) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from decontaminate.index import Index
    from decontaminate.report import render
    from decontaminate.sets import read_prompts
    from decontaminate.text import TOKENIZERS as FUNCTIONS
    from recipe_core.progress import progress
    from recipe_core.records import TableWriter, read_rows, read_schema, with_reason

    schema = read_schema(path)
    check_column(schema, args.column, path)
    prompts = [prompt for benchmark in sets for prompt in read_prompts(benchmark, args.benchmark_column)]
    index = Index([prompt.text for prompt in prompts], rule, FUNCTIONS[args.tokenizer])
    task_ids: list[str] = []
    hits: list[Hit | None] = []
    with progress(pq.read_metadata(path).num_rows, "decontaminate") as bar:
        for row in read_rows(path, tuple(dict.fromkeys(("task_id", args.column)))):
            if not row["task_id"]:
                raise BadInput(f"{path}: row {len(task_ids)} has no task_id; rebuild the artifact with source-tasks")
            task_ids.append(row["task_id"])
            hits.append(index.decide(row[args.column] or ""))
            bar.advance()
    check_share(task_ids, hits, prompts, args.max_share)

    chosen = _shown(task_ids, hits)
    shown: dict[int, dict[str, Any]] = {}
    rejects_schema = with_reason(schema)
    for name, kind in zip(REJECT_COLUMNS[1:], (pa.string(), pa.int64(), pa.float64(), pa.string()), strict=True):
        rejects_schema = rejects_schema.append(pa.field(name, kind))
    with (
        TableWriter(writer.path("tasks.parquet"), schema) as kept,
        TableWriter(writer.path("rejects.parquet"), rejects_schema) as rejects,
    ):
        for number, (row, hit) in enumerate(zip(read_rows(path), hits, strict=True)):
            if hit is None:
                kept.write(row)
                continue
            found = _columns(hit, prompts[hit.prompt])
            rejects.write({**row, **found})
            if number in chosen:
                shown[number] = _beside(row, args.column, hit, prompts[hit.prompt])
    dropped = Counter(hit.reason for hit in hits if hit is not None)
    report = {
        "method": args.method,
        "rule": rule._asdict(),
        "column": args.column,
        "rows_in": len(hits),
        "dropped": rejects.rows,
        "benchmarks": _by_benchmark(sets, prompts, hits),
        "hits": [shown[number] for number in chosen],
    }
    writer.path("report.json").write_text(canonical_json(report), encoding="utf-8")
    writer.path("report.html").write_text(render(report, rule), encoding="utf-8")
    writer.count(rows_in=len(hits), rows_out=kept.rows, dropped=dropped)


def _shown(task_ids: Sequence[str], hits: Sequence[Hit | None]) -> list[int]:
    from decontaminate.report import MOST_HITS

    # By task id, so that the report does not depend on the order of the rows.
    found = sorted((task_ids[number], number) for number, hit in enumerate(hits) if hit is not None)
    return [number for _, number in found[:MOST_HITS]]


def _columns(hit: Hit, prompt: Prompt) -> dict[str, Any]:
    return {
        "reason": hit.reason,
        "benchmark": prompt.benchmark,
        "benchmark_row": prompt.row,
        "similarity": hit.similarity,
        "gram": None if hit.gram is None else " ".join(str(token) for token in hit.gram),
    }


def _beside(row: dict[str, Any], column: str, hit: Hit, prompt: Prompt) -> dict[str, Any]:
    from decontaminate.report import excerpt

    texts = {"text": excerpt(row[column], hit.gram), "prompt": excerpt(prompt.text, hit.gram)}
    return {
        "task_id": row["task_id"],
        **_columns(hit, prompt),
        **{name: shown._asdict() for name, shown in texts.items()},
    }


def _by_benchmark(sets: list[Benchmark], prompts: Sequence[Prompt], hits: Sequence[Hit | None]) -> list[dict[str, Any]]:
    held = Counter(prompt.benchmark for prompt in prompts)
    found = Counter((prompts[hit.prompt].benchmark, hit.reason) for hit in hits if hit is not None)
    return [
        {
            "name": benchmark.name,
            "sha256": benchmark.digest,
            "prompts": held[benchmark.name],
            **{reason: found[benchmark.name, reason] for reason in ("ngram", "similar")},
        }
        for benchmark in sets
    ]


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
