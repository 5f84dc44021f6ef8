"""What flags of `rollout` decide the rows, and so stand in the manifest, and what they say to the model's server."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe_core.errors import BadInput
from rollout.__main__ import build_parser, build_pull_parser, endpoint_of, parameters, serving_of, settings_of

COMMON = ["--tasks", "t", "--out", "o"]
SERVED = [*COMMON, "--model", "results/m"]
DECIDES = {
    "agent_timeout_sec": None,
    "attempts": 1,
    "date": "1970-01-01",
    "endpoint": None,
    "extra_body": {},
    "max_model_len": 4096,
    "max_turns": 32,
    "model": None,
    "sampling": {"max_tokens": 1024, "temperature": 1.0, "top_k": -1, "top_p": 1.0},
    "settle_sec": 10.0,
}


def decided(words: list[str]) -> dict:
    args = build_parser().parse_args(words)
    return parameters(args, endpoint_of(args))


def test_how_a_model_is_spread_over_gpus_and_the_work_over_jobs_decides_nothing():
    assert decided(SERVED) == DECIDES
    spread = ["--tensor-parallel", "4", "--data-parallel", "2", "--gpu-memory", "0.8", "--worker-timeout", "9"]
    assert decided([*SERVED, *spread, "--concurrency", "64", "--merge"]) == DECIDES
    args = build_pull_parser().parse_args([*SERVED, *spread, "--shard", "2/8"])
    assert parameters(args, endpoint_of(args)) == DECIDES
    reference = [*COMMON, "--teacher", "reference"]
    assert decided(reference).keys() == {*DECIDES, "teacher"} - {
        *("endpoint", "extra_body", "max_model_len", "model", "sampling")
    }


def test_the_dtype_and_the_environment_decide_where_they_are_named():
    assert decided([*SERVED, "--dtype", "float16"]) == {**DECIDES, "dtype": "float16"}
    assert decided([*SERVED, "--environment", "modal"]) == {**DECIDES, "environment": "modal"}
    assert decided([*SERVED, "--environment", "sandbox"]) == DECIDES


def test_the_server_is_told_what_was_asked_for_and_nothing_else():
    plain = serving_of(build_parser().parse_args(SERVED))
    assert plain is not None
    assert (plain.model, plain.options) == (Path("results/m"), ["--max-model-len", "4096"])
    flags = ["--tensor-parallel", "4", "--data-parallel", "2", "--gpu-memory", "0.8", "--dtype", "float16"]
    spread = serving_of(build_parser().parse_args([*SERVED, *flags, "--start-timeout", "1800"]))
    assert spread is not None
    assert (spread.options, spread.start_timeout) == (["--max-model-len", "4096", *flags], 1800.0)
    assert serving_of(build_parser().parse_args([*COMMON, "--teacher", "reference"])) is None


@pytest.mark.parametrize(
    ("teacher", "flag"),
    [
        (["--teacher", "reference"], ["--tensor-parallel", "2"]),
        (["--endpoint", "http://h/v1", "--model-name", "m"], ["--gpu-memory", "0.5"]),
        (["--endpoint", "http://h/v1", "--model-name", "m"], ["--dtype", "float32"]),
    ],
)
def test_flags_of_a_server_that_is_not_started_are_refused(teacher, flag):
    with pytest.raises(BadInput, match=f"{flag[0]} belongs to --model, not to {teacher[0]}"):
        decided([*COMMON, *teacher, *flag])


def test_trials_run_where_the_flag_says():
    args = build_parser().parse_args([*SERVED, "--environment", "daytona"])
    assert settings_of(args, "r").environment == "daytona"
    assert settings_of(build_parser().parse_args(SERVED), "r").environment == "sandbox"
