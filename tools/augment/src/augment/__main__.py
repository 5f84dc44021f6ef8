"""Rewrite the instructions of tasks with a language model; the environment, the tests and the solution stay.

    augment --tasks results/mix/aaa --method rewrite --copies 21 --endpoint http://localhost:8000/v1 \\
        --model-name glm-4.7 --cache replies --out results/augment/bbb

methods:
  rewrite    the same task in other words
  harden     more demanding, while the tests still decide; the model is shown them
  constrain  one constraint more, which the tests do not contradict; the model is shown them
  hints      hints from the reference solution; tasks without one are dropped

Each new row has a task id and path of its own; meta keeps everything, held-out keys too, and gains `augment` (method,
from, copy, model). Questions without an environment are rewritten as well. What is dropped goes to rejects.parquet with
the reason (empty, cut, refused, unchanged, repeated, lost-detail; of whole tasks no-instruction, no-solution, too-long,
unreadable-task, unreadable-meta, duplicate, not-drawn), the rewriting and the detail.

Every reply is kept the moment it arrives: a run that was stopped goes on, and with --cache a later one with more copies
asks only for those. `--teacher reference` needs no model.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from augment.plan import ORIGINAL, Share, first_of_equals, rank, shares
from augment.prompts import HINTS, METHODS, messages
from recipe_core.artifact import Artifact, ArtifactWriter, open_artifact, work_dir
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from teacher import (
    Reply,
    Request,
    Teacher,
    add_teacher_flags,
    open_teacher,
    teacher_inputs,
    teacher_parameters,
    teacher_tier,
)

if TYPE_CHECKING:
    from augment.judge import Verdict
    from augment.subject import Subject
    from mix.rows import Candidate, Place

_STAGE = "augment"
_PACKAGES = ("augment", "mix", "teacher")
# Between two tries neither more copies nor another method makes a reply worthless, for what was asked is its key.
_WORK = {"stage": _STAGE, "holds": "replies"}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="augment", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact to rewrite")
    parser.add_argument("--method", choices=METHODS, required=True, help="what is done to the instructions")
    parser.add_argument("--copies", type=positive, metavar="N", help="new rows for each task")
    parser.add_argument(
        "--rows", type=positive, metavar="N", help="instead: rows in all, kept originals among them, evenly divided"
    )
    parser.add_argument("--keep-original", action="store_true", help="keep each task as it is too")
    add_teacher_flags(
        parser, reference="surface forms made from templates, hints from the solution's commands", max_tokens=2048
    )
    add_common(parser)
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise BadInput unless exactly one of --copies and --rows says how many."""
    if (args.copies is None) == (args.rows is None):
        raise BadInput("--copies and --rows both say how many rows to make; give one of them")


def run(args: argparse.Namespace) -> None:
    """Rewrite, and write the artifact."""
    check_flags(args)
    inputs: dict[str, Artifact] = {**teacher_inputs(args), "tasks": open_artifact(args.tasks)}
    path = inputs["tasks"].data("tasks.parquet")
    params = {
        "method": args.method,
        "copies": args.copies,
        "rows": args.rows,
        "keep-original": args.keep_original,
        **teacher_parameters(args),
    }
    with ArtifactWriter(
        args.out,
        stage=_STAGE,
        params=params,
        seed=args.seed,
        inputs=inputs,
        tier=teacher_tier(args),
        package=_PACKAGES,
        commands=["serve"] if args.model else [],
    ) as writer:
        if writer.up_to_date:
            return
        plan = _make_plan(args, path)
        # The reference keeps nothing on disk.
        work = args.out if args.teacher else work_dir(args.out, _WORK)
        with open_teacher(args, stage=_STAGE, work=work, reference=_reference) as teacher:
            teacher.fill(_requests(args, plan), total=plan.asked, label=_STAGE)
            _write(args, plan, teacher, writer, model=_model(inputs, args))
            writer.provenance(**teacher.facts())


def _model(inputs: dict[str, Artifact], args: argparse.Namespace) -> str:
    """Return how rows name what made them: an artifact by its digest, since its folder may be any."""
    return args.teacher or args.model_name or inputs["model"].digest


class _Plan(NamedTuple):
    """Which row stands for which task, and what each task gives."""

    path: Path
    tasks: dict[str, Candidate]
    duplicates: list[Candidate]
    shares: dict[str, Share]

    @property
    def asked(self) -> int:
        return sum(share.copies for share in self.shares.values())

    def chosen(self) -> dict[int, Share]:
        """What the row at each position gives; rows that give nothing are absent."""
        return {
            self.tasks[task_id].place.row: share
            for task_id, share in self.shares.items()
            if share.copies or share.original
        }


def _make_plan(args: argparse.Namespace, path: Path) -> _Plan:
    from mix.rows import scan, without_duplicates

    tasks, duplicates = without_duplicates(scan([path]))
    if not tasks:
        raise BadInput(f"{path}: no rows; give an artifact that holds tasks")
    divided = shares(tasks, copies=args.copies, rows=args.rows, keep_original=args.keep_original, seed=args.seed)
    return _Plan(path, tasks, duplicates, divided)


def _subjects(
    args: argparse.Namespace, plan: _Plan
) -> Iterator[tuple[dict[str, Any], Share, Subject | tuple[str, str]]]:
    """Yield the rows that give something, in the order of the file: as a task, or why it cannot be rewritten."""
    from augment.subject import Unusable
    from recipe_core.records import read_rows

    chosen = plan.chosen()
    for position, row in enumerate(read_rows(plan.path)):
        share = chosen.get(position)
        if share is not None:
            try:
                yield row, share, _usable(args, row)
            except Unusable as error:
                yield row, share, (error.reason, error.detail)


def _usable(args: argparse.Namespace, row: dict[str, Any]) -> Subject:
    from augment.forms import commands
    from augment.subject import Unusable, read_subject

    subject = read_subject(row)
    if args.method == HINTS:
        if not subject.shown("solution"):
            raise Unusable("no-solution", "no text in it")
        if args.teacher and not commands(subject.script):
            raise Unusable("no-solution", "solution/solve.sh calls no command")
    return subject


def _request(args: argparse.Namespace, subject: Subject, copy: int) -> Request:
    facts = {"method": args.method, "subject": subject, "seed": args.seed}
    asked = messages(args.method, subject, seed=args.seed, copy=copy)
    return Request(subject.task_id, asked, sample=copy, facts=facts)


def _reference(request: Request) -> Reply:
    from augment.forms import form

    method, subject = request.facts["method"], request.facts["subject"]
    start = row_seed(request.facts["seed"], "form", subject.task_id)
    return Reply(form(method, subject.instruction, subject.script, start=start, copy=request.sample))


def _requests(args: argparse.Namespace, plan: _Plan) -> Iterator[Request]:
    for _, share, subject in _subjects(args, plan):
        if not isinstance(subject, tuple):
            for copy in range(1, share.copies + 1):
                yield _request(args, subject, copy)


class _Drop(NamedTuple):
    """A row that is not made."""

    task_id: str
    copy: int | None
    reason: str
    detail: str | None
    place: Place


def _decide(args: argparse.Namespace, plan: _Plan, teacher: Teacher) -> list[_Drop]:
    """Decide every row that was planned; what is not returned is kept."""
    from augment.judge import judge, without_repeats
    from augment.subject import new_id

    drops: list[_Drop] = []
    claims: list[tuple[str, int, str]] = []
    for row, share, subject in _subjects(args, plan):
        task_id = row["task_id"]
        place = plan.tasks[task_id].place
        if isinstance(subject, tuple):
            first = ORIGINAL if share.original else 1
            drops += [_Drop(task_id, copy, *subject, place) for copy in range(first, share.copies + 1)]
            continue
        if share.original:
            claims.append((task_id, ORIGINAL, task_id))
        replies = (teacher.reply(_request(args, subject, copy)) for copy in range(1, share.copies + 1))
        decided_by = subject.decided_by
        verdicts: list[Verdict] = [judge(reply, subject.instruction, decided_by) for reply in replies]
        for copy, verdict in enumerate(without_repeats(verdicts), start=1):
            if verdict.reason is None:
                claims.append((new_id(subject, verdict.text), copy, task_id))
            else:
                drops.append(_Drop(task_id, copy, verdict.reason, verdict.detail, place))
    kept = first_of_equals(claims)
    for _, copy, task_id in claims:
        if (task_id, copy) not in kept:
            drops.append(_Drop(task_id, copy, "repeated", "another task's row", plan.tasks[task_id].place))
    return drops


def _write(args: argparse.Namespace, plan: _Plan, teacher: Teacher, writer: ArtifactWriter, *, model: str) -> None:
    import pyarrow as pa

    from augment.judge import answer_of
    from augment.subject import Unusable, new_row, read_subject
    from mix.rows import gather, rows_held
    from recipe_core.records import TableWriter, read_schema, with_reason

    drops = _decide(args, plan, teacher)
    idle = [task_id for task_id, share in plan.shares.items() if not (share.copies or share.original)]
    dropped = {(drop.task_id, drop.copy) for drop in drops}
    drops += [_Drop(task_id, None, "not-drawn", None, plan.tasks[task_id].place) for task_id in idle]
    drops += [_Drop(twin.task_id, None, "duplicate", None, twin.place) for twin in plan.duplicates]
    # Duplicates of one task keep the order that `without_duplicates` gave them, which is not the input's.
    drops.sort(key=lambda drop: (drop.task_id, -1 if drop.copy is None else drop.copy, drop.reason))
    planned = [
        (task_id, copy)
        for task_id, share in plan.shares.items()
        for copy in range(ORIGINAL if share.original else 1, share.copies + 1)
    ]
    picks = sorted(pick for pick in planned if pick not in dropped)
    picks.sort(key=lambda pick: rank(args.seed, *pick))

    def rewriting(row: dict[str, Any], copy: int | None) -> tuple[Subject, str] | None:
        if not copy:
            return None
        try:
            subject = _usable(args, row)
        except Unusable:
            return None
        return subject, answer_of(teacher.reply(_request(args, subject, copy)).text)

    schema = read_schema(plan.path)
    held = rows_held([plan.path])
    with TableWriter(writer.path("tasks.parquet"), schema) as table:
        rows = gather([plan.path], [plan.tasks[task_id].place for task_id, _ in picks], held)
        for row, (_, copy) in zip(rows, picks, strict=True):
            if copy == ORIGINAL:
                table.write(row)
                continue
            subject = read_subject(row)
            text = answer_of(teacher.reply(_request(args, subject, copy)).text)
            table.write(new_row(row, subject, text, method=args.method, copy=copy, model=model))
    columns = [pa.field("copy", pa.int32()), pa.field("rewriting", pa.string()), pa.field("detail", pa.string())]
    rejects_schema = pa.schema([*with_reason(schema), *columns])
    with TableWriter(writer.path("rejects.parquet"), rejects_schema) as table:
        for row, drop in zip(gather([plan.path], [drop.place for drop in drops], held), drops, strict=True):
            made = rewriting(row, drop.copy)
            said = {"reason": drop.reason, "copy": drop.copy, "detail": drop.detail}
            table.write({**row, "task_binary": None, **said, "rewriting": made[1] if made else None})
    writer.count(
        rows_in=len(planned) + len(idle) + len(plan.duplicates),
        rows_out=len(picks),
        dropped=Counter(drop.reason for drop in drops),
    )
    _say(drops)


def _say(drops: list[_Drop]) -> None:
    reasons = Counter(drop.reason for drop in drops)
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        print(f"augment: {len(drops)} rows dropped: {listed}", file=sys.stderr)


main = entry(build_parser, run, packages=_PACKAGES)

if __name__ == "__main__":
    main()
