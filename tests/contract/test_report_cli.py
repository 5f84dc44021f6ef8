"""The command line of `report`."""

from __future__ import annotations

import json
import re

import pytest

from recipe_core.artifact import file_digest, open_artifact

STAGE_KEYS = {"stage", "key", "digest", "tier", "rows_in", "rows_out", "dropped", "seconds"}
SCORE_KEYS = {"model", "source", "n_tasks", "attempts", "pass_at_1", "ci95", "infra_errors"}


def test_help_has_an_example(tool):
    shown = tool("report", "--help")
    assert shown.returncode == 0
    assert "    report --artifact " in shown.stdout
    assert "    report show " in tool("report", "show", "--help").stdout


def test_summary_holds_what_was_promised_and_no_more(tool, report_flags, finished_recipe, tmp_path):
    done = tool("report", *report_flags, "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert set(summary) == {"stages", "scores", "deltas"}
    assert all(set(stage) == STAGE_KEYS for stage in summary["stages"])
    assert [stage["stage"] for stage in summary["stages"]] == [name.split("/")[0] for name in finished_recipe]
    digests = [open_artifact(path).digest for path in finished_recipe.values()]
    assert [stage["digest"] for stage in summary["stages"]] == digests
    assert summary["stages"][1]["dropped"] == {"duplicate": 1, "not-drawn": 9}
    assert all(stage["seconds"] == 12.5 for stage in summary["stages"])
    assert all(set(score) == SCORE_KEYS for score in summary["scores"])
    sources = ("all", "pybugs", "shell")
    assert {(score["model"], score["source"]) for score in summary["scores"]} == {
        (model, source) for model in ("base", "sft", "rl") for source in sources
    }
    assert [(delta["from"], delta["to"]) for delta in summary["deltas"]] == [
        ("base", "sft"),
        ("sft", "rl"),
        ("base", "rl"),
    ]
    assert all(set(delta) == {"from", "to", "diff", "ci95"} for delta in summary["deltas"])
    scores = {(score["model"], score["source"]): score for score in summary["scores"]}
    assert (scores["base", "all"]["pass_at_1"], scores["base", "all"]["infra_errors"]) == (0.0, 1)
    low, high = summary["deltas"][0]["ci95"]
    assert 0 < low <= summary["deltas"][0]["diff"] <= high


def test_tables_are_printed_and_shown_again(tool, report_flags, tmp_path):
    out = tmp_path / "report"
    wide = {"COLUMNS": "120"}
    first = tool("report", *report_flags, "--out", out, env=wide)
    shown = tool("report", "show", out, env=wide)
    assert shown.returncode == 0, shown.stderr
    assert first.stdout == shown.stdout
    assert "base → sft" in shown.stdout
    assert "not-drawn 9" in shown.stdout
    assert str(out / "index.html") in shown.stdout.replace("\n", "")
    assert tool("report", *report_flags, "--out", tmp_path / "quiet", "--quiet").stdout == ""


def test_two_builds_are_the_same_and_a_rerun_is_a_no_op(tool, report_flags, tmp_path):
    for name in "ab":
        done = tool(
            "report", *report_flags, "--out", tmp_path / name, "--quiet", env={"PYTHONHASHSEED": str(ord(name))}
        )
        assert done.returncode == 0, done.stderr
    for name in ("summary.json", "index.html", "manifest.json"):
        assert file_digest(tmp_path / "a" / name) == file_digest(tmp_path / "b" / name)
    again = tool("report", *report_flags, "--out", tmp_path / "a", "--quiet")
    assert "up to date" in again.stderr


def test_the_page_refers_to_nothing_outside_and_escapes_everything(tool, report_flags, tmp_path):
    assert tool("report", *report_flags, "--out", tmp_path / "report", "--quiet").returncode == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert "url(" not in page
    assert "@import" not in page
    assert page.count("</script>") == 1
    assert "<img" not in page
    assert "&lt;/script&gt;" in page
    assert len(re.findall(r'<article class="trajectory"', page)) >= 20


def test_fewer_trajectories_on_demand(tool, report_flags, tmp_path):
    flags = ("--max-trajectories", 5, "--quiet", "--out", tmp_path / "report")
    assert tool("report", *report_flags, *flags).returncode == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert len(re.findall(r'<article class="trajectory"', page)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--artifact", "mix"], "'mix' is not STAGE/STEP=DIR"),
        (["--artifact", "mix/other=nowhere"], "nowhere: no artifact here"),
        (["--artifact", "rollout/other={mix/train}"], "a mix artifact, given as rollout/other"),
        (["--artifact", "mix/train={mix/train}"], "mix/train is given more than once"),
        (["--artifact", "evaluate/again={evaluate/rl}"], "both evaluate the model 'rl'"),
        (["--max-trajectories", "0"], "'0' is not a whole number"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_flags_are_one_line(change, message, tool, finished_recipe, tmp_path):
    flags = [word for name, path in finished_recipe.items() for word in ("--artifact", f"{name}={path}")]
    words = [word.format_map({name: str(path) for name, path in finished_recipe.items()}) for word in change]
    done = tool("report", *flags, *words, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_truncated_trials_are_one_line(tool, report_flags, finished_recipe, tmp_path):
    trials = finished_recipe["evaluate/sft"] / "trials.parquet"
    trials.write_bytes(trials.read_bytes()[:-20])
    done = tool("report", *report_flags, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(trials) in done.stderr


def test_showing_what_is_no_report_is_one_line(tool, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = tool("report", "show", folder)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
