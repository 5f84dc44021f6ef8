"""`train-sft` over two nodes of a real Slurm cluster: ZeRO-3 on CPUs, stopped, preempted, and with a process lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recipe_core.artifact import ArtifactWriter
from recipe_core.records import TRAJECTORY_SCHEMA, write_rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venvs" / "bin"
PYTHON = "/usr/bin/python3.11"
TERMINATED = 128 + signal.SIGTERM
# What the stack for CPUs lacks; the lock names versions and hashes.
PACKAGES = ("deepspeed", "hjson", "msgpack", "ninja", "py-cpuinfo")
STEPS = 36
TRAINING = "--seed 1 --epochs 12 --learning-rate 0.001 --save-steps 4 --logging-steps 3 --threads 1 --zero-stage 3"
SLURM_STEP = "srun --nodes=2 --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1"

SNAKEFILE = """
rule train_sft:
    output: "results/{{key}}/manifest.json"
    log: "results/logs/{{key}}.log"
    container: "{image}"
    threads: 1
    resources:
        nodes=2,
        tasks=2,
        mem_mb=2500,
        runtime=20,
        shell_exec="{shell}",
    shell: "exec train-sft {words} --nodes 2 --out results/{{wildcards.key}} 2>>{{log:q}}"
"""


def stack(uv: Callable[..., None], name: str, folder: Path, tools: dict[str, str]) -> Path:
    """Make an environment of an installed stack's packages that the cluster's user can run, with copies of tools.

    Args:
        uv: runs the project's uv.
        name: of the stack.
        folder: where.
        tools: packages by their tool.
    """
    uv("venv", "--quiet", "--python", PYTHON, folder)
    [installed] = (ROOT / ".venvs" / name).glob("lib/python3.11/site-packages")
    [packages] = folder.glob("lib/python3.11/site-packages")
    # Linked where that is possible: a stack is a gigabyte.
    linked = subprocess.run(["cp", "--archive", "--link", f"{installed}/.", packages], capture_output=True)
    if linked.returncode:
        subprocess.run(["cp", "--archive", f"{installed}/.", packages], check=True)
    for file in packages.glob("_editable_impl_*.pth"):
        file.unlink()
    for tool, package in tools.items():
        shutil.copytree(ROOT / "tools" / tool / "src" / package, packages / package)
    return folder / "bin" / "python"


def add_deepspeed(uv: Callable[..., None], python: Path, folder: Path) -> None:
    entries = re.split(r"\n(?=[a-z])", (ROOT / "envs" / "sft-cuda" / "requirements.lock").read_text())
    chosen = [entry for entry in entries if entry.startswith(tuple(f"{name}==" for name in PACKAGES))]
    assert len(chosen) == len(PACKAGES)
    lock = folder / "deepspeed.lock"
    lock.write_text("\n".join(chosen) + "\n")
    words = ["pip", "install", "--quiet", "--python", python, "--no-deps", "--require-hashes", "--no-build-isolation"]
    # It asks torch what it may compile: nothing, here.
    uv(*words, "-r", lock, DS_BUILD_OPS="0", DS_ACCELERATOR="cpu")


@pytest.fixture(scope="module")
def train_sft(cluster, uv) -> Path:
    """Return the folder of a `train-sft` that the cluster's user can run."""
    folder = cluster.folder / "sft"
    python = stack(uv, "sft", folder, {"core": "recipe_core", "train-sft": "train_sft"})
    add_deepspeed(uv, python, cluster.folder)
    command = folder / "bin" / "train-sft"
    command.write_text(f"#!{python}\nfrom train_sft.__main__ import main\nmain()\n")
    command.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def words(cluster, train_sft: Path) -> str:
    """Return the flags of a training run; what it is of lies in the cluster's folder."""
    turns = [
        [("user", f"Create the file {name}.txt."), ("assistant", f'{{"keystrokes": "touch {name}.txt\\n"}}')]
        for name in (f"{first}-{second}" for first in ("amber", "brisk", "coral", "dusty") for second in "abcdef")
    ]
    rows = [
        {
            **dict.fromkeys(TRAJECTORY_SCHEMA.names),
            "conversations": [{"role": role, "content": content} for role, content in conversation],
        }
        for conversation in turns
    ]
    data, student = cluster.folder / "trajectories", cluster.folder / "student"
    with ArtifactWriter(data, stage="filter-turns", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("trajectories.parquet"), TRAJECTORY_SCHEMA, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    made = [BIN / "init-model", "--trajectories", data, "--seed", "1", "--out", student]
    subprocess.run(made, check=True, capture_output=True)
    subprocess.run(["chown", "-R", "hpc:", data, student], check=True)
    return f"--model {student} --trajectories {data} {TRAINING}"


@pytest.fixture(scope="module")
def submit(cluster, train_sft: Path, words: str) -> Callable[..., str]:
    """Return what submits a training job of two nodes, which prints the code that srun ends with."""

    def run(out: str, *more: str, **options: object) -> str:
        line = f"{SLURM_STEP} {train_sft}/bin/train-sft {words} --nodes 2 --out {cluster.folder / out} {' '.join(more)}"
        settings = {"nodes": 2, "ntasks": 2, "mem": 2500, "time": 20, "partition": "cpu", "account": "lab", **options}
        return cluster.sbatch(f"{line}; code=$?; echo code $code; exit $code", **settings)

    return run


def wait_for_step(out: Path, step: int, seconds: float = 600) -> None:
    """Wait until a run has finished a step."""
    log = out.with_name(f"{out.name}.work") / "llamafactory.log"
    end = time.monotonic() + seconds
    while not (log.is_file() and re.search(rf"\| {step}/{STEPS} \[", log.read_text(errors="replace"))):
        assert time.monotonic() < end, log.read_text(errors="replace")[-2000:] if log.is_file() else "not started"
        time.sleep(0.1)


def workers(out: Path) -> dict[int, int]:
    """Return the training processes of a run: process id by rank."""
    found = subprocess.run(["pgrep", "-f", f"train_sft.worker {out}.work"], capture_output=True, text=True)
    ranks = {}
    for pid in map(int, found.stdout.split()):
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        ranks.update({int(text[5:]): pid for text in variables if text.startswith("RANK=")})
    return ranks


@pytest.fixture(scope="module")
def whole(cluster, submit) -> Path:
    """Return what a run makes that nothing disturbs."""
    job = submit("whole")
    cluster.wait(job, {"COMPLETED", "FAILED"}, timeout=900)
    assert cluster.output(job).splitlines()[-1] == "code 0", cluster.output(job)
    return cluster.folder / "whole"


def test_two_nodes_make_the_model_of_one_node_with_two_processes(cluster, whole: Path, train_sft: Path, words: str):
    out = cluster.folder / "one-node"
    line = f"{train_sft}/bin/train-sft {words} --processes-per-node 2 --out {out}"
    job = cluster.sbatch(line, partition="cpu", account="lab", mem=4000, cpus_per_task=2, time=20)
    cluster.wait(job, "COMPLETED", timeout=900)
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(path.name for path in cluster.folder.glob("one-node*")) == ["one-node"]


def test_a_signal_stops_all_nodes_behind_a_checkpoint(cluster, submit, whole: Path):
    out = cluster.folder / "stopped"
    job = submit("stopped")
    wait_for_step(out, 6)
    subprocess.run(["scancel", "--signal=TERM", job], check=True)
    cluster.wait(job, "FAILED", timeout=300)
    said = cluster.output(job)
    assert said.splitlines()[-1] == f"code {TERMINATED}", said
    assert re.search(r"^train-sft: stopped behind the checkpoint of step \d+;", said, re.M), said
    assert "Traceback" not in said
    assert not out.exists() and not workers(out)

    again = submit("stopped")
    cluster.wait(again, "COMPLETED", timeout=900)
    assert "going on from checkpoint-" in cluster.output(again)
    assert (out / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_preempted_it_is_requeued_and_goes_on(cluster, submit, whole: Path):
    out = cluster.folder / "preempted"
    job = submit("preempted", partition="scavenge", nodelist="cpu[1-2]", requeue=True, open_mode="append")
    wait_for_step(out, 6)
    higher = cluster.sbatch("true", partition="cpu", account="lab", nodes=2, exclusive=True, mem=100)
    cluster.wait(higher, "COMPLETED", timeout=300)
    cluster.wait(job, "COMPLETED", timeout=900)
    # Others' jobs may take its nodes, too.
    *before, last = cluster.sacct(job, runs=True)
    assert (set(before), last) == ({"PREEMPTED"}, "COMPLETED")
    assert "going on from checkpoint-" in cluster.output(job)
    assert "Traceback" not in cluster.output(job)
    assert (out / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_ends_the_others(blow: signal.Signals, cluster, submit, train_sft: Path):
    out = cluster.folder / f"lost-{blow.name}"
    job = submit(out.name, "--collective-timeout", "60")
    wait_for_step(out, 2)
    os.kill(workers(out)[1], blow)
    struck = time.monotonic()
    cluster.wait(job, "FAILED", timeout=180)
    # The time-out, and what Slurm takes to end the step. Whoever dies is noticed at once.
    assert time.monotonic() - struck < (60 if blow == signal.SIGKILL else 150)
    said = cluster.output(job)
    assert re.search(r"^train-sft: error: LLaMA-Factory ended with code \d+ \(.*\); see .*$", said, re.M), said
    assert not workers(out)


def test_a_lost_node_ends_the_run_on_the_other(cluster, submit, train_sft: Path):
    out = cluster.folder / "lost-node"
    # Alone on its nodes, so that nobody else's job is lost with them.
    job = submit("lost-node", no_requeue=True, exclusive=True)
    wait_for_step(out, 2)
    cluster.kill_node("cpu2")
    try:
        cluster.wait(job, {"FAILED", "NODE_FAIL"}, timeout=120)
        end = time.monotonic() + 60
        while workers(out) and time.monotonic() < end:
            time.sleep(0.5)
        assert not workers(out)
    finally:
        cluster.revive_node("cpu2")


@pytest.fixture
def folder(cluster, empty_image: Path, words: str) -> Path:
    """A workflow of one rule, which trains on two nodes in the image."""
    folder = cluster.folder / "workflow"
    folder.mkdir()
    shutil.chown(folder, "hpc")
    shell = folder / "bash"
    shutil.copy(ROOT / "tools" / "train-sft" / "nodes" / "bash", shell)
    seldom = words.replace("--save-steps 4", "--save-steps 1000")
    (folder / "Snakefile").write_text(SNAKEFILE.format(image=empty_image, shell=shell, words=seldom))
    return folder


@pytest.mark.parametrize("grace", ["cpu"], indirect=True)
def test_snakemake_starts_it_in_the_image_on_every_node_and_it_gives_way(
    cluster, uv, folder: Path, whole: Path, grace: str
):
    python = stack(uv, "workflow", folder / "snakemake", {"core": "recipe_core"})
    call = [python, "-m", "snakemake", "--executor", "slurm", "--jobs", "2", "--latency-wait", "30"]
    call += ["--software-deployment-method", "apptainer", "--slurm-requeue"]
    call += ["--apptainer-args=--userns --cleanenv --net --network none"]
    call += ["--default-resources", "slurm_account=lab", f"slurm_partition={grace}"]
    call += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"]
    call += ["--slurm-logdir", folder / "logs", "--slurm-keep-successful-logs", "results/a/manifest.json"]
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "APPTAINER_BIND": f"/usr,{cluster.folder}",
        "APPTAINERENV_PREPEND_PATH": f"{cluster.folder}/sft/bin",
    }
    out = folder / "results" / "a"
    with ThreadPoolExecutor() as pool:
        build = pool.submit(cluster.as_user, call, cwd=folder, env=environment, timeout=1500)
        wait_for_step(out, 6)
        higher = cluster.sbatch("true", partition="cpu", account="lab", nodes=2, exclusive=True, mem=100)
        cluster.wait(higher, "COMPLETED", timeout=300)
        done = build.result()
    logs = "".join(log.read_text() for log in folder.glob("logs/**/*.log"))
    assert done.returncode == 0, done.stderr[-3000:] + logs[-3000:]
    # Of its own accord it would have written none.
    assert "going on from checkpoint-" in (folder / "results" / "logs" / "a.log").read_text()
    assert (out / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
