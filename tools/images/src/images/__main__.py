"""Build one Apptainer image a stack, and verify what they hold.

    images list                    every image, its file and whether it is built
    images build --base local      all images, on a base made from this machine's Debian packages
    images build --cuda            all as machines with GPUs need them: data-cuda, harness-cuda, ...
    images build --cuda rl         one of those: rl-cuda
    images build data harness      two of them and what they stand on, on the base pinned in containers/base.def
    images verify                  read every file of every image; name those that differ
    images compare A.sif B.sif     name the files in which two images differ

An image's file is named images/<image>-<digest>.sif by what it is made from: its definition, the locks of its stacks
and the tools' sources.

`verify` compares every file of an image with the list that its build wrote, and the project's own files with those
that stand here. It compares the packages with containers/images.lock where that has a record of the image for this
machine's architecture, made from the same locks, and says so where it has none. `build --record` writes such records.
The digest of the base is kept with them and not compared: Debian's packages are those of the day.

Building needs a network, or packages in uv's cache; running needs none. No rights are needed but user namespaces.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from images import build
from images.contents import differences, digest_of, listing, packages_of, read_listing
from images.names import HOME, all_images, every_image, for_gpus, image_path, is_built, lineage, source_files, stacks_of
from recipe_core.artifact import file_digest
from recipe_core.cli import Parser, entry, positive
from recipe_core.errors import BadInput

LOCK = Path("containers") / "images.lock"
_DIFFERENCES_SHOWN = 20


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shown = commands.add_parser("list", help="print every image, its file and whether it is built")
    make = commands.add_parser("build", help="build images that are not built yet")
    make.add_argument("image", nargs="*", help="which (default: all)")
    make.add_argument(
        "--base",
        default="registry",
        metavar="BASE",
        help="registry, local (bootstrapped by mmdebstrap), or the folder or file of an image (default registry)",
    )
    make.add_argument("--jobs", type=positive, default=2, metavar="N", help="images at a time (default 2)")
    make.add_argument("--again", action="store_true", help="also those that are built")
    for command in (shown, make):
        command.add_argument("--cuda", action="store_true", help="as machines with GPUs need them: rl is rl-cuda")
    make.add_argument("--record", action="store_true", help=f"write what they hold into {LOCK}, which is committed")
    verify = commands.add_parser("verify", help="read every file of the images; name those that differ")
    verify.add_argument("image", nargs="*", help="which (default: all that are built)")
    compare = commands.add_parser("compare", help="name the files in which two images differ")
    compare.add_argument("first", type=Path)
    compare.add_argument("second", type=Path)
    return parser


def read_lock(root: Path) -> dict[str, Any]:
    """Return what containers/images.lock records, by architecture; nothing where it does not exist.

    Raises:
        BadInput: it is not of that form.
    """
    path = root / LOCK
    try:
        recorded = json.loads(path.read_text()) if path.is_file() else {}
        if all(
            image.keys() >= {"locks", "packages"} for each in recorded.values() for image in each["images"].values()
        ):
            return dict(recorded)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    mend = f"take the committed file: git checkout {LOCK}"
    raise BadInput(f"{path}: not records by architecture, each with `images` of `locks` and `packages`; {mend}")


def lock_digests(root: Path, image: str) -> dict[str, str]:
    """Return the SHA-256 of the lock of each stack in an image."""
    return {stack: file_digest(root / "envs" / stack / "requirements.lock") for stack in stacks_of(root, image)}


def names_of(root: Path, args: argparse.Namespace) -> list[str]:
    """Return the images that are asked for, all of them by default, and with --cuda those for GPUs."""
    names = getattr(args, "image", []) or all_images(root)
    return [for_gpus(root, name) if args.cuda else name for name in names]


def build_images(root: Path, args: argparse.Namespace) -> None:
    """Build what is asked for and is not there."""
    asked = names_of(root, args)
    # What an image stands on is built before it; `--again` is about those that are asked for.
    names = list(dict.fromkeys(name for image in asked for name in lineage(root, image)))
    work = build.work_folder(root)
    pending = [name for name in names if (args.again and name in asked) or not is_built(root, name)]
    recorded = read_lock(root)
    if pending or args.record:
        base = build.build_base(root, args.base, work)
    if pending:
        build_all(root, pending, base, work, args.jobs)
    if args.record:
        here = recorded.setdefault(platform.machine(), {"images": {}})
        here["base"] = {"from": args.base, "files": build.base_digest(base)}
        for name in names:
            files = read_listing((root / image_path(root, name)).with_suffix(".files"))
            here["images"][name] = {"locks": lock_digests(root, name), "packages": digest_of(packages_of(files))}
        (root / LOCK).write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")


def build_all(root: Path, names: Sequence[str], base: Path, work: Path, jobs: int) -> None:
    """Build images, some at a time; when one fails, or the command is ended, none is begun any more.

    Raises:
        BadInput: the first failure.
    """
    building: dict[str, Future[None]] = {}

    def build_one(name: str) -> None:
        for below in lineage(root, name)[:-1]:
            if below in building:
                building[below].result()
        target = build.build_image(root, name, base, work)
        print(f"{target.relative_to(root)}: {target.stat().st_size / 1e6:,.0f} MB", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            # The lowest first: what waits for another image then never keeps that one waiting.
            for name in sorted(names, key=lambda name: len(lineage(root, name))):
                building[name] = pool.submit(build_one, name)
            for built in as_completed(building.values()):
                built.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            build.stop_all()
            raise


def not_compared(root: Path, name: str, recorded: dict[str, Any]) -> str:
    """Return why an image's packages cannot be compared with a record; nothing where they can.

    Args:
        root: the project's folder.
        name: the image's.
        recorded: as :func:`read_lock` returns it.
    """
    machine = platform.machine()
    if machine not in recorded:
        return f"no record for {machine}"
    entry_ = recorded[machine]["images"].get(name)
    if entry_ is None:
        return f"no record of {name} for {machine}"
    return "" if entry_["locks"] == lock_digests(root, name) else "the record is of other locks"


def verify_image(root: Path, name: str, packages: str | None) -> list[str]:
    """Read an image and return a line for everything that is other than it should be.

    Args:
        root: the project's folder.
        name: the image's.
        packages: the recorded digest of its packages; None where there is none to compare with.
    """
    path = root / image_path(root, name)
    if not path.is_file():
        return [f"not built; build it: images build {name}"]
    found = listing(path)
    lines = differences(read_listing(path.with_suffix(".files")), found)
    # The tools in it are those of this commit: its name says so, but a name can be given to anything.
    inside = {entry.path: entry.what for entry in found}
    for file in source_files(root, stacks_of(root, name)):
        what = inside.get(f"{HOME}/{file}", "missing")
        if what != file_digest(root / file):
            lines.append(f"{HOME}/{file}: {what[:40]}, not what stands here")
    if packages is not None and (digest := digest_of(packages_of(found))) != packages:
        lines.append(f"{HOME}/.venvs: digest {digest[:12]}, {LOCK} has {packages[:12]}")
    return lines


def show(title: str, lines: list[str]) -> None:
    """Print differences below a title, not more than a screen."""
    for line in lines[:_DIFFERENCES_SHOWN]:
        print(f"{title}: {line}")
    if len(lines) > _DIFFERENCES_SHOWN:
        print(f"{title}: and {len(lines) - _DIFFERENCES_SHOWN} more")


def run(args: argparse.Namespace) -> None:
    """Do what the command line says; exit code 1 where an image differs."""
    root = Path.cwd()
    if not (root / "containers").is_dir():
        raise BadInput("no folder containers/ here; run this in the project's folder")
    if args.command == "list":
        for name in names_of(root, args):
            path = image_path(root, name)
            state = "built" if is_built(root, name) else "not built"
            print(f"{name}\t{path}\t{state}\t{' '.join(stacks_of(root, name))}")
    elif args.command == "build":
        build_images(root, args)
    elif args.command == "verify":
        names = args.image or [name for name in every_image(root) if is_built(root, name)]
        if not names:
            raise BadInput("no image is built; build them: images build")
        recorded = read_lock(root)
        wrong = []
        for name in names:
            why = not_compared(root, name, recorded)
            packages = None if why else recorded[platform.machine()]["images"][name]["packages"]
            lines = verify_image(root, name, packages)
            compared = f"not compared with {LOCK}: {why}" if why else "its packages are those recorded"
            show(name, lines or [f"read whole, as built and as this commit says; {compared}"])
            wrong += [name] if lines else []
        if wrong:
            # What stands on a bad image was made of it.
            above = [name for name in every_image(root) if set(lineage(root, name)) & set(wrong)]
            again = " ".join(name for name in above if name in wrong or is_built(root, name))
            mend = f"build them again, with what stands on them: images build --again {again}"
            print(f"images: {len(wrong)} of {len(names)} differ; {mend}", file=sys.stderr)
            raise SystemExit(1)
    else:
        for path in (args.first, args.second):
            if not path.exists():
                raise BadInput(f"{path}: no such image")
        lines = differences(listing(args.first), listing(args.second))
        show("differs", lines)
        raise SystemExit(bool(lines))


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
