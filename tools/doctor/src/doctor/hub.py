"""Whether the hub of models and data sets answers from here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from doctor.findings import Finding, one_line
from doctor.profile import Profile
from recipe_core.errors import BadInput

CHECK = "hub"
ENDPOINT = "https://huggingface.co"
SECONDS = 3.0


@dataclass(frozen=True)
class Facts:
    """How one request went: an HTTP status of any kind is an answer, `error` is why there was none."""

    endpoint: str
    status: int | None = None
    error: str = ""
    milliseconds: float = 0.0


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them."""
    return judge(gather(endpoint(os.environ)), node=node)


def endpoint(environment: Mapping[str, str]) -> str:
    """Return the hub's address: HF_ENDPOINT or its default.

    Raises:
        BadInput: HF_ENDPOINT is not an address of the web.
    """
    address = environment.get("HF_ENDPOINT") or ENDPOINT
    if not address.startswith(("http://", "https://")):
        raise BadInput(f"HF_ENDPOINT: {address!r} is not an address such as {ENDPOINT}; set it or leave it out")
    return address


def gather(address: str, seconds: float = SECONDS) -> Facts:
    """Send one HEAD request, through the proxy that the environment names, if any."""
    found: list[Facts] = []
    # The socket's time limit does not hold for the look-up of the name, which may take minutes without a network.
    thread = threading.Thread(target=lambda: found.append(_request(address, seconds)), daemon=True)
    thread.start()
    thread.join(2 * seconds)
    return found[0] if found else Facts(address, error=f"no answer within {2 * seconds:g} s")


def _request(address: str, seconds: float) -> Facts:
    import urllib.error
    import urllib.request

    began = time.perf_counter()
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "agent-recipes-doctor"})
        with urllib.request.urlopen(request, timeout=seconds) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Facts(address, error=one_line(str(reason)))
    return Facts(address, status, milliseconds=1000 * (time.perf_counter() - began))


def judge(facts: Facts, *, node: bool) -> list[Finding]:
    """Return what it means for the workflow; `node` tells that this is a compute node."""
    # 407 and 5xx come from a proxy or a gateway on the way.
    if facts.status is not None and facts.status != 407 and facts.status < 500:
        return [Finding("ok", CHECK, f"{facts.endpoint} answers ({facts.status}, {facts.milliseconds:.0f} ms)")]
    reason = facts.error or f"HTTP status {facts.status}"
    text = f"{facts.endpoint} does not answer: {reason}"
    if node:
        mend = "`make fetch RECIPE=…` must run where there is a network, before the build, as must teachers' endpoints"
    else:
        mend = "run `make fetch RECIPE=…` where there is a network, or set HTTPS_PROXY or HF_ENDPOINT"
    return [Finding("warn", CHECK, text, mend)]
