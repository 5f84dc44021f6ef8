from __future__ import annotations

import argparse
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_core.artifact import value_digest
from teacher.flags import add_teacher_flags, json_object, teacher_inputs, teacher_parameters, teacher_tier
from teacher.request import NotAnAnswer, Reply, Request, Sampling, parse_embedding, parse_reply, payload, request_key

ASK = Request("t", [{"role": "user", "content": "How many?"}])


def body_of(request: Request, *, seed: int = 0, extra: dict | None = None, **sampling) -> dict:
    return payload(request, model="m", sampling=Sampling(**sampling), seed=seed, extra_body=extra or {})


def chat(message: dict, **choice) -> str:
    return json.dumps({"choices": [{"message": message, **choice}], "usage": {"completion_tokens": 7}})


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_teacher_flags(parser, reference="answers from the solution")
    return parser.parse_args(words)


class TestPayload:
    def test_every_sampling_parameter_is_sent(self):
        body = body_of(ASK, temperature=0.7, top_p=0.9, top_k=20, max_tokens=5)
        assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.7, 0.9, 20, 5)
        assert "top_k" not in body_of(ASK)
        assert "logprobs" not in body_of(ASK)

    def test_a_request_may_have_its_own_limit_and_temperature(self):
        own = Request("t", ASK.messages, max_tokens=1, temperature=0.0, top_logprobs=20)
        body = body_of(own, temperature=0.7)
        assert (body["max_tokens"], body["temperature"]) == (1, 0.0)
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20)

    def test_null_leaves_a_key_out(self):
        body = body_of(ASK, extra={"max_tokens": None, "max_completion_tokens": 9})
        assert "max_tokens" not in body
        assert body["max_completion_tokens"] == 9

    def test_the_seed_follows_from_what_is_asked(self):
        elsewhere = Request("another row", ASK.messages, facts={"solution": "x"})
        assert body_of(elsewhere) == body_of(ASK)
        seeds = {
            body_of(ASK)["seed"],
            body_of(ASK, seed=1)["seed"],
            body_of(Request("t", ASK.messages, sample=1))["seed"],
            body_of(Request("t", [{"role": "user", "content": "How much?"}]))["seed"],
        }
        assert len(seeds) == 4
        assert all(0 <= seed < 2**31 for seed in seeds)

    def test_an_embedding_is_asked_without_sampling(self):
        body = body_of(Request("t", embed="sort"), seed=3, temperature=0.5, extra={"dimensions": 8})
        assert body == {"model": "m", "input": "sort", "encoding_format": "float", "dimensions": 8}

    def test_a_request_asks_exactly_one_thing(self):
        with pytest.raises(ValueError, match="messages, or a text"):
            Request("t")
        with pytest.raises(ValueError, match="messages, or a text"):
            Request("t", ASK.messages, embed="x")

    def test_the_model_answering_is_part_of_the_key(self):
        body = body_of(ASK)
        assert request_key(body, identity="a") != request_key(body, identity="b")
        assert request_key(body, identity="a") == value_digest({"identity": "a", **body})


class TestParseReply:
    def test_text_tokens_and_reason(self):
        assert parse_reply(chat({"content": "four"}, finish_reason="length")) == Reply(
            "four", finish_reason="length", completion_tokens=7
        )

    def test_null_content_is_an_empty_answer(self):
        assert parse_reply(chat({"content": None})) == Reply("", completion_tokens=7)

    @pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
    def test_reasoning_has_two_names(self, name):
        assert parse_reply(chat({"content": "4", name: "2 + 2"})).reasoning == "2 + 2"

    def test_a_withheld_answer_is_a_refusal(self):
        assert "content_filter" in (parse_reply(chat({"content": None}, finish_reason="content_filter")).refused or "")
        assert parse_reply(chat({"content": None, "refusal": "I cannot."})).refused == "I cannot."

    def test_half_a_surrogate_pair_becomes_a_question_mark(self):
        assert parse_reply(chat({"content": "a\ud800b"})).text == "a?b"

    def test_the_first_tokens_candidates(self):
        listed = [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -2.5}]
        content = [{"token": "yes", "top_logprobs": listed}, {"token": ".", "top_logprobs": []}]
        reply = parse_reply(chat({"content": "yes."}, logprobs={"content": content}))
        assert reply.first_token == (("yes", -0.1), ("no", -2.5))

    @pytest.mark.parametrize("logprobs", [None, {}, {"content": []}, {"content": [{"top_logprobs": [{}]}]}, 3, "x"])
    def test_candidates_are_an_extra(self, logprobs):
        assert parse_reply(chat({"content": "yes"}, logprobs=logprobs)).first_token is None

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "<html>busy</html>",
            "[]",
            "null",
            "{}",
            '{"choices": []}',
            '{"choices": [{"message": null}]}',
            '{"choices": [{"message": {"content": 5}}]}',
            '{"error": {"message": "overloaded"}}',
            '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}',
            "[" * 100_000,
        ],
    )
    def test_anything_else_is_no_answer(self, body):
        with pytest.raises(NotAnAnswer, match="not an OpenAI chat completion"):
            parse_reply(body)


def test_an_embedding_is_read():
    reply = parse_embedding('{"data": [{"embedding": [1, 0.5]}], "usage": {"prompt_tokens": 3}}')
    assert reply == Reply(embedding=(1.0, 0.5), prompt_tokens=3)


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"data": []}',
        '{"data": [{"embedding": []}]}',
        '{"data": [{"embedding": "AAA="}]}',
        "nonsense",
        '{"data": [{"embedding": [1, NaN]}]}',
        '{"data": [{"embedding": [1, null]}]}',
    ],
)
def test_anything_else_is_no_embedding(body):
    with pytest.raises(NotAnAnswer, match="not an OpenAI embedding"):
        parse_embedding(body)


finite = st.floats(allow_nan=False, allow_infinity=False)
replies = st.builds(
    Reply,
    text=st.text(),
    reasoning=st.none() | st.text(min_size=1),
    prompt_tokens=st.integers(0, 10**6),
    refused=st.none() | st.text(min_size=1),
    embedding=st.none() | st.lists(finite, min_size=1, max_size=4).map(tuple),
    first_token=st.none() | st.lists(st.tuples(st.text(), finite), min_size=1, max_size=3).map(tuple),
)


@given(replies)
def test_a_reply_comes_back_from_json_as_it_was(reply):
    assert Reply.from_json(json.loads(json.dumps(reply.as_json()))) == reply


class TestFlags:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "no teacher; give one of"),
            (["--teacher", "reference", "--model", "x"], "--teacher and --model exclude each other"),
            (["--endpoint", "http://h/v1"], "--endpoint and --model-name belong together"),
            (["--teacher", "reference", "--model-name", "m"], "--endpoint and --model-name belong together"),
            (["--teacher", "reference", "--api-key-env", "K"], "--api-key-env belongs to --endpoint"),
            (["--teacher", "reference", "--tensor-parallel", "2"], "--tensor-parallel belongs to --model"),
            (["--endpoint", "http://h/v1", "--model-name", "m", "--dtype", "float32"], "--dtype belongs to --model"),
            (["--endpoint", "localhost:8000", "--model-name", "m"], "expected a URL such as"),
            (["--endpoint", "http://", "--model-name", "m"], "expected a URL such as"),
            (["--endpoint", "http://h:port/v1", "--model-name", "m"], "expected a URL such as"),
            (["--endpoint", "http://[::1/v1", "--model-name", "m"], "expected a URL such as"),
        ],
    )
    def test_flags_that_do_not_belong_together(self, words, message):
        from recipe_core.errors import BadInput

        with pytest.raises(BadInput, match=message):
            teacher_inputs(parse(*words))

    @pytest.mark.parametrize("url", ["https://me:s3cret@h/v1", "https://h/v1?key=s3cret", "https://s3cret@h/v1"])
    def test_a_key_in_the_url_is_refused_and_not_shown(self, url):
        from recipe_core.errors import BadInput

        with pytest.raises(BadInput, match="--api-key-env") as caught:
            teacher_inputs(parse("--endpoint", url, "--model-name", "m"))
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("text", ["{", "[]", "3", '{"a": NaN}', '{"messages": []}', '{"stream": true}'])
    def test_an_extra_body_that_is_unusable(self, text):
        with pytest.raises(argparse.ArgumentTypeError):
            json_object(text)

    def test_the_manifest_says_what_decides_and_no_more(self):
        flags = ("--endpoint", "http://h/v1", "--model-name", "m", "--api-key-env", "K", "--concurrency", "3")
        recorded = teacher_parameters(parse(*flags))
        assert recorded == {
            "teacher": None,
            "endpoint": "http://h/v1",
            "model_name": "m",
            "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 1024},
            "extra_body": {},
            "max_model_len": None,
        }
        assert teacher_parameters(parse("--teacher", "reference")) == {"teacher": "reference"}

    def test_of_how_a_model_is_served_the_manifest_says_the_type_of_its_weights(self):
        spread = parse("--model", "x", "--tensor-parallel", "4", "--gpu-memory", "0.5")
        assert teacher_parameters(spread) == teacher_parameters(parse("--model", "x"))
        typed = teacher_parameters(parse("--model", "x", "--dtype", "float16"))
        assert typed == {**teacher_parameters(spread), "dtype": "float16"}

    def test_tiers(self):
        assert teacher_tier(parse("--teacher", "reference")) == "T0"
        assert teacher_tier(parse("--model", "x")) == "T1"
        assert teacher_tier(parse("--endpoint", "http://h/v1")) == "T2"

    def test_defaults_are_finite(self):
        args = parse("--teacher", "reference")
        assert math.isfinite(args.request_timeout)
        assert args.retries == 6


def test_the_newer_name_of_the_limit_takes_the_place_of_the_older():
    request = Request("a", [{"role": "user", "content": "x"}])
    body = payload(request, model="m", sampling=Sampling(), seed=0, extra_body={"max_completion_tokens": 9})
    assert "max_tokens" not in body and body["max_completion_tokens"] == 9
