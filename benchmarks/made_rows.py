"""Made rows for the benchmark of the data tools: they read like tasks, and hold planted duplicates and contaminations.

Texts are drawn from a word model: some hundred English words and some thousand made terms, paths and names by Zipf's
law, each row leaning on a few terms of its own, in sentences with lengths of rows that are heavy-tailed (log-normal,
median 60 words, mean 90). Everything depends on the seed and the row's number alone.

Planted, with the truth beside the rows: rows equal to another but for case and blanks, rows that differ from another in
some words, and rows that hold a prompt of a benchmark, a rewritten one, or twenty successive words of one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from recipe_core.artifact import ArtifactWriter
from recipe_core.records import TASK_SCHEMA, TableWriter, write_rows

SOURCES = ("issues", "forum", "shell", "methods")
CHUNK = 10_000
EQUAL_SHARE = 0.03
NEAR_SHARE = 0.05
CONTAMINATED_SHARE = 0.003
TRUTH_SCHEMA = pa.schema([("task_id", pa.string()), ("kind", pa.string()), ("of", pa.string())])

_ENGLISH = """the of and to a in is that for it as with on be at by this from or an are not if you all has each which
when but one will into file files should then there can more use first other any its must only new between these so two
after same line directory write read list name value create test error add user command number output input result make
using where contents found run function string returns data every column text called path order script into count
without them second last under empty following present given than before table time set current change return type key
print exactly remove case default sort still class message option field expected show module call missing both most
however version object package argument process program sum have instead sure total end while need server exists fails
size does work copy check lines root problem code log date given issue find valid old up also parse request used update
system three format index raise method digits character page words support rows space single match update pass contain
where replace home convert response install state example directly session parameter already behaviour reports answer
build base branch lowest highest archive during query left right memory handle node local port settings against lists
unexpected keep correct until start stop starts lower upper average duplicate connection service report largest least
""".split()  # noqa: SIM905 - as a list it would be 300 lines
_ONSETS = [
    "b",
    "br",
    "c",
    "cl",
    "d",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "st",
]
_ONSETS += ["t", "tr", "v", "w", "z", "sh", "th"]
_CORES = ["a", "e", "i", "o", "u", "ai", "ea", "ou", "io"]
_CODAS = ["", "", "n", "r", "s", "t", "l", "nd", "rt", "ck", "m", "x"]
_TERMS = 6_000
_VARIANTS = 8
_TOPIC_TERMS = 12


class Made(NamedTuple):
    """A made row before it is packed: id, source and text, and what was planted (empty when nothing)."""

    task_id: str
    source: str
    text: str
    kind: str = ""
    of: str = ""


class Files(NamedTuple):
    """What `make` wrote: an artifact a source, the files of benchmark prompts, and the truth (`TRUTH_SCHEMA`)."""

    tasks: list[Path]
    benchmarks: list[Path]
    truth: Path


def _terms() -> list[str]:
    """Return the made terms: words, and of them names, paths, options, numbers and calls."""
    random = np.random.default_rng([0, 1])

    def word() -> str:
        parts = range(int(random.integers(1, 4)))
        pick = (_ONSETS, _CORES, _CODAS)
        return "".join(kind[int(random.integers(len(kind)))] for _ in parts for kind in pick)

    forms = (
        word,
        word,
        word,
        lambda: f"{word()}_{word()}",
        lambda: f"/{word()}/{word()}.{word()[:3]}",
        lambda: f"--{word()}",
        lambda: str(int(random.integers(2, 5000))),
        lambda: f"`{word()}.{word()}()`",
        lambda: f"{word()}.py",
    )
    return [forms[int(random.integers(len(forms)))]() for _ in range(_TERMS)]


def _variants(word: str) -> list[str]:
    capital = word[:1].upper() + word[1:]
    return [word, capital, f"{word},", f"{capital},", f"{word}.", f"{capital}.", f"{word}.\n\n", f"{capital}.\n\n"]


_WORDS = [*_ENGLISH, *_terms()]
_SPELLED = [form for word in _WORDS for form in _variants(word)]
_CHANCES = np.cumsum(1 / (np.arange(len(_WORDS)) + 2.7) ** 1.02)
_CHANCES /= _CHANCES[-1]


def texts(seed: int, stream: int, count: int) -> list[str]:
    """Return `count` texts of one numbered stream."""
    random = np.random.default_rng([seed, stream, 7])
    lengths = np.clip(np.exp(random.normal(np.log(60), 0.9, count)).astype(np.int64), 6, 4000)
    total = int(lengths.sum())
    row = np.repeat(np.arange(count), lengths)
    words = np.searchsorted(_CHANCES, random.random(total))
    topics = random.integers(len(_ENGLISH), len(_WORDS), (count, _TOPIC_TERMS))
    own = (words >= len(_ENGLISH)) & (random.random(total) < 0.6)
    words[own] = topics[row[own], words[own] % _TOPIC_TERMS]
    # Of 100 words 7 end in a comma, 8 in a full stop, 1 in one that ends a paragraph.
    ending = np.searchsorted([0.84, 0.91, 0.99], random.random(total), "right")
    ends = np.cumsum(lengths)
    ending[ends - 1] = 2
    opens = np.concatenate([[True], ending[:-1] >= 2])
    codes = words * _VARIANTS + ending * 2 + opens
    starts = np.concatenate([[0], ends]).tolist()
    spelled = [_SPELLED[code] for code in codes.tolist()]
    return [" ".join(spelled[low:high]).replace("\n ", "\n").rstrip() for low, high in pairwise(starts)]


def prompts(seed: int, count: int) -> list[str]:
    """Return the benchmark prompts: texts of a stream that no row is drawn from."""
    return texts(seed, 1 << 40, count)


def rows(seed: int, chunk: int, count: int, benchmark: list[str]) -> list[Made]:
    """Return the rows of one chunk; duplicates are of rows of the same chunk, whose ids are spread over all."""
    random = np.random.default_rng([seed, chunk, 11])
    made: list[Made] = []
    chances = random.random(count)
    for number, text in enumerate(texts(seed, chunk, count)):
        task_id = hashlib.sha256(f"{seed}:{chunk}:{number}".encode()).hexdigest()[:16]
        # Zipf-like: each source is half as large as the one before.
        source = SOURCES[min(int(-np.log2(max(random.random(), 1e-9))), len(SOURCES) - 1)]
        of = made[int(random.integers(number))] if number else None
        chance = float(chances[number])
        if of is not None and not of.kind and chance < EQUAL_SHARE:
            made.append(Made(task_id, source, _same(of.text, random), "equal", of.task_id))
        elif of is not None and not of.kind and chance < EQUAL_SHARE + NEAR_SHARE:
            near = edit(of.text, float(random.uniform(0.002, 0.05)), random)
            made.append(Made(task_id, source, near, "near", of.task_id))
        elif chance > 1 - CONTAMINATED_SHARE:
            place = int(random.integers(len(benchmark)))
            kind, changed = _contaminate(text, benchmark[place], random)
            made.append(Made(task_id, source, changed, kind, str(place)))
        else:
            made.append(Made(task_id, source, text))
    return made


def _same(text: str, random: np.random.Generator) -> str:
    return (text, text.upper(), f"  {text}\n", re.sub(r"\n+", "  ", text))[int(random.integers(4))]


def edit(text: str, rate: float, random: np.random.Generator) -> str:
    """Return the text with about that share of its words replaced, left out or doubled by another; at least one."""
    words = text.split(" ")
    for _ in range(max(1, int(random.binomial(len(words), rate)))):
        place = int(random.integers(len(words)))
        other = _WORDS[int(random.integers(len(_WORDS)))]
        words[place : place + 1] = ([other], [], [words[place], other])[int(random.integers(3))]
    return " ".join(words)


def _contaminate(text: str, prompt: str, random: np.random.Generator) -> tuple[str, str]:
    how = int(random.integers(3))
    if how == 0:
        return "copied", f"{text[: len(text) // 2]} {prompt} {text[len(text) // 2 :]}"
    if how == 1:
        return "rewritten", edit(prompt, 0.08, random)
    words = prompt.split()
    start = int(random.integers(max(1, len(words) - 20)))
    return "span", f"{text} {' '.join(words[start : start + 20])}"


def _packed(text: str, number: int) -> bytes:
    """Return a packed task of the usual five files, as `recipe_core.tasks.pack_files` lays them out."""
    before, after = _around(number % 16)
    content = text.encode()
    member = tarfile.TarInfo("instruction.md")
    member.size, member.mode = len(content), 0o644
    padded = content + b"\0" * (-len(content) % 512)
    whole = before + member.tobuf(tarfile.USTAR_FORMAT) + padded + after
    return gzip.compress(whole + b"\0" * (-len(whole) % tarfile.RECORDSIZE), compresslevel=0, mtime=0)


_AROUND: dict[int, tuple[bytes, bytes]] = {}


def _around(kind: int) -> tuple[bytes, bytes]:
    if kind not in _AROUND:
        files = {
            "environment/Dockerfile": f"FROM debian:13\nRUN apt-get install -y tool{kind}\nWORKDIR /app\n",
            "solution/solve.sh": f"#!/bin/bash\nset -e\ntool{kind} --fix > out.txt\n",
            "task.toml": f'version = "1.0"\n[metadata]\ncategory = "kind-{kind}"\n[agent]\ntimeout_sec = 900.0\n',
            "tests/test.sh": "#!/bin/bash\ncd /app && test -s out.txt && echo 1 > /logs/verifier/reward.txt\n" * 9,
        }
        parts = []
        for names in (("environment/Dockerfile",), ("solution/solve.sh", "task.toml", "tests/test.sh")):
            stream = io.BytesIO()
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(files[name])
                stream.write(member.tobuf(tarfile.USTAR_FORMAT))
                stream.write(files[name].encode() + b"\0" * (-len(files[name]) % 512))
            parts.append(stream.getvalue())
        _AROUND[kind] = (parts[0], parts[1] + b"\0" * 1024)
    return _AROUND[kind]


def task(made: Made, number: int) -> dict[str, Any]:
    """Return the row of a task artifact."""
    length = len(made.text) * 3 + int(made.task_id[:4], 16) % 997
    return {
        "task_id": made.task_id,
        "path": f"{made.source}-{made.task_id}",
        "task_binary": _packed(made.text, number),
        "source": made.source,
        "instruction": made.text,
        "licence": "CC0-1.0",
        "origin": f"made:{made.source}",
        "meta": json.dumps({"response_tokens": length, "level": number % 5}),
    }


def _part(job: tuple[int, int, int, list[str], Path]) -> None:
    seed, chunk, count, benchmark, folder = job
    made = rows(seed, chunk, count, benchmark)
    order: dict[str, list[dict[str, Any]]] = {source: [] for source in SOURCES}
    for number, row in enumerate(made):
        order[row.source].append(task(row, number))
    for source, tasks in order.items():
        write_rows(folder / f"{source}-{chunk:06d}.parquet", TASK_SCHEMA, tasks)
    truth = [{"task_id": row.task_id, "kind": row.kind, "of": row.of} for row in made if row.kind]
    write_rows(folder / f"truth-{chunk:06d}.parquet", TRUTH_SCHEMA, truth)


def make(folder: Path, count: int, prompt_count: int, seed: int, workers: int) -> Files:
    """Write task artifacts, one a source, the benchmark prompts and the truth; what is there already is left."""
    made = Files(
        tasks=[folder / source for source in SOURCES],
        benchmarks=[folder / f"bench{number}.jsonl" for number in range(3)],
        truth=folder / "truth.parquet",
    )
    mark = folder / "made.json"
    asked = json.dumps(
        [count, prompt_count, seed, hashlib.sha256(Path(__file__).read_bytes()).hexdigest()],
    )
    if mark.is_file() and mark.read_text() == asked:
        return made
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    benchmark = prompts(seed, prompt_count)
    for number, path in enumerate(made.benchmarks):
        lines = [json.dumps({"prompt": text}) for text in benchmark[number::3]]
        path.write_text("\n".join(lines) + "\n")
    jobs = [(seed, chunk, min(CHUNK, count - chunk * CHUNK), benchmark, parts) for chunk in range(-(-count // CHUNK))]
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(_part, jobs):
            pass
    for source in SOURCES:
        with ArtifactWriter(
            folder / source,
            stage="source-tasks",
            params={"made": [count, seed]},
            seed=seed,
            inputs={},
            tier="T0",
            package=[],
        ) as writer:
            written = _join(sorted(parts.glob(f"{source}-*.parquet")), writer.path("tasks.parquet"), TASK_SCHEMA)
            writer.count(rows_in=None, rows_out=written)
    _join(sorted(parts.glob("truth-*.parquet")), made.truth, TRUTH_SCHEMA)
    for path in parts.iterdir():
        path.unlink()
    parts.rmdir()
    mark.write_text(asked)
    return made


def _join(parts: list[Path], whole: Path, schema: pa.Schema) -> int:
    with TableWriter(whole, schema) as table:
        for row in _rows_of(parts):
            table.write(row)
    return table.rows


def _rows_of(parts: list[Path]) -> Iterator[dict[str, Any]]:
    from recipe_core.records import read_rows

    for part in parts:
        yield from read_rows(part)
