from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_turns.keep import Rules, count_turns, is_subagent, reason_to_drop
from recipe_core.terms import MODEL_ERRORS

rules = st.builds(
    Rules,
    min_turns=st.integers(1, 10),
    solved_only=st.booleans(),
    errors=st.sets(st.sampled_from(MODEL_ERRORS)),
    subagents=st.booleans(),
)
trajectories = st.fixed_dictionaries(
    {
        "turns": st.integers(0, 12),
        "reward": st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0])),
        "error_class": st.one_of(st.none(), st.sampled_from([*MODEL_ERRORS, "infrastructure"])),
        "trace_source": st.sampled_from([None, "main", "summarization-1-summary"]),
    }
)


@given(trajectories, rules)
def test_a_kept_trajectory_breaks_no_rule(trajectory, chosen):
    if reason_to_drop(**trajectory, rules=chosen) is not None:
        return
    assert trajectory["error_class"] != "infrastructure"
    assert trajectory["error_class"] not in chosen.errors
    assert trajectory["turns"] >= chosen.min_turns
    assert not chosen.solved_only or trajectory["reward"] == 1.0
    assert not (chosen.subagents and is_subagent(trajectory["trace_source"]))


@given(trajectories)
def test_without_rules_only_infrastructure_errors_and_empty_traces_go(trajectory):
    reason = reason_to_drop(**trajectory, rules=Rules())
    assert (reason is None) == (trajectory["error_class"] != "infrastructure" and trajectory["turns"] >= 1)


ALL = Rules(min_turns=5, solved_only=True, errors=("timeout", "parse"), subagents=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"error_class": "infrastructure", "reward": None, "turns": 0}, "infrastructure"),
        ({"trace_source": "summarization-2-questions", "turns": 1}, "subagent"),
        ({"error_class": "timeout", "reward": 0.0, "turns": 1}, "timeout"),
        ({"error_class": "context"}, None),
        ({"reward": None}, "not-solved"),
        ({"reward": 0.99, "turns": 2}, "not-solved"),
        ({"turns": 4}, "too-few-turns"),
    ],
)
def test_the_first_reason_that_applies_is_given(change, reason):
    trajectory = {"turns": 5, "reward": 1.0, "error_class": None, "trace_source": "main", **change}
    assert reason_to_drop(**trajectory, rules=ALL) == reason


def test_a_turn_is_an_assistant_message():
    roles = ["user", "assistant", "user", "assistant", "user"]
    assert count_turns([{"role": role, "content": ""} for role in roles]) == 2
    assert count_turns(None) == 0
