"""`train_rl.ray_cluster` on a real Slurm cluster whose nodes share one address, with the Ray of envs/rl-cuda."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
# Ray and what it needs to run tasks; the lock names versions and hashes.
PACKAGES = [
    *["ray", "attrs", "certifi", "charset-normalizer", "click", "filelock", "idna", "jsonschema"],
    *["jsonschema-specifications", "msgpack", "packaging", "protobuf", "pyyaml", "referencing", "requests", "rpds-py"],
    *["typing-extensions", "urllib3"],
]
# Ray's own processes on a node need about 1 GB.
JOB = {"cpus_per_task": 1, "mem": "3G", "account": "lab"}
# Runs a function on every node, by name, and says where it ran.
VISIT = """
import json, os, socket, ray
ray.init(log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=0)
def where():
    return socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES")
nodes = sorted(name for name in ray.cluster_resources() if name.startswith("slurm:"))
print(json.dumps({name: ray.get(where.options(resources={name: 0.1}).remote()) for name in nodes}), flush=True)
"""


@pytest.fixture(scope="module")
def ray_python(cluster, uv) -> Path:
    """Return a Python that the cluster's user can run, with the locked Ray and the launcher."""
    home = cluster.folder / "launcher"  # Not `ray`: jobs run in the folder above, and would import it.
    home.mkdir()
    entries = re.split(r"\n(?=[a-z])", (ROOT / "envs" / "rl-cuda" / "requirements.lock").read_text())
    chosen = {name: entry for entry in entries for name in PACKAGES if entry.startswith(f"{name}==")}
    assert set(chosen) == set(PACKAGES)
    (home / "requirements.lock").write_text("\n".join(chosen.values()) + "\n")
    python = home / "venv" / "bin" / "python"
    uv("venv", "--quiet", "--python", "/usr/bin/python3.11", home / "venv")
    install = ["pip", "install", "--quiet", "--python", python, "--no-deps", "--require-hashes"]
    uv(*install, "-r", home / "requirements.lock")
    packages = next(home.glob("venv/lib/python3*/site-packages"))
    for tool, package in (("core", "recipe_core"), ("train-rl", "train_rl")):
        shutil.copytree(ROOT / "tools" / tool / "src" / package, packages / package)
    subprocess.run(["chmod", "-R", "a+rX", home], check=True)
    return python


@pytest.fixture(scope="module")
def by_rule(cluster, ray_python: Path, empty_image: Path) -> Callable[[str], str]:
    """Return what makes a job's script of a program: as Snakemake runs a rule's line, on two nodes, in an image.

    The rule's shell runs in a step of one task, without most of Slurm's variables. The script prints the code
    that it ends with.
    """
    tree, venv = cluster.folder / "tree", ray_python.parent.parent
    for place in ("core/src", "train-rl/src", "train-rl/nodes"):
        shutil.copytree(ROOT / "tools" / place, tree / "tools" / place)
    (tree / ".venvs").mkdir()
    (tree / ".venvs" / "workflow").symlink_to(venv)
    enter = f"apptainer exec --home {cluster.folder} --userns --cleanenv --net --network none {empty_image}"
    places = (
        f"export APPTAINER_BIND=/usr,{cluster.folder} APPTAINERENV_PREPEND_PATH={venv}/bin PATH=/usr/local/bin:$PATH"
    )

    def script(program: str) -> str:
        file = tree / f"{hashlib.sha256(program.encode()).hexdigest()[:12]}.py"
        file.write_text(program)
        line = f"{enter} bash -c 'exec {ray_python} {file} --nodes 2'"
        return (
            f"{places}; {tree}/tools/train-rl/nodes/bash -c {shlex.quote(line)}; code=$?; echo code $code; exit $code"
        )

    return script


def launch(python: Path, program: str, *flags: str) -> str:
    """Return the lines of a job that runs a program on a Ray cluster and prints its exit code."""
    words = [str(python), "-m", "train_rl.ray_cluster", "--cpus=1", "--timeout=120", "--log=ray.log", *flags, "--"]
    return f"{shlex.join([*words, str(python), '-c', program])}; echo code $?"


def left_behind(cluster, job: str) -> list[str]:
    """Return what a job's Ray has left: folders on the nodes' disk, tokens, processes."""
    found = [str(path) for path in (*Path("/tmp").glob(f"ray-{job}-*"), *cluster.folder.glob(f"ray-{job}-*"))]
    running = subprocess.run(["pgrep", "-f", f"temp-dir=/tmp/ray-{job}-"], capture_output=True, text=True)
    return found + running.stdout.split()


def test_a_function_runs_on_every_node_and_nothing_is_left(cluster, ray_python: Path):
    script = launch(ray_python, VISIT)
    job = cluster.sbatch(script, partition="gpu", nodes=2, gres="gpu:2", **JOB)
    cluster.wait(job, "COMPLETED")
    said = cluster.output(job)
    assert said.splitlines()[-1] == "code 0", said
    visited = next(json.loads(line) for line in said.splitlines() if line.startswith("{"))
    assert visited == {"slurm:gpu1": ["gpu1", "0,1"], "slurm:gpu2": ["gpu2", "0,1"]}
    assert left_behind(cluster, job) == []


def test_a_rules_line_runs_on_the_first_node_in_its_image_and_ray_in_the_same_on_all(
    cluster, by_rule: Callable[[str], str]
):
    job = cluster.sbatch(by_rule(VISIT), partition="gpu", nodes=2, gres="gpu:2", **JOB)
    cluster.wait(job, {"COMPLETED", "FAILED"})
    said = cluster.output(job)
    assert said.splitlines()[-1] == "code 0", said
    visited = next(json.loads(line) for line in said.splitlines() if line.startswith("{"))
    assert visited == {"slurm:gpu1": ["gpu1", "0,1"], "slurm:gpu2": ["gpu2", "0,1"]}
    assert left_behind(cluster, job) == []


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("grace", ["gpu"], indirect=True)
def test_a_job_that_is_preempted_with_a_grace_is_requeued_and_not_failed(
    cluster, by_rule: Callable[[str], str], grace: str
):
    began = cluster.folder / "began"
    # In its first run it would wait for ever.
    program = f"""
import os, time
if not os.path.exists({str(began)!r}):
    open({str(began)!r}, "w").close()
    time.sleep(3600)
print("again", flush=True)
"""
    job = cluster.sbatch(by_rule(program), partition=grace, nodes=2, requeue=True, open_mode="append", **JOB)
    cluster.as_user(f"while [ ! -e {began} ]; do sleep 0.5; done", timeout=240)
    higher = cluster.sbatch("true", partition="gpu", account="lab", nodes=2, exclusive=True, mem=100)
    cluster.wait(higher, "COMPLETED", timeout=300)
    # Others' jobs may take its nodes, too.
    cluster.wait(job, "COMPLETED", timeout=600)
    said = cluster.output(job)
    assert f"on_nodes: job {job} is being preempted; it goes back into the queue" in said
    assert "again" in said.splitlines() and said.splitlines()[-1] == "code 0", said
    assert "FAILED" not in cluster.sacct(job, runs=True)
    assert left_behind(cluster, job) == []


def test_the_commands_own_exit_code_is_the_jobs(cluster, ray_python: Path):
    job = cluster.sbatch(launch(ray_python, "raise SystemExit(7)"), nodes=1, **JOB)
    cluster.wait(job, "COMPLETED")
    assert cluster.output(job).splitlines()[-1] == "code 7"
    assert left_behind(cluster, job) == []


def test_a_lost_worker_ends_the_job_with_one_line_that_names_it(cluster, ray_python: Path):
    # Step 0 is the head, step 1 the worker on the second node; the program would wait for ever.
    lose = "import os, time; os.system('scancel --signal=KILL $SLURM_JOB_ID.1'); time.sleep(3600)"
    job = cluster.sbatch(launch(ray_python, lose), partition="cpu", nodes=2, **JOB)
    cluster.wait(job, "COMPLETED")
    errors = [line for line in cluster.output(job).splitlines() if line.startswith("ray_cluster: error:")]
    assert len(errors) == 1 and errors[0].startswith("ray_cluster: error: cpu2: lost from the Ray cluster of job ")
    assert cluster.output(job).splitlines()[-1] == "code 2"
    # The lost node could not clean up after itself; the head did.
    assert left_behind(cluster, job) == [f"/tmp/ray-{job}-1"]
    shutil.rmtree(f"/tmp/ray-{job}-1")


def test_a_node_where_ray_cannot_start_is_named(cluster, ray_python: Path):
    # Node 1's folder is there already, and nobody may use another's.
    taken = "mkdir /tmp/ray-$SLURM_JOB_ID-1"
    job = cluster.sbatch(f"{taken}; {launch(ray_python, 'print(1)')}", partition="cpu", nodes=2, **JOB)
    cluster.wait(job, "COMPLETED")
    said = cluster.output(job)
    assert "ray_cluster: error: cpu2: lost from the Ray cluster" in said and "code 73" in said
    assert said.splitlines()[-1] == "code 2"
    shutil.rmtree(f"/tmp/ray-{job}-1")


def test_a_job_that_is_cancelled_leaves_nothing(cluster, ray_python: Path):
    wait = "print('up', flush=True); import time; time.sleep(3600)"
    job = cluster.sbatch(f"exec {launch(ray_python, wait)}", partition="cpu", nodes=2, **JOB)
    cluster.as_user(f"while ! grep -q up {job}.out 2>/dev/null; do sleep 0.5; done", timeout=120)
    arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    (token,) = cluster.folder.glob(f"ray-{job}-*")
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text() and token.read_text() not in arguments
    cluster.as_user(["scancel", "--full", job])
    cluster.wait(job, "CANCELLED")
    cluster.as_user(f"for i in $(seq 60); do pgrep -f temp-dir=/tmp/ray-{job}- >/dev/null || break; sleep 0.5; done")
    assert left_behind(cluster, job) == []


def test_outside_an_allocation_it_says_so(cluster, ray_python: Path):
    done = cluster.as_user([ray_python, "-m", "train_rl.ray_cluster", "--", "true"])
    assert done.returncode == 2
    assert done.stderr.startswith("ray_cluster: error: no Slurm allocation here")
