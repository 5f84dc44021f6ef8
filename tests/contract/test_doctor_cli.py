"""The command `doctor`, as a user types it."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from doctor.__main__ import CHECKS
from doctor.images import gather
from doctor.profile import read_profile

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"(ok|warn|fail) +\S+  (profile|slurm|apptainer|sandbox|storage|gpu|hub|images|secrets): \S.*")


def doctor(*words: object, env: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    command = [sys.executable, "-m", "doctor", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=cwd)


@pytest.fixture
def profile(tmp_path: Path):
    def write(text: str, name: str = "mine") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
        return folder

    return write


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(401)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_help_has_an_example_and_names_every_check():
    done = doctor("--help")
    assert done.returncode == 0 and "    doctor --site workflow/profiles/mine" in done.stdout
    assert all(re.search(rf"^    {check} ", done.stdout, re.M) for check in CHECKS)
    assert "--as-node" not in done.stdout


@pytest.mark.parametrize(
    "words", [["--only", "everything"], ["--only"], ["--node"], ["--wait", "0"], ["--no-such-flag"], ["--profile"]]
)
def test_bad_flags_are_one_line(words: list[str]):
    done = doctor(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("doctor: error:") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "expected `key: value` lines"),
        ("default-resources: [runtime]\n", "default-resources: 'runtime' is not NAME=VALUE"),
        pytest.param(
            'default-resources: ["slurm_extra=--comment=\'x"]\n',
            "slurm_extra",
            marks=pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not installed"),
        ),
    ],
)
def test_a_bad_profile_is_one_line(profile, text: str, said: str):
    done = doctor("--profile", profile(text), "--only", "secrets", "--node", "nowhere")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_missing_profile_or_project_is_one_line(tmp_path: Path, profile):
    done = doctor("--profile", tmp_path / "absent", "--only", "gpu")
    assert (done.returncode, done.stdout) == (2, "") and "no profile here" in done.stderr
    done = doctor("--profile", profile(""), cwd=tmp_path)
    assert done.returncode == 2 and "no Snakefile here" in done.stderr and done.stderr.count("\n") == 1


def test_a_machine_without_slurm_or_apptainer_fails_in_a_line_each(profile, tmp_path: Path):
    bare = {"PATH": str(tmp_path)}
    done = doctor("--profile", profile("executor: slurm\n"), "--only", "slurm", "apptainer", env=bare)
    rows = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(rows)) == (1, "", 3)
    assert "slurm: not on PATH: sbatch, squeue, sacct, srun; load" in rows[0] and rows[0].startswith("fail")
    assert "apptainer: apptainer is not on PATH; install" in rows[1]
    assert rows[2] == "0 ok, 0 to look at (warn), 2 to mend (fail)"


def test_every_check_says_something_in_lines_of_one_form(profile, tmp_path: Path, hub: str):
    keys = tmp_path / "keys"
    keys.write_text("TOKEN=do-not-show\n")
    keys.chmod(0o600)
    site = profile(f"config: [secrets={keys}, bind={tmp_path}]\n", "site")
    done = doctor("--profile", profile("executor: local\n"), "--site", site, env={"HF_ENDPOINT": hub})
    *rows, last = done.stdout.splitlines()
    assert done.stderr == "" and "do-not-show" not in done.stdout
    assert [row for row in rows if not LINE.fullmatch(row)] == []
    assert {LINE.fullmatch(row)[2] for row in rows} == set(CHECKS)
    counts = [sum(row.startswith(level) for row in rows) for level in ("ok", "warn", "fail")]
    assert last == "{} ok, {} to look at (warn), {} to mend (fail)".format(*counts)
    assert done.returncode == (1 if counts[2] else 0)
    assert f"hub: {hub} answers (401, " in done.stdout and f"secrets: {keys} has mode 0600" in done.stdout


def test_only_some_checks_and_a_failure(profile, tmp_path: Path):
    keys = tmp_path / "keys"
    keys.touch(0o644)
    done = doctor("--profile", profile(f"config:\n  secrets: {keys}\nenvvars: [NOT_SET_HERE]\n"), "--only", "secrets")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].endswith(f"secrets: {keys} has mode 0644, not 0600; chmod 600 {keys}")
    assert "not set: NOT_SET_HERE" in done.stdout.splitlines()[1]


def test_variables_that_are_not_set_are_a_failure(profile):
    text = "default-resources: [slurm_account=$NO_ACCOUNT_HERE]\n"
    done = doctor("--profile", profile(text), "--only", "gpu")
    assert done.returncode == 1 and "profile: not set here: $NO_ACCOUNT_HERE; export them" in done.stdout


def test_on_a_node_the_lines_are_for_a_program(profile):
    done = doctor("--as-node", "--profile", profile(""), "--only", "gpu", env={"SLURMD_NODENAME": "gpu7"})
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert done.returncode == 0 and [(row["machine"], row["check"]) for row in rows] == [("gpu7", "gpu")]


def test_a_bad_address_of_the_hub_is_one_line(profile):
    done = doctor("--profile", profile(""), "--only", "hub", env={"HF_ENDPOINT": "mirror"})
    assert (done.returncode, done.stdout) == (2, "") and "HF_ENDPOINT" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.full
def test_the_rules_times_are_read_from_the_workflow():
    python = ROOT / ".venvs" / "workflow" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "doctor.rules", "Snakefile", "bin=.venvs/bin"], capture_output=True, text=True, cwd=ROOT
    )
    minutes = json.loads(done.stdout)
    assert minutes["mix"] == 60 and minutes["answers"] >= minutes["train_sft"] > 60
    assert "link" not in minutes and "demo" not in minutes


@pytest.mark.parametrize(("cuda", "name"), [("on", "serve-cuda"), ("off", "serve")])
def test_the_images_are_those_that_the_profile_means(profile, cuda, name):
    settings = read_profile(profile(f"config: [cuda={cuda}]\n"), None, {})
    names = {image.name for image in gather(ROOT, cuda=settings.config["cuda"] == "on").images}
    assert name in names and len(names & {"serve", "serve-cuda"}) == 1


@pytest.mark.parametrize(("executor", "level", "code"), [("slurm", "fail", 1), ("local", "warn", 0)])
def test_missing_images_stop_a_build_on_a_cluster_and_no_other(
    profile, tmp_path: Path, executor: str, level: str, code: int
):
    project = tmp_path / "project"
    project.mkdir()
    for name in ("Snakefile", "containers", "envs", "tools", ".venvs"):
        (project / name).symlink_to(ROOT / name)
    done = doctor("--profile", profile(f"executor: {executor}\n"), "--only", "images", cwd=project)
    assert done.returncode == code, done.stdout + done.stderr
    assert re.match(rf"{level} +\S+  images: none of \d+ images is in images/; build them", done.stdout)
    assert "--record" not in done.stdout
