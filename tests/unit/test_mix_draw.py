from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mix.draw import METHODS, choose_sources, draw, equal_shares, take_turns, weighted_shares
from mix.rows import Candidate, Place, gather, rows_held, scan, without_duplicates
from recipe_core.errors import BadInput
from recipe_core.records import TASK_SCHEMA, write_rows

names = st.text("abcdef", min_size=1, max_size=3)


@st.composite
def sources(draw_value):
    chosen = draw_value(st.lists(names, min_size=1, max_size=5, unique=True))
    return {name: [f"{name}-{i}" for i in range(draw_value(st.integers(0, 12)))] for name in chosen}


@given(st.integers(0, 10_000), st.lists(names, min_size=1, unique=True))
def test_equal_shares_add_up_and_differ_by_at_most_one(rows, chosen):
    shares = equal_shares(rows, chosen)
    assert sum(shares.values()) == rows
    assert max(shares.values()) - min(shares.values()) <= 1
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


@given(st.integers(0, 10_000), st.dictionaries(names, st.integers(0, 50), min_size=1).filter(lambda w: any(w.values())))
def test_weighted_shares_add_up_and_stay_within_one_of_the_exact_quota(rows, weights):
    shares = weighted_shares(rows, weights)
    assert sum(shares.values()) == rows
    total = sum(weights.values())
    assert all(abs(shares[name] - rows * weight / total) < 1 for name, weight in weights.items())


@given(
    sources(),
    st.sampled_from([method for method in METHODS if method != "weights"]),
    st.integers(1, 40),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_a_draw_does_not_depend_on_the_order_of_sources_or_rows(tasks, method, rows, seed, random):
    shuffled = {name: random.sample(ids, len(ids)) for name, ids in random.sample(sorted(tasks.items()), len(tasks))}
    assert draw(tasks, method=method, rows=rows, seed=seed) == draw(shuffled, method=method, rows=rows, seed=seed)


@given(sources(), st.sampled_from([method for method in METHODS if method != "weights"]), st.integers(1, 40))
def test_rows_drawn_plus_rows_missing_are_the_rows_wanted(tasks, method, rows):
    drawn = draw(tasks, method=method, rows=rows, seed=0)
    assert len(drawn.picks) + sum(drawn.missing.values()) == rows
    assert len(set(drawn.picks)) == len(drawn.picks)
    assert {pick.task_id for pick in drawn.picks} <= {task_id for ids in tasks.values() for task_id in ids}


@given(sources(), st.integers(1, 10), st.integers(1, 40))
def test_more_rows_keep_what_fewer_rows_drew_from_a_source(tasks, cap, rows):
    few = draw(tasks, method="concatenate", rows=rows, seed=3, cap=cap).picks
    more = draw(tasks, method="concatenate", rows=rows + 5, seed=3, cap=cap).picks
    assert more[: len(few)] == few
    assert all(sum(pick.task_id.startswith(f"{name}-") for pick in more) <= cap for name in tasks)


def test_a_small_source_gives_what_it_has_and_the_rest_is_reported():
    drawn = draw({"a": ["a1"], "b": ["b1", "b2", "b3"]}, method="shares", rows=6, seed=0)
    assert sorted(pick.task_id for pick in drawn.picks) == ["a1", "b1", "b2", "b3"]
    assert drawn.missing == {"a": 2}


def test_replacement_repeats_whole_passes_in_new_orders():
    ids = [f"t{i}" for i in range(6)]
    drawn = draw({"a": ids}, method="shares", rows=15, seed=1, with_replacement=True)
    assert len(drawn.picks) == 15
    assert not drawn.missing
    passes = [[pick.task_id for pick in drawn.picks if pick.copy == copy] for copy in range(3)]
    assert sorted(passes[0]) == sorted(passes[1]) == ids
    assert passes[0] != passes[1]
    assert len(passes[2]) == 3


def test_an_empty_source_is_short_even_with_replacement():
    drawn = draw({"a": [], "b": ["b1"]}, method="shares", rows=4, seed=0, with_replacement=True)
    assert drawn.missing == {"a": 2}
    assert [pick.task_id for pick in drawn.picks] == ["b1", "b1"]


def test_round_robin_passes_over_an_exhausted_source():
    assert take_turns({"b": ["b1", "b2"], "a": ["a1"], "c": []}, 10) == ["b1", "a1", "b2"]


@given(sources(), st.sampled_from(["shares", "weights", "round-robin"]), st.integers(1, 40), st.randoms())
def test_an_order_decides_turns_and_remainders_and_nothing_else(tasks, method, rows, random):
    order = random.sample(sorted(tasks), len(tasks))
    weights = dict.fromkeys(tasks, 1.0) if method == "weights" else None
    drawn = draw(tasks, method=method, rows=rows, seed=0, order=order, weights=weights)
    by_name = draw(tasks, method=method, rows=rows, seed=0, order=sorted(tasks), weights=weights)
    assert by_name == draw(tasks, method=method, rows=rows, seed=0, weights=weights)
    counts = [sum(pick.task_id.startswith(f"{name}-") for pick in drawn.picks) for name in order]
    if all(len(ids) * len(tasks) >= rows + len(tasks) for ids in tasks.values()):
        assert counts == sorted(counts, reverse=True)
        assert max(counts) - min(counts) <= 1
    assert len(drawn.picks) == len(by_name.picks) or method != "round-robin"


def test_round_robin_takes_turns_in_the_order_given():
    tasks = {name: [f"{name}1", f"{name}2"] for name in "abc"}
    picks = draw(tasks, method="round-robin", rows=4, seed=0, order=["c", "a", "b"]).picks
    assert [pick.task_id[0] for pick in picks] == ["c", "a", "b", "c"]


@pytest.mark.parametrize(
    ("order", "top", "taken"),
    [
        (None, None, ["pybugs", "shell"]),
        (["shell", "pybugs"], None, ["shell", "pybugs"]),
        (["shell", "pybugs"], 1, ["shell"]),
        (["shell"], 1, ["shell"]),
        (["shell", "not-built-yet"], 1, ["shell"]),
    ],
)
def test_the_sources_taken_are_the_first_of_the_order(order, top, taken):
    assert choose_sources({"shell", "pybugs"}, order, top) == taken


@pytest.mark.parametrize(
    ("order", "top", "message"),
    [
        (["shell", "pybug"], None, "the order names 'pybug'.*did you mean 'pybugs'"),
        (["shell", "x"], 2, "the order names 'x'.*the sources are pybugs, shell"),
        (["shell"], None, "lacks the source 'pybugs'; add it, or say by --top"),
        (["shell"], 2, "--top 2 is more than the 1 names"),
    ],
)
def test_an_order_that_does_not_fit_the_sources_is_refused(order, top, message):
    with pytest.raises(BadInput, match=message):
        choose_sources({"shell", "pybugs"}, order, top)


def test_the_seed_decides_which_rows():
    ids = {"a": [f"t{i}" for i in range(100)]}
    first, second = (draw(ids, method="shares", rows=10, seed=seed).picks for seed in (1, 2))
    assert set(first) != set(second)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"shell": 1.0, "shel": 1.0}, "did you mean 'shell'"),
        ({"shell": 1.0}, "no weight for the source 'pybugs'"),
        ({"shell": 0.0, "pybugs": 0.0}, "all zero"),
    ],
)
def test_weights_that_do_not_fit_the_sources_are_refused(weights, message):
    with pytest.raises(BadInput, match=message):
        draw({"shell": ["s"], "pybugs": ["p"]}, method="weights", rows=2, seed=0, weights=weights)


candidates = st.builds(
    Candidate,
    st.sampled_from(["t1", "t2", "t3"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["x", "y"]),
    st.builds(Place, st.integers(0, 3), st.integers(0, 50)),
)


@given(st.lists(candidates), st.randoms(use_true_random=False))
def test_which_duplicate_stays_does_not_depend_on_the_order(rows, random):
    kept, others = without_duplicates(rows)
    again, _ = without_duplicates(random.sample(rows, len(rows)))
    assert len(kept) + len(others) == len(rows)
    assert {key: row[:3] for key, row in kept.items()} == {key: row[:3] for key, row in again.items()}


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 299)), max_size=30), st.integers(1, 7))
def test_rows_are_gathered_in_any_order_and_any_number_of_passes(tmp_path_factory, wanted, held):
    paths = [tmp_path_factory.getbasetemp() / f"gather-{file}.parquet" for file in range(2)]
    for file, path in enumerate(paths):
        if not path.exists():
            blank = dict.fromkeys(TASK_SCHEMA.names)
            write_rows(path, TASK_SCHEMA, ({**blank, "task_id": f"{file}/{row}"} for row in range(300)))
    places = [Place(*place) for place in wanted]
    assert [row["task_id"] for row in gather(paths, places, held)] == [f"{file}/{row}" for file, row in places]
    assert rows_held(paths, max_bytes=1) == 1


def test_a_column_of_another_tool_tells_duplicates_apart(tmp_path):
    schema = TASK_SCHEMA.append(pa.field("score", pa.float64()))
    row = {
        "task_id": "a",
        "path": "a",
        "source": "s",
        "instruction": "x",
        "licence": "MIT",
        "origin": "o",
        "meta": "{}",
    }
    kept = []
    for name, scores in (("one", (1.0, 2.0)), ("two", (2.0, 1.0))):
        write_rows(tmp_path / f"{name}.parquet", schema, [{**row, "score": score} for score in scores])
        found, _ = without_duplicates(scan([tmp_path / f"{name}.parquet"]))
        kept.append(scores[found["a"].place.row])
    assert kept[0] == kept[1]
