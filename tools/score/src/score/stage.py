"""Measures the rows of a task file and writes them with their new column."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from recipe_core.artifact import ArtifactWriter, work_dir
from recipe_core.errors import BadInput
from recipe_core.progress import progress
from recipe_core.records import Row, TableWriter, read_batches, read_rows, read_schema
from recipe_core.seeds import row_random, row_seed
from recipe_core.signals import meta_value
from recipe_core.tasks import read_files
from score.classify import Classifier, training_lines, words_of
from score.measure import NO_INSTRUCTION, NO_SOLUTION, REFUSED, ZERO_VECTOR, Score, ask_llm, difficulty, response_length
from score.prompts import filled
from score.texts import read_texts
from teacher import Reply, Request, Teacher, open_teacher

SOLUTION = "solution/solve.sh"
# Of each token AskLLM sees this many candidates: the most that OpenAI's API and vLLM give.
_CANDIDATES = 20
# Negatives that are drawn from the tasks themselves: enough for a linear classifier, and they fit in memory.
_MOST_NEGATIVES = 100_000

Measure = Callable[[Row], Score]


class Tasks(NamedTuple):
    """A task file and how many rows it has."""

    path: Path
    rows: int


@dataclass
class Used:
    """The replies that scores were read from, those kept from before included: their tokens, and how they were read."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    how: Counter[str] = field(default_factory=Counter)

    def add(self, reply: Reply) -> None:
        """Count a reply's tokens."""
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens


def write_scores(args: argparse.Namespace, path: Path, column: str, prompt: str | None, writer: ArtifactWriter) -> None:
    """Write the rows of a task file with one more column.

    Args:
        args: the tool's flags, checked.
        path: the tasks.
        column: the new column's name.
        prompt: the template of a method that has one.
        writer: the artifact's.

    Raises:
        BadInput: unreadable input, an unusable endpoint, or rows of which none has a value.
    """
    tasks = Tasks(path, sum(batch.num_rows for batch in read_batches(path, ["task_id"])))
    if args.method == "random":
        _write_rows(tasks, column, writer, lambda row: Score(row_random(args.seed, "score", row["task_id"]).random()))
    elif args.method == "fasttext":
        _write_rows(tasks, column, writer, _classifier(args, path) if tasks.rows else _nothing)
    else:
        work = work_dir(args.out, writer.fingerprint)
        with open_teacher(args, stage="score", work=work, reference=reference_answer) as teacher:
            used = Used()
            measure: Measure = _nothing
            if tasks.rows and args.method == "embedding":
                measure = _similarity(args, tasks, teacher, used)
            elif tasks.rows:
                measure = _judge(args.method, prompt, tasks, teacher, used)
            _write_rows(tasks, column, writer, measure)
            writer.provenance(
                teacher=teacher.facts(),
                replies={
                    "prompt_tokens": used.prompt_tokens,
                    "completion_tokens": used.completion_tokens,
                    **used.how,
                },
            )


def _nothing(row: Row) -> Score:
    raise AssertionError(f"{row['task_id']}: measured though there are no rows")


def _write_rows(tasks: Tasks, column: str, writer: ArtifactWriter, measure: Measure) -> None:
    path, rows = tasks
    schema = read_schema(path).append(pa.field(column, pa.float64()))
    missing: Counter[str] = Counter()
    with progress(rows, "score") as bar, TableWriter(writer.path("tasks.parquet"), schema) as table:
        for row in read_rows(path):
            value, reason, _ = measure(row)
            if reason is not None:
                missing[reason] += 1
            table.write({**row, column: value})
            bar.advance()
    why = ", ".join(f"{reason}: {count}" for reason, count in sorted(missing.items()))
    if rows and missing.total() == rows:
        raise BadInput(f"{path}: no row has a value ({why}); nothing was written")
    if missing:
        print(f"score: {missing.total()} of {rows} rows have no value ({why})", file=sys.stderr)
    writer.provenance(no_value=dict(missing))
    writer.count(rows_in=rows, rows_out=table.rows)


def reference_answer(request: Request) -> Reply:
    """Return the task's own solution as an answer, its words for tokens; refused where it has none."""
    solution = solution_of(request.facts, request.subject)
    if solution is None:
        return Reply(refused=NO_SOLUTION)
    return Reply(solution, completion_tokens=len(solution.split()))


def solution_of(row: Row | Any, where: str) -> str | None:
    """Return the text of a task's solution, or None where none is known.

    Of a packed task that is its `solution/solve.sh`, of a question its `meta.solution`, else its `meta.answer`.

    Raises:
        BadInput: a packed task that is damaged.
    """
    if row["task_binary"] is not None:
        file = read_files(row["task_binary"], where).get(SOLUTION)
        return None if file is None else file.content.decode("utf-8", errors="replace")
    known = [meta_value(row["meta"], [name]) for name in ("solution", "answer")]
    return next((str(value) for value in known if value is not None), None)


_READ: dict[str, Callable[[Reply], Score]] = {
    "response-length": response_length,
    "difficulty": difficulty,
    "ask-llm": ask_llm,
}


def _judge(method: str, prompt: str | None, tasks: Tasks, teacher: Teacher, used: Used) -> Measure:
    """Ask a model about every row, and return how a row's value is read from its reply."""

    def request_of(row: Row) -> Request | None:
        if not (row["instruction"] or "").strip():
            return None
        asked = row["instruction"] if prompt is None else filled(prompt, row["instruction"])
        message = {"role": "user", "content": asked}
        if method == "ask-llm":
            # The probability is of what a model holds likeliest, whatever temperature others are asked at.
            return Request(row["task_id"], [message], facts=row, top_logprobs=_CANDIDATES, temperature=0.0)
        return Request(row["task_id"], [message], facts=row)

    def measure(row: Row) -> Score:
        request = request_of(row)
        if request is None:
            return Score(None, NO_INSTRUCTION)
        reply = teacher.reply(request)
        used.add(reply)
        score = Score(None, NO_SOLUTION) if reply.refused == NO_SOLUTION else _READ[method](reply)
        used.how.update([score.how] if score.how else [])
        return score

    wanted = (request_of(row) for row in read_rows(tasks.path, ["task_id", "instruction"]))
    teacher.fill(_given(wanted), total=tasks.rows, label="score")
    return measure


def _given(requests: Iterable[Request | None]) -> Iterator[Request]:
    return (request for request in requests if request is not None)


def _similarity(args: argparse.Namespace, tasks: Tasks, teacher: Teacher, used: Used) -> Measure:
    """Embed every row and every positive, and return how a row's mean cosine similarity to the positives is taken.

    The mean of cosines to unit vectors is the dot product with their mean, so no two vectors are compared one by one.
    """
    import numpy as np

    positives = [
        Request(f"{args.positives}: text {n}", embed=text)
        for n, text in enumerate(read_texts(args.positives, "--positives"))
    ]

    def request_of(row: Row) -> Request | None:
        instruction = (row["instruction"] or "").strip()
        return Request(row["task_id"], embed=instruction) if instruction else None

    def all_requests() -> Iterator[Request]:
        yield from positives
        yield from _given(request_of(row) for row in read_rows(tasks.path, ["task_id", "instruction"]))

    def vector_of(reply: Reply) -> np.ndarray | None:
        used.add(reply)
        vector = np.array(reply.embedding or (), dtype=np.float64)
        length = float(np.linalg.norm(vector))
        return vector / length if length else None

    def check_length(unit: np.ndarray, other: np.ndarray | None) -> None:
        if other is not None and unit.size != other.size:
            raise BadInput(f"--endpoint {args.endpoint}: gives vectors of several lengths; name one embedding model")

    teacher.fill(all_requests(), total=tasks.rows + len(positives), label="score")
    total, count = None, 0
    for request in positives:
        unit = vector_of(teacher.reply(request))
        if unit is not None:
            check_length(unit, total)
            total, count = unit if total is None else total + unit, count + 1
    if total is None:
        raise BadInput(f"{args.positives}: the endpoint embeds none of its texts; give others")
    mean = total / count
    used.how["positives_left_out"] = len(positives) - count

    def measure(row: Row) -> Score:
        request = request_of(row)
        if request is None:
            return Score(None, NO_INSTRUCTION)
        reply = teacher.reply(request)
        if reply.refused is not None:
            return Score(None, REFUSED)
        unit = vector_of(reply)
        if unit is None:
            return Score(None, ZERO_VECTOR)
        check_length(unit, mean)
        return Score(float(unit @ mean))

    return measure


def _classifier(args: argparse.Namespace, path: Path) -> Measure:
    """Train a classifier, and return how it judges a row."""
    positives = sorted(filter(None, map(words_of, read_texts(args.positives, "--positives"))))
    if args.negatives is not None:
        negatives = sorted(filter(None, map(words_of, read_texts(args.negatives, "--negatives"))))
    else:
        negatives = _drawn(path, args.seed, set(positives))
    if not positives or not negatives:
        raise BadInput(
            f"{path}: no negative examples (every instruction is empty or a positive); give some by --negatives"
        )
    classifier = Classifier(training_lines(positives, negatives, args.seed), args.seed)

    def measure(row: Row) -> Score:
        text = words_of(row["instruction"] or "")
        return Score(classifier.probability(text)) if text else Score(None, NO_INSTRUCTION)

    return measure


def _drawn(path: Path, seed: int, positives: set[str]) -> list[str]:
    """Return the instructions of tasks but the positives, at most as many as fit; hashing decides which."""
    import heapq

    def texts() -> Iterator[tuple[int, str]]:
        for row in read_rows(path, ["task_id", "instruction"]):
            text = words_of(row["instruction"] or "")
            if text and text not in positives:
                yield row_seed(seed, "negatives", row["task_id"]), text

    return [text for _, text in heapq.nsmallest(_MOST_NEGATIVES, texts())]
