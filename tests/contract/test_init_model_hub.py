"""Models of the hub, from a cache made by hand: the hub itself is not asked."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from recipe_core.artifact import canonical_json, file_entry, open_artifact
from recipe_core.fetched import LISTING

REPO, REVISION = "owner/small", "0123456789abcdef0123456789abcdef01234567"
HUB = ("--hub", REPO, "--revision", REVISION)


def write_listing(folder: Path) -> None:
    """Say that what lies in a folder was fetched."""
    (folder / LISTING).write_text(canonical_json({path.name: file_entry(path) for path in folder.iterdir()}))


def put_model(cache: Path, **tensors: list[int]) -> Path:
    """Put a model whose safetensors file holds float32 zeros of the given shapes where a fetch would."""
    folder = cache / "hub" / f"owner--small@{REVISION}"
    folder.mkdir(parents=True)
    header, data = {}, b""
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes(size)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text("{}")
    write_listing(folder)
    return folder


def test_a_model_of_the_hub_becomes_an_artifact_of_the_same_files(tool, tmp_path: Path):
    folder = put_model(tmp_path, embed=[8, 4], head=[8])
    done = tool("init-model", *HUB, "--cache", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"parameters": 40}
    artifact = open_artifact(tmp_path / "out")
    assert set(artifact.manifest["files"]) == {"config.json", "model.safetensors"}
    assert artifact.manifest["inputs"] == {"commit": REVISION}
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_what_was_not_fetched_names_the_command(tool, tmp_path: Path):
    done = tool("init-model", *HUB, "--cache", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"run `init-model fetch --hub {REPO} --revision {REVISION} --cache {tmp_path}`" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hub", REPO), "--hub and --revision belong together"),
        (("--hub", REPO, "--revision", "main"), "'main' is not a commit of 40 hexadecimal digits"),
        (("--hub", "small", "--revision", REVISION), "'small' is not OWNER/NAME"),
        ((*HUB, "--layers", "4"), "--layers does not go with a pretrained model"),
    ],
)
def test_a_model_that_is_not_pinned_is_refused(words, said: str, tool, tmp_path: Path):
    done = tool("init-model", *words, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_truncated_weight_file_is_named(tool, tmp_path: Path):
    weights = put_model(tmp_path, embed=[8, 4]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    (weights.parent / LISTING).unlink()
    write_listing(weights.parent)
    done = tool("init-model", *HUB, "--cache", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "model.safetensors: truncated or not a safetensors file" in done.stderr
    assert not (tmp_path / "out").exists()


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def edit(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")


@pytest.mark.parametrize(
    ("spoil", "file", "said"),
    [
        (cut, "model.safetensors", " bytes, expected "),
        (edit, "model.safetensors", "its SHA-256 is "),
        (lambda folder: (folder / "config.json").unlink(), "config.json", "missing, expected 2 bytes"),
        (lambda folder: (folder / "vocab.json").touch(), "vocab.json", "was not fetched"),
        (lambda folder: (folder / LISTING).unlink(), LISTING, "missing, or no list"),
        (lambda folder: (folder / LISTING).write_text("{"), LISTING, "missing, or no list"),
    ],
)
def test_a_model_that_is_not_as_it_was_fetched_is_one_line(spoil, file: str, said: str, tool, tmp_path: Path):
    folder = put_model(tmp_path, embed=[8, 4])
    spoil(folder)
    done = tool("init-model", *HUB, "--cache", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"{folder / file}: " in done.stderr
    assert said in done.stderr
    remedy = "delete this file" if file == "vocab.json" else f"run `init-model fetch --hub {REPO} --revision {REVISION}"
    assert remedy in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_as_it_was_fetched_needs_no_hub(tool, tmp_path: Path):
    folder = put_model(tmp_path, embed=[8, 4])
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = tool("init-model", "fetch", *HUB, "--cache", tmp_path, env=nowhere)
    assert (done.returncode, done.stdout) == (0, f"{REPO}: in the cache ({folder})\n"), done.stderr
    cut(folder)
    done = tool("init-model", "fetch", *HUB, "--cache", tmp_path, env=nowhere)
    assert done.returncode == 2
    assert "the hub cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1
