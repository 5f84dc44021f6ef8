from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_core.errors import BadInput
from train_sft.__main__ import build_parser
from train_sft.config import hyperparameters
from train_sft.export import DATASET, conversation, write_dataset


def row(roles: str, error_class: str | None = None) -> dict:
    names = {"u": "user", "a": "assistant", "s": "system"}
    turns = [{"role": names[role], "content": f"{role}{index}"} for index, role in enumerate(roles)]
    return {"conversations": turns, "error_class": error_class, "trial_name": "abc__0"}


def test_conversation_is_sharegpt():
    assert conversation(row("ua"), "t") == [{"from": "human", "value": "u0"}, {"from": "gpt", "value": "a1"}]


def test_what_was_never_answered_is_cut():
    assert conversation(row("uau"), "t") == conversation(row("ua"), "t")


@pytest.mark.parametrize("roles", ["", "u", "a", "uua", "uaa", "aua"])
def test_turns_that_do_not_alternate_are_named(roles: str):
    with pytest.raises(BadInput, match=r"t: trial abc__0: turns must alternate"):
        conversation(row(roles), "t")


def test_infrastructure_errors_are_never_trained_on():
    with pytest.raises(BadInput, match="never trained on"):
        conversation(row("ua", "infrastructure"), "t")


def test_dataset_is_described_for_llamafactory(tmp_path: Path):
    assert write_dataset([row("ua"), row("uaua")], tmp_path, "t") == 2
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    data = json.loads((tmp_path / info[DATASET]["file_name"]).read_text())
    assert [len(entry[info[DATASET]["columns"]["messages"]]) for entry in data] == [2, 4]


def test_nothing_to_train_on_is_one_line(tmp_path: Path):
    with pytest.raises(BadInput, match="no trajectories"):
        write_dataset([], tmp_path, "t")


def test_every_setting_that_decides_the_weights_is_stated():
    words = ["--model", "m", "--trajectories", "t", "--out", "o", "--batch-size", "8", "--micro-batch-size", "2"]
    args = build_parser().parse_args([*words, "--seed", "3"])
    keys = hyperparameters(args, cuda=False)
    assert keys["gradient_accumulation_steps"] == 4
    assert (keys["seed"], keys["data_seed"]) == (3, 3)
    assert keys["use_cpu"] and not keys["bf16"]
    assert hyperparameters(args, cuda=True)["bf16"]
    assert None not in keys.values()
