"""Sandboxes of remote providers, as Harbor has them: whether they can be used here."""

from __future__ import annotations

from recipe_core.errors import BadInput
from rollout.settings import SANDBOX

ENVIRONMENTS = (SANDBOX, "daytona", "modal", "e2b")


def check_environment(name: str) -> None:
    """Check that a provider's credentials are there, without asking it.

    Raises:
        BadInput: they are not; the message is Harbor's own.
    """
    if name == SANDBOX:
        return
    from harbor.environments.factory import EnvironmentFactory
    from harbor.models.environment_type import EnvironmentType

    try:
        EnvironmentFactory.run_preflight(EnvironmentType(name))
    except SystemExit as error:
        raise BadInput(f"--environment {name}: {error}") from None
