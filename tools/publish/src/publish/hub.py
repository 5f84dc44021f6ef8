"""The hub: the few calls that publishing needs, with what goes wrong as one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from publish.plan import Plan, Remote
from recipe_core.errors import BadInput

_REVISION = re.compile(r"[0-9a-f]{40}")
_STATUS = {
    401: "the hub does not accept the token; give a valid one in the environment",
    403: "the token may not do that; give one that has the right to write there",
    404: "no such repository, or the token may not see it; correct --repo or the token",
    412: "the repository changed meanwhile; run the same command again",
    429: "the hub asks to slow down; run the same command again later",
}


class State(NamedTuple):
    """A repository as it stands: its newest revision and whether it is private."""

    revision: str
    private: bool


def check_token(token: str | None, variable: str) -> str:
    """Return the token without blanks around it.

    Raises:
        BadInput: there is none, or it cannot stand in a header; the message does not show it.
    """
    token = (token or "").strip()
    if not token:
        raise BadInput(
            f"no token in the environment variable {variable}; set it to a token of the hub with write access"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise BadInput(f"the environment variable {variable} holds no token: it has blanks or unprintable characters")
    return token


def check_repo(repo: str) -> str:
    """Return a repository's name.

    Raises:
        BadInput: it is not `OWNER/NAME` as the hub allows it.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if repo.count("/") != 1:
            raise HFValidationError("expected OWNER/NAME")
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BadInput(f"--repo {repo!r}: {error}; give one such as my-name/my-data") from None
    return repo


class Hub:
    """One repository of the hub at HF_ENDPOINT, or huggingface.co; every method raises BadInput when it fails."""

    def __init__(self, repo: str, kind: str, token: str) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars, logging

        # What it warns of is said here, or is nothing to the user.
        logging.set_verbosity_error()
        if not sys.stderr.isatty():
            disable_progress_bars()
        self._api = HfApi(token=token, library_name="agent-recipes")
        self._repo, self._kind, self._token = repo, kind, token

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return str(self._api.endpoint)

    @contextmanager
    def _one_line(self, doing: str) -> Iterator[None]:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled:
            raise BadInput(f"cannot {doing}: HF_HUB_OFFLINE is set; unset it to publish") from None
        # What the client raises besides its own errors: a proxy's page in place of JSON, an upload thread that failed.
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError, ValueError, KeyError) as error:
            reason = _innermost(error)
            where = f"cannot {doing} at {self.endpoint}"
            if isinstance(reason, HfHubHTTPError):
                status = reason.response.status_code
                said = _STATUS.get(status, f"the hub answered {status}: {_short(reason)}; run the same command again")
            elif isinstance(reason, httpx2.TransportError):
                said = f"the hub cannot be reached ({_short(reason)}); nothing is lost: run the same command again"
            else:
                said = f"{_short(reason)}; run the same command again"
            raise BadInput(f"{where}: {said}".replace(self._token, "***")) from None

    def create(self, private: bool) -> None:
        """Make the repository unless it exists."""
        with self._one_line(f"create {self._repo}"):
            self._api.create_repo(self._repo, repo_type=self._kind, private=private, exist_ok=True)

    def state(self) -> State:
        """Return the repository's state."""
        with self._one_line(f"read {self._repo}"):
            info = self._api.repo_info(self._repo, repo_type=self._kind)
            return State(_revision(info.sha), bool(info.private))

    def files(self, revision: str) -> dict[str, Remote]:
        """Return the files of a revision by path."""
        from huggingface_hub.hf_api import RepoFile

        with self._one_line(f"list the files of {self._repo}"):
            entries = self._api.list_repo_tree(self._repo, repo_type=self._kind, revision=revision, recursive=True)
            return {
                entry.path: Remote(entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in entries
                if isinstance(entry, RepoFile)
            }

    def commit(self, plan: Plan, removed: Sequence[str], parent: str) -> str:
        """Push everything in one commit on top of `parent`; files that the hub has already are not sent again."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._one_line(f"push to {self._repo}"):
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=file.content) for file in plan.files
            ]
            operations += [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in removed]
            done = self._api.create_commit(
                self._repo,
                operations,
                repo_type=self._kind,
                commit_message=plan.summary,
                commit_description=plan.description,
                parent_commit=parent,
            )
            return _revision(done.oid)


def _revision(text: str | None) -> str:
    if not text or not _REVISION.fullmatch(text):
        raise ValueError(f"the hub names no revision of 40 hex digits ({text!r})")
    return text


def _innermost(error: BaseException) -> BaseException:
    """Return the error of the hub or the network that an upload's errors were raised for."""
    import httpx2

    while error.__cause__ is not None and not isinstance(error, httpx2.HTTPError):
        error = error.__cause__
    return error


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
