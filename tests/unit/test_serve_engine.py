"""How the engine's command line is chosen, and which model folders are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_core.errors import BadInput
from serve.__main__ import keep_model_infos
from serve.engine import (
    EngineSettings,
    check_build,
    check_device,
    check_model,
    default_threads,
    detect_device,
    engine_command,
    visible_gpus,
)
from serve.supervise import check_port, free_port, last_words


def flags(words: list[str]) -> dict[str, str | None]:
    """Return the value after each flag, None for a flag without one."""
    after = [*words[1:], "--"]
    return {
        word: None if value.startswith("--") else value
        for word, value in zip(words, after, strict=True)
        if word.startswith("--")
    }


def test_the_processor_is_served_in_float32_without_chunks(tmp_path):
    settings = EngineSettings(Path("/m"), "m", 8001, max_model_len=8192, cache_mb=64, threads=3, seed=7)
    words, environment = engine_command(settings, tmp_path)
    assert words[:3] == ["vllm", "serve", "/m"]
    found = flags(words)
    assert found["--dtype"] == "float32"
    assert {"--enforce-eager", "--no-enable-chunked-prefill", "--no-enable-prefix-caching"} <= found.keys()
    assert found["--max-num-batched-tokens"] == "8192"
    assert found["--kv-cache-memory-bytes"] == str(64 * 2**20)
    assert (found["--host"], found["--port"], found["--seed"]) == ("127.0.0.1", "8001", "7")
    assert environment["OMP_NUM_THREADS"] == "3"


def test_a_batch_holds_the_longest_prompt_and_no_less_than_4096(tmp_path):
    words, _ = engine_command(EngineSettings(Path("/m"), "m", 1, max_model_len=512), tmp_path)
    assert flags(words)["--max-num-batched-tokens"] == "4096"


def test_a_gpu_is_served_in_bfloat16_without_the_processors_flags(tmp_path):
    settings = EngineSettings(Path("/m"), "m", 1, device="cuda", cache_mb=None, tensor_parallel=2)
    words, environment = engine_command(settings, tmp_path)
    found = flags(words)
    assert found["--dtype"] == "bfloat16" and found["--tensor-parallel-size"] == "2"
    assert not {"--enforce-eager", "--no-enable-chunked-prefill", "--kv-cache-memory-bytes"} & found.keys()
    assert not [name for name in environment if name.startswith(("OMP_", "VLLM_CPU"))]


def test_copies_of_a_model_over_gpus(tmp_path):
    settings = EngineSettings(
        Path("/m"), "m", 1, device="cuda", cache_mb=None, tensor_parallel=4, data_parallel=2, gpu_memory=0.85
    )
    found = flags(engine_command(settings, tmp_path)[0])
    assert (found["--tensor-parallel-size"], found["--data-parallel-size"]) == ("4", "2")
    assert found["--gpu-memory-utilization"] == "0.85"
    alone = flags(engine_command(EngineSettings(Path("/m"), "m", 1, device="cuda"), tmp_path)[0])
    assert (alone["--tensor-parallel-size"], alone["--data-parallel-size"]) == ("1", "1")
    assert "--gpu-memory-utilization" not in alone


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", "", "float32"),
        ("cuda", "", "bfloat16"),
        ("cpu", "bfloat16", "bfloat16"),
        ("cuda", "float32", "float32"),
    ],
)
def test_a_dtype_that_is_named_comes_before_the_devices(tmp_path, device, dtype, expected):
    words, _ = engine_command(EngineSettings(Path("/m"), "m", 1, device=device, dtype=dtype), tmp_path)
    assert words.count("--dtype") == 1 and flags(words)["--dtype"] == expected


@pytest.mark.parametrize(
    ("settings", "gpus", "message"),
    [
        ({"tensor_parallel": 2}, 8, "--tensor-parallel is for GPUs"),
        ({"data_parallel": 2}, 8, "--data-parallel is for GPUs"),
        ({"gpu_memory": 0.5}, 8, "--gpu-memory is for GPUs"),
        ({"device": "cuda", "gpu_memory": 0.5}, 8, "--gpu-memory and --cache-mb both say"),
        ({"device": "cuda", "tensor_parallel": 4, "data_parallel": 2}, 4, "takes 8 GPUs, and 4 can be used here"),
        ({"device": "cuda"}, 0, "takes 1 GPUs, and 0 can be used here"),
    ],
)
def test_gpus_that_are_not_there_are_refused(settings, gpus, message):
    with pytest.raises(BadInput, match=message):
        check_device(EngineSettings(Path("/m"), "m", 1, **settings), gpus)


@pytest.mark.parametrize(
    ("device", "build", "message"),
    [
        ("cpu", "0.32.0", "vLLM 0.32.0 is a build for GPUs, and no GPU is to be seen here"),
        ("cuda", "0.32.0+cpu", "--device cuda: vLLM 0.32.0.cpu is the build for CPUs"),
    ],
)
def test_a_build_for_the_other_device_is_refused(device, build, message):
    with pytest.raises(BadInput, match=message):
        check_build(device, build)


@pytest.mark.parametrize(("device", "build"), [("cpu", "0.32.0+cpu"), ("cuda", "0.32.0"), ("cpu", ""), ("cuda", "")])
def test_the_right_build_is_taken(device, build):
    check_build(device, build)


@pytest.mark.parametrize(("build", "device"), [("0.32.0+cpu", "cpu"), ("0.32.0", "cuda")])
def test_a_gpu_is_used_where_vllm_is_built_for_it(monkeypatch, build, device):
    monkeypatch.setattr("serve.engine.shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("serve.engine.Path.exists", lambda path: True)
    assert detect_device(build) == device


def test_what_fits_is_served():
    check_device(EngineSettings(Path("/m"), "m", 1, device="cuda", tensor_parallel=4, data_parallel=2), 8)
    check_device(EngineSettings(Path("/m"), "m", 1), 0)


@pytest.mark.parametrize(("value", "gpus"), [("0,1,2", 3), ("GPU-4f2,GPU-77a", 2), ("", 0), ("3", 1)])
def test_the_gpus_of_a_job_are_those_it_was_given(monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_both_devices_sample_alike_and_stay_off_the_network(tmp_path, device):
    words, environment = engine_command(EngineSettings(Path("/m"), "m", 1, device=device), tmp_path)
    found = flags(words)
    assert found["--generation-config"] == "vllm"
    assert found["--logprobs-mode"] == "processed_logprobs"
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (16, 8)])
def test_the_engine_takes_half_the_cores(cores, threads):
    assert default_threads(cores) == threads


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no config.json"),
        ({"config.json": "{}"}, "names no architecture"),
        ({"config.json": "{"}, "names no architecture"),
        ({"config.json": json.dumps({"architectures": ["A"]})}, "no \\*.safetensors"),
        ({"config.json": json.dumps({"architectures": ["A"]}), "model.safetensors": ""}, "no tokenizer.json"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        check_model(tmp_path)


def test_a_port_in_use_is_refused():
    import socket

    port = free_port()
    check_port(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(BadInput, match=f"--port {port}"):
            check_port(port)


def test_last_words_are_the_first_and_the_last_error(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "(APIServer pid=1) WARNING 01-31 12:00:00 [a.py:1] This can cause errors like `OSError: [Errno 24]`\n"
        "Traceback (most recent call last):\n"
        "(EngineCore pid=2) ERROR 01-31 12:00:00 [core.py:1] ValueError: too long\n"
        "(APIServer pid=1) RuntimeError: see above\n"
        "bye\n"
    )
    assert last_words(log) == "ValueError: too long | RuntimeError: see above"


@pytest.mark.parametrize(("text", "said"), [("one\n\ntwo\n", "one | two"), ("", "it wrote nothing")])
def test_last_words_without_an_error_are_the_last_lines(tmp_path, text, said):
    log = tmp_path / "log"
    log.write_text(text)
    assert last_words(log) == said


def test_notes_on_model_classes_outlive_a_run(tmp_path):
    for run in ("first", "second"):
        keep_model_infos(tmp_path / run, tmp_path / "venv" / "var" / "notes")
    (tmp_path / "first" / "modelinfos" / "a.json").write_text("{}")
    assert (tmp_path / "second" / "modelinfos" / "a.json").read_text() == "{}"


def test_where_nothing_can_be_kept_a_run_goes_without(tmp_path):
    (tmp_path / "file").touch()
    keep_model_infos(tmp_path / "cache", tmp_path / "file" / "notes")
    assert not (tmp_path / "cache").exists()
