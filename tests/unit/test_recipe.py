from __future__ import annotations

from pathlib import Path

import pytest

from recipe.plan import load_plan, report_key
from recipe_core.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]

SMALL = """
recipe: small
description: for tests
seed: 1
date: 2026-01-01
stages:
  source-tasks:
    shell: {source: shell, count: 5}
    more: {source: humaneval, count: 5}
  mix:
    train: {from: [source-tasks/shell, source-tasks/more], method: shares, rows: 8}
  rollout:
    train: {from: mix/train, teacher: reference, attempts: 2}
  filter-turns:
    train: {from: rollout/train, min-turns: 2, drop-errors: [timeout, parse]}
"""


def planned(tmp_path: Path, text: str = SMALL):
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return load_plan(path)


def test_parameters_become_flags(tmp_path: Path):
    steps = planned(tmp_path)
    assert steps["filter-turns/train"].flags == ["--drop-errors", "timeout,parse", "--min-turns", "2"]
    assert steps["mix/train"].inputs["tasks"] == [
        steps["source-tasks/shell"].artifact,
        steps["source-tasks/more"].artifact,
    ]


def test_a_change_rekeys_its_step_and_what_follows_and_nothing_else(tmp_path: Path):
    before = planned(tmp_path)
    after = planned(tmp_path, SMALL.replace("attempts: 2", "attempts: 3"))
    changed = {name for name in before if before[name].key != after[name].key}
    assert changed == {"rollout/train", "filter-turns/train"}
    assert report_key("small", before) != report_key("small", after)


def test_names_of_steps_and_of_the_recipe_decide_no_key(tmp_path: Path):
    before = planned(tmp_path)
    after = planned(
        tmp_path, SMALL.replace("source-tasks/more", "source-tasks/other").replace("    more:", "    other:")
    )
    assert [step.key for step in before.values()] == [step.key for step in after.values()]


def test_the_date_keys_only_the_stages_whose_rows_carry_it(tmp_path: Path):
    before = planned(tmp_path)
    after = planned(tmp_path, SMALL.replace("2026-01-01", "2026-01-02"))
    assert before["mix/train"].key == after["mix/train"].key
    assert before["rollout/train"].key != after["rollout/train"].key


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "min-turns",
            "min-turn",
            r"unknown key 'min-turn' at stages\.filter-turns\.train\.min-turn; did you mean 'min-turns'",
        ),
        (
            "filter-turns:",
            "filter-turn:",
            r"unknown key 'filter-turn' at stages\.filter-turn; did you mean 'filter-turns'",
        ),
        ("seed: 1", "sead: 1", r"unknown key 'sead' at sead; did you mean 'seed'"),
        ("mix/train", "mix/trian", r"refers to 'mix/trian', which is no step of this recipe; did you mean 'mix/train'"),
        ("rows: 8", "rows: none", r"stages\.mix\.train\.rows"),
        ("recipe: small", "recipe: other", "is not the file's name"),
        ("stages:", "stages: [", "not YAML"),
        ("[source-tasks/shell, source-tasks/more]", "[mix/train]", "circle: mix/train -> mix/train"),
        ("from: mix/train", "from: filter-turns/train", "rollout/train needs tasks, but filter-turns/train makes traj"),
        ("seed: 1", "seed: 1\nseed: 2", "the key 'seed' occurs twice"),
        ("seed: 1", "seed: -1", "seed: Input should be greater than or equal to 0"),
        ("seed: 1", "seed: true", "seed: Input should be a valid integer"),
        ("count: 5}", "count: '5'}", r"stages\.source-tasks\.shell\.count"),
        ("recipe: small", "recipe: mix", "'mix' is the name of a rule"),
        (", rows: 8", "", r"stages\.mix\.train: method shares needs `rows`"),
        ("attempts: 2", "temperature: .inf", r"stages\.rollout\.train\.temperature: .*finite"),
        ("attempts: 2", "endpoint: 'http://x/v1'", r"stages\.rollout\.train: takes one of teacher, model, endpoint"),
        ("timeout, parse", "timeoutt", r"drop-errors"),
        ("attempts: 2", "extra-body: {when: 2026-01-01}", "extra-body"),
        ("source: shell", "source: shel", "'shell', 'humaneval' or 'pybugs'"),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(old: str, new: str, complaint: str, tmp_path: Path):
    assert old in SMALL
    with pytest.raises(BadInput, match=complaint) as error:
        planned(tmp_path, SMALL.replace(old, new, 1))
    assert "\n" not in str(error.value)
    assert "small.yaml" in str(error.value)


def test_a_missing_recipe_names_the_nearest(tmp_path: Path):
    planned(tmp_path)
    with pytest.raises(BadInput, match=r"no such recipe; did you mean 'small'\?"):
        load_plan(tmp_path / "smal.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "workflow" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_this_project_are_right(path: Path):
    assert load_plan(path)


SCORED = (
    SMALL
    + """
  init-model:
    student: {from: filter-turns/train}
  train-sft:
    sft: {model: init-model/student, from: filter-turns/train}
  evaluate:
    sft: {model: train-sft/sft, from: source-tasks/held-out, label: sft}
"""
)


def test_a_model_is_not_scored_on_what_it_was_trained_on(tmp_path: Path):
    with_held_out = SCORED.replace("more: {", "held-out: {source: shell, split: test, count: 5}\n    more: {")
    assert planned(tmp_path, with_held_out)["evaluate/sft"]
    with pytest.raises(BadInput, match="evaluate/sft scores a model on source-tasks/shell, which it was trained on"):
        planned(tmp_path, with_held_out.replace("from: source-tasks/held-out", "from: source-tasks/shell"))


def test_a_label_stands_for_one_evaluation(tmp_path: Path):
    text = SCORED.replace("more: {", "held-out: {source: shell, split: test, count: 5}\n    more: {")
    text += "    again: {model: init-model/student, from: source-tasks/held-out, label: sft}\n"
    with pytest.raises(BadInput, match="evaluate/sft and evaluate/again are both labelled 'sft'"):
        planned(tmp_path, text)
