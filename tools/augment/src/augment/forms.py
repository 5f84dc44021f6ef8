"""Surface forms without a model: what `--teacher reference` answers. Pure functions.

The instruction itself stays to the letter but for its opening (`In /app:`, the first verb), so no detail is ever lost.
`rewrite` changes what stands around it: context, voice, politeness, order. The other methods add sentences.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from itertools import combinations

from augment.prompts import CONSTRAIN, HARDEN, HINTS, REWRITE

_CONTEXTS = (
    "",
    "You have a terminal on a Linux machine.",
    "This is a small job on a machine that you may use as you like.",
    "Somebody has to get this done today.",
    "You are helping a colleague.",
    "Read everything before you begin.",
)
# With a verb in its base form after them.
_VOICES = (
    "",
    "Please {}",
    "I need you to {}",
    "I would like you to {}",
    "Your task is to {}",
    "Your job is to {}",
    "You are asked to {}",
    "The goal is to {}",
    "What remains is to {}",
    "We want you to {}",
)
# With any text after them.
_OPENINGS = (
    "",
    "Here is the task.\n\n{}",
    "Please work on the following.\n\n{}",
    "This is what I need.\n\n{}",
    "The following is to be done.\n\n{}",
    "Task:\n\n{}",
    "I have a request.\n\n{}",
    "What is wanted:\n\n{}",
)
_CLOSINGS = (
    "",
    "Thank you.",
    "Nothing else is needed.",
    "Stop when this is done.",
    "Check the result before you finish.",
    "Take as many steps as you need.",
    "Tell me when you are done.",
    "I am relying on you.",
)
_PLACES = ("In {place}: {rest}", "Work in {place}. {rest}", "The place to work in is {place}. {rest}")
_PLACE_LAST = "{rest} Do this in {place}."
_PLACE = re.compile(r"In (/\S+): (.+)", re.DOTALL)
# An instruction that begins with one of these is an order, and can follow "please" and "I need you to".
_ORDERS = """
add analyse analyze append apply arrange assemble build calculate change check clean clone collect combine compile
complete compress compute concatenate configure convert copy correct count create decode decompress decrypt define
delete deploy design detect determine develop download drop edit encode encrypt ensure evaluate execute explain export
extend extract fetch fill filter find fix format generate get give group identify implement import improve insert
inspect install join keep list load locate make measure merge migrate modify move open optimise optimize organise
organize output pack parse patch prepare print process produce provide put read recover refactor remove rename repair
replace report reset resolve restore return rewrite run save scan search select set show solve sort split start stop
store sum swap take test trace transform translate trim turn unpack update upgrade use validate verify write
"""
_VERBS = frozenset(_ORDERS.split())

# A sentence, and the words that in an instruction or a solution speak against it.
_Addition = tuple[str, tuple[str, ...]]
_DEMANDS: tuple[_Addition, ...] = (
    ("Leave no temporary files behind.", ("tmp", "temp")),
    ("Change nothing that the task does not name.", ()),
    ("Look at the present state first and do not rely on what you assume.", ()),
    ("Before you finish, prove to yourself by a command that the result is right.", ()),
    ("If a command fails, find the cause before you go on.", ()),
    ("Everything must be right at the end; a part of it does not count.", ()),
    ("Names must match to the letter, upper and lower case included.", ()),
    ("Keep permissions and owners of all other files as they are.", ("chmod", "chown", "mode", "permission", "owner")),
    ("Leave no process running when you are done.", ("server", "daemon", "service", "background", "nohup")),
    ("The result must not depend on environment variables that only your session has.", ("export", "environment")),
)
_CONSTRAINTS: tuple[_Addition, ...] = (
    ("Use no network connection.", ("http", "download", "fetch", "clone", "curl", "wget", "pip", "apt", "install")),
    ("Install nothing.", ("install", "pip", "apt", "npm", "cargo", "conda")),
    ("Do not use sudo.", ("sudo",)),
    ("Do not open an interactive editor.", ("vim", "nano", "emacs", "editor")),
    ("Do not change the time stamps of files on purpose.", ("touch", "timestamp", "time stamp")),
    ("Do not change shell start-up files.", ("bashrc", "profile", "zshrc", "alias")),
    ("Do not schedule anything for later.", ("cron", "schedule", "timer")),
    ("Set no permanent environment variables.", ("environment", "export", "profile")),
    ("Create no user accounts.", ("user", "account")),
    ("Do not use a graphical program.", ("display", "gui", "window")),
    ("Use no containers or virtual machines.", ("docker", "container", "podman", "virtual")),
    ("Ask nobody and decide by yourself where something is left open.", ("question",)),
)
_ALL_HINTS = (
    "Hint: {} will do.",
    "Hint: think of {}.",
    "You will want {}.",
    "It can be done with {}.",
    "Useful here: {}.",
    "The shortest way goes through {}.",
)
_FIRST_HINTS = (
    "Begin with {}.",
    "A good first command is {}.",
    "{} comes first.",
    "Look at what {} can do.",
    "The first step needs {}.",
)
_MOST_COMMANDS = 6
_SEPARATORS = frozenset({"|", "||", "&&", ";", "&", "(", ")", "|&", ";;"})
# Words after which a command still comes, and words that stand in a command's place and are none worth a hint.
_BEFORE_COMMANDS = "if then else elif while until do ! { time sudo exec env nohup command"
_NO_HINTS = "fi done esac } cd set exit true false local return export for case function in"
_PREFIXES, _PLAIN_WORDS = frozenset(_BEFORE_COMMANDS.split()), frozenset(_NO_HINTS.split())
_COMMAND = re.compile(r"[A-Za-z][\w.+-]*")
_ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)
_HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)(\w+)\1(?!<)")


def spread(start: int, copy: int, total: int) -> int:
    """Return an index below `total`; those of `total` successive copies are all different and lie far apart.

    Args:
        start: where the copies of this task begin.
        copy: counted from 1.
        total: how many there are, at least 1.
    """
    stride = max(1, round(total * 0.618))
    while math.gcd(stride, total) != 1:
        stride += 1
    return (start + copy * stride) % total


def form(method: str, instruction: str, script: str, *, start: int, copy: int) -> str:
    """Return one surface form of an instruction, or the empty string where the method has nothing to add.

    Args:
        method: one of `prompts.METHODS`.
        instruction: the original.
        script: the solution's shell script, or the empty string.
        start: a number that differs between tasks.
        copy: counted from 1.
    """
    if method == REWRITE:
        return rewrite(instruction, start, copy)
    if method == HINTS:
        options = _hints(commands(script))
    else:
        additions = {HARDEN: _DEMANDS, CONSTRAIN: _CONSTRAINTS}[method]
        options = _pairs([text for text, against in additions if not _speaks(against, f"{instruction}\n{script}")])
    if not options:
        return ""
    return _after(instruction, options[spread(start, copy, len(options))])


def _speaks(words: Sequence[str], text: str) -> bool:
    folded = text.casefold()
    return any(word in folded for word in words)


def _pairs(sentences: Sequence[str]) -> list[str]:
    return [*sentences, *(" ".join(pair) for pair in combinations(sentences, 2))]


def _hints(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = [f"`{name}`" for name in names]
    listed = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    every = ["", *(text.format(listed) for text in _ALL_HINTS)]
    first = ["", *(text.format(shown[0]) for text in _FIRST_HINTS)]
    return [f"{a} {b}".strip() for a in every for b in first if a or b]


def _after(text: str, sentence: str) -> str:
    """Append a sentence: to a line in its line, to a longer text as a paragraph."""
    if not sentence:
        return text
    return f"{text}\n\n{sentence}" if "\n" in text else f"{_ended(text)} {sentence}"


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", ":", "`", '"')) else f"{text}."


def rewrite(instruction: str, start: int, copy: int) -> str:
    """Return one of some hundreds of ways to put the same request; none of them is the original."""
    found = _PLACE.fullmatch(instruction)
    place, rest = (found[1], found[2]) if found else ("", instruction)
    verb = re.match(r"[A-Z][a-z]+(?= )", rest)
    is_order = verb is not None and verb[0].lower() in _VERBS
    voices = _VOICES if is_order else _OPENINGS
    # A place can be told after the request only where that is one line, or it would hang on to a code block.
    places: tuple[str, ...] = ("{rest}",)
    if place:
        places = _PLACES if "\n" in rest else (*_PLACES, _PLACE_LAST)
    total = len(_CONTEXTS) * len(voices) * len(places) * len(_CLOSINGS)
    # Index 0 is the original.
    index = 1 + spread(start, copy, total - 1)
    index, context = divmod(index, len(_CONTEXTS))
    index, voice = divmod(index, len(voices))
    closing, order = divmod(index, len(places))
    if voice and is_order:
        rest = voices[voice].format(rest[0].lower() + rest[1:])
    text = places[order].replace("{place}", place).replace("{rest}", rest)
    if voice and not is_order:
        text = voices[voice].replace("{}", text)
    text = _after(text, _CLOSINGS[closing])
    if not _CONTEXTS[context]:
        return text
    return f"{_CONTEXTS[context]}{chr(10) * 2 if chr(10) in text else ' '}{text}"


def commands(script: str) -> list[str]:
    """Return the names of the commands that a shell script calls, each once, in order, at most six.

    What stands in here-documents is left out, and so is a line that cannot be split into words by itself.

    >>> commands("#!/bin/bash\\ncd /app && sort a.txt | head -n 2 > b.txt")
    ['sort', 'head']
    """
    names: list[str] = []
    end: str | None = None
    for line in script.splitlines():
        if end is not None:
            end = None if line.strip() == end else end
            continue
        if line.lstrip().startswith("#"):
            continue
        opened = _HEREDOC.search(line)
        end = opened[2] if opened else None
        names += _called(line)
    return list(dict.fromkeys(names))[:_MOST_COMMANDS]


def _called(line: str) -> list[str]:
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    try:
        split = list(words)
    except ValueError:
        return []
    names = []
    expected = True
    for word in split:
        if word in _SEPARATORS:
            expected = True
        elif expected and word not in _PREFIXES and not _ASSIGNMENT.fullmatch(word):
            if _COMMAND.fullmatch(word) and word not in _PLAIN_WORDS:
                names.append(word)
            expected = False
    return names
