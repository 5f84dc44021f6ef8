from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipe_core.artifact import value_digest
from recipe_core.errors import BadInput
from teacher import store as store_module
from teacher.request import Reply
from teacher.store import Store


def key(index: int) -> str:
    return value_digest(index)


def fill(folder: Path, *indices: int, text: str = "reply") -> None:
    with Store(folder) as store:
        for index in indices:
            store.put(key(index), Reply(f"{text} {index}"))


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def test_replies_are_there_again_after_reopening(tmp_path):
    reply = Reply("sórted", first_token=(("yes", -0.5),), embedding=(0.25, -1.0))
    with Store(tmp_path / "s") as store:
        assert store.get(key(0)) is None
        store.put(key(0), reply)
        store.put(key(1), Reply(refused="too long"))
        assert store.get(key(0)) == reply
        assert not store.was_there(key(0))
        assert store.answers == 1
    with Store(tmp_path / "s") as store:
        assert len(store) == 2
        assert key(0) in store and key(2) not in store
        assert store.get(key(0)) == reply
        assert store.was_there(key(0))
        assert store.answers == 1


def test_nothing_is_written_where_nothing_is_kept(tmp_path):
    with Store(tmp_path / "s") as store:
        assert len(store) == 0
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_was_never_answered(tmp_path, cut):
    fill(tmp_path / "s", 0, 1, 2)
    (path,) = segments(tmp_path / "s")
    path.write_bytes(path.read_bytes()[:-cut])
    with Store(tmp_path / "s") as store:
        assert [key(index) in store for index in range(3)] == [True, True, False]
        store.put(key(2), Reply("again"))
    with Store(tmp_path / "s") as store:
        assert store.get(key(1)) == Reply("reply 1")
        assert store.get(key(2)) == Reply("again")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 64,
        b"\xff\xfe\n",
        b"null\n",
        b"[]\n",
        b'{"key": "00"}\n',
        b'{"key": 3, "reply": {}}\n',
        b'{"key": "xyz", "reply": {}}\n',
        b'{"key": "00", "reply": {"nonsense": 1}}\n',
        b'{"key": "00", "reply": 5}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_garbage_among_the_lines_is_passed_over(tmp_path, garbage):
    fill(tmp_path / "s", 0, 1)
    (path,) = segments(tmp_path / "s")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + garbage.rstrip(b"\n") + b"\n" + second + garbage)
    with Store(tmp_path / "s") as store:
        assert len(store) == 2
        assert store.get(key(0)) == Reply("reply 0")
        assert store.get(key(1)) == Reply("reply 1")


def test_two_writers_do_not_disturb_each_other(tmp_path):
    with Store(tmp_path / "s") as one, Store(tmp_path / "s") as two:
        for index in range(50):
            one.put(key(index), Reply(f"one {index}"))
            two.put(key(index + 25), Reply(f"two {index + 25}"))
        assert one.get(key(30)) == Reply("one 30")
        assert two.get(key(30)) == Reply("two 30")
    assert len(segments(tmp_path / "s")) == 2
    with Store(tmp_path / "s") as both, Store(tmp_path / "s") as again:
        assert len(both) == 75
        assert [both.get(key(index)) for index in range(75)] == [again.get(key(index)) for index in range(75)]


def test_replies_outlive_a_kill(tmp_path):
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom recipe_core.artifact import value_digest\n"
        "from teacher.request import Reply\nfrom teacher.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for index in range(9): store.put(value_digest(index), Reply(f'reply {index}'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")])
    assert done.returncode == -9
    with Store(tmp_path / "s") as store:
        assert [store.get(key(index)) for index in range(9)] == [Reply(f"reply {index}") for index in range(9)]


def test_a_full_disk_loses_one_reply_and_no_other(tmp_path, monkeypatch):
    real = os.write
    left = [1]

    def full_once(descriptor: int, data: bytes) -> int:
        if left:
            left.pop()
            real(descriptor, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with Store(tmp_path / "s") as store:
        monkeypatch.setattr(store_module.os, "write", full_once)
        with pytest.raises(OSError, match="No space"):
            store.put(key(0), Reply("lost"))
        store.put(key(1), Reply("kept"))
        assert store.get(key(0)) is None
        assert store.get(key(1)) == Reply("kept")
    with Store(tmp_path / "s") as store:
        assert store.get(key(1)) == Reply("kept")
        assert len(store) == 1


def test_more_segments_than_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_MOST_READERS", 3)
    for index in range(10):
        fill(tmp_path / "s", index)
    with Store(tmp_path / "s") as store:
        for _ in range(2):
            assert [store.get(key(index)) for index in range(10)] == [Reply(f"reply {index}") for index in range(10)]


def test_a_reply_that_is_taken_away_under_way_is_one_line(tmp_path):
    fill(tmp_path / "s", 0)
    with Store(tmp_path / "s") as store:
        (path,) = segments(tmp_path / "s")
        path.write_bytes(b"")
        with pytest.raises(BadInput, match="no longer holds the reply"):
            store.get(key(0))


def test_a_file_in_the_folders_place_is_one_line(tmp_path):
    (tmp_path / "s").write_text("x")
    with pytest.raises(BadInput, match="give another --cache"):
        Store(tmp_path / "s")


def test_lines_are_json_a_person_can_read(tmp_path):
    fill(tmp_path / "s", 0)
    (path,) = segments(tmp_path / "s")
    value = json.loads(path.read_text())
    assert value["key"] == key(0)
    assert value["reply"]["text"] == "reply 0"
