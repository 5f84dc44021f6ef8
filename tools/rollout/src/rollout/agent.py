"""Terminus-2 with a settled terminal and our gateway for its model.

The prompts, the parser and the loop are Harbor's. `rollout.agent:SettledTerminus2` also works from Harbor's own command
line (`harbor run -a rollout.agent:SettledTerminus2 -e rollout.environment:SandboxEnvironment …`); without the option
`gateway` it then reaches its model as Harbor's agent does.
"""

from __future__ import annotations

from typing import Any, override

from harbor.agents.terminus_2 import Terminus2
from harbor.agents.terminus_2.terminus_2 import Terminus2Options
from harbor.agents.terminus_2.terminus_json_plain_parser import TerminusJSONPlainParser
from harbor.environments.base import BaseEnvironment
from harbor.llms.base import BaseLLM, ContextLengthExceededError, LLMResponse, OutputLengthExceededError
from harbor.models.agent.context import AgentContext
from harbor.models.metric import UsageInfo
from pydantic import Field

from rollout.environment import SandboxEnvironment
from rollout.gateway import ContextExceeded, Gateway, TrialSession, TurnLimitReached
from rollout.tmux import SettledTmuxSession, logging_path

# Harbor makes agents from JSON options, so a trial's gateway is named there and looked up here.
_GATEWAYS: dict[str, tuple[Gateway, TrialSession]] = {}


def register(name: str, gateway: Gateway, session: TrialSession) -> None:
    """Make a trial's gateway known under its name, for the option `gateway`."""
    _GATEWAYS[name] = (gateway, session)


def forget(name: str) -> None:
    """Drop what :func:`register` made known."""
    _GATEWAYS.pop(name, None)


def parses(answer: str) -> bool:
    """Tell whether terminus-2 understands an answer, if only with warnings."""
    return not TerminusJSONPlainParser().parse_response(answer).error


class GatewayLLM(BaseLLM):
    """Harbor's model interface over a gateway session.

    It replaces Harbor's LiteLLM, whose own retries would hide failures from the record, and whose cost is a multiple of
    this one's for each call.
    """

    def __init__(self, gateway: Gateway, session: TrialSession) -> None:
        super().__init__()
        self._gateway = gateway
        self._session = session

    @override
    async def call(self, prompt: str, **kwargs: Any) -> LLMResponse:
        """Answer the conversation; errors are Harbor's for context and length, the gateway's own for the rest."""
        messages = [*kwargs.get("message_history", ()), {"role": "user", "content": prompt}]
        try:
            turn = await self._gateway.complete(self._session, messages)
        except ContextExceeded:
            raise ContextLengthExceededError from None
        if turn.finish_reason == "length":
            raise OutputLengthExceededError("the answer was cut at max_tokens", truncated_response=turn.content)
        usage = UsageInfo(
            prompt_tokens=len(turn.prompt_token_ids),
            completion_tokens=len(turn.completion_token_ids),
            cache_tokens=0,
            cost_usd=0.0,
        )
        return LLMResponse(content=turn.content, model_name=self._gateway.endpoint.model, usage=usage)

    @override
    def get_model_context_limit(self) -> int:
        """Return no practical limit: the server decides what fits."""
        return 1_000_000

    @override
    def get_model_output_limit(self) -> int | None:
        """Return the most tokens of one answer; terminus-2 names it when an answer was cut."""
        return self._gateway.endpoint.sampling.max_tokens


class SettledTerminus2Options(Terminus2Options):
    """Terminus-2's options and two more."""

    settle_sec: float = Field(default=10.0, description="Longest wait for a command to end, in seconds.")
    gateway: str | None = Field(default=None, description="Name of a registered gateway session.")


class SettledTerminus2(Terminus2):
    """Terminus-2 whose terminal is read when it has settled."""

    options_model = SettledTerminus2Options
    options: SettledTerminus2Options

    @override
    def _init_llm(self, *args: Any, **kwargs: Any) -> BaseLLM:
        if self.options.gateway is None:
            return super()._init_llm(*args, **kwargs)
        return GatewayLLM(*_GATEWAYS[self.options.gateway])

    @override
    async def setup(self, environment: BaseEnvironment) -> None:
        """Start the terminal in the sandbox and wait for its prompt."""
        self._session = SettledTmuxSession(
            session_name=self.name(),
            environment=environment,
            logging_path=logging_path(),
            local_asciinema_recording_path=None,
            remote_asciinema_recording_path=None,
            pane_width=self.options.tmux_pane_width,
            pane_height=self.options.tmux_pane_height,
            extra_env=self._extra_env,
            user=environment.default_user,
            settle_sec=self.options.settle_sec,
            # Our sandbox has tmux and no network; images of others may have a network and no tmux.
            installs=not isinstance(environment, SandboxEnvironment),
        )
        await self._session.start()

    @override
    async def run(self, instruction: str, environment: BaseEnvironment, context: AgentContext) -> None:
        """Work on the task; a full context or a used-up turn limit ends the work, and the verifier judges the state."""
        try:
            await super().run(instruction, environment, context)
        except (ContextLengthExceededError, TurnLimitReached):
            if self.options.gateway is None:
                raise

    @override
    def _dump_trajectory(self) -> None:
        # The gateway's record is what becomes a row; Harbor's file, rewritten every turn, is for its own command line.
        if self.options.gateway is None:
            super()._dump_trajectory()
