"""What a set of trials is asked to do: plain values that travel as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from recipe_core.errors import BadInput, nearest
from recipe_core.sampling import Sampling
from recipe_core.tasks import is_verifiable

REFERENCE = "reference"
BUILTIN = "builtin"
# Our own sandbox on this machine; the other environments are Harbor's.
SANDBOX = "sandbox"


@dataclass(frozen=True)
class Endpoint:
    """Where completions come from.

    Args:
        model: the model's name there, recorded in every row.
        base_url: an OpenAI-compatible URL that ends in `/v1`.
        provider: recorded in every row as `model_provider`; `builtin` is the reference teacher.
        api_key_env: name of the environment variable that holds the key; the key itself is never stored.
        sampling: see :class:`Sampling`.
        extra_body: further JSON keys of every request, for example `{"chat_template_kwargs": {…}}`.
        request_timeout_sec: seconds until one request counts as failed.
        request_retries: how often a failed request is repeated before its trial fails.
        backoff_sec: pause before the first repetition; it doubles up to 8 s.
    """

    model: str
    base_url: str = ""
    provider: str = "openai-compatible"
    api_key_env: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    request_timeout_sec: float = 300.0
    request_retries: int = 4
    backoff_sec: float = 0.5

    @property
    def is_reference(self) -> bool:
        """Whether this is the built-in teacher that plays reference solutions."""
        return self.provider == BUILTIN


REFERENCE_ENDPOINT = Endpoint(model=REFERENCE, provider=BUILTIN)


@dataclass(frozen=True)
class Settings:
    """How trials run.

    Args:
        seed: the step's seed; each turn's seed is derived from it, the task and the attempt.
        date: recorded in every row, `YYYY-MM-DD`.
        run_id: recorded in every row.
        concurrency: trials at the same time.
        max_turns: most completions a trial may ask for.
        agent_timeout_sec: seconds for the agent; None takes the task's own limit.
        verifier_timeout_sec: seconds for the verifier; None takes the task's own limit.
        trial_retries: how often a trial is repeated after an infrastructure error.
        settle_sec: see :class:`rollout.tmux.SettledTmuxSession`.
        backend: the sandbox's back end.
        environment: where trials run: `sandbox`, or the name of a remote provider that Harbor knows.
    """

    seed: int = 0
    date: str = "1970-01-01"
    run_id: str = ""
    concurrency: int = 4
    max_turns: int = 32
    agent_timeout_sec: float | None = None
    verifier_timeout_sec: float | None = None
    trial_retries: int = 2
    settle_sec: float = 10.0
    backend: str = "auto"
    environment: str = SANDBOX


@dataclass(frozen=True)
class TrialRequest:
    """One attempt at one task.

    `task_binary` is the packed task folder, `seed` overrides `Settings.seed`. The verifier of a task that is not
    `verifiable` is not run, and the trial has no reward.
    """

    task_id: str
    path: str
    task_binary: bytes
    source: str
    attempt: int
    seed: int | None = None
    verifiable: bool = True

    @property
    def name(self) -> str:
        """The trial's name, unique in a run."""
        return f"{self.task_id}__{self.attempt}"


def requests_for(row: Mapping[str, Any], attempts: int) -> list[TrialRequest]:
    """Return the requests for a number of attempts at one row of a tasks artifact."""
    verifiable = is_verifiable(row)
    return [
        TrialRequest(row["task_id"], row["path"], row["task_binary"], row["source"], attempt, verifiable=verifiable)
        for attempt in range(attempts)
    ]


Made = TypeVar("Made", Endpoint, Settings)


def from_json(kind: type[Made], value: Mapping[str, Any], where: str) -> Made:
    """Build an :class:`Endpoint` or :class:`Settings` from JSON; an unknown key is bad input."""
    known = [spec.name for spec in dataclasses.fields(kind)]
    for key in value:
        if key not in known:
            raise BadInput(f"{where}: unknown key {key!r}{nearest(key, known)}; it knows {', '.join(known)}")
    values = dict(value)
    if kind is Endpoint and isinstance(values.get("sampling"), Mapping):
        try:
            values["sampling"] = Sampling(**values["sampling"])
        except TypeError as error:
            raise BadInput(f"{where}: sampling: {error}") from None
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"{where}: {error}") from None
