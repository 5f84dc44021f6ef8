"""The one exception a user is meant to read."""


class BadInput(Exception):
    """Input that cannot be used; the message is the one line the user sees.

    A good message says what is wrong, where (file, row or key), what was expected and what to do.
    `recipe_core.cli.entry` prints it after the tool's name and exits with code 2.
    """


def nearest(name: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name, or the empty string."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
