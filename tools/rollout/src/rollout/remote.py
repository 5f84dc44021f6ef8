"""Sandboxes of remote providers, as Harbor has them: whether they can be used here."""

from __future__ import annotations

import importlib.util

from recipe_core.errors import BadInput
from rollout.settings import SANDBOX

# The packages behind each provider, as in Harbor's extra of the same name.
PACKAGES = {
    "daytona": ("daytona",),
    "modal": ("modal", "dockerfile_parse"),
    "e2b": ("e2b", "dockerfile_parse"),
}
ENVIRONMENTS = (SANDBOX, *PACKAGES)


def check_environment(name: str) -> None:
    """Check that a provider's packages are installed and that its credentials are there, without asking it.

    Raises:
        BadInput: they are not; the message is Harbor's own where credentials are missing.
    """
    if name == SANDBOX:
        return
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        raise BadInput(
            f"--environment {name}: the package {missing[0]} is not installed; install harbor[{name}] in this stack "
            "(add it to its requirements and lock)"
        )
    from harbor.environments.factory import EnvironmentFactory
    from harbor.models.environment_type import EnvironmentType

    try:
        EnvironmentFactory.run_preflight(EnvironmentType(name))
    except SystemExit as error:
        raise BadInput(f"--environment {name}: {error}") from None
