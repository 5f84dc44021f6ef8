"""Recipes on a real Slurm, in real images, with the network off: what a laptop makes, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from images.names import image_path
from recipe.plan import load_plan
from recipe_core.artifact import Artifact, open_artifact

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "workflow" / "small.yaml"
PROFILES = "--profile workflow/profiles/slurm --workflow-profile tests/cluster/site"
# The site's settings of a rule are gone with one on the command line: the partition has to be said again.
ON_GPU = "--set-resources rollout:slurm_partition=gpu"
# Each on a node of its own, so that no other test's job is lost with it.
ALONE = "--set-resources " + " ".join(
    f"{rule}:slurm_partition=gpu \"{rule}:slurm_extra='--exclusive'\"" for rule in ("rollout", "rollout_shard")
)
BENCHMARK = "Write a function that returns the n-th prime number, counting from one.\n"


class Seen(NamedTuple):
    """What a tool's process saw of its node."""

    interfaces: tuple[str, ...]
    gpus: str | None


class Watch(threading.Thread):
    """Looks at all processes of these programs in a folder while a block runs; `seen` has them by program."""

    def __init__(self, programs: Iterable[str], folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self.seen: dict[str, set[Seen]] = {}
        self._programs = frozenset(programs)
        self._over = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(0.1):
            for pid, programs in running():
                for program in programs & self._programs:
                    with contextlib.suppress(OSError):
                        self._look(program, Path("/proc") / str(pid))

    def _look(self, program: str, process: Path) -> None:
        # Other tests run these programs at the same time, elsewhere.
        if (process / "cwd").readlink() != self._folder:
            return
        lines = (process / "net" / "dev").read_text().splitlines()[2:]
        variables = dict(
            entry.split("=", 1)
            for entry in (process / "environ").read_text(errors="replace").split("\0")
            if "=" in entry
        )
        seen = Seen(tuple(line.split(":")[0].strip() for line in lines), variables.get("CUDA_VISIBLE_DEVICES"))
        self.seen.setdefault(program, set()).add(seen)


class Project:
    """A copy of this project in a folder that the submitting user owns, with the images beside it."""

    def __init__(self, cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.trials = 0  # of the rollout, once it is built
        self.seen: dict[str, set[Seen]] = {}  # by its tools, while it was built
        self.started: list[subprocess.Popen[bytes]] = []

    def run(self, command: str, timeout: float = 1800, **env: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}/.venvs/bin:/usr/local/bin:/usr/bin:/bin"
        return self.cluster.as_user(command, cwd=self.folder, env={"PATH": path, **env}, timeout=timeout)

    def build(self, *words: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
        return self.run(f"snakemake {PROFILES} {' '.join(words)} -- small", timeout)

    def build_again(self, stage: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Build a stage's steps though they are there; what is made from them stays, as the bytes are the same."""
        return self.build("--forcerun", stage, "--until", stage, *words)

    def start_again(self, stage: str, *words: str) -> subprocess.Popen[bytes]:
        """Start the same in a session of its own, as a shell on a login node would."""
        return self.start("--forcerun", stage, "--until", stage, *words, "--", "small")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "snakemake.log").open("wb")
        call = f"snakemake {PROFILES} {' '.join(words)}"
        command = f"cd {self.folder} && PATH={self.folder}/.venvs/bin:$PATH exec {call}"
        user = ["setpriv", "--reuid", "hpc", "--regid", "hpc", "--init-groups", "env", "HOME=/home/hpc"]
        words = [*user, "bash", "-c", command]
        self.started.append(subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True))
        return self.started[-1]

    def end(self) -> None:
        """End what a failed test has left: Snakemake, its jobs, its lock."""
        left = [process for process in self.started if process.poll() is None]
        self.started.clear()
        for process in left:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if left:
            listing = self.cluster.as_user(["squeue", "--noheader", "--format=%i %Z", "--user=hpc"]).stdout
            jobs = [line.split()[0] for line in listing.splitlines() if line.endswith(f" {self.folder}")]
            self.cluster.as_user(["scancel", *jobs])
            self.run("snakemake --unlock")

    def jobs(self, stage: str) -> list[str]:
        """The ids of the jobs of a stage that Slurm has in its queue."""
        listing = self.cluster.as_user(["squeue", "--noheader", "--format=%i %k", "--user=hpc"]).stdout
        return [line.split()[0] for line in listing.splitlines() if f"rule_{stage}" in line]

    def wait_for_job(self, stage: str, state: str = "RUNNING", timeout: float = 300) -> str:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for job in self.jobs(stage):
                if (
                    self.cluster.as_user(["squeue", "--noheader", "--format=%T", f"--jobs={job}"]).stdout.strip()
                    == state
                ):
                    return job
            time.sleep(0.5)
        raise AssertionError(f"no job of {stage} was {state} within {timeout:.0f} s")

    def log(self) -> str:
        return (self.folder / "snakemake.log").read_text(errors="replace")

    def digests(self, name: str) -> dict[str, str]:
        """The digests of the files of a step."""
        manifest = open_artifact(self.folder / load_plan(SMALL)[name].artifact).manifest
        return {
            file: facts["sha256"] if isinstance(facts, dict) else facts for file, facts in manifest["files"].items()
        }

    def rollout(self) -> Artifact:
        """The rollout's artifact."""
        return open_artifact(self.folder / load_plan(SMALL)["rollout/train"].artifact)

    def stop_in_the_middle(self, timeout: float = 120) -> int:
        """Halt the rollout that runs (SIGSTOP) when some of its trials are finished; return how many are."""
        folder = self.folder / f"{load_plan(SMALL)['rollout/train'].artifact}.work" / "trials"
        end = time.monotonic() + timeout
        while len(list(folder.glob("[!.]*.json"))) < 2:
            assert time.monotonic() < end, f"no two trials are finished after {timeout:.0f} s"
            time.sleep(0.02)
        halted = processes("rollout")
        for pid in halted:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        finished = len(list(folder.glob("[!.]*.json")))
        assert halted and finished < self.trials, f"{finished} trials were finished before it could be halted"
        return finished

    def trials_kept(self) -> int:
        """How many trials of the rollout the job that wrote it found finished."""
        return self.trials - int(self.rollout().provenance()["trials_run_here"])

    def attempts(self, name: str) -> dict[str, tuple[int, int]]:
        """How many attempts of an evaluation are counted, and how many were lost to the machinery, by source."""
        scores = json.loads((self.folder / load_plan(SMALL)[name].artifact / "scores.json").read_text())["scores"]
        return {score["source"]: (score["valid_attempts"], score["infra_errors"]) for score in scores}


def copy_of_the_tree(folder: Path) -> None:
    """Copy what git knows or would know."""
    words = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


@pytest.fixture(scope="session")
def project(cluster) -> Iterator[Project]:
    """The project, set up as a user of the cluster would, with images built from this tree."""
    folder = cluster.folder / "project"
    copy_of_the_tree(folder)
    shutil.copy(SMALL, folder / "workflow" / "recipes")
    (folder / "benchmark.txt").write_text(BENCHMARK)
    images = ROOT / ".venvs" / "bin" / "images"
    built = subprocess.run([images, "build", "--base", "local"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    listing = subprocess.run([images, "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (folder / "images").mkdir()
    for line in listing.splitlines():
        name = Path(line.split("\t")[1]).name
        for file in (name, name.replace(".sif", ".files")):
            os.link(ROOT / "images" / file, folder / "images" / file)
    subprocess.run(["chown", "-R", "--no-dereference", "hpc:hpc", folder], check=True)
    project = Project(cluster, folder)
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "SSL_CERT_FILE"}
    done = project.run("/usr/bin/python3.11 envs/install.py workflow", **pip)
    assert done.returncode == 0, done.stdout + done.stderr
    yield project


@pytest.fixture(autouse=True)
def nothing_goes_on(project: Project) -> Iterator[None]:
    yield
    project.end()


@pytest.fixture(scope="session")
def built(project: Project) -> Project:
    """The project after the small recipe was built on the cluster."""
    with Watch((step.stage for step in load_plan(SMALL).values()), project.folder) as watch:
        done = project.build()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    project.seen = watch.seen
    project.trials = project.rollout().manifest["rows_out"]
    return project


def test_every_stage_is_built_as_on_a_laptop(built: Project, tmp_path: Path, tool):
    """T0 and T1 stages have the same bytes; the others exist and are counted."""
    local = tmp_path / "local"
    copy_of_the_tree(local)
    shutil.copy(SMALL, local / "workflow" / "recipes")
    (local / "benchmark.txt").write_text(BENCHMARK)
    (local / ".venvs").symlink_to(ROOT / ".venvs")
    steps = {name: step.artifact for name, step in load_plan(SMALL).items()}
    exact = {name: path for name, path in steps.items() if not name.startswith(("train-rl/", "evaluate/"))}
    targets = [path / "manifest.json" for path in exact.values()]
    done = tool("snakemake", "--profile", "workflow/profiles/local", "--", *targets, cwd=local, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    for name, path in steps.items():
        there = open_artifact(built.folder / path).manifest
        assert there["stage"] == name.split("/")[0]
        assert (there["tier"] in ("T0", "T1")) == (name in exact), name
        if name in exact:
            assert there == open_artifact(local / path).manifest, name
    summary = json.loads((built.folder / "results" / "recipes" / "small" / "summary.json").read_text())
    assert {score["model"] for score in summary["scores"]} == {"base", "sft", "rl"}


def test_no_step_has_a_network(built: Project):
    """Every rule's tool saw no interface but the loopback of its own, on nodes that have others."""
    stages = {step.stage for step in load_plan(SMALL).values()}
    assert stages <= built.seen.keys()
    assert {interface for tool in built.seen.values() for seen in tool for interface in seen.interfaces} == {"lo"}
    assert len(Path("/proc/self/net/dev").read_text().splitlines()) > 3


def test_the_doctor_finds_nothing_to_mend_here_and_on_the_nodes(built: Project):
    done = built.run("doctor --site tests/cluster/site --node cpu gpu", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"^fail", done.stdout, re.MULTILINE)
    for partition in ("cpu", "gpu"):
        assert re.search(rf"{partition}\d", done.stdout), done.stdout


def test_what_was_not_fetched_is_said_before_the_first_job(built: Project):
    done = built.run(f"snakemake {PROFILES} -- demo")
    assert done.returncode == 1
    assert "not fetched yet: results/fetch/packages.done" in done.stderr
    assert not built.jobs("")


@pytest.mark.parametrize(
    "words",
    ["--slurm-array-jobs all", "--slurm-status-command sacct", "--groups mix=data"],
)
def test_what_the_executor_gets_wrong_is_refused_before_the_first_job(built: Project, words: str):
    done = built.build_again("mix", words)
    assert done.returncode == 1
    name = words.split(maxsplit=1)[0].lstrip("-")
    assert re.search(rf"^{name}: ", done.stderr, re.MULTILINE), done.stderr
    assert not built.jobs("")


def test_a_missing_image_is_said_before_the_first_job(built: Project):
    image = next((built.folder / "images").glob("data-*.sif"))
    aside = image.with_suffix(".aside")
    image.rename(aside)
    try:
        done = built.build_again("mix")
    finally:
        aside.rename(image)
    assert done.returncode == 1
    assert f"images are not built: {image.name}; build them: images build data" in done.stderr


def test_a_corrupted_image_is_named_with_the_file_and_the_build_goes_on_with_a_good_one(built: Project):
    image = next((built.folder / "images").glob("data-*.sif"))
    good = image.with_suffix(".good")
    image.rename(good)
    shutil.copyfile(good, image)
    with image.open("r+b") as stream:
        stream.seek(image.stat().st_size // 2)
        stream.write(os.urandom(2**20))
    image.chmod(0o755)
    found = built.run("images verify data")
    assert found.returncode == 1
    assert re.search(r"^data: /\S+: unreadable|^data: /\S+: [0-9a-f]{40}, expected", found.stdout, re.MULTILINE), found
    before = built.digests("mix/train")
    # A job fails if it reads what is broken, and else does what it should.
    harmed = built.build_again("mix", "--retries 0")
    if harmed.returncode:
        assert "Error in rule mix" in harmed.stderr, harmed.stderr[-3000:]
    else:
        assert built.digests("mix/train") == before
    good.rename(image)
    assert built.run("images verify data").returncode == 0
    done = built.build_again("mix")
    assert done.returncode == 0, done.stderr[-3000:]
    assert built.digests("mix/train") == before


def test_no_secret_is_found_anywhere(built: Project):
    """A key from the secrets file reaches the tool's environment and nothing that is kept."""
    secret = "planted-7f3a1c"
    file = built.cluster.folder / "keys"
    file.write_text(f"TEACHER_KEY={secret}\n")
    file.chmod(0o600)
    shutil.chown(file, "hpc", "hpc")
    process = built.start_again("rollout", f"--config secrets={file} sandbox=bubblewrap")
    known, shown = set(), []
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if secret.encode() in (folder / "cmdline").read_bytes():
                    shown.append((folder / "cmdline").read_text())
                if secret.encode() in (folder / "environ").read_bytes():
                    known.add((folder / "comm").read_text().strip())
            except OSError:
                continue
        time.sleep(0.2)
    assert process.returncode == 0, built.log()[-3000:]
    assert "rollout" in known
    assert not shown
    # What Slurm keeps of the job itself, its environment, is its own and the user's.
    kept = ["results", ".snakemake", "snakemake.log"]
    words = ["grep", "-rl", "--binary-files=text", secret, *(built.folder / name for name in kept)]
    assert subprocess.run([*words, "/var/log/recipes-cluster"], capture_output=True, text=True).stdout == ""
    told = built.cluster.as_user(["scontrol", "show", "jobs", "--details"]).stdout
    assert "rule_rollout" in told and secret not in told


def test_a_secret_of_the_builder_is_in_no_image(project: Project):
    """An image is built where keys stand in the environment: neither it nor what is kept of its build has them."""
    planted = f"planted-{uuid.uuid4().hex}"
    images = ROOT / ".venvs" / "bin" / "images"
    words = [images, "build", "--base", "local", "--again", "workflow"]
    environment = {**os.environ, "HF_TOKEN": planted, "APPTAINER_DOCKER_PASSWORD": planted}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    image = ROOT / image_path(ROOT, "workflow")
    # With nothing of this machine in it but the means to start.
    enter = ["apptainer", "exec", "--fakeroot", "--cleanenv", "--contain", image]
    folders = ["/opt", "/etc", "/root", "/var/lib", "/.singularity.d"]
    looked = subprocess.run([*enter, "grep", "-rlsF", planted, *folders], capture_output=True, text=True)
    assert (looked.returncode, looked.stdout) == (1, ""), looked
    kept = [image.with_suffix(".files"), ROOT / "images" / "work" / "workflow.log"]
    assert [path for path in kept if planted in path.read_text(errors="replace")] == []


def test_a_training_step_gets_its_nodes_and_gpus_by_its_rule(built: Project):
    """A recipe with two nodes: the rule asks for both and a GPU on each, and training runs on them as one."""
    recipe = built.folder / "workflow" / "recipes" / "nodes.yaml"
    keys = "nodes: 2, processes-per-node: 1, batch-size: 8, micro-batch-size: 4"
    stages = f"stages: {{train-sft: {{sft: {{{keys}}}}}}}"
    recipe.write_text(f"recipe: nodes\nextends: small\ndescription: Trained on two nodes.\n{stages}\n")
    # Here no GPU is behind Slurm's, so the image is the one for CPUs, under the name of the other.
    image = built.folder / image_path(built.folder, "sft-cuda")
    os.link(built.folder / image_path(built.folder, "sft"), image)
    small = "--set-resources train_sft:slurm_partition=gpu train_sft:mem_mb=1900 --set-threads train_sft=2"
    config = "--config cuda=on gpus=gpu sandbox=bubblewrap pass=CUDA_VISIBLE_DEVICES,SLURM_JOB_ID,SLURM_RESTART_COUNT"
    target = load_plan(recipe)["train-sft/sft"].artifact
    try:
        with Watch(["train-sft"], built.folder) as watch:
            done = built.run(f"snakemake {PROFILES} {small} {config} -- {target}/manifest.json")
    finally:
        recipe.unlink()
        image.unlink()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (job,) = set(re.findall(r"SLURM jobid '?(\d+)", done.stdout + done.stderr))
    (had,) = built.cluster.sacct(job, "AllocTRES")
    assert {"node=2", "gres/gpu=2"} <= set(had.split(",")), had
    # Each was told of its own, inside the image, and of the network that they meet on.
    assert {(seen.gpus, len(seen.interfaces) > 1) for seen in watch.seen["train-sft"]} == {("0", True)}
    assert open_artifact(built.folder / target).manifest["parameters"]["nodes"] == 2


def test_a_cancelled_job_is_seen_at_once_and_run_again(built: Project):
    before = built.digests("rollout/train")
    process = built.start_again("rollout")
    job = built.wait_for_job("rollout")
    finished = built.stop_in_the_middle()
    built.cluster.as_user(["scancel", job])
    cancelled = time.monotonic()
    again = None
    while again in (None, job):
        again = built.wait_for_job("rollout")
        assert time.monotonic() - cancelled < 120
    assert process.wait(600) == 0, built.log()[-3000:]
    assert built.cluster.state(job) == "CANCELLED"
    assert built.trials_kept() >= finished
    assert built.digests("rollout/train") == before


def test_a_rollout_of_two_jobs_has_each_trial_done_once(built: Project):
    """Each takes trials until none is left, and a third writes what one alone would."""
    before = built.digests("rollout/train")
    recipe = built.folder / "workflow" / "recipes" / SMALL.name
    text = recipe.read_text()
    # How many jobs there are, the step's key does not say.
    recipe.write_text(text.replace("teacher: reference", "teacher: reference, shards: 2"))
    try:
        done = built.build_again("rollout", ALONE)
    finally:
        recipe.write_text(text)
    assert done.returncode == 0, done.stderr[-3000:]
    out = built.rollout()
    logs = [(built.folder / f"results/logs/rollout/{out.path.name}-{shard}.log").read_text() for shard in (1, 2)]
    done_here = [int(number) for log in logs for number in re.findall(r"rollout pull: (\d+) trials done here", log)]
    assert len(done_here) == 2 and sum(done_here) == built.trials, logs
    assert built.digests("rollout/train") == before


def test_a_lost_node_loses_no_finished_trial(built: Project):
    before = built.digests("rollout/train")
    process = built.start_again("rollout", ALONE)
    job = built.wait_for_job("rollout")
    finished = built.stop_in_the_middle()
    node = built.cluster.as_user(["squeue", "--noheader", "--format=%N", f"--jobs={job}"]).stdout.strip()
    built.cluster.kill_node(node)
    try:
        assert process.wait(900) == 0, built.log()[-3000:]
    finally:
        built.cluster.revive_node(node)
    assert built.trials_kept() >= finished
    assert built.digests("rollout/train") == before


def test_a_killed_snakemake_leaves_jobs_that_the_next_one_uses(built: Project):
    before = built.digests("rollout/train")
    process = built.start_again("rollout")
    job = built.wait_for_job("rollout")
    # Held, so that it does not end before the next run begins.
    held = wait_for_process("rollout", timeout=60)
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    try:
        assert built.run("snakemake --unlock").returncode == 0
        beside = built.build_again("rollout")
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)
    assert beside.returncode == 1
    assert re.search(rf"jobs of an earlier run still work on what is to be built: {job} \(rollout ", beside.stderr), (
        beside.stderr[-2000:]
    )
    built.cluster.wait(job, "COMPLETED")
    done = built.build("--until", "rollout")
    assert done.returncode == 0, done.stderr[-3000:]
    assert built.digests("rollout/train") == before


def test_a_job_over_its_memory_is_named_so(built: Project):
    """It fails as out of memory, after as many runs as the profile says, and succeeds when it is given more."""
    mixes = [name for name in load_plan(SMALL) if name.startswith("mix/")]
    done = built.build_again("mix", "--retries", "1", "--set-resources", "mix:mem_mb=60")
    assert done.returncode == 1
    jobs = re.findall(r"SLURM jobid '?(\d+)", done.stdout + done.stderr)
    assert len(jobs) == 2 * len(mixes)
    assert {built.cluster.state(job) for job in jobs} <= {"OUT_OF_MEMORY", "FAILED"}
    assert "out of memory" in built.run("recipe status small").stdout.lower()
    done = built.build("--until", "mix")
    assert done.returncode == 0, done.stderr[-3000:]


def running() -> Iterator[tuple[int, set[str]]]:
    """The processes that jobs of the submitting user run, each with the names of the programs it may be."""
    user = pwd.getpwnam("hpc").pw_uid
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            own = path.stat().st_uid == user
        except OSError:
            continue
        if own:
            yield (
                int(path.name),
                {word.rpartition(b"/")[2].decode(errors="replace") for word in words[:3] if b"/" in word},
            )


def processes(tool: str) -> list[int]:
    """The processes of a program that jobs of the submitting user run."""
    return [pid for pid, programs in running() if tool in programs]


def wait_for_process(tool: str, timeout: float) -> list[int]:
    end = time.monotonic() + timeout
    while not (found := processes(tool)) and time.monotonic() < end:
        time.sleep(0.1)
    assert found, f"no {tool} was running within {timeout:.0f} s"
    return found


def test_a_job_over_its_time_goes_on_in_the_next_one(built: Project):
    before = built.digests("rollout/train")
    process = built.start_again("rollout", ON_GPU, "rollout:runtime=1")
    job = built.wait_for_job("rollout")
    finished = built.stop_in_the_middle()
    built.cluster.wait(job, "TIMEOUT", timeout=200)
    assert process.wait(600) == 0, built.log()[-3000:]
    assert built.trials_kept() >= finished
    assert built.digests("rollout/train") == before


def test_a_model_server_that_dies_in_a_job_is_started_again(built: Project):
    """Killed while it is asked, it costs no attempt and none is held against the model."""
    step = load_plan(SMALL)["evaluate/sft"].artifact
    before = built.attempts("evaluate/sft")
    process = built.start(f"--forcerun {step}/manifest.json -- {step}/manifest.json")
    engine = min(wait_for_process("vllm", timeout=300))
    # The model is asked once a terminal is there.
    wait_for_process("bwrap", timeout=300)
    os.kill(engine, signal.SIGKILL)
    assert process.wait(600) == 0, built.log()[-3000:]
    log = (built.folder / "results" / "logs" / "evaluate" / f"{step.name}.log").read_text()
    assert "the model server was lost" in log and "starting it again" in log
    assert built.attempts("evaluate/sft") == before


def test_a_preempted_job_is_requeued_and_goes_on(built: Project):
    before = built.digests("rollout/train")
    # One of two nodes: the others are another test's.
    extra = "rollout:slurm_extra='--exclude=cpu[1-2]'"
    partition = ("--set-resources", "rollout:slurm_partition=scavenge", f'"{extra}"')
    process = built.start_again("rollout", *partition)
    job = built.wait_for_job("rollout")
    node = built.cluster.as_user(["squeue", "--noheader", "--format=%N", f"--jobs={job}"]).stdout.strip()
    finished = built.stop_in_the_middle()
    other = built.cluster.sbatch("sleep 20", account="lab", partition="gpu", nodelist=node, exclusive=True, mem=500)
    assert process.wait(900) == 0, built.log()[-3000:]
    assert built.cluster.state(other) == "COMPLETED"
    assert "PREEMPTED" in built.cluster.sacct(job, runs=True)
    assert built.trials_kept() >= finished
    assert built.digests("rollout/train") == before


def test_a_full_disk_is_said_in_a_line_and_the_build_goes_on_with_room(built: Project):
    before = built.digests("mix/train")
    folder = built.folder / "results" / "mix"
    aside = folder.with_name("mix.aside")
    folder.rename(aside)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k,mode=777", "tmpfs", folder], check=True)
    try:
        done = built.build_again("mix", "--retries", "0")
        assert done.returncode == 1
        logs = "".join(path.read_text() for path in (built.folder / "results" / "logs" / "mix").glob("*.log"))
        assert re.search(r"^mix: error: .*the disk is full", logs, re.MULTILINE), logs
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
        aside.rename(folder)
    done = built.build_again("mix")
    assert done.returncode == 0, done.stderr[-3000:]
    assert built.digests("mix/train") == before
