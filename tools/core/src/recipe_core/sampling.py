"""How a model samples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters, always sent, so that a server's own defaults never decide.

    `top_k` of -1 means no limit, as in vLLM. Not every server knows the parameter: it is sent where it limits, or to
    servers known to take it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 1024
