"""What a recipe is estimated to cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.estimate import Assumptions, Estimator
from recipe.plan import PlannedStep, check_recipe, plan

SHELL = {"source": "shell", "count": 300}


def planned(**stages: dict) -> dict[str, PlannedStep]:
    raw = {"recipe": "mine", "description": "x", "date": "2026-01-01"}
    raw["stages"] = {"source-tasks": {"a": SHELL}} | {name.replace("_", "-"): steps for name, steps in stages.items()}
    return plan(check_recipe(raw, Path("mine.yaml")), "mine.yaml")


def costs(**stages: dict) -> dict:
    steps = planned(**stages)
    estimator = Estimator(steps.values())
    return {name: estimator.cost(step) for name, step in steps.items()}


def test_rows_follow_counts_shares_and_samples():
    found = costs(
        mix={"m": {"from": "source-tasks/a", "rows": 200}},
        filter_length={"half": {"from": "mix/m", "keep": "longest", "fraction": 0.5}},
        upsample={"u": {"from": "filter-length/half", "column": "instruction_chars", "rows": 450}},
        rollout={"r": {"from": "upsample/u", "teacher": "reference"}},
        answers={"q": {"from": "mix/m", "teacher": "reference", "samples": 16}},
    )
    rows = {name: (cost.rows, cost.bound) for name, cost in found.items()}
    assert rows == {
        "source-tasks/a": (300, False),
        "mix/m": (200, False),
        "filter-length/half": (100, False),
        "upsample/u": (450, False),
        "rollout/r": (450, False),
        "answers/q": (3200, False),
    }


def test_rows_behind_a_filter_of_no_stated_size_are_an_upper_bound():
    found = costs(
        dedup={"d": {"from": "source-tasks/a", "method": "exact"}},
        rollout={"r": {"from": "dedup/d", "teacher": "reference"}},
    )
    assert found["dedup/d"].bound and found["rollout/r"].bound
    assert found["rollout/r"].rows == 300


def test_a_mix_gives_no_more_than_there_is():
    found = costs(mix={"m": {"from": "source-tasks/a", "rows": 900}})
    assert found["mix/m"].rows == 300


def test_the_reference_teacher_costs_no_tokens_and_an_endpoint_does():
    endpoint = {"endpoint": "http://localhost:8000/v1", "model-name": "m"}
    free = costs(rollout={"r": {"from": "source-tasks/a", "teacher": "reference"}})["rollout/r"]
    paid = costs(rollout={"r": {"from": "source-tasks/a", **endpoint}})["rollout/r"]
    assert (free.tokens, free.gpu_hours) == (0, 0)
    assumed = Assumptions()
    assert paid.tokens == 300 * assumed.trajectory_tokens
    assert paid.gpu_hours == pytest.approx(paid.tokens * 0.3 / 1000 / 3600)


def test_training_counts_six_operations_a_parameter_and_token():
    student = {"hub": "Qwen/Qwen3-8B", "revision": "b968826d9c46dd6066d109eabc6255188de91218"}
    found = costs(
        rollout={"r": {"from": "source-tasks/a", "teacher": "reference"}},
        init_model={"s": student},
        train_sft={"sft": {"model": "init-model/s", "from": "rollout/r", "epochs": 7, "cutoff": 32768}},
    )["train-sft/sft"]
    tokens = 300 * 7 * (144.76e6 / 9859)
    assert found.tokens == pytest.approx(tokens)
    assert found.gpu_hours == pytest.approx(6 * 8e9 * tokens / (989e12 * 0.4) / 3600)
    assert found.disk_bytes == 16e9
    assert found.work_bytes == 2 * 14 * 8e9


def test_recipes_that_share_steps_pay_for_them_once():
    one = planned(mix={"m": {"from": "source-tasks/a", "rows": 200}})
    other = planned(mix={"m": {"from": "source-tasks/a", "rows": 100}})
    both = Estimator([*one.values(), *other.values()]).total()
    separate = [Estimator(steps.values()).total() for steps in (one, other)]
    shared = Estimator(one.values()).cost(one["source-tasks/a"]).disk_bytes
    assert both.disk_bytes == pytest.approx(sum(total.disk_bytes for total in separate) - shared)
