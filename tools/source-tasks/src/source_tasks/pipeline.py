"""What a Bash one-liner does, as far as that can be told without running it: its words, its programs, its operands.

Only one form is understood: a pipeline of simple commands. Everything that would make the output depend on more than
the files of a folder (variables, times, owners, processes, places outside) is refused with a reason.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from source_tasks.source import Rejected

DIALECT = "more than one pipeline of simple commands (variables, substitutions, lists, redirections)"
PROGRAM = "a program that is not one of the readers of names and text"
CHANGING = "an option or action whose output depends on time, owner, machine or chance, or that writes"
OUTSIDE = "a place outside the current folder"

# Of packages that every Debian image has.
_READERS = """
    awk basename cat cksum cmp comm cut diff dirname echo egrep expand expr factor fgrep find fmt fold grep head join ls
    md5sum nl numfmt od paste printf rev sed seq sha1sum sha256sum sort tac tail tr tsort unexpand uniq wc xargs
"""
READERS = frozenset(_READERS.split())

# Short options that take a value, which may be the next word.
_VALUED = {
    "awk": "Fv",
    "cut": "bcdf",
    "diff": "IUCW",
    "egrep": "ABCem",
    "fgrep": "ABCem",
    "fmt": "wgp",
    "fold": "w",
    "grep": "ABCem",
    "head": "cn",
    "join": "12aejotv",
    "ls": "Iw",
    "nl": "bdfhilnsvw",
    "od": "AjNtw",
    "paste": "d",
    "sed": "e",
    "sort": "kStT",
    "tail": "cn",
    "uniq": "fsw",
    "xargs": "EILdns",
}
# Programs whose first operand is no file unless one of these options gave it.
_SCRIPTED = {"awk": "", "egrep": "e", "fgrep": "e", "grep": "e", "sed": "e"}
_NO_FILES = frozenset({"basename", "dirname", "echo", "expr", "factor", "numfmt", "printf", "seq", "tr"})
_AWK_OUTSIDE = re.compile(r"system|getline|rand|time|ENVIRON|PROCINFO|[|]\s*\"|>\s*\"")
_LS_OPTIONS = re.compile(r"-[1aAbBdFpQrRvxXCm]+|--(?:almost-)?all|--color=never|--recursive|--directory|--reverse")

_PLAIN = """
    -print -print0 -prune -empty -not ! -a -and -o -or ( ) , -depth -d -follow -xdev -mount -noleaf -true -false
    -quit -H -L -P
"""
_VALUED_TESTS = """
    -name -iname -path -ipath -wholename -iwholename -regex -iregex -regextype -type -xtype -maxdepth -mindepth -perm
    -size -printf
"""
_FIND_PLAIN = frozenset(_PLAIN.split())
_FIND_VALUED = frozenset(_VALUED_TESTS.split())
_FIND_NAMES = frozenset({"-name", "-iname", "-path", "-ipath", "-wholename", "-iwholename"})
_PRINTF_SAFE = re.compile(r"%[-0-9.]*[pfhPyds%]")


class Command(NamedTuple):
    """One simple command of a pipeline, taken apart."""

    program: str
    words: tuple[str, ...]
    files: tuple[str, ...]
    """Operands that name files, as patterns where the shell or find expands them."""
    folders: tuple[str, ...]
    """Operands that name folders."""
    patterns: tuple[str, ...]
    """What is searched for in texts."""
    delimiter: str | None
    """What separates the fields of a line, if the options say so."""


def split_words(line: str) -> list[list[str]]:
    """Return the words of every command of a pipeline, quotes and backslashes taken away.

    `2>/dev/null` is dropped, since what goes to standard error is not looked at.

    Raises:
        Rejected: anything but one pipeline of simple commands.

    >>> split_words(r"find . -name '*.c' -exec cat {} \\; | wc -l")
    [['find', '.', '-name', '*.c', '-exec', 'cat', '{}', ';'], ['wc', '-l']]
    """
    stages: list[list[str]] = [[]]
    word: str | None = None
    rest = re.sub(r"\s2>\s*/dev/null(?=\s|$)", " ", line.strip())
    at = 0
    while at < len(rest):
        letter = rest[at]
        if letter == "'":
            end = rest.find("'", at + 1)
            if end < 0:
                raise Rejected(DIALECT)
            word, at = (word or "") + rest[at + 1 : end], end + 1
        elif letter == '"':
            inside, at = _double_quoted(rest, at + 1)
            word = (word or "") + inside
        elif letter == "\\":
            word, at = (word or "") + rest[at + 1 : at + 2], at + 2
        elif letter.isspace() or letter == "|":
            if word is not None:
                stages[-1].append(word)
            word, at = None, at + 1
            if letter == "|":
                stages.append([])
        elif letter in "`;&<>()\n" or (letter in "#~" and word is None) or _expands(rest, at):
            raise Rejected(DIALECT)
        else:
            word, at = (word or "") + letter, at + 1
    if word is not None:
        stages[-1].append(word)
    if not all(stages):
        raise Rejected(DIALECT)
    return stages


def _expands(line: str, at: int) -> bool:
    """Tell whether a character begins an expansion of variables or braces."""
    following = line[at + 1 : at + 2]
    if line[at] == "$":
        return bool(re.match(r"[\w{(\[@*#?$!'\"-]", following))
    return line[at] == "{" and following != "}"


def _double_quoted(line: str, at: int) -> tuple[str, int]:
    found = ""
    while at < len(line):
        letter = line[at]
        if letter == '"':
            return found, at + 1
        if letter == "\\" and line[at + 1 : at + 2] in tuple('"\\$`'):
            found, at = found + line[at + 1], at + 2
        elif letter == "`" or (letter == "$" and re.match(r"[\w{(\[@*#?$!-]", line[at + 1 : at + 2])):
            raise Rejected(DIALECT)
        else:
            found, at = found + letter, at + 1
    raise Rejected(DIALECT)


def analyse(line: str) -> list[Command]:
    """Return the commands of a one-liner that only reads below the current folder.

    Raises:
        Rejected: it is more than that, or may be.
    """
    return list(itertools.chain.from_iterable(_commands(words) for words in split_words(line)))


def _commands(words: Sequence[str]) -> list[Command]:
    program, arguments = (
        words[0].rpartition("/")[2] if words[0].startswith(("/bin/", "/usr/bin/")) else words[0],
        words[1:],
    )
    if program not in READERS:
        raise Rejected(PROGRAM)
    if program == "find":
        return _find(arguments)
    if program == "xargs":
        return _xargs(arguments)
    return [_reader(program, arguments)]


def _reader(program: str, arguments: Sequence[str]) -> Command:
    operands: list[str] = []
    given: dict[str, str] = {}
    valued = _VALUED.get(program, "")
    waiting = ""
    for word in arguments:
        if waiting:
            given[waiting], waiting = word, ""
        elif word.startswith("-") and word not in ("-", "--"):
            _check_option(program, word)
            for place, letter in enumerate(word[1:], 1):
                if letter in valued and not word.startswith("--"):
                    waiting, given[letter] = ("" if word[place + 1 :] else letter), word[place + 1 :]
                    break
        elif word != "-":
            operands.append(word)
    patterns: list[str] = []
    if program in _SCRIPTED:
        option = _SCRIPTED[program]
        if option and option in given:
            patterns.append(given[option])
        elif operands:
            patterns.append(operands.pop(0))
    if program == "awk":
        if _AWK_OUTSIDE.search(" ".join(patterns)):
            raise Rejected(CHANGING)
        operands = [word for word in operands if "=" not in word]
    files = [] if program in _NO_FILES else operands
    for path in files:
        _check_place(path)
    folders = [path for path in files if _is_folder(program, arguments, path)]
    delimiter = next((given[letter] for letter in "dFt" if given.get(letter)), None)
    return Command(
        program,
        tuple(arguments),
        tuple(path for path in files if path not in folders),
        tuple(folders),
        tuple(patterns),
        delimiter if program in ("awk", "cut", "join", "sort") else None,
    )


def _check_option(program: str, word: str) -> None:
    refused = {
        "ls": not _LS_OPTIONS.fullmatch(word),
        "sort": bool(re.match(r"-\w*R|--random", word)),
        "tail": bool(re.match(r"-\w*[fF]|--follow|--retry", word)),
        "diff": bool(re.match(r"-\w*[ucUC]|--unified|--context", word)),
        "awk": word.startswith(("-f", "--file")),
    }
    if refused.get(program):
        raise Rejected(CHANGING)


def _is_folder(program: str, arguments: Sequence[str], path: str) -> bool:
    if path.endswith("/") or path == ".":
        return True
    recursive = program.endswith("grep") and any(re.match(r"-\w*[rR]|--recursive", word) for word in arguments)
    return (recursive or program == "ls") and not re.search(r"[*?.\[]", path)


def _check_place(path: str) -> None:
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        raise Rejected(OUTSIDE)


def _xargs(arguments: Sequence[str]) -> list[Command]:
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        word = arguments[at]
        if re.match(r"-\w*[Pa]|--max-procs|--arg-file", word):
            raise Rejected(CHANGING)
        at += 2 if len(word) == 2 and word[1] in _VALUED["xargs"] else 1
    run = arguments[at:]
    if run and run[0] in ("find", "xargs"):
        raise Rejected(PROGRAM)
    return _commands(run) if run else []


def _find(arguments: Sequence[str]) -> list[Command]:
    at = 0
    while at < len(arguments) and arguments[at] in ("-H", "-L", "-P"):
        at += 1
    starts = list(itertools.takewhile(lambda word: not word.startswith(("-", "(", "!")), arguments[at:]))
    for path in starts:
        _check_place(path)
    at += len(starts)
    names: list[str] = []
    commands: list[Command] = []
    while at < len(arguments):
        word, value = arguments[at], arguments[at + 1] if at + 1 < len(arguments) else ""
        if word in ("-exec", "-execdir"):
            ends = [place for place in range(at, len(arguments)) if arguments[place] in (";", "+")]
            run = arguments[at + 1 : ends[0]] if ends else ()
            if not run or run[0] in ("find", "xargs"):
                raise Rejected(PROGRAM)
            commands += [command._replace(files=_without_braces(command.files)) for command in _commands(run)]
            at = ends[0] + 1
        elif word in _FIND_PLAIN:
            at += 1
        elif word in _FIND_VALUED:
            _check_predicate(word, value, arguments)
            if word in _FIND_NAMES:
                names.append(value.swapcase() if word.startswith("-i") else value)
            at += 2
        else:
            raise Rejected(CHANGING)
    folders = [path for path in starts if not re.search(r"[*?\[]", path)]
    found = Command("find", tuple(arguments), tuple(names), tuple(folders), (), None)
    return [found, *commands]


def _check_predicate(word: str, value: str, arguments: Sequence[str]) -> None:
    # The size of a folder and what %k, %t or %u print differ between file systems, times and users.
    if word == "-size" and not ("-type" in arguments and "f" in arguments):
        raise Rejected(CHANGING)
    if word == "-printf" and "%" in _PRINTF_SAFE.sub("", value):
        raise Rejected(CHANGING)
    if word == "-printf" and "%s" in value and not ("-type" in arguments and "f" in arguments):
        raise Rejected(CHANGING)


def _without_braces(files: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in files if "{}" not in path)
