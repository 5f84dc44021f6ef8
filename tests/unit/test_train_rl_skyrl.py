from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_core.errors import BadInput
from train_rl import on_nodes
from train_rl.on_nodes import entering, isolated
from train_rl.ray_cluster import Allocation, gpus_of, head_port, ray_words
from train_rl.sampler import SamplingSettings
from train_rl.trainers import Job
from train_rl.trainers.skyrl.command import Topology, check_topology, command, overrides, topology, word
from train_rl.trainers.skyrl.resume import settle_checkpoints, settle_metrics
from train_rl.trainers.skyrl.rollouts import excluded, trajectory_output, without

MACHINES = {"nodes": 2, "gpus": 4}


def job(tmp_path: Path, **changes) -> Job:
    values = {
        "model": tmp_path / "model",
        "task_ids": tuple(f"task-{index}" for index in range(130)),
        "work": tmp_path / "out.work",
        "steps": 5,
        "prompts": 64,
        "samples": 8,
        "micro_batch_size": 1,
        "learning_rate": 5e-6,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "clip": 1.0,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "least_samples": 4,
        "temperature": 0.7,
        "save_steps": 5,
        "seed": 7,
    }
    return Job(**{**values, **changes})


SAMPLING = SamplingSettings(0.7, 0.95, 20, 4096, 32, 32768, 64, 1800.0, 10.0, "auto", 7, "2026-01-01", 120.0, 3)


def test_slurm_says_where_to_train_unless_flags_do():
    slurm = {"SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_ON_NODE": "4"}
    assert topology(None, None, slurm) == Topology(3, 4)
    assert topology(3, 2, slurm) == Topology(3, 2)
    assert topology(2, 8, {}) == Topology(2, 8)
    assert topology(None, None, {}) == Topology(1, 1)
    assert topology(None, None, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}) == Topology(1, 4)


@pytest.mark.parametrize(
    ("nodes", "gpus", "said"),
    [
        (2, None, "--nodes 2, but the Slurm allocation has 3:"),
        (4, None, "--nodes 4, but the Slurm allocation has 3:"),
        (3, 5, "--gpus 5, but a node has 4 here:"),
    ],
)
def test_flags_and_allocation_that_do_not_agree_are_refused(nodes, gpus, said):
    with pytest.raises(BadInput, match=said):
        topology(nodes, gpus, {"SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_PER_NODE": "a100:4"})


@pytest.mark.parametrize(
    ("text", "gpus"), [("4", 4), ("a100:4", 4), ("a100:2,h100:2", 4), ("gpu:a100:8(S:0-1)", 8), ("", None)]
)
def test_gpus_as_slurm_writes_them(text, gpus):
    assert gpus_of({"SLURM_GPUS_PER_NODE": text}) == gpus


def test_gpus_that_are_no_number_are_refused():
    with pytest.raises(BadInput, match="SLURM_GPUS_PER_NODE=many"):
        gpus_of({"SLURM_GPUS_PER_NODE": "many"})


def test_trials_have_to_divide_over_the_gpus(tmp_path: Path):
    check_topology(job(tmp_path), Topology(2, 4))
    check_topology(job(tmp_path, micro_batch_size=2), Topology(2, 4))
    for one, found in [(job(tmp_path), Topology(3, 4)), (job(tmp_path, micro_batch_size=3), Topology(2, 4))]:
        with pytest.raises(BadInput, match="do not divide over"):
            check_topology(one, found)


def test_epochs_are_as_many_as_the_steps_need(tmp_path: Path):
    keys = overrides(job(tmp_path), SAMPLING, Topology(2, 4), tmp_path / "tasks.parquet")
    # 130 tasks are two whole batches of 64.
    assert (keys["trainer.epochs"], keys["trainer.max_training_steps"]) == (3, 5)


def test_the_command_holds_what_skyrl_has_no_key_for(tmp_path: Path):
    words = command(job(tmp_path), SAMPLING, Topology(1, 1), tmp_path / "tasks.parquet", tmp_path / "metrics.jsonl")
    assert words[1:3] == ["-m", "train_rl.trainers.skyrl"]
    assert {"--least-samples=4", "--agent-timeout=1800.0", "--verifier-timeout=120.0", "--trial-retries=3"} < set(words)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("rloo_n", "k=rloo_n"),
        ("/a/b-c.d", "k=/a/b-c.d"),
        ("a b", 'k="a b"'),
        ("true", 'k="true"'),
        ("1e5", 'k="1e5"'),
        (False, "k=false"),
        (None, "k=null"),
        ([0.9, 0.999], "k=[0.9,0.999]"),
        ([], "k=[]"),
    ],
)
def test_values_are_written_so_that_they_keep_their_type(value, written):
    assert word("k", value) == written


def trial(error_class: str | None = None, reward: float | None = 1.0, turns: int = 1) -> dict:
    return {
        "error_class": error_class,
        "error_message": "the endpoint answered 503" if error_class else None,
        "reward": reward,
        "turns": turns,
        "prompt_token_ids": [[1, 2], [1, 2, 3, 4, 5]][:turns],
        "completion_token_ids": [[3, 4], [6]][:turns],
        "logprobs": [[-3.0, -4.0], [-6.0]][:turns],
    }


def test_trials_as_skyrl_takes_them():
    rows = [trial(turns=2), trial("timeout", 1.0), trial("timeout", None, turns=0), trial("infrastructure", None)]
    made = trajectory_output(rows, end=9)
    assert made["prompt_token_ids"] == [[1, 2], [1, 2], [9], [1, 2]]
    assert made["response_ids"] == [[3, 4, 5, 6], [3, 4], [9], [3, 4]]
    assert made["loss_masks"] == [[1, 1, 0, 1], [1, 1], [0], [0, 0]]
    assert made["rollout_logprobs"] == [[-3.0, -4.0, 0.0, -6.0], [-3.0, -4.0], [0.0], [-3.0, -4.0]]
    assert made["rewards"] == [1.0, 0.0, 0.0, 0.0]
    assert made["stop_reasons"] == ["complete", "timeout", "timeout", "infrastructure"]
    assert made["rollout_metrics"]["trials/reward_mean"] == pytest.approx(1 / 3)
    assert made["rollout_metrics"]["trials/excluded"] == 1
    left_out = excluded(made["stop_reasons"])
    assert left_out == [False, False, False, True]
    rest = without(made, left_out)
    assert rest["rewards"] == [1.0, 0.0, 0.0] and rest["rollout_metrics"] == made["rollout_metrics"]


def test_a_step_of_nothing_but_infrastructure_errors_ends_the_run():
    with pytest.raises(BadInput, match=r"all 2 trials of the step ended in infrastructure errors.*answered 503"):
        trajectory_output([trial("infrastructure", None)] * 2, end=9)


def test_a_server_without_token_ids_ends_the_run_instead_of_teaching_nothing():
    with pytest.raises(BadInput, match="none of 2 trials has token ids"):
        trajectory_output([trial(turns=0), trial("timeout", None, turns=0)], end=9)


def checkpoints(work: Path, latest: int, *steps: int) -> None:
    for step in steps:
        (work / "checkpoints" / f"global_step_{step}").mkdir(parents=True)
    if latest:
        (work / "checkpoints" / "latest_ckpt_global_step.txt").write_text(str(latest))


@pytest.mark.parametrize(
    ("latest", "there", "goes_on_from", "kept"),
    [
        (0, (), 0, set()),
        (0, (5,), 0, set()),
        (5, (5,), 5, {5}),
        (5, (5, 10), 5, {5}),
        (45, (40, 45), 40, {40}),
        (45, (45,), 0, set()),
    ],
)
def test_a_killed_run_goes_on_from_a_checkpoint_it_can_train_from(tmp_path, latest, there, goes_on_from, kept):
    checkpoints(tmp_path, latest, *there)
    assert settle_checkpoints(tmp_path, 45, MACHINES) == goes_on_from
    folder = tmp_path / "checkpoints"
    assert {int(path.name.removeprefix("global_step_")) for path in folder.glob("global_step_*")} == kept
    named = folder / "latest_ckpt_global_step.txt"
    assert (named.read_text() if named.is_file() else "0") == str(goes_on_from)


def test_checkpoints_of_other_machines_are_refused_and_kept(tmp_path: Path):
    settle_checkpoints(tmp_path, 45, MACHINES)
    checkpoints(tmp_path, 5, 5)
    assert settle_checkpoints(tmp_path, 45, MACHINES) == 5
    with pytest.raises(BadInput, match="written on 2 nodes x 4 GPUs, this is 1 x 4"):
        settle_checkpoints(tmp_path, 45, {"nodes": 1, "gpus": 4})
    assert (tmp_path / "checkpoints" / "global_step_5").is_dir()


def test_metrics_of_steps_that_are_done_again_are_dropped(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    settle_metrics(path, 5)
    assert not path.exists()
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 8)) + '{"step": 8, "re')
    settle_metrics(path, 5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_jobs_beside_each_other_have_ports_of_their_own():
    ports = [head_port(number) for number in range(100_000, 101_000)]
    assert len(set(ports)) == len(ports)
    assert all(20_000 <= port < 32_768 for port in ports)


def test_ray_gets_no_secret_on_its_command_line_and_says_which_node_it_is():
    words = ray_words("ray", "n2", head="10.0.0.1", port=20_001, is_head=False, folder="/tmp/r", cpus=1, gpus=4)
    assert "--address=10.0.0.1:20001" in words and '--resources={"slurm:n2": 1}' in words
    assert not any("password" in one or "token" in one for one in words)


def test_ray_enters_the_image_that_the_rules_line_enters():
    enter = "apptainer  exec --home '/w' --userns --cleanenv $(echo --nv) --bind '/x.sif' /i/rl-1.sif"
    *shell, script, name = entering(f"  {enter} bash -c 'train-rl'")
    assert (shell, name) == (["/bin/bash", "-c"], "enter")
    assert script.endswith(f'exec env {enter} "$@"')
    with pytest.raises(BadInput, match="enters no image"):
        entering("train-rl --trainer skyrl")


ENTER = "apptainer  exec --home '/w' --userns --net --network none --bind '/x.sif' /i/rl-1.sif bash -c"


@pytest.fixture
def on_two_nodes(tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """Return what runs a rule's line in a folder, on a Ray cluster of two nodes that ends as it is told."""
    monkeypatch.chdir(tmp_path)

    def run(line: str, ends: int | BadInput = 0) -> None:
        class Cluster:
            def __init__(self, nodes: Allocation, shared: Path, *, log: Path, **options) -> None:
                assert shared == tmp_path and "--network" not in " ".join(options["enter"])
                self.log = log

            def __enter__(self) -> Cluster:
                self.log.write_text("raylet died\n")
                return self

            def __exit__(self, *why: object) -> None:
                pass

            def run(self, words: list[str]) -> int:
                if isinstance(ends, BadInput):
                    raise ends
                return ends

        monkeypatch.setattr(on_nodes, "RayCluster", Cluster)
        monkeypatch.setattr(on_nodes, "ray_in", lambda enter: "/opt/ray")
        monkeypatch.setattr(on_nodes, "nodes_of_job", lambda line: Allocation("12", ["n1", "n2"], 4))
        on_nodes.run(on_nodes.build_parser().parse_args([line]))

    return run


def test_rays_log_goes_with_a_run_that_ends_well(on_two_nodes, tmp_path: Path):
    on_two_nodes(f"{ENTER} 'train-rl --nodes 2'")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("ends", "code"), [(7, 7), (-15, 143)])
def test_rays_log_stays_and_is_named_when_the_line_fails(on_two_nodes, tmp_path: Path, capsys, ends: int, code: int):
    with pytest.raises(SystemExit) as ended:
        on_two_nodes(f"{ENTER} 'train-rl --nodes 2'", ends)
    log = tmp_path / "results" / "logs" / "train_rl" / "ray-12.log"
    said = f"on_nodes: error: the line ended with code {code}; what Ray printed is in {log}\n"
    assert (ended.value.code, capsys.readouterr().err) == (code, said)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [log]
    assert log.read_text() == "raylet died\n"


def test_rays_log_stays_when_a_node_is_lost(on_two_nodes, tmp_path: Path):
    with pytest.raises(BadInput, match="n2: lost"):
        on_two_nodes(f"{ENTER} 'train-rl --nodes 2'", BadInput("n2: lost from the Ray cluster"))
    assert (tmp_path / "results" / "logs" / "train_rl" / "ray-12.log").is_file()


@pytest.mark.parametrize("words", ["--network none --net", "--net --network=none", "--net", "--net  --network none"])
def test_several_nodes_without_a_network_are_refused(on_two_nodes, tmp_path: Path, words: str):
    line = ENTER.replace("--net --network none", words)
    with pytest.raises(BadInput, match="apptainer-args in the site file take it away: write `--net --network none`"):
        on_two_nodes(f"{line} 'train-rl --nodes 2'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["--net --network host", "--network=bridge"])
def test_several_nodes_may_have_another_network(words: str):
    assert not isolated(ENTER.replace("--net --network none", words))
