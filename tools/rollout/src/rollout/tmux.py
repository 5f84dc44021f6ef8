"""A tmux session that is looked at only when it has settled.

Terminus-2 waits a fixed time after typing and shows the model whatever the screen holds then, so what the model sees
depends on how busy the machine is. This session waits until the pane's foreground process waits for the terminal again
and the screen no longer changes; the requested duration counts only while a command still runs. The wait is bounded, so
a command that never ends costs at most `settle_sec` or its own duration, whichever is longer.

Typing, waiting and looking are one command in the sandbox (`settle.sh`).
"""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

from harbor.agents.terminus_2.tmux_session import TmuxSession

from rollout.keys import split_keys

_SCRIPT = files("rollout").joinpath("settle.sh").read_text()
_SEPARATOR = "----- visible screen 7d1f -----\n"
# How long the sandbox may take to answer beyond the wait that was asked for, in seconds.
_GRACE_SEC = 60.0


class SettledTmuxSession(TmuxSession):
    """Terminus-2's tmux session with waiting for the command instead of for the clock.

    Args:
        settle_sec: the longest wait for a command to end, in seconds, when it asked for less.
        installs: whether tmux is installed, as Harbor does it, where the environment has none.

    The other arguments are those of Harbor's class. Recording with asciinema is not supported.
    """

    def __init__(self, *args: Any, settle_sec: float = 10.0, installs: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle_sec = settle_sec
        self._installs = installs
        self._shell = ("", "")
        self._alive = True
        self._fresh = False
        self._history = ""
        self._screen = ""

    @property
    def _tmux_start_session(self) -> str:
        # Harbor's command also pipes the pane into a log file that nothing here reads.
        variables = "".join(f"-e {shlex.quote(f'{key}={value}')} " for key, value in self._extra_env.items())
        return (
            "export TERM=xterm-256color SHELL=/bin/bash; "
            f"tmux new-session {variables}-x {self._pane_width} -y {self._pane_height} -d -s {self._session_name} "
            "'bash --login' && tmux display-message -p -t "
            f"{self._session_name} '#{{pane_pid}} #{{pane_tty}}'"
        )

    async def start(self) -> None:
        """Start the session and wait for its first prompt.

        Raises:
            RuntimeError: tmux is missing in the sandbox or does not start.
        """
        if self._installs:
            await self._attempt_tmux_installation()
        # One command in place of three: the start fails by itself where tmux is missing.
        result = await self.environment.exec(self._tmux_start_session, user=self._user)
        pid, _, terminal = (result.stdout or "").strip().partition(" ")
        if result.return_code != 0 or not (pid.isdigit() and terminal):
            raise RuntimeError(f"tmux did not start in the sandbox: {(result.stderr or result.stdout or '').strip()}")
        self._shell = (pid, terminal)
        await self._settle([], 0.0, first=True)

    async def stop(self) -> None:
        """Nothing to do: the session ends with its sandbox."""

    async def is_session_alive(self) -> bool:
        """Tell whether the shell still ran when last looked at."""
        return self._alive

    async def send_keys(
        self,
        keys: str | list[str],
        block: bool = False,
        min_timeout_sec: float = 0.0,
        max_timeout_sec: float = 180.0,
    ) -> None:
        """Type keys and wait until the pane settles; see the module.

        Args:
            keys: literal text, or tmux key names, each an item of its own.
            block: accepted for Harbor's interface; waiting is the rule here.
            min_timeout_sec: least wait while a command still runs.
            max_timeout_sec: ignored, see `block`.
        """
        if not self._alive:
            return
        typed = [keys] if isinstance(keys, str) else list(keys)
        for position, key in enumerate(typed):
            least = min_timeout_sec if position == len(typed) - 1 else 0.0
            await self._type(key, least)

    async def _type(self, key: str, least_sec: float) -> None:
        chunks = split_keys(key)
        if any(self._key_requires_paste(chunk) for chunk in chunks):
            # tmux refuses so long a command; Harbor pastes such text from a file.
            await self._paste_key(key, action="paste")
            chunks = []
        await self._settle(chunks, least_sec)

    async def _settle(self, chunks: list[str], least_sec: float, *, first: bool = False) -> None:
        greatest_sec = max(self._settle_sec, least_sec)
        arguments = [self._session_name, *self._shell, str(int(least_sec * 1000)), str(int(greatest_sec * 1000))]
        command = f"first={'1' if first else ''}\nset -- {shlex.join([*arguments, *chunks])}\n{_SCRIPT}"
        result = await self.environment.exec(command, user=self._user, timeout_sec=int(greatest_sec + _GRACE_SEC))
        if result.return_code != 0:
            raise RuntimeError(f"the sandbox did not show its terminal: {(result.stderr or '').strip()}")
        status, _, screens = (result.stdout or "").partition("\n")
        if status == "gone":
            self._alive = False
        else:
            self._history, _, self._screen = screens.rpartition(_SEPARATOR)
        self._fresh = True

    async def capture_pane(self, capture_entire: bool = False) -> str:
        """Return the visible screen, or the whole history with it, as of the last settled moment."""
        if not self._fresh and self._alive:
            await self._settle([], 0.0)
        return self._history if capture_entire else self._screen

    async def get_incremental_output(self) -> str:
        """Return what is new on the terminal, in Harbor's words."""
        output = await super().get_incremental_output()
        self._fresh = False
        return output


def logging_path() -> PurePosixPath:
    """Return where Harbor's class would log the pane; required by its constructor, unused here."""
    return PurePosixPath("/dev/null")
