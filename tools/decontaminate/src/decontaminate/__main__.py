"""Drop tasks that share text with the prompts of benchmarks.

    decontaminate --tasks results/dedup/aaa --benchmarks swebench.jsonl aime.txt --out results/decontaminate/bbb

methods: a task is dropped when for some prompt of some benchmark
  openthoughts3  they share 13 successive tokens, or their Indel similarity is at least 75 per cent
  agent          they share 8 successive tokens, or their similarity, or that of a part of the longer, is at least 80
  ngram          they share 13 successive tokens
  indel          their Indel similarity is at least 75 per cent

--ngram and --similarity change the numbers. A benchmark is a file and has its name: .jsonl, .parquet or .csv with a
column of prompts (--benchmark-column, by default the first of prompt, question, instruction, problem,
problem_statement, question_content, text), or .txt with one prompt a line. It may be a folder: of task folders, whose
instruction.md are the prompts, else of such files but .txt. --held-out names artifacts of evaluation tasks. A prompt of
fewer tokens is one gram of them all if it has four.

Tokens are words and signs, or with --tokenizer FILE those of a Hugging Face tokenizer.json. The rules as published
count those of Qwen2-7B-Instruct (openthoughts3) and bert-base-uncased (agent): give that file to apply them so.

Clean rows stay in the order of the input; dropped ones go to rejects.parquet with what they hit, and the first of them
by task id are shown in report.html, each beside its prompt. With --max-share it fails if more than that is dropped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_core.artifact import Artifact, ArtifactWriter, canonical_json, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput, nearest
from recipe_core.tokens import WORDS, TokenizerFile, Words, open_tokenizer, words

if TYPE_CHECKING:
    import pyarrow as pa

    from decontaminate.rules import Hit, Rule
    from recipe_core.prompts import Benchmark, Prompt

# Their numbers are in decontaminate.rules, which loads rapidfuzz; --help does without.
METHODS = ("openthoughts3", "agent", "ngram", "indel")
# Rows decided together: enough to go through the prompts once for many, few enough to be held several times.
_BATCH_ROWS = 2048
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
        "--benchmarks", type=Path, nargs="+", default=[], metavar="PATH", help="files or folders of prompts, one each"
    )
    parser.add_argument(
        "--held-out", type=Path, nargs="+", default=[], metavar="DIR", help="artifacts of evaluation tasks"
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
    parser.add_argument(
        "--tokenizer", default=WORDS, metavar="words|FILE", help="what a token is: a word, or as a tokenizer.json says"
    )
    parser.add_argument(
        "--max-share",
        type=share,
        metavar="F",
        help="fail, writing nothing, when more than this share of rows is dropped",
    )
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="processes; no row depends on it (default 1)"
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
        hint = nearest(column, known) or (f"; name one of {', '.join(known)}" if known else "; no column holds text")
        raise BadInput(f"{where}: {what}{hint}")
    for name in REJECT_COLUMNS:
        if name in schema.names:
            raise BadInput(f"{where}: has a column {name!r} already, which rejects.parquet needs; rename it first")


def check_share(
    rows: Sequence[tuple[str, str]], hits: Sequence[Hit | None], prompts: Sequence[Prompt], most: str | None
) -> None:
    """Raise BadInput when more than the share `most` of all rows hit a prompt; None is no limit.

    Args:
        rows: task id and source of every row.
        hits: what each hit.
        prompts: all prompts.
        most: the share, as written.
    """
    found = sorted((*row, hit.prompt) for row, hit in zip(rows, hits, strict=True) if hit is not None)
    if most is None or not found or Fraction(len(found), len(hits)) <= Fraction(most):
        return
    counts = Counter(prompts[prompt].benchmark for *_, prompt in found)
    worst, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    task_id, source, prompt = next(entry for entry in found if prompts[entry[2]].benchmark == worst)
    raise BadInput(
        f"{len(found)} of {len(hits)} rows ({len(found) / len(hits):.2%}) hit a benchmark, --max-share is {most}; most "
        f"({count}) hit {worst!r}, for example task {task_id} of source {source!r} its row {prompts[prompt].row}; look "
        "at the source of these tasks, or run without --max-share and open report.html"
    )


def run(args: argparse.Namespace) -> None:
    """Compare, and write the artifact."""
    from recipe_core.prompts import find_sets, sets_digest

    rule = choose_rule(args.method, args.ngram, args.similarity)
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    if not (args.benchmarks or args.held_out):
        raise BadInput("nothing to compare with; give --benchmarks, --held-out or both")
    held_out = [open_artifact(folder) for folder in args.held_out]
    sets = find_sets(args.benchmarks, held_out)
    tokenizer = open_tokenizer(args.tokenizer)
    params = {
        "method": args.method,
        **rule._asdict(),
        "column": args.column,
        "benchmark-column": args.benchmark_column,
        "tokenizer": tokenizer.name,
        # Decides no row, but an artifact that passed one limit has not passed a lower one.
        "max-share": args.max_share,
    }
    with ArtifactWriter(
        args.out,
        stage="decontaminate",
        params=params,
        seed=args.seed,
        inputs={"tasks": tasks, "benchmarks": sets_digest(sets), "held-out": sorted(held_out, key=_digest)},
        tier="T0",
        package="decontaminate",
    ) as writer:
        if not writer.up_to_date:
            _write(args, path, writer, rule=rule, tokenizer=tokenizer, sets=sets)


def _digest(artifact: Artifact) -> str:
    return artifact.digest


def _write(
    args: argparse.Namespace,
    path: Path,
    writer: ArtifactWriter,
    *,
    rule: Rule,
    tokenizer: Words | TokenizerFile,
    sets: list[Benchmark],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from decontaminate.index import decide_batches
    from decontaminate.report import render
    from decontaminate.rules import PUBLISHED_TOKENS
    from recipe_core.progress import progress
    from recipe_core.prompts import read_prompts
    from recipe_core.records import TableWriter, read_rows, read_schema, with_reason

    schema = read_schema(path)
    check_column(schema, args.column, path)
    prompts = [prompt for benchmark in sets for prompt in read_prompts(benchmark, args.benchmark_column)]
    read: list[tuple[str, str]] = []
    hits: list[Hit | None] = []
    texts = _texts(path, args.column, read)
    decided = decide_batches(texts, [prompt.text for prompt in prompts], rule, tokenizer, args.workers)
    with progress(pq.read_metadata(path).num_rows, "decontaminate") as bar:
        for decisions in decided:
            hits += decisions
            bar.advance(len(decisions))
    check_share(read, hits, prompts, args.max_share)

    chosen = _shown([task_id for task_id, _ in read], hits)
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
            gram = None if hit.gram is None else tokenizer.surface(row[args.column], hit.gram)
            found = _columns(hit, prompts[hit.prompt], gram)
            rejects.write({**row, **found})
            if number in chosen:
                shown[number] = _beside(row, args.column, found, prompts[hit.prompt])
    dropped = Counter(hit.reason for hit in hits if hit is not None)
    report = {
        "method": args.method,
        "rule": rule._asdict(),
        "tokenizer": tokenizer.name,
        "published_tokens": PUBLISHED_TOKENS.get(args.method),
        "column": args.column,
        "rows_in": len(hits),
        "dropped": rejects.rows,
        "benchmarks": _by_benchmark(sets, prompts, hits),
        "hits": [shown[number] for number in chosen],
    }
    writer.path("report.json").write_text(canonical_json(report), encoding="utf-8")
    writer.path("report.html").write_text(render(report, rule), encoding="utf-8")
    writer.count(rows_in=len(hits), rows_out=kept.rows, dropped=dropped)


def _texts(path: Path, column: str, read: list[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield the texts in batches, null ones as empty, and append each row's task id and source to a list."""
    from recipe_core.records import read_rows, read_schema

    source = ("source",) if "source" in read_schema(path).names else ()
    rows = read_rows(path, tuple(dict.fromkeys(("task_id", *source, column))))
    while batch := list(islice(rows, _BATCH_ROWS)):
        for row in batch:
            if not row["task_id"]:
                raise BadInput(f"{path}: row {len(read)} has no task_id; rebuild the artifact with source-tasks")
            # There are few sources and many rows.
            read.append((row["task_id"], sys.intern(row.get("source") or "")))
        yield [row[column] or "" for row in batch]


def _shown(task_ids: Sequence[str], hits: Sequence[Hit | None]) -> list[int]:
    from decontaminate.report import MOST_HITS

    # By task id, so that the report does not depend on the order of the rows.
    found = sorted((task_ids[number], number) for number, hit in enumerate(hits) if hit is not None)
    return [number for _, number in found[:MOST_HITS]]


def _columns(hit: Hit, prompt: Prompt, gram: str | None) -> dict[str, Any]:
    return {
        "reason": hit.reason,
        "benchmark": prompt.benchmark,
        "benchmark_row": prompt.row,
        "similarity": hit.similarity,
        "gram": gram,
    }


def _beside(row: dict[str, Any], column: str, found: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    from decontaminate.report import excerpt

    # Whatever the tokens are, what they stand for is looked for word by word.
    gram = None if found["gram"] is None else tuple(words(found["gram"]))
    texts = {"text": excerpt(row[column], gram), "prompt": excerpt(prompt.text, gram)}
    return {
        "task_id": row["task_id"],
        **found,
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
