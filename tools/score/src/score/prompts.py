"""What the model is asked: templates with one place for the task's instruction."""

from __future__ import annotations

from pathlib import Path

from recipe_core.errors import BadInput

PLACE = "{instruction}"

DIFFICULTY = """\
Below is a task for an assistant. Do not carry it out; judge how difficult it is.

<task>
{instruction}
</task>

Weigh what one has to know, how many steps it takes and how easily one of them goes wrong. Rate the task from 1 (a
beginner does it in a minute) to 10 (experts need days and may fail). Answer with one line and nothing else:
Difficulty: N
"""

ASK_LLM = """\
###
{instruction}
###

Is the task between the two lines of ### an informative example to train an assistant on? An informative task is well
posed, can be carried out and checked, and teaches something of use beyond itself. Answer with one word.

OPTIONS:
- yes
- no
"""

BUILT_IN = {"difficulty": DIFFICULTY, "ask-llm": ASK_LLM}


def read_prompt(path: Path) -> str:
    """Return the template of a file.

    Raises:
        BadInput: no such file, not UTF-8, or no place for the instruction in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; correct the path of --prompt-file") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text ({error.reason}); convert it") from None
    if PLACE not in text:
        raise BadInput(f"{path}: does not say where the task goes; write {PLACE} there")
    return text


def filled(template: str, instruction: str) -> str:
    """Return a template with a task's instruction in its place; nothing else in it is special.

    >>> filled("Rate {instruction} as {N}", "{x}")
    'Rate {x} as {N}'
    """
    return template.replace(PLACE, instruction)
