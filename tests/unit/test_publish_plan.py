from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from publish.hub import check_repo, check_token
from publish.plan import (
    Pushed,
    Remote,
    check_splits,
    difference,
    git_blob,
    head,
    make_plan,
    model_card,
    stale_files,
)
from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.errors import BadInput

TRAIN = {"splits": {"train": 3}, "steps": [{"step": "source-tasks/a", "split": "train"}, {"step": "mix/a"}]}


def exported(out: Path, lineage: object) -> Path:
    with ArtifactWriter(out, stage="export-data", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        writer.path("README.md").write_text("---\nlicense: mit\n---\n# x\n")
        writer.path("lineage.json").write_text(json.dumps(lineage))
        writer.path("data/train-00000-of-00001.jsonl").write_text("{}\n")
        writer.count(rows_in=1, rows_out=1)
    return out


def test_a_plan_has_every_file_and_says_which_artifact(tmp_path: Path):
    artifact = open_artifact(exported(tmp_path / "a", TRAIN))
    plan = make_plan(artifact, "dataset", "me/x", None)
    assert [file.path for file in plan.files] == [
        "README.md",
        "data/train-00000-of-00001.jsonl",
        "lineage.json",
        "manifest.json",
    ]
    assert {file.sha256 for file in plan.files if file.path == "manifest.json"} == {artifact.digest}
    assert artifact.digest[:16] in plan.summary and artifact.digest in plan.description
    assert make_plan(artifact, "dataset", "me/x", "Better").summary.startswith("Better (artifact ")
    assert head(plan.card) == "license: mit"


@pytest.mark.parametrize(
    ("lineage", "said"),
    [
        ({"splits": {"test": 2, "train": 1}}, "2 rows are of the split test"),
        ({"splits": {"test; train": 5}}, "5 rows are of the split test"),
        ({"splits": {"unknown": 2}, "steps": [{"step": "tasks/a", "split": "test"}]}, "made from tasks/a"),
    ],
)
def test_held_out_rows_are_refused(lineage: dict, said: str, tmp_path: Path):
    with pytest.raises(BadInput, match=said):
        check_splits(lineage, tmp_path)
    with pytest.raises(BadInput, match="held out for evaluation"):
        make_plan(open_artifact(exported(tmp_path / "a", lineage)), "dataset", "me/x", None)


def test_rows_of_training_tasks_or_of_nothing_known_are_not_refused(tmp_path: Path):
    check_splits(TRAIN, tmp_path)
    check_splits({"splits": {"all": 4}, "steps": [{"step": "source-tasks/a", "split": "all"}]}, tmp_path)
    check_splits({"splits": {"unknown": 4}, "steps": [{"step": "mix/a"}]}, tmp_path)


def test_a_lineage_that_is_none_is_one_line(tmp_path: Path):
    with pytest.raises(BadInput, match=r"lineage\.json: not a lineage"):
        make_plan(open_artifact(exported(tmp_path / "a", ["x"])), "dataset", "me/x", None)


def pushed(path: str, content: bytes = b"x") -> Pushed:
    return Pushed(path, hashlib.sha256(content).hexdigest(), len(content), content)


def test_only_data_files_of_earlier_publications_are_stale():
    own = [pushed("data/train-00000-of-00001.parquet"), pushed("manifest.json")]
    remote = [".gitattributes", "manifest.json", "notes.md", "data/train-00000-of-00002.parquet", own[0].path]
    assert stale_files("dataset", remote, own, "me/x") == ["data/train-00000-of-00002.parquet"]
    remote = ["manifest.json", "model-00001-of-00002.safetensors", "model.safetensors", "sub/other.safetensors"]
    assert stale_files("model", remote, [pushed("model.safetensors")], "me/x") == ["model-00001-of-00002.safetensors"]
    assert stale_files("dataset", [".gitattributes", "README.md", "LICENSE"], own, "me/x") == []


def test_a_repository_of_somebody_elses_files_is_refused():
    with pytest.raises(BadInput, match=r"did not put there, such as data/train\.csv"):
        stale_files("dataset", [".gitattributes", "data/train.csv"], [pushed("README.md")], "me/x")


def test_a_file_on_the_hub_is_the_same_by_either_digest():
    file = pushed("a", b"abc")
    assert difference(file, Remote(file.sha256, "")) is None
    assert difference(file, Remote(None, git_blob(b"abc"))) is None
    assert difference(file, Remote("0" * 64, git_blob(b"abc"))) == f"has SHA-256 {'0' * 16}…"
    assert difference(file, Remote(None, git_blob(b"abd"))) is not None
    assert difference(file, None) == "is missing"


def test_a_models_card_names_its_descent():
    manifest = {
        "stage": "train-sft",
        "seed": 5,
        "tier": "T1",
        "parameters": {"a": 1},
        "inputs": {"trajectories": ["11" * 32, "22" * 32], "model": "33" * 32},
    }
    text = model_card(manifest, "ab" * 32, "mine")
    assert yaml.safe_load(head(text))["library_name"] == "transformers"
    assert all(part in text for part in ("# mine", "ab" * 32, "11" * 32, "22" * 32, "33" * 32, '"a": 1'))


@pytest.mark.parametrize("token", [None, "", "  ", "hf_a b", "hf_\x00", "hf_é", "hf_a\nhf_b"])
def test_what_is_no_token_is_refused_unseen(token: str | None):
    with pytest.raises(BadInput, match="HF_TOKEN") as caught:
        check_token(token, "HF_TOKEN")
    assert "hf_" not in str(caught.value)


def test_blanks_around_a_token_are_not_part_of_it():
    assert check_token(" hf_abc\n", "HF_TOKEN") == "hf_abc"


@pytest.mark.parametrize("repo", ["demo", "a/b/c", "me/-x", "me/a b", "/x", "me/", "me/a..b", "me/x.git", ""])
def test_what_is_no_repository_is_refused(repo: str):
    with pytest.raises(BadInput, match="give one such as my-name/my-data"):
        check_repo(repo)


def test_a_repository_is_owner_and_name():
    assert check_repo("my-name/my_data.v2") == "my-name/my_data.v2"
