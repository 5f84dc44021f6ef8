"""How every tool's command line starts and ends."""

from __future__ import annotations

import argparse
import datetime
import errno
import math
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from recipe_core.artifact import tool_digest
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


def named_folder(text: str) -> tuple[str, Path]:
    """Parse `stage/step=DIR`, for flags that name artifacts."""
    name, found, folder = text.partition("=")
    if not (found and folder and all(name.partition("/"))):
        raise argparse.ArgumentTypeError(f"{text!r} is not stage/step=DIR, such as mix/train=results/mix/aaa")
    return name, Path(folder)


def finite(text: str) -> float:
    """Parse any finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def seed(text: str) -> int:
    """Parse a seed: what every random number generator in use takes, 0 to 2³² - 1."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return value


def positive(text: str) -> int:
    """Parse an integer of at least 1, for counts."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def real(low: float = 0.0, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Return a parser of finite numbers between bounds, for flags.

    Args:
        low: smallest value; with `above`, a value that is still too small.
        high: largest value.
        above: whether `low` itself is refused.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            limits = f"{'above' if above else 'at least'} {low:g}" + (
                f" and at most {high:g}" if high < math.inf else ""
            )
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {limits}")
        return value

    return parse


above_zero = real(above=True)


def natural(text: str) -> int:
    """Parse an integer of at least 0, for counts that may be none."""
    return 0 if text.strip() == "0" else positive(text)


def top_k(text: str) -> int:
    """Parse how many of the likeliest tokens are sampled from: at least 1, or -1 for all."""
    return -1 if text.strip() == "-1" else positive(text)


def check_endpoint(text: str) -> None:
    """Raise BadInput unless a text is the URL of an OpenAI-compatible endpoint and nothing more."""
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(f"--endpoint {text!r}: expected a URL such as http://localhost:8000/v1")
    if url.username or url.password or url.query or url.fragment:
        # The URL goes into the manifest: what may be a secret is not shown here either.
        raise BadInput(
            f"--endpoint: the URL of {url.hostname} holds more than host and path; give http(s)://HOST/v1, "
            "and the key by --api-key-env"
        )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every tool which writes an artifact has."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="artifact folder to write")
    parser.add_argument("--seed", type=seed, default=0, help="seed of everything random in this step (default 0)")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{where}the disk is full; nothing was published: free some space and run the same command again"
        return f"{where}{error.strerror or error}"
    return " ".join(str(error).split()) or type(error).__name__


def _nobody_reads() -> bool:
    """Tell whether the reader of standard output has gone, as `| head` does; what is still to be written is dropped."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    # A pipe that nobody reads is in error; whether another flush fails depends on how much was buffered.
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone


def entry(
    build_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], None],
    packages: Sequence[str] = (),
) -> Callable[..., None]:
    """Return a tool's `main`: parse, run, and turn expected failures into one line and an exit code.

    Args:
        build_parser: makes the parser; it stands in the tool's package.
        run: does the work.
        packages: what else the tool is made of. `TOOL --digest` prints the digest of all of them, for other tools.

    Exit codes: 0 done, 2 bad input or an unusable machine (disk full, permission), 130 interrupted, 143 terminated.
    Anything else is a bug and shows its trace.
    """

    def main(argv: Sequence[str] | None = None) -> None:
        if list(sys.argv[1:] if argv is None else argv) == ["--digest"]:
            print(tool_digest({build_parser.__module__.partition(".")[0], *packages}))
            return
        parser = build_parser()
        # SIGTERM unwinds like Ctrl-C does, so that context managers stop servers and sandboxes.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            run(parser.parse_args(argv))
            sys.stdout.flush()
        except (BadInput, OSError) as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                sys.exit(0)
            print(f"{parser.prog}: error: {_one_line(error)}", file=sys.stderr)
            sys.exit(USAGE_ERROR)
        except KeyboardInterrupt:
            print(f"{parser.prog}: interrupted; run the same command again to go on", file=sys.stderr)
            sys.exit(130)

    return main
