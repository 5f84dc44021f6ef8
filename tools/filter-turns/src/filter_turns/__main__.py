"""Keep trajectories by their number of turns, their outcome and how they ended, and a random part of them.

    filter-turns --trajectories results/rollout/aaa --min-turns 5 --drop-errors timeout --drop-subagents \\
        --out results/filter_turns/bbb
    filter-turns --trajectories results/rollout/aaa --tokens 1000000 --tokenizer words --out results/filter_turns/ccc

A turn is one assistant message. What is dropped goes to rejects.parquet with the first of these reasons that applies:
  infrastructure   always dropped: the trial failed for a cause outside the model
  subagent         --drop-subagents and the trace is a subagent's or a summarisation's
  timeout, parse, context, output_length
                   --drop-errors names the trajectory's error class
  not-solved       --outcome success and the reward is below 1 or missing
  too-few-turns    fewer turns than --min-turns
  over-budget      --tokens or --rows leave no room for it

--tokens takes rows in a random order, drawn from --seed and what each row is, until the next one would exceed the
budget; that one and all after it are dropped. --rows takes the first so many of the same order. Tokens are those that
the server recorded (the longest prompt with its completion), or with --tokenizer those of the messages' contents.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from filter_turns.budget import IDENTITY, Ranked, count_recorded, count_text, keep_rows, keep_tokens, rank
from filter_turns.keep import Rules, count_turns, reason_to_drop
from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput, nearest
from recipe_core.terms import MODEL_ERRORS
from recipe_core.tokens import Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from recipe_core.records import Row

OVER_BUDGET = "over-budget"
RECORDED = "recorded"
TOKEN_IDS = ("prompt_token_ids", "completion_token_ids")


def error_classes(text: str) -> list[str]:
    """Parse a comma-separated list of error classes; the result is sorted, each class once."""
    classes = {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(classes - set(MODEL_ERRORS)):
        hint = nearest(name, list(MODEL_ERRORS)) or f"; the classes are {', '.join(MODEL_ERRORS)}"
        raise argparse.ArgumentTypeError(f"no error class {name!r}{hint}")
    return sorted(classes)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="filter-turns", description=__doc__)
    parser.add_argument("--trajectories", type=Path, required=True, metavar="DIR", help="trajectory artifact to filter")
    parser.add_argument("--min-turns", type=positive, default=1, metavar="N", help="fewest turns to keep (default 1)")
    parser.add_argument(
        "--outcome", choices=("success", "any"), default="any", help="success: only reward 1 is kept (default any)"
    )
    parser.add_argument(
        "--drop-errors",
        type=error_classes,
        default=[],
        metavar="CLASS,...",
        help=f"error classes to drop, of {', '.join(MODEL_ERRORS)}",
    )
    parser.add_argument("--drop-subagents", action="store_true", help="drop traces of subagents and summarisations")
    parser.add_argument("--rows", type=positive, metavar="N", help="most rows to keep, drawn at random")
    parser.add_argument("--tokens", type=positive, metavar="N", help="most tokens to keep, in rows drawn at random")
    parser.add_argument(
        "--tokenizer",
        metavar="recorded|words|FILE",
        help="what --tokens counts: recorded ids, words and signs, or as a tokenizer.json says (default recorded)",
    )
    add_common(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Filter, and write the artifact."""
    check_flags(args)
    tokenizer = None if args.tokenizer in (None, RECORDED) else open_tokenizer(args.tokenizer)
    trajectories = open_artifact(args.trajectories)
    path = trajectories.data("trajectories.parquet")
    params = {
        "min-turns": args.min_turns,
        "outcome": args.outcome,
        "drop-errors": args.drop_errors,
        "drop-subagents": args.drop_subagents,
        "rows": args.rows,
        "tokens": args.tokens,
        "tokenizer": None if args.tokens is None else tokenizer.name if tokenizer else RECORDED,
    }
    with ArtifactWriter(
        args.out,
        stage="filter-turns",
        params=params,
        seed=args.seed,
        inputs={"trajectories": trajectories},
        tier="T0",
        package="filter_turns",
    ) as writer:
        if not writer.up_to_date:
            rules = Rules(args.min_turns, args.outcome == "success", args.drop_errors, args.drop_subagents)
            _write(args, path, rules, tokenizer, writer)


def check_flags(args: argparse.Namespace) -> None:
    """Raise BadInput for flags that contradict each other."""
    if args.rows is not None and args.tokens is not None:
        raise BadInput("--rows and --tokens both say how much to keep; give one of them")
    if args.tokenizer is not None and args.tokens is None:
        raise BadInput("--tokenizer decides nothing without --tokens; give both or neither")


def _reason(row: Row, rules: Rules) -> str | None:
    return reason_to_drop(
        turns=count_turns(row["conversations"]),
        reward=row["reward"],
        error_class=row["error_class"],
        trace_source=row.get("trace_source"),
        rules=rules,
    )


def _within_budget(
    args: argparse.Namespace, path: Path, names: list[str], rules: Rules, tokenizer: Tokenizer | None
) -> set[int]:
    """Return the places of the rows that --rows or --tokens keep, of those that the rules keep."""
    from recipe_core.records import read_rows

    wanted = {"conversations", "reward", "error_class", "trace_source", *IDENTITY}
    counted = args.tokens is not None
    if counted and tokenizer is None:
        wanted.update(TOKEN_IDS)
    rows = []
    for place, row in enumerate(read_rows(path, [name for name in names if name in wanted])):
        if _reason(row, rules) is None:
            tokens = _count(row, tokenizer, f"{path}: row {place}") if counted else 0
            rows.append(Ranked(rank(row, args.seed), tokens, place))
    kept = keep_tokens(rows, args.tokens) if counted else keep_rows(rows, args.rows)
    if rows and not kept:
        raise BadInput(
            f"--tokens {args.tokens} is below the {min(rows).tokens} tokens of the first row drawn; raise it"
        )
    _say(args, kept, len(rows))
    return {row.place for row in kept}


def _count(row: Row, tokenizer: Tokenizer | None, where: str) -> int:
    if tokenizer is not None:
        return count_text(row["conversations"], tokenizer)
    tokens = count_recorded(*(row.get(name) for name in TOKEN_IDS))
    if tokens is None:
        raise BadInput(f"{where} has no recorded token ids; give --tokenizer words or a tokenizer.json")
    return tokens


def _say(args: argparse.Namespace, kept: Collection[Ranked], offered: int) -> None:
    """Say on standard error what the budget came to, and when there was not enough to spend it on."""
    if args.tokens is not None:
        total = sum(row.tokens for row in kept)
        print(f"filter-turns: {len(kept)} of {offered} rows, {total} of {args.tokens} tokens", file=sys.stderr)
    if len(kept) == offered and (args.tokens is not None or offered < args.rows):
        print("filter-turns: the budget is not used up: there are no more rows", file=sys.stderr)


def _write(
    args: argparse.Namespace, path: Path, rules: Rules, tokenizer: Tokenizer | None, writer: ArtifactWriter
) -> None:
    from recipe_core.records import TableWriter, read_rows, read_schema, with_reason

    schema = read_schema(path)
    for name in ("conversations", "reward", "error_class"):
        if name not in schema.names:
            raise BadInput(f"{path}: no column {name!r}; give the trajectories.parquet of a rollout artifact")
    within = None
    if args.rows is not None or args.tokens is not None:
        within = _within_budget(args, path, schema.names, rules, tokenizer)
    dropped: Counter[str] = Counter()
    with (
        TableWriter(writer.path("trajectories.parquet"), schema) as kept,
        TableWriter(writer.path("rejects.parquet"), with_reason(schema)) as rejects,
    ):
        for place, row in enumerate(read_rows(path)):
            reason = _reason(row, rules)
            if reason is None and within is not None and place not in within:
                reason = OVER_BUDGET
            if reason is None:
                kept.write(row)
            else:
                rejects.write({**row, "reason": reason})
                dropped[reason] += 1
    writer.count(rows_in=kept.rows + rejects.rows, rows_out=kept.rows, dropped=dropped)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
