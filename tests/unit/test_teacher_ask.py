"""How a teacher is asked: over a real socket, of an endpoint that answers what the test says."""

from __future__ import annotations

import argparse
import email.utils
import re
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from tests.contract.endpoint import Drop, Endpoint, Failure, Hang, Said, last_words, nobody_listens

from recipe_core.errors import BadInput
from teacher import Reply, Request, Teacher, add_teacher_flags, ask, open_teacher
from teacher.ask import _seconds

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(ask, "_FIRST_BACKOFF_SEC", 0.001)


def request(text: str, **options) -> Request:
    return Request(f"task {text}", [{"role": "user", "content": text}], **options)


def flags(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_teacher_flags(parser, reference="answers from the solution")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args([str(word) for word in words])


def never(request: Request) -> Reply:
    raise AssertionError("no reference teacher here")


class Asker:
    """Fills the requests for some texts from one endpoint, each time with a new teacher, as separate runs would."""

    def __init__(self, endpoint: Endpoint, work: Path, *words: object) -> None:
        self.args = flags(*endpoint.flags, *words)
        self.work = work
        self.facts: dict = {}

    def ask(self, *texts: str, **options) -> list[Reply]:
        requests = [request(text, **options) for text in texts]
        with open_teacher(self.args, stage="s", work=self.work, reference=never) as teacher:
            try:
                teacher.fill(iter(requests), total=len(requests), label="s")
            finally:
                self.facts = teacher.facts()
            return [teacher.reply(each) for each in requests]

    def texts(self, *texts: str, **options) -> list[str]:
        return [reply.text for reply in self.ask(*texts, **options)]


def one_line(error: pytest.ExceptionInfo[BadInput]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


def first(*failures):
    """Return an answer that fails so often for each text, then echoes it."""
    tries: Counter[str] = Counter()
    lock = threading.Lock()

    def answer(body):
        with lock:
            tries[last_words(body)] += 1
            count = tries[last_words(body)]
        return failures[count - 1] if count <= len(failures) else f"echo: {last_words(body)}"

    return answer


class TestAnswers:
    def test_every_request_is_answered_and_counted(self, tmp_path):
        with Endpoint() as endpoint:
            asker = Asker(endpoint, tmp_path)
            assert asker.texts("one", "two words") == ["echo: one", "echo: two words"]
        assert asker.facts == {
            "requests_answered": 2,
            "requests_repeated": 0,
            "requests_refused": 0,
            "replies_kept_before": 0,
            "prompt_tokens": 3,
            "completion_tokens": 5,
        }

    def test_a_second_run_asks_only_what_is_new(self, tmp_path):
        with Endpoint() as endpoint:
            asker = Asker(endpoint, tmp_path)
            asker.ask("one", "two")
            assert asker.texts("two", "three") == ["echo: two", "echo: three"]
            assert [last_words(body) for body in endpoint.requests[2:]] == ["three"]
            assert (asker.facts["replies_kept_before"], asker.facts["requests_answered"]) == (1, 1)

    def test_equal_requests_are_asked_once(self, tmp_path):
        with Endpoint() as endpoint:
            assert set(Asker(endpoint, tmp_path).texts(*["same"] * 40)) == {"echo: same"}
            assert len(endpoint.requests) == 1

    def test_samples_of_one_conversation_are_asked_each(self, tmp_path):
        with Endpoint(lambda body: str(body["seed"])) as endpoint:
            asker = Asker(endpoint, tmp_path)
            assert len({asker.texts("same", sample=sample)[0] for sample in range(3)}) == 3

    def test_another_sampling_is_another_request(self, tmp_path):
        with Endpoint() as endpoint:
            Asker(endpoint, tmp_path).ask("one")
            Asker(endpoint, tmp_path, "--temperature", 0.5).ask("one")
            Asker(endpoint, tmp_path, "--seed", 5).ask("one")
            assert len(endpoint.requests) == 3

    def test_runs_share_a_cache_when_told_to(self, tmp_path):
        with Endpoint() as endpoint:
            for work in "ab":
                Asker(endpoint, tmp_path / work, "--cache", tmp_path / "cache").ask("one")
            assert len(endpoint.requests) == 1

    def test_concurrency_is_as_asked_for(self, tmp_path):
        def answer(body):
            time.sleep(0.02)
            return "x"

        with Endpoint(answer) as endpoint:
            Asker(endpoint, tmp_path, "--concurrency", 3).ask(*map(str, range(12)))
            assert endpoint.most_at_once == 3

    def test_a_rate_limit_is_kept_to(self, tmp_path):
        with Endpoint() as endpoint:
            Asker(endpoint, tmp_path, "--requests-per-minute", 600).ask(*map(str, range(6)))
            gaps = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
        # 600 a minute are one each 100 ms; the machine may delay a request, and so shorten the gap after it.
        assert endpoint.times[-1] - endpoint.times[0] >= 0.4
        assert min(gaps) > 0.02

    def test_a_limited_rate_counts_repetitions_too(self, tmp_path):
        with Endpoint(first(Failure(500), Failure(500))) as endpoint:
            Asker(endpoint, tmp_path, "--requests-per-minute", 600).ask("one")
            assert endpoint.times[2] - endpoint.times[0] >= 0.15

    def test_an_embedding_comes_back_as_a_vector(self, tmp_path):
        with Endpoint(embed=lambda text: [float(len(text)), 0.5]) as endpoint:
            args = flags(*endpoint.flags)
            wanted = Request("t", embed="four")
            for _ in range(2):
                with open_teacher(args, stage="s", work=tmp_path, reference=never) as teacher:
                    teacher.fill([wanted], total=1, label="s")
                    assert teacher.reply(wanted).embedding == (4.0, 0.5)
            assert len(endpoint.requests) == 1

    def test_log_probabilities_come_back(self, tmp_path):
        with Endpoint(lambda body: Said("yes", top_logprobs={"yes": -0.25, "no": -1.5})) as endpoint:
            (reply,) = Asker(endpoint, tmp_path).ask("one", top_logprobs=5)
        assert reply.first_token == (("yes", -0.25), ("no", -1.5))

    def test_an_endpoint_without_log_probabilities_answers_without(self, tmp_path):
        def answer(body):
            return Failure(400, "logprobs are not supported by this model") if "logprobs" in body else "yes"

        with Endpoint(answer) as endpoint:
            (reply,) = Asker(endpoint, tmp_path).ask("one", top_logprobs=5)
            assert reply == Reply("yes", prompt_tokens=1, completion_tokens=1)
            assert "top_logprobs" not in endpoint.requests[-1]

    def test_null_content_is_kept_as_an_empty_answer(self, tmp_path):
        with Endpoint(lambda body: Said(None)) as endpoint:
            assert Asker(endpoint, tmp_path).texts("one") == [""]

    def test_a_short_key_does_not_change_answers(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", "e")
        with Endpoint() as endpoint:
            assert Asker(endpoint, tmp_path, "--api-key-env", "TEACHER_KEY").texts("me") == ["echo: me"]


class TestRetries:
    @pytest.mark.parametrize(
        "failure",
        [
            Failure(429),
            Failure(500),
            Failure(503),
            Failure(408),
            Failure(200, body=b"<html>busy</html>"),
            Failure(200, body=b'{"error": {"message": "overloaded"}}'),
            Failure(200, body=b"\xff\xfe\x00"),
            Failure(200, body=b""),
            Failure(200, headers={"Content-Encoding": "gzip"}, body=b"not gzip"),
            Drop(),
            Drop(after=30),
        ],
        ids=repr,
    )
    def test_what_may_pass_is_asked_again(self, failure, tmp_path):
        with Endpoint(first(failure, failure)) as endpoint:
            asker = Asker(endpoint, tmp_path)
            assert asker.texts("one", "two") == ["echo: one", "echo: two"]
            assert len(endpoint.requests) == 6
        assert asker.facts["requests_repeated"] == 4
        assert asker.facts["requests_answered"] == 2

    def test_a_time_out_is_asked_again(self, tmp_path):
        with Endpoint(first(Hang())) as endpoint:
            started = time.monotonic()
            assert Asker(endpoint, tmp_path, "--request-timeout", 0.2).texts("one") == ["echo: one"]
        assert time.monotonic() - started < 5

    def test_the_time_out_is_of_the_whole_answer(self, tmp_path):
        """An endpoint that sends a blank now and then to keep the connection must not keep the run."""

        class Trickle(httpx.AsyncByteStream):
            async def __aiter__(self):
                import asyncio

                while True:
                    yield b" "
                    await asyncio.sleep(0.01)

        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Trickle()))
        words = ("--endpoint", "http://h/v1", "--model-name", "m", "--request-timeout", 0.1, "--retries", 0)
        with (
            Teacher(flags(*words), stage="s", work=tmp_path, seed=0, reference=never, transport=transport) as teacher,
            pytest.raises(BadInput, match=r"no answer within 0\.1 s"),
        ):
            teacher.fill([request("one")], total=1, label="s")

    def test_retry_after_is_respected(self, tmp_path):
        with Endpoint(first(Failure(429, headers={"Retry-After": "0.4"}))) as endpoint:
            Asker(endpoint, tmp_path).ask("one")
            assert endpoint.times[1] - endpoint.times[0] >= 0.4

    def test_retry_after_may_be_a_date(self):
        assert _seconds(email.utils.formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)
        assert _seconds(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0.0
        assert (_seconds("3"), _seconds("-3"), _seconds("soon"), _seconds("")) == (3.0, 0.0, None, None)

    def test_one_request_that_always_fails_leaves_the_others_kept(self, tmp_path):
        broken = [True]

        def answer(body):
            return Failure(500, "broken pipe") if last_words(body) == "bad" and broken else "fine"

        with Endpoint(answer) as endpoint:
            asker = Asker(endpoint, tmp_path, "--retries", 1)
            with pytest.raises(BadInput) as caught:
                asker.ask("one", "bad", "two")
            line = one_line(caught)
            assert "1 requests stay unanswered (the last: task bad: HTTP 500" in line
            assert "run the same command again" in line
            broken.clear()
            asked = len(endpoint.requests)
            assert asker.texts("one", "bad", "two") == ["fine"] * 3
            assert len(endpoint.requests) == asked + 1

    def test_an_endpoint_that_dies_is_left_early_and_what_it_answered_stays(self, tmp_path):
        answered: Counter[str] = Counter()

        def answer(body):
            answered["n"] += 1
            return "fine" if answered["n"] <= 20 else Failure(502)

        with Endpoint(answer) as endpoint:
            asker = Asker(endpoint, tmp_path, "--concurrency", 2, "--retries", 1)
            with pytest.raises(BadInput) as caught:
                asker.ask(*map(str, range(500)))
            assert "the endpoint answers nothing any more" in one_line(caught)
            assert len(endpoint.requests) < 60
            endpoint.answer = lambda body: "fine"
            asker.ask(*map(str, range(30)))
            assert asker.facts["replies_kept_before"] == 20

    def test_nobody_listens(self, tmp_path):
        with nobody_listens() as url, Endpoint() as endpoint:
            asker = Asker(endpoint, tmp_path, "--retries", 1)
            asker.args.endpoint = url
            with pytest.raises(BadInput) as caught:
                asker.ask("one")
            assert url in one_line(caught)


class TestRefusals:
    def test_a_prompt_that_leaves_too_little_room_is_asked_without_a_limit(self, tmp_path):
        def answer(body):
            said = "This model's maximum context length is 4096 tokens."
            return Failure(400, said) if "max_tokens" in body else "short"

        with Endpoint(answer) as endpoint:
            assert Asker(endpoint, tmp_path).texts("one") == ["short"]
            assert len(endpoint.requests) == 2

    def test_a_prompt_that_is_too_long_is_a_refusal_of_that_row(self, tmp_path):
        def answer(body):
            return Failure(400, "maximum context length exceeded") if last_words(body) == "long" else "fine"

        with Endpoint(answer) as endpoint:
            asker = Asker(endpoint, tmp_path)
            long, fine = asker.ask("long", "short")
            assert fine.text == "fine"
            assert "maximum context length" in (long.refused or "")
            assert asker.facts["requests_refused"] == 1
            asked = len(endpoint.requests)
            asker.ask("long", "short")
            assert len(endpoint.requests) == asked

    @pytest.mark.parametrize(
        "filtered",
        [
            Said(None, finish_reason="content_filter"),
            Failure(400, "The response was filtered: content_filter"),
            Failure(403, "flagged by content_policy_violation"),
        ],
        ids=["in an answer", "400", "403"],
    )
    def test_a_content_filter_is_a_refusal_of_that_row(self, filtered, tmp_path):
        with Endpoint(lambda body: filtered if last_words(body) == "bad" else "fine") as endpoint:
            bad, fine = Asker(endpoint, tmp_path).ask("bad", "good")
        assert bad.refused is not None
        assert (fine.text, fine.refused) == ("fine", None)

    @pytest.mark.parametrize("status", [401, 403, 404, 405, 301])
    def test_an_unusable_endpoint_is_left_at_once(self, status, tmp_path):
        with Endpoint(lambda body: Failure(status, "go away")) as endpoint:
            with pytest.raises(BadInput) as caught:
                Asker(endpoint, tmp_path, "--concurrency", 2).ask(*map(str, range(50)))
            assert f"HTTP {status}" in one_line(caught)
            assert len(endpoint.requests) <= 4

    @pytest.mark.parametrize(("status", "said"), [(429, "insufficient_quota"), (400, "Your credit balance is too low")])
    def test_an_exhausted_account_is_left_at_once(self, status, said, tmp_path):
        count: Counter[str] = Counter()

        def answer(body):
            count["n"] += 1
            return "fine" if count["n"] <= 5 else Failure(status, said)

        with Endpoint(answer) as endpoint:
            asker = Asker(endpoint, tmp_path, "--concurrency", 1)
            with pytest.raises(BadInput, match="the account is exhausted") as caught:
                asker.ask(*map(str, range(50)))
            assert said in one_line(caught)
            assert len(endpoint.requests) == 6
            endpoint.answer = lambda body: "paid"
            assert asker.texts(*map(str, range(10))) == ["fine"] * 5 + ["paid"] * 5

    @pytest.mark.parametrize("rows", [1, 200])
    def test_an_endpoint_that_refuses_everything_is_one_line_and_nothing_is_kept(self, rows, tmp_path):
        with Endpoint(lambda body: Failure(400, "unknown parameter: seed")) as endpoint:
            asker = Asker(endpoint, tmp_path)
            with pytest.raises(BadInput) as caught:
                asker.ask(*map(str, range(rows)))
            assert "refuses every request (HTTP 400" in one_line(caught)
            assert "unknown parameter: seed" in str(caught.value)
            assert len(endpoint.requests) < 60
            endpoint.answer = lambda body: "fine"
            assert asker.texts("0") == ["fine"]

    def test_an_endpoint_that_begins_to_refuse_everything_does_not_spoil_what_is_left(self, tmp_path):
        count: Counter[str] = Counter()

        def answer(body):
            count["n"] += 1
            return "fine" if count["n"] <= 10 else Failure(400, "something is wrong today")

        with Endpoint(answer) as endpoint:
            asker = Asker(endpoint, tmp_path, "--concurrency", 1)
            with pytest.raises(BadInput, match="refuses every request"):
                asker.ask(*map(str, range(100)))
            endpoint.answer = lambda body: "fine"
            assert asker.texts(*map(str, range(100))) == ["fine"] * 100

    def test_a_refusal_between_answers_is_of_that_row(self, tmp_path):
        odd = {"3", "7", "11"}
        with Endpoint(lambda body: Failure(422, "odd input") if last_words(body) in odd else "fine") as endpoint:
            replies = Asker(endpoint, tmp_path, "--concurrency", 1).ask(*map(str, range(20)))
        assert {str(index) for index, reply in enumerate(replies) if reply.refused} == odd


class TestKey:
    def test_the_key_is_sent_and_never_shown(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setenv("TEACHER_KEY", KEY)
        answers = [
            Failure(401, f"Incorrect API key provided: {KEY}"),
            Failure(400, f"{'x' * 180} {KEY}"),
            Failure(500, f"cannot log {KEY}"),
            Failure(200, body=f"<html>{KEY}</html>".encode()),
        ]
        for answer in answers:
            with Endpoint(lambda body, answer=answer: answer) as endpoint:
                asker = Asker(endpoint, tmp_path, "--api-key-env", "TEACHER_KEY", "--retries", 0)
                with pytest.raises(BadInput) as caught:
                    asker.ask("one")
                assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
                assert not re.search("sk-very", one_line(caught))
        assert "sk-very" not in "".join(capfd.readouterr())
        kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert KEY.encode() not in kept

    def test_no_key_is_sent_where_there_is_none(self, tmp_path):
        with Endpoint() as endpoint:
            Asker(endpoint, tmp_path).ask("one")
            assert "Authorization" not in endpoint.headers[0]

    def test_a_missing_key_is_one_line(self, tmp_path, monkeypatch):
        monkeypatch.delenv("TEACHER_KEY", raising=False)
        with Endpoint() as endpoint, pytest.raises(BadInput, match="TEACHER_KEY is not set"):
            Asker(endpoint, tmp_path, "--api-key-env", "TEACHER_KEY").ask("one")

    @pytest.mark.parametrize("key", [f"{KEY}\n", f'"{KEY} "', f"{KEY}é"])
    def test_a_key_no_header_can_hold_is_one_line_that_does_not_show_it(self, key, tmp_path, monkeypatch):
        monkeypatch.setenv("TEACHER_KEY", key)
        with Endpoint() as endpoint, pytest.raises(BadInput, match="TEACHER_KEY holds blanks") as caught:
            Asker(endpoint, tmp_path, "--api-key-env", "TEACHER_KEY").ask("one")
        assert "sk-very" not in one_line(caught)


class TestReference:
    def test_it_answers_from_the_facts_and_keeps_nothing(self, tmp_path):
        def reference(request: Request) -> Reply:
            return Reply(request.facts["solution"])

        wanted = request("one", facts={"solution": "echo"})
        with open_teacher(flags("--teacher", "reference"), stage="s", work=tmp_path, reference=reference) as teacher:
            teacher.fill([wanted], total=1, label="s")
            assert teacher.reply(wanted) == Reply("echo")
            assert teacher.facts()["requests_answered"] == 0
        assert not list(tmp_path.iterdir())


def test_requests_are_read_as_they_are_asked(tmp_path):
    read = []

    def requests():
        for index in range(40):
            read.append(index)
            yield request(str(index))

    seen = []
    with (
        Endpoint(lambda body: seen.append(len(read)) or "x") as endpoint,
        open_teacher(flags(*endpoint.flags, "--concurrency", 2), stage="s", work=tmp_path, reference=never) as teacher,
    ):
        teacher.fill(requests(), total=40, label="s")
    assert max(count - index for index, count in enumerate(seen)) <= 4


def test_a_fault_in_the_rows_ends_the_asking_with_that_fault(tmp_path):
    def requests():
        yield request("one")
        raise BadInput("tasks.parquet: truncated")

    with (
        Endpoint() as endpoint,
        open_teacher(flags(*endpoint.flags), stage="s", work=tmp_path, reference=never) as teacher,
        pytest.raises(BadInput, match=r"tasks\.parquet: truncated"),
    ):
        teacher.fill(requests(), total=2, label="s")


def test_what_was_never_asked_has_no_reply(tmp_path):
    with (
        Endpoint() as endpoint,
        open_teacher(flags(*endpoint.flags), stage="s", work=tmp_path, reference=never) as teacher,
        pytest.raises(KeyError, match="was never asked"),
    ):
        teacher.reply(request("one"))
