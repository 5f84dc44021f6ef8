"""The deciding functions of report."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipe_core.errors import BadInput
from report import svg
from report.curves import Curve, curves, read_lines
from report.page import embed, points, render, share_prompts, verdict
from report.trajectories import choose, clean_screen, conversation, describe, outcome, parse_reply, split_prompt

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"
REPLY = {"analysis": "A", "plan": "P", "commands": [{"keystrokes": "ls\n", "duration": 0.1}], "task_complete": True}


def row(index: int, source: str = "shell", reward: float | None = 1.0, error: str | None = None) -> dict:
    return {"task_id": f"t{index}", "attempt": 0, "source": source, "reward": reward, "error_class": error}


class TestChoose:
    rows = st.lists(
        st.builds(
            row,
            st.integers(0, 50),
            st.sampled_from(["shell", "humaneval", "pybugs"]),
            st.sampled_from([0.0, 1.0]),
            st.sampled_from([None, "timeout", "infrastructure"]),
        ),
        max_size=60,
    )

    @given(rows, st.integers(0, 40), st.integers(0, 3))
    def test_no_more_than_wanted_and_every_kind_when_there_is_room(self, rows, wanted, seed):
        chosen = choose(rows, wanted, seed)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(wanted, len(rows))
        kinds = {(found["source"], outcome(found)) for found in rows}
        if wanted >= len(kinds):
            assert {(rows[at]["source"], outcome(rows[at])) for at in chosen} == kinds

    def test_the_order_of_the_rows_does_not_matter(self):
        rows = [row(index, reward=float(index % 2)) for index in range(30)]
        first = {rows[at]["task_id"] for at in choose(rows, 7, 0)}
        turned = rows[::-1]
        assert {turned[at]["task_id"] for at in choose(turned, 7, 0)} == first


class TestReplies:
    def test_a_json_answer_is_taken_apart(self):
        found = parse_reply(json.dumps(REPLY))
        assert found == {"analysis": "A", "plan": "P", "commands": ["ls\n"], "complete": True, "outside": ""}

    def test_text_around_the_answer_is_kept(self):
        found = parse_reply("<think>{hm}</think>\n" + json.dumps(REPLY) + "\nbye")
        assert found["outside"] == "<think>{hm}</think>\nbye"
        assert found["commands"] == ["ls\n"]

    @pytest.mark.parametrize("text", ["", "ls -la", '{"analysis": "cut', '{"x": 1}', "[1]", "{" * 50])
    def test_anything_else_is_shown_raw(self, text):
        assert parse_reply(text) == {"raw": text}

    @pytest.mark.parametrize("commands", [None, "ls", [None], ["ls"], [{"keys": 1}], [{"keystrokes": 3}]])
    def test_odd_commands_do_not_fail(self, commands):
        found = parse_reply(json.dumps({"plan": ["x"], "commands": commands}))
        assert found["plan"] == '["x"]'
        assert all(isinstance(keys, str) for keys in found["commands"])

    @given(st.text())
    def test_no_text_is_lost(self, text):
        found = parse_reply(text)
        assert found.get("raw", text) == text


class TestConversations:
    def test_the_prompt_is_set_apart_from_task_and_screen(self):
        text = (
            "You are.\n\nTask Description:\nDo it.\n\nCurrent terminal state:\nCurrent Terminal Screen:\n$ \n\n\n\n\n"
        )
        assert split_prompt(text) == {"prompt": "You are.", "instruction": "Do it.", "screen": "$"}

    def test_another_agents_first_message_is_the_instruction(self):
        assert split_prompt("Fix it.\n") == {"prompt": "", "instruction": "Fix it.", "screen": ""}

    def test_a_screen_loses_its_title_and_empty_rows_only(self):
        assert clean_screen("New Terminal Output:\n\n$ ls  \n a  b\n\n\n\n\nend\n\n\n") == "$ ls\n a  b\n\nend"

    def test_a_turn_is_a_reply_with_what_followed(self):
        messages = [("user", "Task"), ("assistant", "one"), ("user", "x"), ("user", "y"), ("assistant", "two")]
        found = conversation([{"role": role, "content": content} for role, content in messages])
        assert found["turns"] == [{"raw": "one", "terminal": "x\ny"}, {"raw": "two", "terminal": ""}]

    def test_no_conversation_is_no_turn(self):
        assert conversation([])["turns"] == []

    def test_the_built_in_teacher_is_named_as_such(self):
        fields = {"task": None, "error_message": None, "model": "reference", "model_provider": "builtin"}
        found = describe({**row(1), **fields, "conversations": None}, None)
        assert (found["model"], found["task"], found["outcome"]) == ("reference teacher", "t1", "solved")
        assert describe({**row(1), **fields, "conversations": None}, "sft")["model"] == "sft"


class TestCurves:
    def test_every_number_is_a_curve_the_known_ones_first(self):
        lines = [{"step": 2, "lr": 0.1, "loss": 3, "new": 1.0, "note": "x", "ok": True}, {"step": 1, "loss": 4.0}]
        found = curves("train-sft/sft", lines)
        assert [curve.quantity for curve in found] == ["loss", "lr", "new"]
        assert found[0].points == ((1.0, 4.0), (2.0, 3.0))

    def test_what_is_not_finite_is_left_out(self):
        assert curves("x", [{"step": 1, "loss": math.nan}, {"step": 2, "kl": math.inf}]) == []

    def test_a_line_that_is_no_object_is_bad_input(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 1}\n\n[]\n')
        with pytest.raises(BadInput, match="line 3"):
            read_lines(path)


class TestCharts:
    finite = st.floats(-1e9, 1e9, allow_nan=False)

    @given(finite, finite)
    def test_ticks_are_inside_the_axis_and_few(self, one, other):
        low, high = min(one, other), max(one, other)
        found = svg.ticks(low, high)
        slack = 1e-6 * max(abs(low), abs(high), 1e-9)
        assert all(low - slack <= tick <= high + slack for tick in found)
        assert len(found) <= 6

    @given(st.lists(st.tuples(st.integers(0, 10_000), finite), min_size=1, max_size=30))
    @example([(0, 0.0), (1, 5e-324)])
    @example([(0, 1e9), (1, math.nextafter(1e9, 2e9))])
    def test_lines_stay_inside_the_chart(self, series):
        chart = svg.line_chart(sorted(series), "loss")
        path = chart.split('points="')[1].split('"')[0]
        for pair in path.split():
            x, y = map(float, pair.split(","))
            assert svg.LEFT - 0.1 <= x <= svg.WIDTH - svg.RIGHT + 0.1
            assert svg.TOP - 0.1 <= y <= svg.HEIGHT - svg.BOTTOM + 0.1

    def test_names_are_escaped(self):
        assert "<script" not in svg.line_chart([(0, 1), (1, 2)], HOSTILE, HOSTILE)

    def test_a_score_without_tasks_is_an_empty_bar(self):
        bar = svg.interval_bar({"model": "base", "pass_at_1": None, "ci95": None})
        assert "circle" not in bar
        assert "no score" in bar


class Scripts(HTMLParser):
    """Counts elements that could run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


class TestPage:
    @given(st.text())
    def test_embedded_data_cannot_end_its_element(self, text):
        found = embed({"x": text})
        assert not set("<>&") & set(found)
        assert json.loads(found) == {"x": text}

    def test_hostile_text_stays_text_everywhere(self):
        messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
        fields = {"task": HOSTILE, "error_message": HOSTILE, "model": HOSTILE, "model_provider": HOSTILE}
        trajectory = {"step": HOSTILE, **describe({**row(1, HOSTILE), **fields, "conversations": messages}, None)}
        stage = dict.fromkeys(("stage", "key", "digest", "tier"), HOSTILE)
        score = {"model": "base", "source": HOSTILE, "n_tasks": 1, "attempts": 1, "pass_at_1": 0.0, "infra_errors": 0}
        summary = {
            "stages": [{**stage, "rows_in": 2, "rows_out": 1, "dropped": {HOSTILE: 1}, "seconds": None}],
            "scores": [{**score, "ci95": [0.0, 0.5]}],
            "deltas": [],
        }
        page = render(HOSTILE, summary, [Curve(HOSTILE, HOSTILE, ((0.0, 1.0),))], [trajectory])
        parser = Scripts()
        parser.feed(page)
        assert parser.tags.count("script") == 2
        assert "img" not in parser.tags
        assert all(address.startswith(("#", "data:,")) for address in parser.addresses)
        assert page == render(HOSTILE, summary, [Curve(HOSTILE, HOSTILE, ((0.0, 1.0),))], [trajectory])

    def test_one_prompt_is_kept_once(self):
        found = share_prompts([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}])
        assert found == {"prompts": ["a", "b"], "trajectories": [{"prompt": 0}, {"prompt": 1}, {"prompt": 0}]}

    @pytest.mark.parametrize(
        ("interval", "word"), [([0.01, 0.2], "better"), ([-0.2, -0.01], "worse"), ([0.0, 0.1], "undecided")]
    )
    def test_the_verdict_follows_the_interval(self, interval, word):
        assert verdict(interval).startswith(word)

    def test_points_are_signed(self):
        assert (points(0.123), points(-0.5)) == ("+12.3", "\N{MINUS SIGN}50.0")
