from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.files import merge
from recipe.plan import load_plan, load_plans, load_rank, report_key
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
        ("source: shell", "source: shel", "'shell', 'humaneval', 'pybugs'"),
        ("source: shell", "source: jsonl", r"stages\.source-tasks\.shell: source jsonl needs `input`"),
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
    assert load_plans(path)


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


GRID = """
recipe: grid
extends: small
description: which tasks, how many turns
grid:
  tasks:
    all: {}
    few: {mix: {train: {rows: 4}}}
    shell: {source-tasks: {more: null}, mix: {train: {from: source-tasks/shell, rows: 5}}}
  turns:
    two: {filter-turns: {train: {min-turns: 2}}}
    nine: {filter-turns: {train: {min-turns: 9, drop-errors: null}}}
"""


def grid(tmp_path: Path, text: str = GRID):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "grid.yaml").write_text(text)
    return load_plans(tmp_path / "grid.yaml")


def test_a_grid_is_a_recipe_for_each_combination_and_shares_what_is_the_same(tmp_path: Path):
    plans = grid(tmp_path)
    assert list(plans) == [f"grid/{tasks}-{turns}" for tasks in ("all", "few", "shell") for turns in ("two", "nine")]
    assert plans["grid/all-two"]["mix/train"].key == planned(tmp_path)["mix/train"].key
    assert "source-tasks/more" not in plans["grid/shell-two"]
    assert plans["grid/all-nine"]["filter-turns/train"].flags == ["--min-turns", "9"]
    keys = {step.key for steps in plans.values() for step in steps.values()}
    # Two sources; three each of mix and rollout; six of filter-turns.
    assert len(keys) == 2 + 3 + 3 + 6
    assert load_plan(tmp_path / "grid.yaml", "few-two") == plans["grid/few-two"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("extends: small", "extends: smal", "no such recipe; did you mean 'small'"),
        ("extends: small", "extends: grid", "extends itself: grid -> grid"),
        ("extends: small", "extends: [small]", "extends: expected the name of a recipe"),
        ("rows: 4", "row: 4", "cell few-two: unknown key 'row' at stages.mix.train.row; did you mean 'rows'"),
        ("    all: {}", "    all: []", "grid.tasks.all: expected a mapping of stages"),
        ("    all: {}", "    A: {}", "grid.tasks.A: a variant's name is lower-case letters"),
        ("recipe: grid", "recipe: small", "is not the file's name"),
    ],
)
def test_mistakes_in_a_grid_are_one_line(old: str, new: str, complaint: str, tmp_path: Path):
    assert old in GRID
    with pytest.raises(BadInput, match=complaint) as error:
        grid(tmp_path, GRID.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_combinations_of_one_name_are_refused(tmp_path: Path):
    text = GRID.replace("    two: {", "    a-b: {").replace("    nine: {", "    b: {")
    text = text.replace("    all: {}", "    x: {}\n    x-a: {}")
    with pytest.raises(BadInput, match="two combinations are both called 'x-a-b'"):
        grid(tmp_path, text)


def test_an_unknown_cell_names_the_nearest(tmp_path: Path):
    grid(tmp_path)
    with pytest.raises(BadInput, match="no recipe 'grid/few-too' in it; did you mean 'few-two'"):
        load_plan(tmp_path / "grid.yaml", "few-too")
    with pytest.raises(BadInput, match="has no cells"):
        load_plan(tmp_path / "small.yaml", "few-two")


names = st.sampled_from("abc")
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(names, trees), st.dictionaries(names, trees), st.dictionaries(names, trees))
def test_merging_keeps_the_later_and_can_be_done_in_any_grouping(first: dict, second: dict, third: dict):
    assert merge(first, {}) == first
    assert merge({}, first) == first
    assert merge(merge(first, second), second) == merge(first, second)
    assert merge(merge(first, second), third).keys() == first.keys() | second.keys() | third.keys()


SOURCE = "a: {source: shell, count: 9}"
REFUSED = [
    ("mix: {m: {from: source-tasks/a, rows: 3, top: 1}}", "`top` takes the first of `order`"),
    ("mix: {m: {from: source-tasks/a, method: concatenate, with-replacement: true}}", "belongs to method shares"),
    ("score: {s: {from: source-tasks/a, method: embedding, endpoint: http://h/v1, model-name: m}}", "`positives` and"),
    ("score: {s: {from: source-tasks/a, method: difficulty, teacher: reference}}", "needs a model that answers"),
    ("score: {s: {from: source-tasks/a, method: random, teacher: reference}}", "asks no model"),
    ("score: {s: {from: source-tasks/a, method: difficulty}}", "takes one of teacher, model, endpoint"),
    ("answers: {q: {from: source-tasks/a, teacher: reference, dtype: float16}}", "`dtype` belongs to `model`"),
    ("answers: {q: {from: source-tasks/a, teacher: reference, data-parallel: 2}}", "`data-parallel` belongs to"),
    ("answers: {q: {from: source-tasks/a, teacher: reference, filter: random}}", "needs `keep-per-question`"),
    ("answers: {q: {from: source-tasks/a, teacher: reference, prefer: longest}}", "belong to filter length"),
    ("filter-tasks: {f: {from: source-tasks/a, column: x, min: 1, within-source: true}}", "`within-source` needs"),
    ("filter-tasks: {f: {from: source-tasks/a, column: x, min: 2, max: 1}}", "`min` is above `max`"),
    ("decontaminate: {d: {from: source-tasks/a}}", "takes `benchmarks`"),
    (
        "decontaminate: {d: {from: source-tasks/a, benchmarks: [b.txt], method: ngram, similarity: 80}}",
        "decides nothing",
    ),
    ("augment: {g: {from: source-tasks/a, method: rewrite, teacher: reference}}", "takes one of copies, rows"),
    ("source-tasks: {a: {source: shell, split: all, count: 9}}", "split all is for what `input` names"),
    (
        "init-model: {m: {pretrained: smollm2}}, train-rl: {r: {model: init-model/m, from: source-tasks/a, gpus: 8}}",
        "`gpus` belongs to trainer skyrl",
    ),
    ("init-model: {m: {hub: a/b}}", "`hub` and `revision` belong together"),
]


@pytest.mark.parametrize(("stage", "complaint"), REFUSED, ids=[complaint for _, complaint in REFUSED])
def test_what_a_tool_would_refuse_later_is_refused_now(stage: str, complaint: str, tmp_path: Path):
    sources = "" if stage.startswith("source-tasks") else f"source-tasks: {{{SOURCE}}}, "
    path = tmp_path / "mine.yaml"
    path.write_text(f"recipe: mine\ndescription: x\ndate: 2026-01-01\nstages: {{{sources}{stage}}}\n")
    with pytest.raises(BadInput, match=re.escape(complaint)):
        load_plan(path)


def test_a_grid_changes_the_grid_that_it_takes_and_leaves_unused_sources_out(tmp_path: Path):
    grid(tmp_path)
    text = """
recipe: other
extends: grid
description: another
grid:
  tasks: {few: null, all: {mix: {train: {from: source-tasks/shell}}}}
  turns: {nine: {filter-turns: {train: {min-turns: 8}}}}
"""
    (tmp_path / "other.yaml").write_text(text)
    plans = load_plans(tmp_path / "other.yaml")
    assert list(plans) == ["other/all-two", "other/all-nine", "other/shell-two", "other/shell-nine"]
    assert plans["other/all-nine"]["filter-turns/train"].flags == ["--min-turns", "8"]
    assert "source-tasks/more" in planned(tmp_path) and "source-tasks/more" not in plans["other/all-two"]


RANKED = "rank: evaluate/base\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GRID + RANKED, "rank: grid/all-two has no step 'evaluate/base'"),
        (GRID + "rank: mix/train\n", "rank: expected an evaluation such as evaluate/sft"),
    ],
)
def test_a_ranking_of_what_is_not_there_is_one_line(text: str, complaint: str, tmp_path: Path):
    plans = grid(tmp_path, text)
    with pytest.raises(BadInput, match=re.escape(complaint)):
        load_rank(tmp_path / "grid.yaml", plans)


def test_how_a_step_runs_is_no_part_of_its_key(tmp_path: Path):
    text = """
recipe: {name}
description: One rollout.
seed: 1
date: 2026-01-01
stages:
  source-tasks: {{tasks: {{source: shell, count: 4}}}}
  rollout: {{all: {{from: source-tasks/tasks, teacher: reference{more}}}}}
"""
    plans = {}
    for name, more in (("one", ""), ("two", ", shards: 2"), ("other", ", max-turns: 3")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.format(name=name, more=more))
        plans[name] = load_plan(path)["rollout/all"]
    assert plans["one"].key == plans["two"].key != plans["other"].key
    assert plans["two"].parameters["shards"] == 2
    assert plans["one"].flags == plans["two"].flags


@pytest.mark.parametrize(
    "step",
    [
        "train-sft: {{all: {{model: init-model/m, from: rollout/r{more}}}}}",
        "train-rl: {{all: {{model: init-model/m, from: source-tasks/tasks{more}}}}}",
        "train-rl: {{all: {{model: init-model/m, from: source-tasks/tasks, trainer: skyrl{more}}}}}",
    ],
)
def test_how_often_training_saves_is_a_flag_and_no_part_of_the_key(step: str, tmp_path: Path):
    text = f"""
recipe: {{name}}
description: One training.
seed: 1
date: 2026-01-01
stages:
  source-tasks: {{{{tasks: {{{{source: shell, count: 4}}}}}}}}
  rollout: {{{{r: {{{{from: source-tasks/tasks, teacher: reference}}}}}}}}
  init-model: {{{{m: {{{{pretrained: smollm2}}}}}}}}
  {step}
"""
    plans = {}
    for name, more in (("one", ""), ("two", ", save-steps: 20"), ("other", ", learning-rate: 0.001")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.format(name=name, more=more))
        plans[name] = load_plan(path)[f"{step.partition(':')[0]}/all"]
    assert plans["one"].key == plans["two"].key != plans["other"].key
    assert plans["two"].flags[:2] == ["--save-steps", "20"] and plans["two"].flags[2:] == plans["one"].flags
