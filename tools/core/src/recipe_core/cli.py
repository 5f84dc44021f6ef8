"""How every tool's command line starts and ends."""

from __future__ import annotations

import argparse
import datetime
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from recipe_core.errors import BadInput

USAGE_ERROR = 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose help keeps line breaks and whose errors are one line."""

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)


def iso_date(text: str) -> str:
    """Parse `YYYY-MM-DD`, for `--date`."""
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-01-31") from None


def positive(text: str) -> int:
    """Parse an integer of at least 1, for counts."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every tool which writes an artifact has."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="artifact folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random in this step (default 0)")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{where}the disk is full; nothing was published: free some space and run the same command again"
        return f"{where}{error.strerror or error}"
    return " ".join(str(error).split()) or type(error).__name__


def entry(
    build_parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> Callable[..., None]:
    """Return a tool's `main`: parse, run, and turn expected failures into one line and an exit code.

    Exit codes: 0 done, 2 bad input or an unusable machine (disk full, permission), 130 interrupted, 143 terminated.
    Anything else is a bug and shows its trace.
    """

    def main(argv: Sequence[str] | None = None) -> None:
        parser = build_parser()
        # SIGTERM unwinds like Ctrl-C does, so that context managers stop servers and sandboxes.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            run(parser.parse_args(argv))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except (BadInput, OSError) as error:
            print(f"{parser.prog}: error: {_one_line(error)}", file=sys.stderr)
            sys.exit(USAGE_ERROR)
        except KeyboardInterrupt:
            print(f"{parser.prog}: interrupted; run the same command again to go on", file=sys.stderr)
            sys.exit(130)

    return main
