"""Where the processes of a run are, how they are started, and what is stated of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipe_core.errors import BadInput
from train_sft.__main__ import _reason, _sees_cuda, build_parser
from train_sft.config import distributed, hyperparameters, run_settings, topology
from train_sft.launch import Place, find_place, first_host, kept_environment, words
from train_sft.marks import STOPPED, WHOLE, drop_torn, stopped_at

STEP = {
    "SLURM_JOB_ID": "31007",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NODEID": "1",
}


def arguments(*more: str):
    return build_parser().parse_args(["--model", "m", "--trajectories", "t", "--out", "o", *more])


# Of one process without ZeRO, as before either could be asked for: artifacts of then are up to date now.
PLAIN = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "template": "qwen3_nothink",
    "cutoff_len": 2048,
    "train_on_prompt": False,
    "mask_history": False,
    "packing": False,
    "neat_packing": False,
    "disable_shuffling": False,
    "flash_attn": "sdpa",
    "disable_gradient_checkpointing": True,
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 4e-5,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "num_train_epochs": 7.0,
    "optim": "adamw_torch",
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "weight_decay": 0.04,
    "max_grad_norm": 1.0,
    "seed": 0,
    "data_seed": 0,
}


@pytest.mark.parametrize("more", [[], ["--nodes", "1", "--processes-per-node", "1", "--zero-stage", "0"]])
def test_one_process_states_what_it_always_did(more: list[str]):
    args = arguments(*more)
    assert hyperparameters(args, cuda=False) == PLAIN
    assert topology(args) == {"threads": 2}
    assert not distributed(args)
    assert {"ddp_timeout", "deepspeed"} & run_settings(args, Path("w")).keys() == set()
    assert words(args, Place(), Path("c"))[1:] == ["-m", "train_sft.worker", "c"]


def test_a_gpu_changes_some_settings_and_flags_change_them_back():
    assert {key for key, value in hyperparameters(arguments(), cuda=True).items() if value != PLAIN[key]} == {
        *("flash_attn", "disable_gradient_checkpointing", "use_cpu", "bf16"),
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    }
    back = ("--no-flash-attention", "--no-gradient-checkpointing", "--micro-batch-size", "8")
    keys = hyperparameters(arguments(*back), cuda=True)
    assert {key for key, value in keys.items() if value != PLAIN[key]} == {"use_cpu", "bf16"}
    assert hyperparameters(arguments("--gradient-checkpointing"), cuda=False)["disable_gradient_checkpointing"] is False
    with pytest.raises(BadInput, match="--flash-attention needs a GPU"):
        hyperparameters(arguments("--flash-attention"), cuda=False)


def test_several_processes_share_the_batch():
    args = arguments("--nodes", "24", "--processes-per-node", "4", "--batch-size", "96", "--zero-stage", "3")
    keys = hyperparameters(args, cuda=True)
    assert (keys["per_device_train_batch_size"], keys["gradient_accumulation_steps"]) == (1, 1)
    assert keys["deepspeed"]["zero_optimization"]["stage"] == 3
    assert keys["deepspeed"]["bf16"] == {"enabled": True}
    assert "use_cpu" not in keys
    assert topology(args) == {"threads": 2, "nodes": 24, "processes_per_node": 4}
    settings = {**keys, **run_settings(args, Path("w"))}
    assert (settings["deepspeed"], settings["ddp_timeout"]) == ("w/deepspeed.json", 1800)
    accumulated = arguments("--processes-per-node", "2", "--micro-batch-size", "1", "--batch-size", "12")
    assert hyperparameters(accumulated, cuda=False)["gradient_accumulation_steps"] == 6


@pytest.mark.parametrize(
    ("cuda", "more", "at_once"),
    [
        (True, [], (1, 512)),
        (True, ["--nodes", "2", "--processes-per-node", "4"], (1, 64)),
        (True, ["--micro-batch-size", "4"], (4, 128)),
        (False, [], (512, 1)),
        (False, ["--processes-per-node", "2"], (256, 1)),
    ],
)
def test_a_gpu_takes_one_conversation_at_once_unless_told_and_a_cpu_its_share(cuda, more, at_once):
    keys = hyperparameters(arguments("--batch-size", "512", *more), cuda=cuda)
    assert (keys["per_device_train_batch_size"], keys["gradient_accumulation_steps"]) == at_once


def test_a_batch_that_does_not_divide_among_gpus_is_one_line():
    with pytest.raises(BadInput, match="--batch-size 8 is no multiple of --micro-batch-size 1 x 3 processes"):
        hyperparameters(arguments("--processes-per-node", "3"), cuda=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--micro-batch-size", "3"], "--batch-size 8 is no multiple of --micro-batch-size 3"),
        (["--processes-per-node", "3"], "no multiple of --micro-batch-size 1 x 3 processes"),
        (["--nodes", "3", "--processes-per-node", "4"], "x 12 processes"),
        (["--nodes", "2", "--micro-batch-size", "8"], "--micro-batch-size 8 x 2 processes"),
    ],
)
def test_a_batch_that_does_not_divide_is_one_line(more: list[str], said: str):
    with pytest.raises(BadInput, match=said):
        hyperparameters(arguments(*more), cuda=False)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("cpu1", "cpu1"),
        ("cpu[1-2]", "cpu1"),
        ("gpu[007,011-012],cpu3", "gpu007"),
        ("login1,gpu[1-2]", "login1"),
        ("rack[2-3]-node[08-09,11]-ib,x1", "rack2-node08-ib"),
    ],
)
def test_the_first_node_of_slurms_lists(nodes: str, first: str):
    assert first_host(nodes) == first


def test_place_comes_from_slurm():
    place = find_place(2, STEP)
    assert (place.rank, place.address, place.attempt) == (1, "gpu03", "31007.1.0")
    # All nodes name the same port, which depends on the job; a requeue is another attempt.
    assert (
        place.port
        == find_place(2, {**STEP, "SLURM_NODEID": "0"}).port
        != find_place(2, {**STEP, "SLURM_JOB_ID": "31008"}).port
    )
    assert all(
        1024 < int(find_place(2, {**STEP, "SLURM_JOB_ID": str(job)}).port) < 32768 for job in (1, 14999, 67_108_863)
    )
    assert find_place(2, {**STEP, "SLURM_RESTART_COUNT": "1"}).attempt == "31007.1.1"
    assert find_place(1, {}) == Place()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "SLURM_JOB_ID, SLURM_STEP_ID, .* not set"),
        ({**STEP, "SLURM_NODEID": ""}, "SLURM_NODEID not set"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4"}, "4 tasks on 2 nodes"),
        ({**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}, "1 tasks on 1 nodes"),
    ],
)
def test_what_is_no_step_of_as_many_nodes_is_one_line_that_says_how(environment: dict[str, str], said: str):
    with pytest.raises(BadInput, match=f"--nodes 2: .*{said}.*srun --nodes=2 --ntasks-per-node=1 train-sft"):
        find_place(2, environment)


def test_torchrun_is_started_once_a_node():
    args = arguments("--nodes", "2", "--processes-per-node", "4", "--zero-stage", "3", "--collective-timeout", "60")
    line = words(args, find_place(2, STEP), Path("c"))
    assert line[1:3] == ["-m", "torch.distributed.run"]
    assert {"--nnodes=2", "--nproc-per-node=4", "--node-rank=1", "--master-addr=gpu03", "--max-restarts=0"} < set(line)
    assert "--rdzv-conf=timeout=60" in line
    assert line[-3:] == ["-m", "train_sft.worker", "c"]
    assert "--standalone" in words(arguments("--zero-stage", "3"), Place(), Path("c"))


def test_processes_see_neither_slurm_nor_mpi_nor_secrets():
    kept = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0"}
    dropped = {"SLURM_PROCID": "1", "PMI_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "HF_TOKEN": "x", "RANK": "3"}
    assert kept_environment({**kept, **dropped}) == kept


def test_a_checkpoint_counts_when_all_processes_have_written(tmp_path: Path):
    for step in (4, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    (tmp_path / "checkpoint-4" / WHOLE).touch()
    drop_torn(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert stopped_at(tmp_path) is None
    (tmp_path / STOPPED).write_text("4\n")
    assert stopped_at(tmp_path) == 4


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "no output"),
        (["Traceback:", "ValueError: no such key"], "ValueError: no such key"),
        (
            [
                "[rank0]: RuntimeError: Connection closed by peer",
                "a.b.ChildFailedError: ",
                "====",
                "train_sft.worker FAILED",
            ],
            "[rank0]: RuntimeError: Connection closed by peer",
        ),
        (["torch.distributed.DistNetworkError: timed out"], "torch.distributed.DistNetworkError: timed out"),
        (["Killed"], "Killed"),
    ],
)
def test_the_reason_is_the_exception_not_torchruns_report_of_it(lines: list[str], reason: str):
    assert _reason(lines) == reason


@pytest.mark.parametrize("cuda", ["13.0", None])
def test_a_pytorch_for_gpus_does_not_train_on_the_cpu_unasked(monkeypatch, cuda: str | None):
    pytorch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False), version=SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "torch", pytorch)
    if cuda:
        with pytest.raises(BadInput, match="built for GPUs and none is seen here"):
            _sees_cuda(arguments())
    else:
        assert _sees_cuda(arguments()) is False
    assert _sees_cuda(arguments("--device", "cpu")) is False
