"""Push an exported data set or a model to the hub, in one commit, and check what arrived.

    publish --from results/export_data/bbb --repo my-name/demo-sft --kind dataset --dry-run
    HF_TOKEN=... publish --from results/export_data/bbb --repo my-name/demo-sft --kind dataset --private

--from is an artifact of export-data, or one with config.json and .safetensors weights. Every file is read again and
must be the one its manifest names. With --dry-run nothing is sent and no token is needed: it prints what would be
pushed. Otherwise the repository is made if it is missing, all files go into one commit together with manifest.json, and
the hub's digests are compared with the artifact's; data files of an earlier publication that the artifact does not have
are removed in the same commit. The revision is printed to standard output, and a record goes to --out.

The token is read from the environment variable that --token-env names, and is printed and written nowhere. HF_ENDPOINT
names another hub. What was interrupted goes on when run again: what the hub has is not sent twice.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recipe_core.artifact import Artifact, ArtifactWriter, canonical_json, check_place, open_artifact
from recipe_core.cli import Parser, entry
from recipe_core.errors import BadInput

if TYPE_CHECKING:
    from publish.hub import Hub
    from publish.plan import Plan

KINDS = ("dataset", "model")


def one_line(text: str) -> str:
    """Parse the first line of a commit's message: not blank, printable."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a message of one line")
    return text.strip()


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="publish", description=__doc__)
    parser.add_argument("--from", dest="artifact", type=Path, required=True, metavar="DIR", help="artifact to push")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository on the hub")
    parser.add_argument("--kind", choices=KINDS, required=True, help="kind of repository")
    parser.add_argument("--private", action="store_true", help="make the repository private; refuse one that is public")
    parser.add_argument(
        "--token-env", default="HF_TOKEN", metavar="VAR", help="environment variable with the token (default HF_TOKEN)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be pushed and send nothing")
    parser.add_argument(
        "--revision-message",
        type=one_line,
        metavar="TEXT",
        help="first line of the commit's message",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="record to write (default results/publish/KIND-OWNER-NAME)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Print what would be pushed, or push it."""
    from publish.hub import Hub, check_repo, check_token
    from publish.plan import make_plan

    repo = check_repo(args.repo)
    artifact = open_artifact(args.artifact)
    if args.dry_run:
        print(described(make_plan(artifact, args.kind, repo, args.revision_message), repo, artifact, args.private))
        return
    token = check_token(os.environ.get(args.token_env), args.token_env)
    out = args.out or Path("results", "publish", f"{args.kind}-{repo.replace('/', '-')}")
    check_place(out)
    plan = make_plan(artifact, args.kind, repo, args.revision_message)
    hub = Hub(repo, args.kind, token)
    revision = push(hub, plan, repo, args.private)
    print(revision, flush=True)
    record(out, artifact, plan, {"endpoint": hub.endpoint, "repo": repo, "revision": revision})


def described(plan: Plan, repo: str, artifact: Artifact, private: bool) -> str:
    """Return in words what a plan would push."""
    from publish.plan import head

    visibility = "private" if private else "public, if it is made by this"
    lines = [
        f"repository  {repo} ({plan.kind}, {visibility})",
        f"artifact    {artifact.path} ({artifact.stage}, digest {artifact.digest})",
        f"message     {plan.summary}",
        f"            {plan.description}",
        "",
        f"{len(plan.files)} files, {sum(file.size for file in plan.files):,} bytes",
        *(f"  {file.sha256}  {file.size:>15,}  {file.path}" for file in plan.files),
        "",
        "head of the card",
        *(f"  {line}" for line in head(plan.card).splitlines()),
        "",
        "dry run: nothing was sent",
    ]
    return "\n".join(lines)


def push(hub: Hub, plan: Plan, repo: str, private: bool) -> str:
    """Push a plan, check what arrived, and return the revision.

    Raises:
        BadInput: the hub refuses or cannot be reached, the repository is somebody else's or public where it was to be
            private, or a file on the hub is not the one that was pushed.
    """
    from publish.plan import difference, stale_files

    hub.create(private)
    state = hub.state()
    if private and not state.private:
        raise BadInput(f"{repo}: exists and is public; nothing was sent: make it private on the hub, or drop --private")
    removed = stale_files(plan.kind, hub.files(state.revision), plan.files, repo)
    for path in removed:
        print(f"publish: removes {path} of an earlier revision", file=sys.stderr)
    revision = hub.commit(plan, removed, state.revision)
    arrived = hub.files(revision)
    for file in plan.files:
        if wrong := difference(file, arrived.get(file.path)):
            raise BadInput(
                f"{repo} at {revision}: {file.path} {wrong}, expected SHA-256 {file.sha256[:16]}…; "
                "do not use that revision: run the same command again"
            )
    return revision


def record(out: Path, artifact: Artifact, plan: Plan, where: Mapping[str, str]) -> None:
    """Write what was pushed where: endpoint, repository and revision."""
    about = {
        **where,
        "kind": plan.kind,
        "artifact": artifact.digest,
        "files": {file.path: {"sha256": file.sha256, "bytes": file.size} for file in plan.files},
    }
    with ArtifactWriter(
        out,
        stage="publish",
        params={**where, "kind": plan.kind},
        seed=0,
        inputs={"published": artifact},
        tier="T2",
        package="publish",
    ) as writer:
        if not writer.up_to_date:
            writer.path("record.json").write_text(canonical_json(about), encoding="utf-8")
            writer.count(rows_in=None, rows_out=len(plan.files))


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
