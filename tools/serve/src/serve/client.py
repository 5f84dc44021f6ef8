"""A model server for the time of a block, from any stack: standard library only.

    with ModelServer(Path("results/train_sft/abc")) as server:
        requests.post(f"{server.base_url}/chat/completions", json={"model": server.model, ...})

The command `serve` is found on PATH, so the caller's environment need not hold the engine.
"""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from recipe_core.errors import BadInput

_SECONDS_TO_STOP = 30.0


class ModelServer:
    """Starts `serve` on a model folder and stops it, also when this process is killed.

    `serve` ends when its standard input does, which the kernel sees to whatever happens to this process.

    Args:
        model_dir: a Hugging Face model folder.
        options: further words for `serve`, for example `("--max-model-len", "4096")`.
        start_timeout: seconds until the server has to be healthy.
        command: the words that start `serve`.
        log: where the engine's output goes; a temporary file by default, kept only when the engine fails.

    Attributes:
        base_url: the OpenAI-compatible URL, ending in `/v1`.
        model: the model's name in requests.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        options: Sequence[str] = (),
        start_timeout: float = 600.0,
        command: Sequence[str] = ("serve",),
        log: Path | None = None,
    ) -> None:
        self.base_url = ""
        self.model = ""
        self._start_timeout = start_timeout
        self._words = [*command, "--model", str(model_dir), "--port", "0", "--until-stdin-closes", *options]
        self._words += ["--start-timeout", str(start_timeout)]
        if log is not None:
            self._words += ["--log", str(log)]
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: BinaryIO | None = None

    def __enter__(self) -> ModelServer:
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except FileNotFoundError:
            raise BadInput(f"{self._words[0]}: not found on PATH; put the serve stack's command on PATH") from None
        try:
            ready = json.loads(self._first_line(self._process))
        except BaseException:
            self._stop()
            raise
        self.base_url, self.model = ready["base_url"], ready["model"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def root_url(self) -> str:
        """The server's URL without `/v1`."""
        return self.base_url.removesuffix("/v1")

    def check(self) -> None:
        """Raise BadInput with the engine's last words when the server is gone."""
        if self._process is None or self._process.poll() is not None:
            raise BadInput(f"the model server has ended: {self._said() or 'it gave no reason'}")

    def abandon(self) -> None:
        """End a start that another thread waits for; that thread then gets BadInput."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()

    def reload_weights(self, model_dir: Path) -> None:
        """Replace the served weights by those of another folder of the same architecture; cached prefixes are dropped.

        Requests that are being answered would mix old and new weights: call this between them.

        Raises:
            BadInput: the server is gone or refuses the weights.
        """
        self._post("/collective_rpc", {"method": "swap_weights", "kwargs": {"weights_path": str(model_dir)}})
        self._post("/reset_prefix_cache", None)

    def _post(self, path: str, body: dict[str, Any] | None) -> None:
        self.check()
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.root_url + path, data=data, headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self._start_timeout) as answer:
                answer.read()
        except (urllib.error.URLError, OSError) as error:
            self.check()
            raise BadInput(f"{self.root_url}{path}: {error}; the model server could not take the weights") from None

    def _first_line(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        # serve has a time-out of its own and says more; this one is for a serve that hangs.
        ready, _, _ = select.select([process.stdout], [], [], self._start_timeout + 60)
        line = process.stdout.readline() if ready else b""
        if not line:
            if ready:
                process.wait()
            raise BadInput(self._said() or f"{self._words[0]} did not start a server in {self._start_timeout:.0f} s")
        return line

    def _said(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return " ".join(self._errors.read().decode(errors="replace").split())

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
