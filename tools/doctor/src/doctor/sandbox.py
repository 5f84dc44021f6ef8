"""Whether the sandboxes that trials run in can be made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from doctor.commands import OK, Answer, ask, find
from doctor.findings import Finding, one_line
from doctor.images import ask_inside, listed
from doctor.profile import Profile

CHECK = "sandbox"
BIN = Path(".venvs") / "bin"
# The image that has the command; trials run in another, of the same base and the same version of the library.
IMAGE = "data"
SECONDS = 120


@dataclass(frozen=True)
class Facts:
    """What `sandbox doctor` says and `where` it ran; it is nowhere to be had where `where` is empty."""

    where: str = ""
    answer: Answer = OK


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them."""
    return judge(gather(Path.cwd(), profile))


def gather(root: Path, profile: Profile) -> Facts:
    """Run `sandbox doctor` in the image where the profile runs tools in images and it is built, else here."""
    if profile.settings.get("software-deployment-method") == "apptainer":
        images = listed(root)
        built = [] if isinstance(images, Answer) else [each for each in images if each.name == IMAGE and each.built]
        if built:
            arguments = profile.settings.get("apptainer-args", "")
            return Facts(f"in {built[0].path}", ask_inside(root / built[0].path, arguments, "sandbox doctor", SECONDS))
    program = find("sandbox", [root / BIN])
    return Facts("on this machine", ask([program, "doctor"], SECONDS)) if program else Facts()


def judge(facts: Facts) -> list[Finding]:
    """Return a finding for each back end; one that works is enough."""
    if not facts.where:
        return [Finding("ok", CHECK, "neither the command sandbox nor the image data is here yet; not looked at")]
    rows = [one_line(row) for row in facts.answer.output.splitlines() if row.strip()]
    if not any(": works" in row for row in rows):
        said = " | ".join(rows) or facts.answer.complaint
        return [Finding("fail", CHECK, f"{facts.where} no back end works: {said}", "mend the findings of apptainer")]
    # What does not work is named, but nothing needs a second back end.
    return [Finding("ok", CHECK, f"{facts.where} {row}") for row in rows]
