from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput
from recipe_core.fetched import check_data, check_fetched, copy_fetched, fetch_folder
from recipe_core.prompts import find_sets

huggingface_hub = pytest.importorskip("huggingface_hub")

FILES = {"config.json": "{}", "sub/data.jsonl": '{"text": "hello"}\n', "weights.bin": "1234"}
PATTERNS = ["*.json", "*.jsonl"]


class Hub:
    """A repository of the hub, and how often its files were asked for."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.reached = True
        self.downloads = 0
        self.ignored: list[str] = []

    def list_repo_files(self, *_: object, **__: object) -> list[str]:
        if not self.reached:
            raise ConnectionError("no route")
        return list(self.files)

    def snapshot_download(self, *_: object, local_dir: Path, ignore_patterns: list[str], **__: object) -> None:
        # As its client: what is there stays there.
        self.downloads += 1
        self.ignored = ignore_patterns
        for name, text in self.files.items():
            path = Path(local_dir, name)
            if path.suffix != ".bin" and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


def fetch(folder: Path) -> bool:
    return fetch_folder(folder, "owner/name", "0" * 40, PATTERNS)


def test_a_listing_names_what_was_fetched_in_order(hub: Hub, tmp_path: Path):
    assert fetch(tmp_path)
    listing = json.loads((tmp_path / "fetched.json").read_text())
    assert list(listing) == ["config.json", "sub/data.jsonl"]
    assert listing["config.json"] == {"bytes": 2, "sha256": file_digest(tmp_path / "config.json")}
    assert check_fetched(tmp_path, "fetch it") == list(listing)


def test_what_is_as_it_was_fetched_is_not_downloaded_again(hub: Hub, tmp_path: Path):
    fetch(tmp_path)
    (tmp_path / ".snakemake_timestamp").touch()
    hub.reached = False
    assert not fetch(tmp_path)
    assert hub.downloads == 1


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_file_that_is_not_as_it_was_fetched_is_refused_then_fetched_again(hub: Hub, tmp_path: Path, text: str | None):
    fetch(tmp_path)
    file = tmp_path / "config.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(BadInput, match=r"config\.json: .*expected .*; run `fetch it` to fetch it again"):
        check_fetched(tmp_path, "fetch it")
    assert fetch(tmp_path)
    assert hub.ignored == ["sub/data.jsonl"]
    assert file.read_text() == "{}"
    assert check_fetched(tmp_path, "fetch it") == ["config.json", "sub/data.jsonl"]


def test_without_the_hub_nothing_is_taken_for_whole_and_nothing_is_lost(hub: Hub, tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    hub.reached = False
    with pytest.raises(BadInput, match="the hub cannot be reached"):
        fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_file_that_did_not_come_leaves_no_listing(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: None)
    with pytest.raises(BadInput, match="run it again"):
        fetch(tmp_path)
    assert not (tmp_path / "fetched.json").exists()


def test_an_edited_listing_is_made_anew(hub: Hub, tmp_path: Path):
    fetch(tmp_path)
    listing = (tmp_path / "fetched.json").read_text()
    for text in ("{", "[]", listing.replace('"sha256": "', '"sha256": "0')):
        (tmp_path / "fetched.json").write_text(text)
        with pytest.raises(BadInput, match="run `fetch it`"):
            check_fetched(tmp_path, "fetch it")
        assert fetch(tmp_path)
        assert (tmp_path / "fetched.json").read_text() == listing


def test_one_more_file_is_refused_by_all(hub: Hub, tmp_path: Path):
    fetch(tmp_path)
    (tmp_path / "sub" / "more.jsonl").symlink_to("nowhere")
    for read in (fetch, lambda folder: check_fetched(folder, "fetch it")):
        with pytest.raises(BadInput, match=r"sub/more\.jsonl: was not fetched, .*delete this file"):
            read(tmp_path)


def test_a_folder_finished_by_the_old_mark_is_fetched_anew(hub: Hub, tmp_path: Path):
    (tmp_path / ".complete").touch()
    assert fetch(tmp_path)
    assert not (tmp_path / ".complete").exists()


def test_a_repository_with_a_listing_of_its_own_is_refused(hub: Hub, tmp_path: Path):
    hub.files["fetched.json"] = "{}"
    with pytest.raises(BadInput, match=r"has a fetched\.json of its own"):
        fetch(tmp_path)


def test_a_copy_has_the_listing_and_is_mended(hub: Hub, tmp_path: Path):
    place, out = tmp_path / "place", tmp_path / "out"
    fetch(place)
    copy_fetched(place, out)
    assert check_fetched(out, "fetch it") == ["config.json", "sub/data.jsonl"]
    (out / "config.json").unlink()
    (out / "config.json").write_text("[]")
    copy_fetched(place, out)
    check_fetched(out, "fetch it")
    assert (place / "config.json").read_text() == "{}"


def test_a_copy_that_was_cut_off_goes_on(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On another file system nothing can be linked."""
    place, out = tmp_path / "place", tmp_path / "out"
    fetch(place)

    def cut_off(_: Path, target: Path) -> None:
        target.write_text("{")
        raise KeyboardInterrupt

    def no_link(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr("os.link", no_link)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", cut_off)
        with pytest.raises(KeyboardInterrupt):
            copy_fetched(place, out)
    copy_fetched(place, out)
    assert check_fetched(out, "fetch it") == ["config.json", "sub/data.jsonl"]
    assert sorted(path.name for path in out.rglob("*")) == ["config.json", "data.jsonl", "fetched.json", "sub"]


def test_a_copy_of_another_commit_has_its_files_alone(hub: Hub, tmp_path: Path):
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "out"
    fetch(old)
    hub.files = {"config.json": "{}", "sub/other.jsonl": "{}"}
    fetch(new)
    copy_fetched(old, out)
    copy_fetched(new, out)
    assert check_fetched(out, "fetch it") == ["config.json", "sub/other.jsonl"]


def test_a_copy_takes_the_place_of_nothing_that_was_not_fetched(hub: Hub, tmp_path: Path):
    place, out = tmp_path / "place", tmp_path / "out"
    fetch(place)
    out.mkdir()
    (out / "config.json").write_text("mine")
    with pytest.raises(BadInput, match=r"config\.json: 4 bytes, expected 2; delete it, or give another --out"):
        copy_fetched(place, out)
    assert (out / "config.json").read_text() == "mine"


def test_data_is_checked_where_it_was_fetched(hub: Hub, tmp_path: Path):
    own, fetched, cached = tmp_path / "own", tmp_path / "aime24", tmp_path / "owner--name@0"
    own.mkdir()
    check_data(own)
    check_data(tmp_path / "nowhere")
    fetch(fetched)
    (found,) = find_sets([fetched])
    assert found.paths == (fetched / "sub" / "data.jsonl",)
    (fetched / "sub" / "data.jsonl").write_text("")
    with pytest.raises(BadInput, match=f"run `source-tasks fetch aime24 --out {fetched}`"):
        find_sets([fetched])
    fetched.rename(cached)
    with pytest.raises(BadInput, match=f"run `source-tasks fetch NAME --out {cached}`"):
        check_data(cached)
