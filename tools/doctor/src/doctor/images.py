"""Whether the images that the rules name are here, and one of them starts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doctor.commands import Answer, ask, find
from doctor.findings import Finding, Level, bytes_text
from doctor.profile import Profile

CHECK = "images"
# Images for CPUs that a site with GPUs needs too: `make fetch` runs in the first, train-rl with trl in the second.
_ON_CPUS = ("data", "rl")
BIN = Path(".venvs") / "bin"


@dataclass(frozen=True)
class Image:
    """An image as `images list` names it."""

    name: str
    path: str
    built: bool


@dataclass(frozen=True)
class Facts:
    """What is here; `listing` is how `images list` ended where it failed.

    `trial` is how `apptainer exec … true` ended in the smallest image, `tried` its path.
    """

    images: tuple[Image, ...] = ()
    listing: Answer | None = None
    size: int = 0
    tried: str = ""
    trial: Answer | None = None
    others: tuple[str, ...] = field(default=())
    # What `images build` is told besides, for the kind of images that the profile means.
    flags: tuple[str, ...] = ()
    # Where those are the images for GPUs: what else recipes need.
    besides: tuple[Image, ...] = ()

    @property
    def build(self) -> str:
        """The command that builds what is looked for."""
        return " ".join(["images build", *self.flags])


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them."""
    cuda = profile.config.get("cuda") == "on"
    facts = gather(Path.cwd(), profile.settings.get("apptainer-args", ""), cuda=cuda)
    return judge(facts, needed=profile.executor == "slurm")


def gather(root: Path, arguments: str = "", *, cuda: bool = False) -> Facts:
    """Ask `images list`, and start the smallest image.

    Args:
        root: the project's folder.
        arguments: apptainer-args of the profile.
        cuda: whether the profile means the images for GPUs.
    """
    flags = ("--cuda",) if cuda else ()
    images, of_the_other_kind = listed(root, flags), listed(root, () if cuda else ("--cuda",))
    if isinstance(images, Answer):
        return Facts(listing=images, flags=flags)
    if isinstance(of_the_other_kind, Answer):
        return Facts(listing=of_the_other_kind, flags=flags)
    files = [root / image.path for image in images if image.built]
    own = {Path(image.path).name for image in (*images, *of_the_other_kind)}
    others = tuple(sorted({path.name for path in (root / "images").glob("*.sif")} - own))
    besides = tuple(image for image in of_the_other_kind if image.name in _ON_CPUS) if cuda else ()
    if not files:
        return Facts(images, others=others, flags=flags, besides=besides)
    smallest = min(files, key=lambda path: path.stat().st_size)
    size = sum(path.stat().st_size for path in files)
    trial = ask_inside(smallest, arguments, "true", 120)
    return Facts(images, None, size, str(smallest.relative_to(root)), trial, others, flags, besides)


def listed(root: Path, flags: Sequence[str] = ()) -> tuple[Image, ...] | Answer:
    """Return what `images list` says of this commit's images, or how it failed."""
    program = find("images", [root / BIN])
    answer = (
        ask([program, "list", *flags], 60) if program else Answer(127, errors="the command images is not installed")
    )
    return answer if answer.code else parse_list(answer.output)


def ask_inside(image: Path, arguments: str, command: str, seconds: float) -> Answer:
    """Run a command in an image as Snakemake does: apptainer-args of the profile are words of the job's shell."""
    line = f"exec apptainer --silent exec {arguments} {shlex.quote(str(image))} {command}"
    return ask(["bash", "-c", line], seconds)


def parse_list(text: str) -> tuple[Image, ...]:
    """Return the images of `images list`: name, path and state, tabs between."""
    rows = (row.split("\t") for row in text.splitlines())
    return tuple(Image(fields[0], fields[1], fields[2] == "built") for fields in rows if len(fields) >= 3)


def judge(facts: Facts, *, needed: bool = True) -> list[Finding]:
    """Return what the facts mean for the workflow.

    Args:
        facts: as gathered.
        needed: whether a build runs its jobs in images, and so does not begin without one of them.
    """
    level: Level = "fail" if needed else "warn"
    if facts.listing is not None:
        mend = "set the workflow up: make setup-cluster"
        return [Finding(level, CHECK, f"images list: {facts.listing.complaint}", mend)]
    if not any(image.built for image in facts.images):
        old = f"; {len(facts.others)} of another commit are" if facts.others else ""
        mend = f"build them ({facts.build}), or copy them from where they are built, with the same commit"
        return [Finding(level, CHECK, f"none of {len(facts.images)} images is in images/{old}", mend)]
    found = []
    missing = [image for image in facts.images if not image.built]
    there = len(facts.images) - len(missing)
    if missing:
        mend = f"build them: images build {' '.join(image.name for image in missing)}"
        paths = ", ".join(image.path for image in missing)
        found.append(Finding(level, CHECK, f"{there} of {len(facts.images)} are here, not {paths}", mend))
    else:
        found.append(Finding("ok", CHECK, f"all {there} are in images/ ({bytes_text(facts.size)})"))
    if lacking := [image for image in facts.besides if not image.built]:
        mend = f"build what your recipes need: images build {' '.join(image.name for image in lacking)}"
        paths = ", ".join(image.path for image in lacking)
        told = f"not here: {paths} (data is for `make fetch`, rl for train-rl with the trainer trl)"
        found.append(Finding("warn", CHECK, told, mend))
    if facts.trial is not None and facts.trial.code:
        mend = "mend the findings of apptainer, or read the image: images verify"
        found.append(Finding("fail", CHECK, f"{facts.tried} does not start: {facts.trial.complaint}", mend))
    elif facts.trial is not None:
        found.append(Finding("ok", CHECK, f"{facts.tried} starts"))
    return found
