"""What is pushed: the files of an artifact with their digests, the card, the commit's message. Nothing here sends."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recipe_core.artifact import MANIFEST, Artifact, file_digest
from recipe_core.errors import BadInput

CARD = "README.md"
LINEAGE = "lineage.json"
# What an export of another artifact may have left in the repository: its readers take whatever matches.
_DATA = {"dataset": re.compile(r"data/.*"), "model": re.compile(r"[^/]*\.safetensors(\.index\.json)?")}
# What the hub or a person puts into a repository that nothing was published to yet.
_INCIDENTAL = re.compile(r"\.git\w+|README\.md|LICEN[CS]E[^/]*")


class Pushed(NamedTuple):
    """One file as it will stand in the repository.

    Attributes:
        path: in the repository.
        sha256: of its bytes, in hex.
        size: bytes.
        content: the path of its bytes on disk, or the bytes themselves.
    """

    path: str
    sha256: str
    size: int
    content: Path | bytes


class Plan(NamedTuple):
    """A commit to the hub.

    Attributes:
        kind: `dataset` or `model`.
        files: everything that is pushed, by path.
        card: the text of README.md.
        summary: first line of the commit's message.
        description: the rest of it.
    """

    kind: str
    files: tuple[Pushed, ...]
    card: str
    summary: str
    description: str


class Remote(NamedTuple):
    """A file as the hub describes it.

    Attributes:
        sha256: of its bytes where the hub keeps them outside git, otherwise None.
        blob: its git object id.
    """

    sha256: str | None
    blob: str


def kind_of(artifact: Artifact) -> str | None:
    """Return what an artifact can be published as: `dataset`, `model`, or None."""
    files = artifact.manifest["files"]
    if artifact.stage == "export-data":
        return "dataset"
    has_weights = any(name.endswith(".safetensors") for name in files)
    return "model" if has_weights and "config.json" in files else None


def check_kind(artifact: Artifact, kind: str) -> None:
    """Raise BadInput unless an artifact can be published as the kind."""
    found = kind_of(artifact)
    if found is None:
        raise BadInput(
            f"{artifact.path}: a {artifact.stage} artifact is no data set and no model; give one of export-data, or a "
            "folder with config.json and .safetensors weights"
        )
    if found != kind:
        raise BadInput(f"{artifact.path}: a {artifact.stage} artifact is a {found}; give --kind {found}")


# `all` is what somebody else published as training data, or what the user has; `unknown` says nothing of it.
_TO_TRAIN_ON = frozenset({"train", "all", "unknown"})


def check_splits(lineage: Mapping[str, Any], where: Path) -> None:
    """Raise BadInput when a data set has rows of held-out tasks, as far as its lineage tells."""
    splits = {part for split in lineage.get("splits", {}) for part in split.split("; ")}
    held_out = sorted(splits - _TO_TRAIN_ON)
    if held_out:
        counts = {split: n for split, n in lineage["splits"].items() if split not in _TO_TRAIN_ON}
        raise BadInput(
            f"{where}: {sum(counts.values())} rows are of the split {', '.join(held_out)}, which is held out for "
            "evaluation; publish what is made of --split train"
        )
    for step in lineage.get("steps", ()):
        if step.get("split") is not None and step["split"] not in _TO_TRAIN_ON:
            raise BadInput(
                f"{where}: made from {step.get('step')}, whose split {step['split']} is held out for evaluation; "
                "publish what is made of --split train"
            )


def hashed_files(artifact: Artifact) -> list[Pushed]:
    """Return the files that the manifest names, and the manifest, after reading every byte of them.

    Raises:
        BadInput: a file is not the one that the manifest names.
    """
    found = []
    for name, entry in sorted(artifact.manifest["files"].items()):
        path = artifact.path / name
        digest = file_digest(path)
        if digest != entry["sha256"]:
            raise BadInput(
                f"{path}: its SHA-256 is {digest[:16]}…, the manifest's {entry['sha256'][:16]}…; the file was changed "
                "after it was made: rebuild the artifact"
            )
        found.append(Pushed(name, digest, entry["bytes"], path))
    path = artifact.path / MANIFEST
    return [*found, Pushed(MANIFEST, artifact.digest, path.stat().st_size, path)]


def model_card(manifest: Mapping[str, Any], digest: str, name: str) -> str:
    """Return the card of a model whose artifact has none.

    Args:
        manifest: the artifact's.
        digest: the artifact's.
        name: the repository's, without owner.
    """
    facts = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["agent-recipes"]}
    inputs = [
        f"- {what}: `{one}`"
        for what, value in sorted(manifest.get("inputs", {}).items())
        for one in (value if isinstance(value, list) else [value])
    ]
    lines = [
        "---",
        yaml.safe_dump(facts, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        f"Made by the stage `{manifest['stage']}` of agent-recipes with seed {manifest['seed']}, exactness "
        f"{manifest['tier']}. Digest of the artifact: `{digest}`; `{MANIFEST}` names every file with its SHA-256.",
        "",
        *(["Made from:", "", *inputs, ""] if inputs else []),
        "Parameters:",
        "",
        "```json",
        json.dumps(manifest["parameters"], indent=2, sort_keys=True, ensure_ascii=False),
        "```",
    ]
    return "\n".join(lines) + "\n"


def head(card: str) -> str:
    """Return the YAML between the first two lines of three dashes of a card; empty when there is none.

    >>> head("---\\nlicense: mit\\n---\\n# Name")
    'license: mit'
    """
    found = re.match(r"---\n(.*?)\n?---\n", card, re.DOTALL)
    return found[1] if found else ""


def make_plan(artifact: Artifact, kind: str, repo: str, message: str | None) -> Plan:
    """Return what would be pushed, every file read and found to be the manifest's.

    Args:
        artifact: the artifact.
        kind: `dataset` or `model`.
        repo: `OWNER/NAME`.
        message: first line of the commit's message; by default it names the stage.

    Raises:
        BadInput: not an artifact of the kind, a changed file, or rows that are held out.
    """
    check_kind(artifact, kind)
    files = hashed_files(artifact)
    names = {file.path: file for file in files}
    if LINEAGE in names:
        check_splits(_lineage(artifact.path / LINEAGE), artifact.path)
    if CARD in names:
        card = (artifact.path / CARD).read_text(encoding="utf-8")
    else:
        card = model_card(artifact.manifest, artifact.digest, repo.partition("/")[2])
        content = card.encode()
        files.append(Pushed(CARD, hashlib.sha256(content).hexdigest(), len(content), content))
    return Plan(
        kind,
        tuple(sorted(files)),
        card,
        f"{message or f'Publish an artifact of {artifact.stage}'} (artifact {artifact.digest[:16]})",
        f"Artifact {artifact.digest} of the stage {artifact.stage}, made by agent-recipes.",
    )


def _lineage(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise BadInput(f"{path}: not a lineage ({error}); rebuild the artifact") from None
    return found


def stale_files(kind: str, remote: Iterable[str], pushed: Sequence[Pushed], repo: str) -> list[str]:
    """Return the data files of an earlier publication that a commit must remove, since readers would take them too.

    Args:
        kind: `dataset` or `model`.
        remote: paths in the repository.
        pushed: what the commit adds.
        repo: the repository's name, for the error.

    Raises:
        BadInput: the repository holds files that were not published by this tool.
    """
    found = sorted(remote)
    foreign = [path for path in found if not _INCIDENTAL.fullmatch(path)]
    if foreign and MANIFEST not in foreign:
        raise BadInput(
            f"{repo}: holds files that publish did not put there, such as {foreign[0]}; nothing was sent: "
            "give another --repo"
        )
    own = {file.path for file in pushed}
    return [path for path in found if _DATA[kind].fullmatch(path) and path not in own]


def git_blob(content: bytes) -> str:
    """Return the git object id of a file's bytes.

    >>> git_blob(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def difference(file: Pushed, remote: Remote | None) -> str | None:
    """Return what is wrong with a file on the hub, or None when it is the one that was pushed."""
    if remote is None:
        return "is missing"
    if remote.sha256 is not None:
        return None if remote.sha256 == file.sha256 else f"has SHA-256 {remote.sha256[:16]}…"
    content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
    return None if remote.blob == git_blob(content) else f"is git object {remote.blob[:16]}…"
