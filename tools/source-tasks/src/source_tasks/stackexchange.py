"""Sources `superuser`, `tezos`, `codegolf` and `physics`: questions of the Stack Exchange sites of these names.

`--input` names `Posts.xml` of a site's data dump, or the `.7z` archive that holds it. A question is taken if its score
is at least 0, its body (HTML, as the dump has it) is longer than 100 characters, and it contains code. The dump is read
as a stream and what is taken waits on disk, so memory does not grow with the site. The accepted answer, where there is
one, is in `meta`.

`superuser` and `tezos` make tasks, which nothing verifies (`source.unverifiable`). `codegolf` and `physics` make
questions without an environment, as `questions` does; those of `physics` need not contain code.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any
from xml.parsers import expat

from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from source_tasks.given import FAMILY, OVERSIZE, input_digest, mark_repeats, must_exist, too_large
from source_tasks.heldout import in_split
from source_tasks.source import Candidate, Rejected, unverifiable

POSTS = "Posts.xml"
LICENCE = "CC BY-SA"
MIN_SCORE = 0
MIN_BODY_CHARS = 100

# A post is at most some 100 KB; what is far longer is no dump.
MAX_POST_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024

BAD_BODY = "the body cannot be converted to Markdown"

Post = Mapping[str, str]


def is_wanted(post: Post, *, code: bool = True) -> bool:
    """Tell whether a post is a question that is taken; with `code`, only where it contains some.

    >>> is_wanted({"PostTypeId": "1", "Score": "0", "Body": "<code>ls</code>" + "x" * 100})
    True
    >>> is_wanted({"PostTypeId": "2", "Score": "9", "Body": "<code>ls</code>" + "x" * 100})
    False
    """
    try:
        score = int(post.get("Score", ""))
    except ValueError:
        return False
    body = post.get("Body", "")
    long_enough = len(body) > MIN_BODY_CHARS and (not code or "<code>" in body)
    return post.get("PostTypeId") == "1" and score >= MIN_SCORE and long_enough


class PostReader:
    """Takes the bytes of `Posts.xml` piece by piece and hands every post to a function.

    Args:
        where: file, for errors.
        handle: called with the attributes of each post, in the file's order.
    """

    def __init__(self, where: str, handle: Callable[[Post], None]) -> None:
        self.where = where
        self.posts = 0
        self._handle = handle
        self._depth = 0
        self._since = 0
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._doctype

    def _doctype(self, *_: object) -> None:
        # Entities can expand to any size; dumps have none.
        raise BadInput(f"{self.where}: has a document type, which no data dump has; give {POSTS} of a dump")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        wanted = ("posts", "row")[min(self._depth, 1)]
        if name != wanted or self._depth > 1:
            raise BadInput(f"{self.where}: element {name[:50]!r}, expected <posts> with <row>s; give {POSTS} of a dump")
        if self._depth == 1:
            self.posts += 1
            self._since = 0
            if not attributes.get("Id", "").isdigit() or "PostTypeId" not in attributes:
                raise BadInput(f"{self.where}: row {self.posts} has no Id or PostTypeId; give {POSTS} of a dump")
            self._handle(attributes)
        self._depth += 1

    def _end(self, _: str) -> None:
        self._depth -= 1

    def feed(self, content: bytes, *, last: bool = False) -> None:
        """Take the next bytes; `last` says that no more come.

        Raises:
            BadInput: not the XML of a data dump, text that is not UTF-8, or a post of an impossible size.
        """
        for start in range(0, max(len(content), 1), _CHUNK_BYTES):
            piece = content[start : start + _CHUNK_BYTES]
            self._since += len(piece)
            try:
                self._parser.Parse(piece, last and start + _CHUNK_BYTES >= len(content))
            except expat.ExpatError as error:
                raise BadInput(f"{self.where}: broken XML ({error}); download it again") from None
            if self._since > MAX_POST_BYTES + _CHUNK_BYTES:
                raise BadInput(f"{self.where}: more than {MAX_POST_BYTES} bytes without a post after row {self.posts}")


def _read_archive(path: Path, reader: PostReader) -> None:
    import lzma

    import py7zr
    from py7zr.exceptions import ArchiveError
    from py7zr.io import Py7zIO, WriterFactory

    class Sink(Py7zIO):
        """Passes on what is unpacked, and keeps nothing but the first error."""

        def __init__(self) -> None:
            self.error: BadInput | None = None
            self.length = 0

        def write(self, s: bytes | bytearray) -> int:
            self.length += len(s)
            if self.error is None:
                try:
                    reader.feed(bytes(s))
                except BadInput as error:
                    self.error = error
            return len(s)

        def read(self, size: int | None = None) -> bytes:
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

        def flush(self) -> None:
            pass

        def size(self) -> int:
            return self.length

    class Factory(WriterFactory):
        def create(self, filename: str) -> Py7zIO:
            return sink

    sink = Sink()
    try:
        with py7zr.SevenZipFile(path) as archive:
            names = [name for name in archive.getnames() if PurePosixPath(name).name == POSTS]
            if len(names) != 1:
                raise BadInput(f"--input {path}: holds {len(names)} files {POSTS}, expected one")
            archive.extract(targets=names, factory=Factory())
    # What a damaged archive raises depends on where the damage is.
    except (ArchiveError, lzma.LZMAError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        if sink.error is None:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadInput(f"--input {path}: not a readable 7z archive ({reason[:200]}); download it again") from None
    if sink.error is not None:
        raise sink.error
    reader.feed(b"", last=True)


def read_posts(path: Path, handle: Callable[[Post], None]) -> int:
    """Hand every post of a dump to a function and return how many there were.

    Args:
        path: `Posts.xml`, or a 7z archive that holds it.
        handle: called with the attributes of each post.

    Raises:
        BadInput: the file is neither, or broken.
    """
    reader = PostReader(f"--input {path}", handle)
    if path.suffix.lower() == ".7z":
        reader.where += f": {POSTS}"
        _read_archive(path, reader)
    else:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                reader.feed(chunk)
        reader.feed(b"", last=True)
    return reader.posts


def markdown(html: str) -> str:
    """Return a post's HTML as Markdown.

    Raises:
        Rejected: it is nested too deeply to convert.
    """
    from markdownify import markdownify

    try:
        # The text is for a reader, not for a renderer: `_` and `*` stay as they are.
        converted = markdownify(html, heading_style="ATX", escape_asterisks=False, escape_underscores=False)
    except RecursionError:
        raise Rejected(BAD_BODY) from None
    return "\n".join(line.rstrip() for line in converted.strip().splitlines())


def tags_of(text: str) -> list[str]:
    """Return a post's tags, which dumps write as `<a><b>` or `|a|b|`.

    >>> tags_of("<linux><bash>"), tags_of("|linux|bash|")
    (['linux', 'bash'], ['linux', 'bash'])
    """
    return [tag for tag in text.replace("><", "|").strip("<>|").split("|") if tag]


class StackExchange:
    """The questions of one site.

    Args:
        name: the source's name.
        path: the dump, or the folder it lies in.
        domain: `code` or `science` where the source makes questions without an environment; None where it makes tasks.
    """

    def __init__(self, name: str, path: Path, domain: str | None = None) -> None:
        self.name = name
        self.domain = domain
        must_exist(path, name, f"{POSTS} of the site's data dump, or the .7z that holds it")
        if path.is_dir():
            archives = sorted(path.glob("*.7z"))
            if not (path / POSTS).is_file() and len(archives) != 1:
                raise BadInput(
                    f"--input {path}: no {POSTS} in it; source {name} reads {POSTS}, or the .7z that holds it"
                )
            path = path / POSTS if (path / POSTS).is_file() else archives[0]
        self.path = path

    def digest(self) -> str:
        """Return the digest of the file."""
        return input_digest(self.path, ())

    def families(self) -> tuple[str, ...]:
        """Return the one kind of task there is."""
        return (self.domain or FAMILY,)

    def key(self, post: Post) -> str:
        """Return a question's held-out key."""
        return f"question:{self.name}/{post['Id']}"

    def _spool(self, spool: sqlite3.Connection, split: str, seed: int) -> None:
        spool.execute("PRAGMA journal_mode = OFF")
        spool.execute(
            "CREATE TABLE questions (id INTEGER, place INTEGER, accepted INTEGER, score INTEGER, title TEXT, "
            "body TEXT, tags TEXT, licence TEXT)"
        )
        spool.execute("CREATE TABLE answers (id INTEGER PRIMARY KEY, body TEXT)")
        wanted: set[int] = set()

        def take(post: Post) -> None:
            wants_code = self.domain != "science"
            if not is_wanted(post, code=wants_code) or not in_split(key := self.key(post), split):
                return
            accepted = post.get("AcceptedAnswerId", "")
            if accepted.isdigit():
                wanted.add(int(accepted))
            cells = (post.get("Title", ""), post["Body"], post.get("Tags", ""), post.get("ContentLicense", LICENCE))
            place = row_seed(seed, self.name, split, key)
            values = (int(post["Id"]), place, int(accepted) if accepted.isdigit() else None, int(post["Score"]), *cells)
            spool.execute("INSERT INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

        def answer(post: Post) -> None:
            number = int(post["Id"])
            if number in wanted:
                spool.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (number, post.get("Body", "")))

        if not read_posts(self.path, take):
            raise BadInput(f"--input {self.path}: no post in it; give {POSTS} of a dump")
        # A second time, because an answer may stand before its question where posts were merged.
        if wanted:
            read_posts(self.path, answer)
        spool.execute("CREATE INDEX drawn ON questions (place, id)")

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the questions of a split in an order drawn from the seed.

        Raises:
            BadInput: the dump cannot be read.
        """
        return mark_repeats(self._drawn(split, seed))

    def _drawn(self, split: str, seed: int) -> Iterator[Candidate]:
        with closing(sqlite3.connect("")) as spool:
            self._spool(spool, split, seed)
            drawn = spool.execute(
                "SELECT q.id, q.score, q.title, q.body, q.tags, q.licence, a.body FROM questions q "
                "LEFT JOIN answers a ON a.id = q.accepted ORDER BY q.place, q.id"
            )
            for number, score, title, body, tags, licence, accepted in drawn:
                meta: dict[str, Any] = {
                    "family": FAMILY,
                    "parameters": {"question": number},
                    "split": split,
                    "held_out": [self.key({"Id": str(number)})],
                    "score": score,
                    "tags": tags_of(tags),
                    "solution": False,
                    "verifiable": False,
                }
                origin = f"{self.name}: question {number}"
                try:
                    meta["accepted_answer"] = markdown(accepted) if accepted else None
                    text = f"# {title.strip()}\n\n{markdown(body)}"
                    if self.domain is not None:
                        # What is known of a question has the names that `questions` gives it.
                        known = dict.fromkeys(("answer", "tests", "solution"))
                        meta |= {"family": self.domain, "domain": self.domain, "source": self.name, **known}
                        del meta["verifiable"]
                        yield Candidate(self.domain, {}, licence, origin, meta, question=text, validate=False)
                        continue
                    files = unverifiable(self.name, FAMILY, text)
                    if too_large(files):
                        raise Rejected(OVERSIZE)
                except Rejected as reason:
                    yield Candidate(FAMILY, {}, licence, origin, meta, reason=str(reason))
                    continue
                yield Candidate(FAMILY, files, licence, origin, meta, validate=False)


def open_superuser(given: Path) -> StackExchange:
    """Return the source `superuser`; `given` is the dump."""
    return StackExchange("superuser", given)


def open_tezos(given: Path) -> StackExchange:
    """Return the source `tezos`; `given` is the dump."""
    return StackExchange("tezos", given)


def open_codegolf(given: Path) -> StackExchange:
    """Return the source `codegolf`; `given` is the dump."""
    return StackExchange("codegolf", given, "code")


def open_physics(given: Path) -> StackExchange:
    """Return the source `physics`; `given` is the dump."""
    return StackExchange("physics", given, "science")
