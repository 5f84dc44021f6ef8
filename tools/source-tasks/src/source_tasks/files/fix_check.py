"""Decide whether a source file is one of those accepted, up to layout and comments; exit code 0 if it is, else 1.

`check.py expected.json` reads `{"file": path below /app, "accepted": [digest of a file's form, ...]}`. The form of a
Java or C# file is the sequence of its tokens: words, texts, and single other characters, without blanks and comments.
So `a+ +b` and `a++b` are the same to it, and a comment mark inside a C# text that holds further quotes may be misread.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

APP = Path("/app")

TOKEN = re.compile(
    r"""
      (?P<comment> //[^\n]* | /\*.*?\*/ )
    | \"{3}(?:\\.|[^\\])*?\"{3}                # text block
    | (?:\$@|@\$|@)"(?:[^"]|"")*"              # verbatim C# text
    | \$?"(?:\\.|[^"\\\n])*"
    | '(?:\\.[^'\n]*|[^'\\\n])'
    | \w+
    | [^\s\w]
    """,
    re.DOTALL | re.VERBOSE,
)


def tokens(text):
    """Return the tokens of a file as `(token, start, end)`; comments and byte order marks are left out."""
    found = TOKEN.finditer(text)
    return [(m[0], m.start(), m.end()) for m in found if m["comment"] is None and m[0] != "\ufeff"]


def form(words):
    """Return the digest of a file's form, given its tokens."""
    # A text may hold line ends, but they differ between systems and are layout there too.
    plain = (word.replace("\r\n", "\n") for word in words)
    return hashlib.sha256("\0".join(plain).encode("utf-8", "replace")).hexdigest()


def main(argv):
    """Check the file that the JSON file `argv[1]` names."""
    expected = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    path = APP / expected["file"]
    if not path.is_file():
        print(f"{path} does not exist")
        return 1
    found = form(word for word, _, _ in tokens(path.read_bytes().decode("utf-8", "replace")))
    if found not in expected["accepted"]:
        print(f"{path} is not the recorded fix")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
