"""The command line of `publish`, against a server that stands for the remote hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from publish.plan import git_blob
from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact

pytestmark = pytest.mark.full  # starts a hub and a command for each

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_writesThere"
READER = "hf_readsOnly"
REPO = "me/demo"


class FakeHub(ThreadingHTTPServer):
    """The part of the hub's HTTP interface that a push needs, with repositories in memory.

    `.parquet` and `.safetensors` files go to a store by digest, as on the hub; others are git objects in the commit.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.private: dict[str, bool] = {}
        self.revisions: dict[str, list[tuple[str, dict[str, tuple[str, bytes]]]]] = {}
        self.messages: list[dict[str, str]] = []
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.stall_upload = 0
        self.stalled = threading.Event()
        self.answers: dict[str, int] = {}
        self.spoiled: str | None = None

    def make(self, repo: str, private: bool, files: dict[str, bytes] | None = None) -> None:
        self.private[repo] = private
        content = {".gitattributes": b"*.parquet filter=lfs\n", **(files or {})}
        self.revisions[repo] = [("0" * 40, {path: ("regular", data) for path, data in content.items()})]

    def head(self, repo: str = f"datasets/{REPO}") -> dict[str, tuple[str, bytes]]:
        return self.revisions[repo][-1][1]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refused(self, path: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        status = next((status for part, status in self.server.answers.items() if part in path), 0)
        if token not in (TOKEN, READER):
            status = 401
        elif token == READER and self.command != "GET":
            status = 403
        if status:
            self._answer({"error": f"refused {token}"}, status)
        return bool(status)

    def do_PUT(self) -> None:
        content = self._body()
        hub = self.server
        if hub.stall_upload and len(hub.objects) >= hub.stall_upload:
            hub.stalled.set()
            threading.Event().wait(60)
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        hub.objects[oid] = content
        hub.uploads.append(oid)
        self._answer({})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self._refused(path):
            return
        repo, _, revision = path.removeprefix("/api/").removesuffix("/revision/main").partition("/tree/")
        if repo not in self.server.revisions:
            self._answer({"error": "no such repository"}, 404)
        elif not revision:
            sha = self.server.revisions[repo][-1][0]
            self._answer({"id": repo.partition("/")[2], "sha": sha, "private": self.server.private[repo]})
        else:
            files = dict(self.server.revisions[repo])[revision]
            self._answer([_entry(path, *files[path]) for path in sorted(files)])

    def do_POST(self) -> None:
        path, body, hub = unquote(urlsplit(self.path).path), self._body(), self.server
        if self._refused(path):
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['type']}s/{asked['organization']}/{asked['name']}"
            made = name not in hub.revisions
            if made:
                hub.make(name, asked.get("visibility") == "private")
            self._answer({"url": f"{hub.url}/{name.removeprefix('models/')}"}, 200 if made else 409)
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            now = hub.head(path.removeprefix("/api/").partition("/preupload/")[0])
            self._answer({"files": [_upload_mode(file["path"], now) for file in json.loads(body)["files"]]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._answer({"objects": [_lfs_action(hub, one) for one in json.loads(body)["objects"]]})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/").partition("/commit/")[0], body)

    def _commit(self, repo: str, body: bytes) -> None:
        hub = self.server
        files = dict(hub.head(repo))
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                assert value["parentCommit"] == hub.revisions[repo][-1][0]
                hub.messages.append(value)
            elif item["key"] == "file":
                files[value["path"]] = ("regular", base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                files[value["path"]] = ("lfs", hub.objects[value["oid"]])
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        if hub.spoiled in files:
            mode, content = files[hub.spoiled]
            files[hub.spoiled] = (mode, content + b"?")
        revision = hashlib.sha1(body).hexdigest()
        hub.revisions[repo].append((revision, files))
        self._answer({"commitUrl": f"{hub.url}/{repo}/commit/{revision}", "commitOid": revision})


def _entry(path: str, mode: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
    if mode == "lfs":
        digest = hashlib.sha256(content).hexdigest()
        entry |= {"oid": git_blob(digest.encode()), "lfs": {"size": len(content), "oid": digest, "pointerSize": 130}}
    return entry


def _upload_mode(path: str, now: dict[str, tuple[str, bytes]]) -> dict:
    mode = "lfs" if path.endswith((".parquet", ".safetensors")) else "regular"
    oid = None
    if path in now:
        content = now[path][1]
        oid = hashlib.sha256(content).hexdigest() if mode == "lfs" else git_blob(content)
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _lfs_action(hub: FakeHub, asked: dict) -> dict:
    if asked["oid"] in hub.objects:
        return asked
    return {**asked, "actions": {"upload": {"href": f"{hub.url}/store/{asked['oid']}"}}}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Return a data set of two shards, as export-data leaves it."""
    out = tmp_path / "exported"
    with ArtifactWriter(out, stage="export-data", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        for shard in range(2):
            writer.path(f"data/train-0000{shard}-of-00002.parquet").write_bytes(b"rows %d" % shard)
        writer.path("README.md").write_text("---\nlicense: apache-2.0\n---\n# demo\n")
        writer.path("croissant.json").write_text("{}\n")
        writer.path("lineage.json").write_text('{"splits": {"train": 2}}\n')
        writer.count(rows_in=2, rows_out=2)
    return out


@pytest.fixture
def push(tool, hub: FakeHub, tmp_path: Path):
    """Run `publish` with the hub and a token in the environment."""

    def run(artifact: Path, *words: object, kind: str = "dataset", token: str | None = TOKEN, url: str = ""):
        # The hub's store of large files is the older one, which is plain HTTP.
        environment = {"HF_ENDPOINT": url or hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token or ""}
        line = ["publish", "--from", artifact, "--repo", REPO, "--kind", kind, "--out", tmp_path / "record", *words]
        done = tool(*line, env=environment, timeout=60)
        if token:
            assert token not in done.stdout + done.stderr
        return done

    return run


def failed(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in said:
        assert part in done.stderr


def files_of(artifact: Path) -> dict[str, bytes]:
    names = [*open_artifact(artifact).manifest["files"], "manifest.json"]
    return {name: (artifact / name).read_bytes() for name in names}


def test_a_dry_run_needs_no_hub_and_prints_everything(exported: Path, push, hub: FakeHub, tmp_path: Path):
    done = push(exported, "--dry-run", "--revision-message", "First try", token=None, url="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    digest = open_artifact(exported).digest
    for name, content in files_of(exported).items():
        shown = f"  {hashlib.sha256(content).hexdigest()}  {len(content):>15,}  {name}\n"
        assert shown in done.stdout
    assert f"First try (artifact {digest[:16]})" in done.stdout and digest in done.stdout
    assert "  license: apache-2.0\n" in done.stdout
    assert REPO in done.stdout
    assert not hub.revisions and not (tmp_path / "record").exists()


def test_a_push_arrives_whole_in_one_commit_and_again_changes_nothing(
    exported: Path, push, hub: FakeHub, tmp_path: Path
):
    done = push(exported, "--private")
    assert done.returncode == 0, done.stderr
    assert hub.private[f"datasets/{REPO}"]
    assert len(hub.messages) == 1
    digest = open_artifact(exported).digest
    assert digest[:16] in hub.messages[0]["summary"] and digest in hub.messages[0]["description"]
    arrived = {path: content for path, (_, content) in hub.head().items() if path != ".gitattributes"}
    assert arrived == files_of(exported)
    revision = hub.revisions[f"datasets/{REPO}"][-1][0]
    assert done.stdout == f"{revision}\n"
    record = json.loads((tmp_path / "record" / "record.json").read_text())
    assert (record["repo"], record["revision"], record["artifact"]) == (REPO, revision, digest)
    assert record["files"]["README.md"]["sha256"] == file_digest(exported / "README.md")
    assert open_artifact(tmp_path / "record").manifest["inputs"] == {"published": digest}
    assert TOKEN not in "".join(path.read_text() for path in (tmp_path / "record").iterdir())
    again = push(exported, "--private")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout and len(hub.messages) == 1


def test_shards_of_an_earlier_publication_are_removed(exported: Path, push, hub: FakeHub):
    files = {"manifest.json": b"{}", "data/train-00002-of-00003.parquet": b"old", "notes.txt": b"a person's"}
    hub.make(f"datasets/{REPO}", False, files)
    done = push(exported)
    assert done.returncode == 0, done.stderr
    assert "removes data/train-00002-of-00003.parquet" in done.stderr
    assert set(hub.head()) == {*files_of(exported), ".gitattributes", "notes.txt"}


def test_a_model_is_pushed_with_a_card(push, hub: FakeHub, tmp_path: Path):
    model = tmp_path / "model"
    parameters = {"learning_rate": 0.002}
    with ArtifactWriter(
        model, stage="train-sft", params=parameters, seed=3, inputs={"model": "ab" * 32}, tier="T1", package=[]
    ) as writer:
        writer.path("config.json").write_text("{}")
        writer.path("model.safetensors").write_bytes(b"weights")
        writer.count(rows_in=1, rows_out=1)
    done = push(model, kind="model")
    assert done.returncode == 0, done.stderr
    files = hub.head(f"models/{REPO}")
    assert files["model.safetensors"] == ("lfs", b"weights")
    card = files["README.md"][1].decode()
    assert open_artifact(model).digest in card and '"learning_rate": 0.002' in card
    failed(push(model), "is a model; give --kind model")


def test_an_interrupted_upload_goes_on(exported: Path, push, hub: FakeHub, tmp_path: Path):
    hub.stall_upload = 1
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    words = ["--from", exported, "--repo", REPO, "--kind", "dataset", "--out", tmp_path / "record"]
    with subprocess.Popen(
        [ROOT / ".venvs" / "bin" / "publish", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as first:
        assert hub.stalled.wait(30)
        first.send_signal(signal.SIGKILL)
    assert set(hub.head()) == {".gitattributes"} and not (tmp_path / "record").exists()
    sent = list(hub.uploads)
    assert len(sent) == 1
    hub.stall_upload = 0
    done = push(exported)
    assert done.returncode == 0, done.stderr
    assert len(hub.uploads) == len(set(hub.uploads)) == 2 and hub.uploads[:1] == sent
    assert {path for path in hub.head() if path != ".gitattributes"} == set(files_of(exported))


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "no token in the environment variable HF_TOKEN"),
        ("hf_nobody", "the hub does not accept the token"),
        (READER, "the token may not do that"),
        ("hf two", "holds no token"),
    ],
)
def test_a_token_that_does_not_do_is_one_line(token: str | None, said: str, exported: Path, push, hub: FakeHub):
    failed(push(exported, token=token), said)
    assert not hub.revisions


def test_an_unreachable_hub_is_one_line(exported: Path, push, tmp_path: Path):
    done = push(exported, url="http://127.0.0.1:9")
    failed(done, "http://127.0.0.1:9", "the hub cannot be reached", "nothing is lost: run the same command again")
    assert not (tmp_path / "record").exists()
    assert open_artifact(exported).digest


def test_what_the_hub_refuses_later_is_one_line(exported: Path, push, hub: FakeHub, tmp_path: Path):
    hub.answers["/commit/"] = 403
    failed(push(exported), "cannot push to me/demo", "the token may not do that")
    hub.answers["/commit/"] = 412
    failed(push(exported), "the repository changed meanwhile")
    assert set(hub.head()) == {".gitattributes"} and not (tmp_path / "record").exists()


def test_a_file_that_arrives_changed_is_said(exported: Path, push, hub: FakeHub, tmp_path: Path):
    hub.spoiled = "croissant.json"
    failed(push(exported), "croissant.json is git object", "do not use that revision")
    hub.spoiled = "data/train-00000-of-00002.parquet"
    failed(push(exported), "data/train-00000-of-00002.parquet has SHA-256")
    assert not (tmp_path / "record").exists()


def test_a_public_repository_is_not_taken_for_a_private_one(exported: Path, push, hub: FakeHub):
    hub.make(f"datasets/{REPO}", False)
    failed(push(exported, "--private"), "exists and is public; nothing was sent")
    assert not hub.uploads and set(hub.head()) == {".gitattributes"}


def test_a_changed_file_is_named_before_anything_is_sent(exported: Path, push, hub: FakeHub):
    path = exported / "data" / "train-00001-of-00002.parquet"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    failed(push(exported, "--dry-run"), str(path), "the file was changed after it was made")
    failed(push(exported), str(path))
    assert not hub.revisions


def test_what_is_no_data_set_and_what_is_no_name_is_one_line(tasks_artifact, push, tool):
    tasks = tasks_artifact()
    failed(push(tasks, "--dry-run"), "a source-tasks artifact is no data set and no model")
    done = tool("publish", "--from", tasks, "--repo", "demo", "--kind", "dataset", "--dry-run")
    failed(done, "--repo 'demo'", "give one such as my-name/my-data")


def test_what_export_data_writes_can_be_published_unless_held_out(tool, tasks_artifact, push, tmp_path: Path):
    words = ["--rows", tasks_artifact(4), "--form", "tasks", "--name", "demo"]
    done = tool("export-data", *words, "--out", tmp_path / "real")
    assert done.returncode == 0, done.stderr
    shown = push(tmp_path / "real", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "data/train-00000-of-00001.parquet" in shown.stdout and "  pretty_name: demo\n" in shown.stdout
    with ArtifactWriter(
        tmp_path / "held-out",
        stage="source-tasks",
        params={"source": "shell", "split": "test"},
        seed=0,
        inputs={},
        tier="T0",
        package=[],
    ) as writer:
        writer.path("tasks.parquet").write_bytes((tmp_path / "tasks" / "tasks.parquet").read_bytes())
        writer.count(rows_in=None, rows_out=4)
    step = f"source-tasks/shell={tmp_path / 'held-out'}"
    done = tool("export-data", *words, "--step", step, "--out", tmp_path / "evaluation")
    assert done.returncode == 0, done.stderr
    failed(push(tmp_path / "evaluation", "--dry-run"), "made from source-tasks/shell, whose split test is held out")
