"""The stage itself: ask, judge, decide question by question, write. Everything that reads or writes is here."""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from answers import keep
from answers.final import last_python_block, without_reasoning
from answers.judge import judge_messages, verdict
from answers.question import COLUMNS, Question, Questions, messages_of, question_of, reference_text
from answers.rows import Source, content_of, reason_by_reply, sample_of, trajectory_row
from answers.verify import Verifier
from recipe_core.artifact import Artifact, ArtifactWriter, value_digest, work_dir
from recipe_core.errors import BadInput
from recipe_core.progress import progress
from recipe_core.records import ATTEMPTS, TRAJECTORY_SCHEMA, TableWriter, read_batches, read_schema, with_reason
from recipe_core.terms import INFRASTRUCTURE
from teacher import Reply, Request, Teacher, open_teacher
from teacher.flags import REFERENCE

# The n-th question of equal text asks for samples from n of these on: what is asked alike is answered alike, and two
# rows that ask the same are to have answers of their own.
MOST_SAMPLES = 1 << 20


class Asked(NamedTuple):
    """A question, the requests for its samples and, once filled, the replies; None where it cannot be asked."""

    question: Question
    messages: list[dict[str, str]]
    requests: list[Request]


class Decided(NamedTuple):
    """One sample's row, and why it is dropped; None for a row that is kept."""

    row: dict[str, Any]
    reason: str | None


def read_questions(path: Path) -> Iterator[Question]:
    """Stream the questions of a task file.

    Raises:
        BadInput: an unreadable file, or a row that is no question.
    """
    columns = [*COLUMNS, *([ATTEMPTS] if ATTEMPTS in read_schema(path).names else [])]
    for batch in read_batches(path, columns):
        for row in batch.to_pylist():
            yield question_of(row, str(path))


def reference_reply(request: Request) -> Reply:
    """Answer as `--teacher reference`: with the known answer; asked as a judge, that it is right."""
    return Reply(text=str(request.facts["answer"]))


class Stage:
    """One run of the stage.

    Args:
        args: the tool's flags, checked.
        questions: what is asked.
        teacher: who is asked.
        verifier: who judges.
        source: what every row says of the teacher.
    """

    def __init__(
        self, args: argparse.Namespace, questions: Questions, teacher: Teacher, verifier: Verifier, source: Source
    ) -> None:
        self._args = args
        self._questions = questions
        self._teacher = teacher
        self._verifier = verifier
        self._source = source
        self.total = args.samples * questions.attempts

    def ask(self) -> None:
        """Ask for every sample, and for a judge's opinion on each where the filter is `llm`."""
        requests = (request for asked in self._asked() for request in asked.requests)
        self._teacher.fill(requests, total=self.total, label="answers")
        if self._args.filter == "llm":
            self._teacher.fill(self._judgements(), total=self.total, label="judge")

    def _asked(self) -> Iterator[Asked]:
        """Yield every question with its requests; none where `--teacher reference` has no answer to it."""
        alike: Counter[bytes] = Counter()
        for question in self._questions:
            messages = messages_of(question, self._args.system, self._args.question_suffix)
            digest = bytes.fromhex(value_digest(messages))
            start = alike[digest] * MOST_SAMPLES
            alike[digest] += 1
            facts = {}
            if self._args.teacher == REFERENCE:
                known = reference_text(question)
                if known is None:
                    yield Asked(question, messages, [])
                    continue
                facts = {"answer": known}
            count = self._args.samples * question.attempts
            yield Asked(
                question,
                messages,
                [Request(question.task_id, messages, sample=start + index, facts=facts) for index in range(count)],
            )

    def _judgements(self) -> Iterator[Request]:
        for asked in self._asked():
            for request in asked.requests:
                reply = self._teacher.reply(request)
                if reason_by_reply(reply, keep_cut=self._args.keep_cut) is None:
                    yield self._judgement(asked.question, reply)

    def _judgement(self, question: Question, reply: Reply) -> Request:
        messages = judge_messages(question.text, without_reasoning(content_of(reply)))
        return Request(question.task_id, messages, facts={"answer": "yes"})

    def decide(self) -> Iterator[Decided]:
        """Yield every sample in the order of task id and index; some questions are decided ahead, at the same time."""

        def work(pool: ThreadPoolExecutor) -> Iterator[Callable[[], list[Decided]]]:
            for asked in self._asked():
                replies = [self._teacher.reply(request) for request in asked.requests]
                opinions = self._opinions(asked.question, replies)
                yield pool.submit(self._decide, asked, replies, opinions).result

        ahead: deque[Callable[[], list[Decided]]] = deque()
        pool = ThreadPoolExecutor(self._args.workers)
        try:
            for result in work(pool):
                ahead.append(result)
                if len(ahead) > 2 * self._args.workers:
                    yield from ahead.popleft()()
            while ahead:
                yield from ahead.popleft()()
        finally:
            pool.shutdown(cancel_futures=True)

    def _opinions(self, question: Question, replies: Sequence[Reply]) -> list[bool | None]:
        if self._args.filter != "llm":
            return [None] * len(replies)
        opinions: list[bool | None] = []
        for reply in replies:
            if reason_by_reply(reply, keep_cut=self._args.keep_cut) is not None:
                opinions.append(None)
                continue
            said = self._teacher.reply(self._judgement(question, reply))
            usable = said.refused is None and said.finish_reason == "stop"
            opinions.append(verdict(content_of(said)) if usable else None)
        return opinions

    def _decide(self, asked: Asked, replies: Sequence[Reply], opinions: Sequence[bool | None]) -> list[Decided]:
        question, messages = asked.question, asked.messages
        if not asked.requests:
            count = self._args.samples * question.attempts
            rows = [trajectory_row(question, index, messages, None, self._source) for index in range(count)]
            return [Decided(row, "no-reference") for row in rows]
        reasons = [reason_by_reply(reply, keep_cut=self._args.keep_cut) for reply in replies]
        alive = [index for index, reason in enumerate(reasons) if reason is None]
        rewards: list[float | None] = [None] * len(replies)
        failures: list[str | None] = [None] * len(replies)
        if self._args.filter == "verifier":
            for index in alive:
                reasons[index], rewards[index], failures[index] = self._verify(question, replies[index])
        elif self._args.filter == "llm":
            for index in alive:
                reasons[index] = {True: None, False: "judged-wrong", None: "unjudged"}[opinions[index]]
        else:
            samples = [sample_of(index, replies[index]) for index in alive]
            for index, reason in zip(alive, self._ranked(question, samples), strict=True):
                reasons[index] = reason
        rows = [
            trajectory_row(question, index, messages, reply, self._source, reward=reward, failure=failure)
            for index, (reply, reward, failure) in enumerate(zip(replies, rewards, failures, strict=True))
        ]
        return [Decided(row, reason) for row, reason in zip(rows, reasons, strict=True)]

    def _ranked(self, question: Question, samples: Sequence[keep.Sample]) -> list[str | None]:
        args = self._args
        match args.filter:
            case "random":
                return keep.by_chance(samples, keep=args.keep_per_question, seed=args.seed, task_id=question.task_id)
            case "length":
                return keep.by_length(
                    samples,
                    keep=args.keep_per_question,
                    prefer=args.prefer,
                    low=args.min_answer_tokens,
                    high=args.max_answer_tokens,
                )
            case "majority":
                return keep.by_majority(samples, same=self._verifier.same)
        return [None] * len(samples)

    def _verify(self, question: Question, reply: Reply) -> tuple[str | None, float | None, str | None]:
        """Return the reason to drop an answer, its reward, and what kept it from being judged."""
        from sandbox import SandboxError

        answer = without_reasoning(content_of(reply))
        if question.is_code:
            if question.tests is None:
                return "no-verifier", None, None
            code = last_python_block(answer)
            try:
                right = code is not None and self._verifier.passes(code, question.tests)
            except SandboxError as error:
                return INFRASTRUCTURE, None, str(error)
        elif question.answer is None:
            return "no-verifier", None, None
        else:
            right = self._verifier.is_answer(question.answer, answer)
        return (None, 1.0, None) if right else ("wrong", 0.0, None)


def source_of(args: argparse.Namespace, fingerprint: dict[str, Any]) -> Source:
    """Return what every row says of the teacher."""
    run_id = value_digest({key: fingerprint[key] for key in ("parameters", "seed", "inputs")})[:16]
    if args.teacher:
        return Source(REFERENCE, "builtin", REFERENCE, args.date, run_id)
    if args.model:
        return Source(args.model.resolve().name, "vllm", "main", args.date, run_id)
    return Source(args.model_name, "openai-compatible", "main", args.date, run_id)


def write_artifact(args: argparse.Namespace, tasks: Artifact, writer: ArtifactWriter) -> None:
    """Ask for what is missing, decide, and fill the artifact."""
    path = tasks.data("tasks.parquet")
    source = source_of(args, writer.fingerprint)
    with Questions(args.out.parent, read_questions(path), str(path)) as questions:
        work = work_dir(args.out, writer.fingerprint)
        with (
            open_teacher(args, stage="answers", work=work, reference=reference_reply) as teacher,
            Verifier(work / "verdicts", args.time_limit) as verifier,
        ):
            stage = Stage(args, questions, teacher, verifier, source)
            stage.ask()
            dropped = _write(writer, stage)
            writer.provenance(**teacher.facts())
    if dropped[INFRASTRUCTURE]:
        print(f"answers: {dropped[INFRASTRUCTURE]} answers were not judged: the sandbox failed", file=sys.stderr)


def _write(writer: ArtifactWriter, stage: Stage) -> Counter[str]:
    dropped: Counter[str] = Counter()
    with (
        progress(stage.total, "filter") as bar,
        TableWriter(writer.path("trajectories.parquet"), TRAJECTORY_SCHEMA) as kept,
        TableWriter(writer.path("rejects.parquet"), with_reason(TRAJECTORY_SCHEMA)) as rejects,
    ):
        for row, reason in stage.decide():
            if reason is None:
                kept.write(row)
            else:
                rejects.write({**row, "reason": reason})
                dropped[reason] += 1
            bar.advance()
    if dropped[INFRASTRUCTURE] and not kept.rows and not dropped["wrong"]:
        raise BadInput(
            "every sandbox failed, so nothing was judged or published; `sandbox doctor` tells what is missing"
        )
    writer.count(rows_in=stage.total, rows_out=kept.rows, dropped=dropped)
    return dropped
