"""A model server that is lost: `serve` itself, with the stand-in for vLLM that its own tests use."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from tests.processes import wait_until_gone
from tests.unit.test_serve_client import COMMAND, engine_pids, model

from recipe_core.errors import BadInput
from rollout.gateway import Gateway, InfrastructureFailure, TrialKey
from rollout.model import ServedModel
from rollout.settings import Endpoint

assert model, "the fixture of a folder that looks like a model"


def test_a_server_that_answers_is_not_lost(model: Path):
    with ServedModel(model, command=COMMAND) as server:
        assert asyncio.run(server.lost_since(0)) is False
        assert asyncio.run(server.ready()) == 0


def test_a_lost_server_is_started_again_for_all_that_met_the_loss(model: Path, tmp_path: Path, capsys):
    with ServedModel(model, command=COMMAND) as server:
        before = server.base_url
        os.kill(engine_pids(tmp_path)[0], signal.SIGKILL)

        async def two() -> list[bool]:
            return await asyncio.gather(server.lost_since(0), server.lost_since(0))

        assert asyncio.run(two()) == [True, True]
        assert server.losses == 1 and asyncio.run(server.lost_since(1)) is False
        assert server.base_url != before
        again = engine_pids(tmp_path)
    assert capsys.readouterr().err.count("starting it again") == 1
    assert wait_until_gone(again) == {}


@pytest.mark.full
def test_a_server_that_keeps_dying_is_given_up_in_one_line(model: Path, tmp_path: Path):
    with ServedModel(model, command=COMMAND) as server:
        with pytest.raises(
            BadInput, match="lost 4 times without a finished trial in between, the last time: "
        ) as given:
            for losses in range(10):
                os.kill(engine_pids(tmp_path)[0], signal.SIGKILL)
                asyncio.run(server.lost_since(losses))
        assert "finished trials are kept" in str(given.value) and "\n" not in str(given.value)
        assert server.losses == 4


@pytest.mark.full
def test_losses_far_apart_do_not_add_up(model: Path, tmp_path: Path):
    with ServedModel(model, command=COMMAND) as server:
        for losses in range(5):
            os.kill(engine_pids(tmp_path)[0], signal.SIGKILL)
            assert asyncio.run(server.lost_since(losses))
            server.progressed()


@pytest.mark.full
def test_a_start_under_way_ends_when_the_run_is_cancelled(model: Path, tmp_path: Path, monkeypatch):
    with ServedModel(model, command=COMMAND) as server:
        os.kill(engine_pids(tmp_path)[0], signal.SIGKILL)
        monkeypatch.setenv("ENGINE_HANGS", "1")

        async def cancelled() -> float:
            losing = asyncio.create_task(server.lost_since(0))
            while server.losses == 0:
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            began = time.monotonic()
            losing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await losing
            return time.monotonic() - began

        assert asyncio.run(cancelled()) < 20


def test_a_trial_that_the_loss_cut_is_not_answered_by_the_next_server():
    class Never:
        async def send(self, payload, key):
            raise AssertionError("asked")

        async def close(self):
            pass

    gateway = Gateway(Endpoint(model="m", base_url="http://host/v1"), Never())
    session = gateway.open(TrialKey("t", 0, 0), 5, lambda: True)
    with pytest.raises(InfrastructureFailure, match="lost during the trial"):
        asyncio.run(gateway.complete(session, [{"role": "user", "content": "hi"}]))
    assert session.ended == "infrastructure" and session.failed_request
