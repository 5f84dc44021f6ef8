"""What of an instruction a rewriting must keep to the letter: paths, names, numbers, quoted text. Pure functions.

The tests of a task look for files, names and values; a rewriting that lost one of them asks for something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

# Longer quotations are taken in as the words between two stray marks.
_QUOTED = 500
_FENCE = re.compile(
    r"^[ \t]*(?P<fence>```|~~~)[^\n]*\n(?P<found>.*?)^[ \t]*(?P=fence)[`~]*[ \t]*$", re.MULTILINE | re.DOTALL
)
_QUOTES = tuple(
    re.compile(pattern.replace("N", str(_QUOTED)))
    for pattern in (
        r"`([^`\n]{1,N})`",
        r'"([^"\n]{1,N})"',
        r"“([^”\n]{1,N})”",
        r"«([^»\n]{1,N})»",
        r"(?<!\w)'([^'\n]{1,N})'(?!\w)",
        r"‘([^’\n]{1,N})’",
    )
)
_URL = re.compile(r"https?://[^\s<>\"'`)\]]+")
_PART = r"[\w.@%+~*-]+"
_PATH = re.compile(rf"(?<![\w.~/*-])(?:(?:~|\.{{1,2}})?(?:/{_PART})+|[\w@%+*-]{_PART[:-1]}*(?:/{_PART})+)/?")
_FILE = re.compile(r"(?<![\w./~*-])(?:\.?[\w*-]+(?:\.[\w*-]+)+|\.[A-Za-z]\w+)")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_LIST_MARK = re.compile(r"^[ \t]*\d{1,3}[.)][ \t]", re.MULTILINE)
# Takes the place of what was found: nothing that is looked for afterwards reaches across the end of a line.
_GAP = "\n"
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
_WORD = re.compile(r"(?<![\w-])(?:--[A-Za-z])?\w+(?:-\w+)*")
# Two words with a slash between them that are an alternative and no path.
_ALTERNATIVES = """
and/or either/or he/she his/her him/her s/he yes/no true/false on/off input/output i/o read/write client/server tcp/ip
w/o n/a key/value name/value start/stop before/after min/max pass/fail success/failure request/response get/set
upper/lower left/right
"""
_NO_PATHS = frozenset(_ALTERNATIVES.split())


def _number(text: str) -> str:
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _is_file(name: str) -> bool:
    """Tell `done.txt` from `e.g` and `0.14.2`."""
    parts = name.strip(".").split(".")
    if name.startswith("."):
        return True
    return parts[-1][:1].isalpha() and any(len(part) > 1 for part in parts)


def _take(pattern: re.Pattern[str], text: str, found: list[str]) -> str:
    """Add what a pattern finds, its last group where there is one, and return the text without it."""

    def blank(match: re.Match[str]) -> str:
        found.append(match[match.re.groups])
        return _GAP

    return pattern.sub(blank, text)


def details(text: str, decided_by: str = "") -> list[str]:
    """Return what of an instruction must be kept, each thing once, blanks inside it as one space.

    These are the lines of code blocks; text in quotation marks or backticks; URLs; paths and file names; words with an
    underscore inside and long options (`--name`); words with a hyphen that the tests or the solution know too; numbers,
    but those that only count the items of a list.

    Args:
        text: the instruction.
        decided_by: the text of the tests and the solution.

    >>> details('Write 3 lines to /app/out.txt, the first "a b".')
    ['a b', '/app/out.txt', '3']
    """
    found: list[str] = []
    blocks: list[str] = []
    rest = _LIST_MARK.sub(_GAP, _take(_FENCE, text, blocks))
    found += [line for block in blocks for line in block.splitlines()]
    for pattern in _QUOTES:
        rest = _take(pattern, rest, found)
    urls: list[str] = []
    rest = _take(_URL, rest, urls)
    found += [url.rstrip(".,;:!?") for url in urls]
    paths: list[str] = []
    rest = _take(_PATH, rest, paths)
    found += [_path(path) for path in paths if path.lower() not in _NO_PATHS]
    files: list[str] = []
    rest = _FILE.sub(lambda match: _keep_if_no_file(match[0], files), rest)
    found += [_path(name) for name in files]
    for word in _WORD.findall(rest):
        if "_" in word.strip("_") or word.startswith("--") or ("-" in word and word in decided_by):
            found.append(word)
    found += [_number(number) for number in _NUMBER.findall(rest)]
    collapsed = (" ".join(item.split()) for item in found)
    return list(dict.fromkeys(item for item in collapsed if item))


def _keep_if_no_file(name: str, files: list[str]) -> str:
    if not _is_file(name):
        return name
    files.append(name)
    return _GAP


def _path(name: str) -> str:
    """Return a path without the sentence's full stop, a closing slash, or the asterisks of bold type."""
    name = name.rstrip(".")
    if name.startswith("*") and name.endswith("*"):
        name = name.strip("*")
    return name.rstrip("/") or name


def lost(original: str, rewriting: str, decided_by: str = "", most: int = 3) -> list[str]:
    """Return the first details of an instruction that its rewriting lacks, at most `most` of them.

    >>> lost("Sort a.txt into b.txt.", "Please sort a.txt.")
    ['b.txt']
    """
    found, there = _finder(rewriting), _finder(original)
    # What does not stand in the original by the same rule was cut out of something longer, and is no detail.
    return list(islice((item for item in details(original, decided_by) if not found(item) and there(item)), most))


def _finder(text: str) -> Callable[[str], bool]:
    """Return what tells whether a detail stands in a text; most are found without searching."""
    text = " ".join(text.split())
    ready = {*text.split(" "), *(_number(number) for number in _NUMBER.findall(text))}
    return lambda item: item in ready or _stands(item, text)


def _stands(item: str, text: str) -> bool:
    """Tell whether an item occurs as itself: `a.txt` in `/app/a.txt`, but not in `data.txt` or `a.txt.gz`."""
    at = text.find(item)
    while at >= 0:
        if not _runs_on(item, text[:at][-1:], text[at + len(item) :][:2]):
            return True
        at = text.find(item, at + 1)
    return False


def _runs_on(item: str, before: str, after: str) -> bool:
    first, last = item[0], item[-1]
    if (_wordlike(first) or first == "/") and (_wordlike(before) or before in {"-", ".", "~"}):
        return True
    if not _wordlike(last):
        return False
    return _wordlike(after[:1]) or (after[:1] in ("-", ".", ",") and _wordlike(after[1:]))


def _wordlike(character: str) -> bool:
    return character.isalnum() or character == "_"
