"""Asks a language model many things once: cached, resumable, rate-limited, retried, counted in tokens.

A tool that needs a model's answers adds :func:`teacher.flags.add_teacher_flags` to its parser and works in two passes:

    with open_teacher(args, stage="score", work=work, reference=answer_of_solution) as teacher:
        teacher.fill(requests_of(rows), total=len(rows), label="score")
        for row in rows:
            reply = teacher.reply(request_of(row))

`fill` asks whatever has no reply yet, in any order, and keeps every reply on disk the moment it arrives; `reply` reads
it back. So a killed run repeats nothing that was answered, and what a tool makes of the replies is a pure function of
them.
"""

from teacher.ask import Teacher, open_teacher
from teacher.flags import add_teacher_flags, teacher_inputs, teacher_parameters, teacher_tier
from teacher.request import Reply, Request, Sampling

__all__ = [
    "Reply",
    "Request",
    "Sampling",
    "Teacher",
    "add_teacher_flags",
    "open_teacher",
    "teacher_inputs",
    "teacher_parameters",
    "teacher_tier",
]
