"""`source-tasks sources`, `pin` and `fetch`, and builds without a sandbox; the hub is a small server of the test."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recipe_core.artifact import open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows
from source_tasks import hub, registry
from source_tasks.registry import DATASETS, REGISTRY

pytestmark = pytest.mark.full

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"data/train-00000-of-00001.parquet": b"PAR1", "data/test-00000-of-00001.parquet": b"secret", "README.md": b"#"}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as its client asks for: one data set at one commit."""

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        headers = {}
        if path == "/api/datasets/SWE-bench/SWE-smith":
            content = json.dumps({"_id": "1", "id": "SWE-bench/SWE-smith", "sha": COMMIT, "tags": []}).encode()
        elif path == f"/api/datasets/SWE-bench/SWE-smith/tree/{COMMIT}":
            entries = FILES.items()
            listed = [{"type": "file", "path": name, "size": len(data), "oid": "a" * 40} for name, data in entries]
            content = json.dumps(listed).encode()
        elif (name := path.removeprefix(f"/datasets/SWE-bench/SWE-smith/resolve/{COMMIT}/")) in FILES:
            content = FILES[name]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment in which the server is the hub."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{running.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        running.shutdown()


def test_pin_writes_the_lock_and_fetch_brings_the_train_files_once(tool, tmp_path: Path, server) -> None:
    lock, cache = tmp_path / "lock.json", tmp_path / "cache"
    done = tool("source-tasks", "pin", "swe-smith", "--lock", lock, env=server)
    assert (done.returncode, done.stdout) == (0, f"swe-smith {COMMIT}: pinned in {lock}\n")
    assert json.loads(lock.read_text()) == {"swe-smith": COMMIT}

    fetch = ("source-tasks", "fetch", "swe-smith", "--lock", lock, "--cache", cache)
    place = cache / "hub-datasets" / f"SWE-bench--SWE-smith@{COMMIT}"
    done = tool(*fetch, env=server)
    assert (done.returncode, done.stdout) == (0, f"swe-smith {COMMIT}: fetched ({place})\n"), done.stderr
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert files == {"data/train-00000-of-00001.parquet", "README.md", "fetched.json"}
    again = tool(*fetch, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert (again.returncode, again.stdout) == (0, f"swe-smith {COMMIT}: in the cache ({place})\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fetch", "swe-smith"), "swe-smith is not pinned yet; run `source-tasks pin swe-smith`"),
        (("fetch", "superuser"), "is no data set of the hub; obtain it (archive:stackexchange/superuser.com.7z)"),
        (("fetch", "swe-smit"), "no source and no data set 'swe-smit'; did you mean 'swe-smith'?"),
        (("pin", "shell"), "shell is no data set of the hub"),
        (("pin", "swe-smith"), "SWE-bench/SWE-smith: the hub cannot be reached"),
        (("pin",), "the following arguments are required: NAME"),
    ],
)
def test_what_cannot_be_pinned_or_fetched_is_one_line(tool, tmp_path: Path, words, message: str) -> None:
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    cache = ("--cache", tmp_path / "cache") if words[0] == "fetch" else ()
    done = tool("source-tasks", *words, "--lock", tmp_path / "lock.json", *cache, env=offline)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_that_the_hub_does_not_have_is_one_line(tool, tmp_path: Path, server) -> None:
    done = tool("source-tasks", "pin", "r2egym", "--lock", tmp_path / "lock.json", env=server)
    assert done.returncode == 2
    assert "R2E-Gym/R2E-Gym-Subset: the hub does not give it (" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "lock.json").exists()


@pytest.mark.parametrize("content", ["[]", "{", '{"swe-smith": "main"}', '{"swe-smith": null}'])
def test_a_lock_that_pins_nothing_real_is_one_line(tool, tmp_path: Path, content: str) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text(content)
    done = tool("source-tasks", "sources", "--lock", lock)
    assert done.returncode == 2
    assert f"{lock}: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_sources_are_listed_for_people_and_for_programs(tool, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps({"swe-smith": COMMIT}))
    done = tool("source-tasks", "sources", "--json", "--lock", lock)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [*REGISTRY, *DATASETS]
    keys = {"name", "origin", "revision", "licence", "rows", "obtained", "network", "given"}
    assert {frozenset(row) for row in rows.values()} == {frozenset(keys)}
    assert rows["swe-smith"]["revision"] == COMMIT
    assert (rows["r2egym"]["revision"], rows["shell"]["given"], rows["pybugs"]["network"]) == (None, None, True)
    done = tool("source-tasks", "sources", "--lock", lock)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(lines) == {"source", *REGISTRY, *DATASETS}
    assert COMMIT[:8] in lines["swe-smith"]
    assert "not pinned yet" in lines["r2egym"]


def test_the_registry_invents_no_revision_and_no_address() -> None:
    for dataset in DATASETS.values():
        assert "://" not in dataset.origin
    for entry in REGISTRY.values():
        assert "://" not in entry.origin
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}", entry.revision)
    assert set(hub.read_lock(hub.lock_path())) <= {
        name for name, entry in {**REGISTRY, **DATASETS}.items() if hub.repository(entry.origin)
    }
    assert registry.revision(REGISTRY["swe-smith"], {}) is None


def build(tool: Any, out: Path, source: str, count: int, *words: object) -> Any:
    flags = ("--source", source, "--split", "train", "--count", count, "--seed", 1, "--out", out)
    return tool("source-tasks", *flags, *words)


def test_questions_are_built_without_a_sandbox(tool, tmp_path: Path) -> None:
    done = tool(
        *("source-tasks", "--source", "quantities", "--split", "test", "--count", 170, "--out", tmp_path / "out"),
        env={"SANDBOX_BACKEND": "none"},
    )
    assert done.returncode == 0, done.stderr
    manifest = open_artifact(tmp_path / "out").manifest
    assert (manifest["rows_out"], manifest["tier"]) == (170, "T0")
    rows = list(read_rows(tmp_path / "out" / "tasks.parquet", TASK_SCHEMA.names))
    assert {row["task_binary"] for row in rows} == {None}
    assert len({row["task_id"] for row in rows}) == len({row["path"] for row in rows}) == 170
    metas = [json.loads(row["meta"]) for row in rows]
    assert all((meta["answer"] is None) == (meta["domain"] == "code") for meta in metas)


def test_given_questions_pin_the_artifact_and_order_does_not_matter(tool, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    rows = [{"question": f"What is {n} squared?", "answer": n * n, "domain": "math"} for n in range(60)]
    rows += [rows[0], {"question": None}, {"question": "Which?", "domain": "trivia"}]
    manifests = []
    for name, written in (("one", rows), ("two", rows[::-1])):
        path.write_text("".join(f"{json.dumps(row)}\n" for row in written))
        assert build(tool, tmp_path / name, "questions", 20, "--input", path).returncode == 0
        manifests.append(open_artifact(tmp_path / name).manifest)
    assert manifests[0]["files"] == manifests[1]["files"]
    assert manifests[0]["inputs"]["input"] != manifests[1]["inputs"]["input"]
    assert str(tmp_path) not in json.dumps(manifests[0]["parameters"])


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        (
            "issue-tasks",
            '{"issue": "x", "split": "test"}',
            "q.jsonl line 1: from a benchmark's test split (split: test)",
        ),
        ("swe-smith", '{"instance_id": "x"}', "q.jsonl line 1: no key 'patch'"),
        ("superuser", "<users />", "element 'users', expected <posts> with <row>s"),
        ("questions", '{"question": "x"}', "source questions has only "),
        (
            "code-contests",
            '{"description": null, "solutions": null, "public_tests": null}',
            "most of them since: a cell",
        ),
    ],
)
def test_an_input_that_gives_too_little_is_one_line_and_nothing_is_written(
    tool, tmp_path: Path, source: str, content: str, message: str
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f"{content}\n")
    # Which split the one row is in is a matter of its hash.
    dones = [
        tool(
            "source-tasks", "--source", source, "--split", split, "--count", 2, "--input", path, "--out", tmp_path / "o"
        )
        for split in ("train", "test")
    ]
    assert {done.returncode for done in dones} == {2}
    assert any(message in done.stderr.splitlines()[-1] for done in dones)
    assert not any("Traceback" in done.stderr for done in dones)
    assert not (tmp_path / "o").exists()


def test_a_fetched_data_set_is_put_where_it_is_asked_for(tool, tmp_path: Path, server) -> None:
    lock, cache, out = tmp_path / "lock.json", tmp_path / "cache", tmp_path / "data" / "swe-smith"
    lock.write_text(json.dumps({"swe-smith": COMMIT}))
    words = ("source-tasks", "fetch", "swe-smith", "--lock", lock, "--cache", cache, "--out", out)
    done = tool(*words, env=server)
    assert (done.returncode, done.stdout) == (0, f"swe-smith {COMMIT}: fetched ({out})\n"), done.stderr
    assert (out / "data" / "train-00000-of-00001.parquet").read_bytes() == b"PAR1"
    assert (out / "fetched.json").read_bytes() == (
        cache / "hub-datasets" / f"SWE-bench--SWE-smith@{COMMIT}" / "fetched.json"
    ).read_bytes()
    out.rename(tmp_path / "moved")
    out.write_text("a file")
    done = tool(*words, env=server)
    assert done.returncode == 2
    assert done.stderr == f"source-tasks fetch: error: --out {out}: a file is in the folder's place; give another\n"


def test_a_data_set_that_was_spoiled_is_refused_and_fetched_again(tool, tmp_path: Path, server) -> None:
    lock, cache, out = tmp_path / "lock.json", tmp_path / "cache", tmp_path / "data" / "swe-smith"
    lock.write_text(json.dumps({"swe-smith": COMMIT}))
    fetch = ("source-tasks", "fetch", "swe-smith", "--lock", lock, "--cache", cache, "--out", out)
    build = ("source-tasks", "--source", "swe-smith", "--split", "train", "--count", 1, "--input", out)
    assert tool(*fetch, env=server).returncode == 0
    # What Snakemake leaves there.
    (out / ".snakemake_timestamp").touch()
    file = out / "data" / "train-00000-of-00001.parquet"
    again = f"run `source-tasks fetch swe-smith --out {out}` to fetch it again\n"
    # Written to, a link spoils the cache too; replaced, it does not.
    for place, content, said in (
        (file, b"PAR", "3 bytes, expected 4"),
        (file, b"PAR2", "its SHA-256 is "),
        (file, None, "missing, expected 4 bytes"),
    ):
        place.unlink() if content is None else place.write_bytes(content)
        done = tool(*build, "--out", tmp_path / "tasks")
        assert done.returncode == 2
        assert done.stderr.startswith(f"source-tasks: error: {place}: {said}")
        assert done.stderr.endswith(again)
        assert len(done.stderr.splitlines()) == 1
        done = tool(*fetch, env=server)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"swe-smith {COMMIT}: {'fetched' if content else 'in the cache'} ({out})\n"
        assert file.read_bytes() == b"PAR1"
    (out / "more.jsonl").touch()
    for words in (build, fetch):
        done = tool(*words, *(("--out", tmp_path / "tasks") if words is build else ()), env=server)
        assert done.returncode == 2
        assert f"{out / 'more.jsonl'}: was not fetched" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_all_of_what_is_given_is_drawn_from_and_nothing_that_is_made(tool, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"What is {n} squared?"}) + "\n" for n in range(40)))
    words = ("source-tasks", "--split", "all", "--count", 40)
    done = tool(*words, "--source", "questions", "--input", path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    splits = {json.loads(row["meta"])["split"] for row in read_rows(tmp_path / "out" / "tasks.parquet")}
    assert splits == {"all"}
    done = tool(*words, "--source", "quantities", "--out", tmp_path / "none")
    assert done.returncode == 2
    assert "--split all is for what --input names" in done.stderr


def test_fewer_will_do_and_the_rows_have_another_name(tool, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"input": f"What is {n} squared?"}) + "\n" for n in range(7)))
    words = ("source-tasks", "--source", "questions", "--split", "all", "--input", path, "--count", 9)
    done = tool(*words, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "has only 7 valid all tasks" in done.stderr
    done = tool(*words, "--at-most", "--name", "reasoning", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = list(read_rows(tmp_path / "out" / "tasks.parquet"))
    assert {row["source"] for row in rows} == {"reasoning"} and len(rows) == 7
    done = tool(*words, "--name", "Not a name", "--out", tmp_path / "other")
    assert done.returncode == 2
    assert "is not a name of lower-case letters" in done.stderr
    path.write_text("")
    assert tool(*words, "--at-most", "--out", tmp_path / "none").returncode == 2
