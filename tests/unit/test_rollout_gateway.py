"""The gateway: what it sends, what it repeats, how it tells failures apart; and the classes of trials."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from urllib.parse import quote

import pytest

from recipe_core.errors import BadInput
from recipe_core.records import TRAJECTORY_SCHEMA
from rollout.gateway import (
    ContextExceeded,
    Gateway,
    HttpUpstream,
    InfrastructureFailure,
    Reply,
    TrialKey,
    TurnLimitReached,
    backoff_seconds,
    key_forms,
    parse_completion,
    probe,
    request_payload,
)
from rollout.outcome import TrialFacts, Turn, classify, final_reward, trajectory_row
from rollout.settings import REFERENCE_ENDPOINT, Endpoint, Sampling, Settings, from_json

ENDPOINT = Endpoint(model="m", base_url="http://host/v1", sampling=Sampling(0.7, 0.9, 20, 64))
KEY = TrialKey("task", 1, 5)
ASK = [{"role": "user", "content": "hi"}]


def good(content="ok", **extra):
    choice = {"message": {"content": content}, "finish_reason": "stop", **extra}
    return Reply(200, json.dumps({"choices": [choice], "prompt_token_ids": [1, 2]}))


class Scripted:
    """Answers with what it was given, in order; the last for ever."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.payloads = []

    async def send(self, payload, key):
        self.payloads.append(payload)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def request(self, method, path, payload=None):
        return await self.send(payload, KEY)

    async def close(self):
        pass


async def no_sleep(_):
    pass


def ask(upstream, *, max_turns=5, extensions=False, times=1, parses=lambda _: True):
    gateway = Gateway(ENDPOINT, upstream, extensions=extensions, sleep=no_sleep, parses=parses)
    session = gateway.open(KEY, max_turns)

    async def go():
        for _ in range(times):
            await gateway.complete(session, ASK)

    error = None
    try:
        asyncio.run(go())
    except (InfrastructureFailure, ContextExceeded, TurnLimitReached) as caught:
        error = caught
    return session, error


def test_sampling_is_always_sent_and_extensions_only_to_servers_that_take_them():
    plain = request_payload(ENDPOINT, ASK, seed=3, extensions=False, max_tokens=64)
    assert (plain["temperature"], plain["top_p"], plain["max_tokens"], plain["seed"]) == (0.7, 0.9, 64, 3)
    assert not {"top_k", "return_token_ids", "logprobs"} & plain.keys()
    extended = request_payload(ENDPOINT, ASK, seed=3, extensions=True, max_tokens=None)
    assert extended["top_k"] == 20 and extended["return_token_ids"] and extended["logprobs"]
    assert "max_tokens" not in extended


def test_token_ids_and_logprobs_are_recorded_as_sampled():
    logprobs = {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}
    session, error = ask(Scripted(good(token_ids=[7, 8], logprobs=logprobs)), extensions=True)
    assert error is None
    assert session.turns == [Turn("ok", "stop", [1, 2], [7, 8], [-0.5, -1.5])]


def test_each_turn_has_its_own_seed_and_the_same_trial_the_same_seeds():
    first, second = Scripted(good()), Scripted(good())
    ask(first, times=3)
    ask(second, times=3)
    seeds = [payload["seed"] for payload in first.payloads]
    assert len(set(seeds)) == 3
    assert seeds == [payload["seed"] for payload in second.payloads]


@pytest.mark.parametrize(
    "trouble", [Reply(500, "boom"), Reply(429, "slow down"), InfrastructureFailure("no answer"), Reply(200, "<html>")]
)
def test_failures_outside_the_model_are_repeated(trouble):
    upstream = Scripted(trouble, trouble, good())
    session, error = ask(upstream)
    assert error is None
    assert len(upstream.payloads) == 3
    assert session.failed_request == ""


@pytest.mark.parametrize("trouble", [Reply(503, "down"), InfrastructureFailure("refused"), Reply(200, "{}")])
def test_a_failure_that_stays_is_infrastructure_and_is_not_asked_again(trouble):
    upstream = Scripted(trouble)
    session, error = ask(upstream)
    assert isinstance(error, InfrastructureFailure)
    assert len(upstream.payloads) == ENDPOINT.request_retries + 1
    assert session.failed_request and session.ended == "infrastructure"
    with pytest.raises(InfrastructureFailure):
        asyncio.run(Gateway(ENDPOINT, upstream, sleep=no_sleep).complete(session, ASK))
    assert len(upstream.payloads) == ENDPOINT.request_retries + 1


def test_a_refused_key_is_not_repeated():
    upstream = Scripted(Reply(401, "no"))
    _, error = ask(upstream)
    assert isinstance(error, InfrastructureFailure)
    assert len(upstream.payloads) == 1


def test_an_empty_answer_is_the_models():
    session, error = ask(Scripted(good(content=None)), parses=bool)
    assert error is None
    assert session.turns[0].content == "" and not session.turns[0].parses


@pytest.mark.parametrize("body", ["", "[]", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}', "null"])
def test_a_body_that_is_no_completion_is_named(body):
    with pytest.raises(InfrastructureFailure, match="not an OpenAI chat completion"):
        parse_completion(body)


def test_a_full_context_is_tried_with_the_room_that_is_left_then_ends_the_trial():
    full = Reply(400, "This model's maximum context length is 4096 tokens")
    upstream = Scripted(full, good())
    assert ask(upstream)[1] is None
    assert "max_tokens" not in upstream.payloads[1]
    session, error = ask(Scripted(full))
    assert isinstance(error, ContextExceeded) and session.ended == "context"


def test_a_full_context_after_a_failed_request_is_still_the_models_failure():
    full = Reply(400, "This model's maximum context length is 4096 tokens")
    session, error = ask(Scripted(Reply(500, "busy"), full))
    assert isinstance(error, ContextExceeded)
    assert (session.ended, session.failed_request) == ("context", "")


def test_turns_are_limited_by_answers():
    session, error = ask(Scripted(good()), max_turns=2, times=3)
    assert isinstance(error, TurnLimitReached)
    assert len(session.turns) == 2


def test_backoff_doubles_is_bounded_and_heeds_the_server():
    assert [backoff_seconds(n, 0.5, None) for n in range(6)] == [0.5, 1, 2, 4, 8, 8]
    assert backoff_seconds(0, 0.5, 7) == 7
    assert backoff_seconds(0, 0.5, 9999) == 60


def test_a_missing_key_variable_is_bad_input(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(BadInput, match="SOME_KEY is not set"):
        HttpUpstream(Endpoint(model="m", base_url="http://host/v1", api_key_env="SOME_KEY"))


@pytest.mark.parametrize("key", ["sk-0123456789", 'with/"quotes" and +', "schlüssel-geheim"])
def test_a_key_is_known_in_every_form_that_an_endpoint_may_write(key):
    nested = json.dumps({"error": json.dumps({"message": f"bad key {key}"})})
    texts = [f"Bearer {key}", nested, f"?key={quote(key, safe='')}", base64.b64encode(key.encode()).decode()]
    for text in texts:
        cleaned = functools.reduce(lambda left, form: left.replace(form, "[key]"), key_forms(key), text)
        assert "[key]" in cleaned and key not in cleaned


def test_a_stand_in_for_a_key_is_a_word_like_any_other():
    assert key_forms("EMPTY") == [] and key_forms("") == []


MODELS = Reply(200, json.dumps({"data": [{"id": "m", "owned_by": "vllm"}]}))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (InfrastructureFailure("connection refused"), "unusable"),
        (Reply(500, "boom"), "answered 500"),
        (Reply(401, "no"), "refused the key"),
        (Reply(200, "<html>hello"), "not an OpenAI-compatible API"),
        (Reply(200, '{"data": [{"id": "other"}]}'), "has no model 'm'; it has other"),
    ],
)
def test_the_probe_says_what_is_wrong(reply, words):
    with pytest.raises(BadInput, match=words):
        asyncio.run(probe(ENDPOINT, Scripted(reply), no_sleep))


def test_the_probe_knows_vllm_and_forgives_a_missing_list():
    assert asyncio.run(probe(ENDPOINT, Scripted(Reply(500, ""), MODELS), no_sleep))
    assert not asyncio.run(probe(ENDPOINT, Scripted(Reply(404, "")), no_sleep))


GOOD, CUT, JUNK = Turn("a"), Turn("b", finish_reason="length"), Turn("c", parses=False)


@pytest.mark.parametrize(
    ("facts", "error_class", "reward"),
    [
        (TrialFacts(turns=[GOOD], reward=1.0), None, 1.0),
        (TrialFacts(turns=[GOOD], exception="AgentTimeoutError", reward=1.0), "timeout", 1.0),
        (TrialFacts(turns=[GOOD], exception="AgentTimeoutError"), "timeout", 0.0),
        (TrialFacts(exception="AgentTimeoutError", failed_request="500"), "infrastructure", None),
        (TrialFacts(exception="InfrastructureFailure", failed_request="x"), "infrastructure", None),
        (TrialFacts(turns=[GOOD], exception="SandboxError", message="x", reward=1.0), "infrastructure", None),
        (TrialFacts(turns=[GOOD], exception="SandboxKilled", message="memory"), None, 0.0),
        (TrialFacts(turns=[GOOD], exception="RewardFileNotFoundError"), None, 0.0),
        (TrialFacts(turns=[GOOD], exception="VerifierTimeoutError"), None, 0.0),
        (TrialFacts(turns=[GOOD, CUT], reward=0.0), "output_length", 0.0),
        (TrialFacts(turns=[GOOD, JUNK], reward=0.0), "parse", 0.0),
        (TrialFacts(turns=[JUNK, GOOD], reward=1.0), None, 1.0),
        (TrialFacts(turns=[CUT], ended="context", reward=0.0), "context", 0.0),
    ],
)
def test_classes_and_rewards(facts, error_class, reward):
    found, _ = classify(facts)
    assert found == error_class
    assert final_reward(facts, found) == reward


def test_rows_hold_the_schema_and_alternate():
    messages = [*ASK, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    row = trajectory_row(
        TrialFacts(messages=messages, turns=[GOOD, Turn("z")], reward=1.0),
        task_id="t",
        path="p",
        source="s",
        attempt=2,
        model="m",
        provider="q",
        trace_source="main",
        date="2026-01-01",
        run_id="r",
    )
    assert row.keys() == set(TRAJECTORY_SCHEMA.names)
    assert [part["role"] for part in row["conversations"]] == ["user", "assistant", "user", "assistant"]
    assert (row["trial_name"], row["turns"], row["result"], row["episode"]) == ("t__2", 2, "1.0", "episode-1")
    assert row["completion_token_ids"] == []


def test_settings_from_json_name_unknown_keys():
    assert from_json(Endpoint, {"model": "reference", "provider": "builtin"}, "x") == REFERENCE_ENDPOINT
    assert from_json(Endpoint, {"model": "m", "sampling": {"top_p": 0.5}}, "x").sampling.top_p == 0.5
    with pytest.raises(BadInput, match=r"unknown key 'max_turn'; did you mean 'max_turns'\?"):
        from_json(Settings, {"max_turn": 3}, "settings")
