from __future__ import annotations

from pathlib import Path

from recipe_core.checkpoints import last_checkpoint


def checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").touch()
    if whole:
        (path / "trainer_state.json").write_text("{}")
    return path


def test_the_newest_whole_checkpoint_is_taken_and_cut_off_ones_removed(tmp_path: Path):
    checkpoint(tmp_path / "c", 90)
    newest = checkpoint(tmp_path / "c", 100)
    cut_off = checkpoint(tmp_path / "c", 200, whole=False)
    assert last_checkpoint(tmp_path / "c") == newest
    assert not cut_off.exists()


def test_without_a_whole_checkpoint_training_begins_again(tmp_path: Path):
    checkpoint(tmp_path / "c", 10, whole=False)
    assert last_checkpoint(tmp_path / "c") is None
    assert not (tmp_path / "c").exists()
