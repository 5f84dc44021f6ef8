"""What of an answer is compared: its final answer, its last Python block. Pure functions over text."""

from __future__ import annotations

import re

from recipe_core.text import normalise

THINK_END = "</think>"
_BOXED = re.compile(r"\\f?boxed\s*\{")
# What stands before the answer on a last line: Markdown's marks (a dash only before a blank, else it is a minus), then
# words such as "The final answer is".
_MARKS = re.compile(r"^[\s>#*_]*(?:[-+]\s+)?[*_]*")
_LEAD = re.compile(
    r"^(?:(?:so|thus|therefore|hence)\b,?\s*)?(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s+is|\s+would be)?\b[\s:*]*",
    re.IGNORECASE,
)
_WORDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_LATEX = re.compile(r"\\[A-Za-z]+|\\.")
_NAMES = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "mod", "gcd", "lcm", "max", "min")
)
_NEEDLESS_BLANK = re.compile(r"(?<!\w) | (?!\w)")
_SCIENTIFIC = re.compile(r"^([+-]?\d+(?:\.\d+)?)[eE]([+-]?\d+)$")
# Beyond it a final answer is prose, and comparing it as mathematics takes long and says nothing.
_MOST_CHARACTERS = 400


def sayable(text: str) -> str:
    r"""Return text that UTF-8 can hold: half a surrogate pair, which JSON can spell (`"\ud800"`), becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def without_reasoning(content: str) -> str:
    """Return what follows the reasoning of an answer; nothing where the reasoning never ends.

    >>> without_reasoning("<think>1 + 1</think> It is 2.")
    'It is 2.'
    """
    _, closed, rest = content.rpartition(THINK_END)
    if not closed and content.lstrip().startswith("<think>"):
        return ""
    return rest.strip()


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}` whose braces balance, or None.

    >>> last_boxed(r"\boxed{1} and then \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    for match in reversed(list(_BOXED.finditer(text))):
        depth, escaped = 1, False
        for end in range(match.end(), len(text)):
            if text[end] in "{}" and not escaped:
                depth += 1 if text[end] == "{" else -1
            # A backslash that is escaped itself escapes nothing.
            escaped = text[end] == "\\" and not escaped
            if depth == 0:
                return text[match.end() : end].strip()
    return None


def final_answer(text: str) -> str:
    r"""Return an answer's final answer: the last `\boxed{…}`, else the last line that is not blank; may be empty.

    Of a last line, Markdown's marks, words such as "The final answer is", dollar signs around it and a full stop are
    left out.

    >>> final_answer("Add them.\n\n**The answer is $5$.**")
    '5'
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    line = _LEAD.sub("", _MARKS.sub("", lines[-1]))
    return line.strip(" \t*_").removesuffix(".").strip(" \t*_$")


def as_text(answer: str) -> str:
    r"""Return a final answer in the form in which two spellings of the same are equal.

    Wrappers such as `\text{…}`, dollar signs, spacing commands, a full stop at the end and blanks that part no two
    words are left out, and what is left is normalised as in :func:`recipe_core.text.normalise`.

    >>> as_text(r"\text{ Monday}. ")
    'monday'
    """
    plain = _WORDS.sub(r"\1", answer)
    plain = re.sub(r"\\[,!]", "", plain)
    plain = re.sub(r"\\[;: ]|\\(?:left|right|displaystyle)(?![A-Za-z])|\$", " ", plain)
    return _NEEDLESS_BLANK.sub("", normalise(plain).removesuffix(".").rstrip())


def is_mathematical(answer: str) -> bool:
    """Tell whether a final answer may be compared as mathematics.

    Words may not: as a product of letters, "listen" equals "silent". A run of three letters that names no function is a
    word, and so is anything of two letters and more without a digit, sign or command.

    >>> is_mathematical("2xy + 1"), is_mathematical("silent"), is_mathematical("no")
    (True, False, False)
    """
    if not answer or len(answer) > _MOST_CHARACTERS:
        return False
    bare = _without_units(answer)
    plain = _LATEX.sub(" ", bare)
    runs = [run for run in re.findall(r"[^\W\d_]+", plain) if run.lower() not in _NAMES]
    if any(len(run) >= 3 for run in runs):
        return False
    letters = "".join(runs)
    return len(letters) < 2 or not re.fullmatch(r"[^\W\d_\s]+(?:\s+[^\W\d_\s]+)*", bare.strip())


def as_latex(answer: str) -> str:
    r"""Return a mathematical final answer as LaTeX, for the parser: units in `\text{…}` left out, 1e5 written out.

    >>> as_latex("6.02e23")
    '6.02 \\times 10^{23}'
    """
    bare = _without_units(answer).strip().strip("$").strip()
    return _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", bare)


def _without_units(answer: str) -> str:
    bare = _WORDS.sub("", answer)
    return bare if re.search(r"\d", bare) else _WORDS.sub(r"\1", answer)


def last_python_block(text: str) -> str | None:
    """Return the content of the last fenced Markdown block that is marked as Python or not marked at all, or None.

    >>> last_python_block("Try this:\\n```python\\nprint(1)\\n```")
    'print(1)\\n'
    """
    from markdown_it import MarkdownIt

    # A tag at the start of a line would otherwise swallow the blocks that follow it.
    tokens = MarkdownIt("commonmark").disable("html_block").parse(text)
    blocks = [
        token.content
        for token in tokens
        if token.type == "fence" and token.info.strip().lower().split(" ")[0] in ("", "python", "python3", "py")
    ]
    return blocks[-1] if blocks else None
