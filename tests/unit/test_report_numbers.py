from __future__ import annotations

import json
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_core.errors import BadInput
from report.curves import Curve, draw, draw_interval, read_metrics, ticks
from report.page import headlines, keys, percent, points, reading, render
from report.trajectories import Candidate, Place, outcome, spread

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(numbers, numbers)
def test_ticks_cover_the_range_evenly_and_are_few(first, second):
    low, high = min(first, second), max(first, second)
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    gaps = [after - before for before, after in pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps), rel=0.01)
    assert found[0] <= low + 0.01 * gaps[0]
    assert high - 0.01 * gaps[0] <= found[-1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(-100, 100, width=16)), min_size=1, max_size=80))
def test_a_curve_is_well_formed_and_stays_inside_its_frame(values):
    svg = ElementTree.fromstring(draw(Curve("title", "a <label> & more", sorted((float(x), y) for x, y in values))))
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    (line,) = [child for child in svg if child.tag == "polyline"]
    for point in line.attrib["points"].split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_an_interval_is_drawn_between_its_ends():
    svg = ElementTree.fromstring(draw_interval(0.5, [0.25, 1.0], "sft"))
    (whisker,) = [child for child in svg if "whisker" in child.attrib["class"]]
    assert (whisker.attrib["x1"], whisker.attrib["x2"]) == ("52.0", "196.0")


def test_metrics_are_read_by_name(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "loss": 2.0, "note": "x"}, {"step": 2, "loss": 1.5, "reward": 0.5, "grad": float("nan")}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_metrics(path) == {"loss": [(1.0, 2.0), (2.0, 1.5)], "reward": [(2.0, 0.5)]}


@pytest.mark.parametrize("line", ["not json", "[]", "{}", '{"step": "x"}'])
def test_a_broken_metrics_line_is_named(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n' + line)
    with pytest.raises(BadInput, match="line 2"):
        read_metrics(path)


candidates = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 2**40)), max_size=40).map(
    lambda rows: [Candidate(Place(0, i), (a, b, ""), rank) for i, (a, b, rank) in enumerate(rows)]
)


@given(candidates, st.integers(1, 30), st.randoms(use_true_random=False))
def test_trajectories_are_spread_over_groups_whatever_their_order(rows, limit, random):
    chosen = spread(rows, limit)
    assert chosen == spread(random.sample(rows, len(rows)), limit)
    assert len(chosen) == min(limit, len(rows))
    groups = {row.place: row.group for row in rows}
    sizes = {group: sum(row.group == group for row in rows) for group in set(groups.values())}
    taken = {group: sum(groups[place] == group for place in chosen) for group in sizes}
    for group, size in sizes.items():
        assert taken[group] == size or taken[group] >= max(taken.values()) - 1


def test_outcomes_and_words():
    assert outcome(None, "infrastructure") == "infrastructure error"
    assert outcome(None, "timeout") == outcome(0.5, None) == "failed"
    assert (percent(1.0), percent(None)) == ("100.0\u202f%", "–")
    assert (points(0.0), points(-0.0004), points(0.25)) == ("0.0", "0.0", "+25.0")
    assert (keys("ls\n"), keys("\n"), keys(""), keys("C-c")) == ("ls", "(Enter)", "(waits)", "C-c")


@pytest.mark.parametrize(
    ("ci95", "start"), [([0.1, 0.2], "better"), ([-0.2, -0.1], "worse"), ([0.0, 0.2], "not told"), (None, "no task")]
)
def test_a_difference_is_read_by_its_interval(ci95, start):
    assert reading({"ci95": ci95}).startswith(start)


def test_a_recipe_without_scores_or_trajectories_still_has_a_page():
    page = render({"stages": [], "scores": [], "deltas": []}, [], [], [], title="<b>", trajectory_total=0)
    assert headlines([], []) == []
    assert "&lt;b&gt;" in page
    assert "holds no evaluation" in page
    assert "holds no trajectories" in page
