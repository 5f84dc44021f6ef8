"""Serve a model folder over an OpenAI-compatible API until interrupted.

    serve --model results/train_sft/abc --port 8000
    serve --model results/train_sft/abc --device cuda --tensor-parallel 4 --data-parallel 2 --dry-run

The engine is vLLM. When it is healthy, one line of JSON goes to standard output: {"base_url": ..., "model": ...}. The
server listens on the loopback interface only. It is stopped, with all its processes, on SIGTERM, on Ctrl-C, and when
this process is killed. If the engine dies, the error shows its last words and names its log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from recipe_core.cli import Parser, entry, positive, seed
from recipe_core.errors import BadInput
from recipe_core.processes import running
from serve import supervise
from serve.engine import (
    DEFAULT_SEQUENCES,
    DEVICES,
    HOST,
    EngineSettings,
    check_build,
    check_device,
    check_model,
    default_threads,
    detect_device,
    engine_command,
    visible_gpus,
    vllm_version,
)
from serve.flags import add_serving_flags


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="serve", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="Hugging Face model folder")
    parser.add_argument("--name", help="the model's name in requests (default: the folder's)")
    parser.add_argument("--port", type=int, default=8000, help="TCP port, 0 for any free one (default 8000)")
    parser.add_argument(
        "--device", choices=("auto", *DEVICES), default="auto", help="default auto: cuda where there is a GPU"
    )
    parser.add_argument(
        "--max-model-len", type=positive, default=2048, metavar="N", help="tokens of context (default 2048)"
    )
    parser.add_argument(
        "--max-sequences", type=positive, metavar="N", help="requests at a time (default 16 on cpu, 256 on cuda)"
    )
    parser.add_argument(
        "--cache-mb",
        type=positive,
        metavar="N",
        help="MiB of key-value cache (default 256 on cpu, what is free on cuda)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of the engine (default half the cores)"
    )
    add_serving_flags(parser)
    parser.add_argument("--seed", type=seed, default=0, help="seed of requests that bring none (default 0)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the engine's output (default: a temporary file)")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the engine's command, with the variables it gets"
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="stop when standard input ends, for programs that start this"
    )
    return parser


def settings_of(args: argparse.Namespace, port: int) -> EngineSettings:
    """Return what to serve, by the flags and the machine."""
    device = detect_device(vllm_version()) if args.device == "auto" else args.device
    return EngineSettings(
        model=args.model.resolve(),
        name=args.name or args.model.resolve().name,
        port=port,
        device=device,
        max_model_len=args.max_model_len,
        max_sequences=args.max_sequences or DEFAULT_SEQUENCES[device],
        cache_mb=args.cache_mb or (256 if device == "cpu" else None),
        threads=args.threads or default_threads(len(os.sched_getaffinity(0))),
        tensor_parallel=args.tensor_parallel,
        data_parallel=args.data_parallel,
        gpu_memory=args.gpu_memory,
        dtype=args.dtype or "",
        seed=args.seed,
    )


def shell_line(settings: EngineSettings) -> str:
    """Return the engine's command as a line for a shell; its private folder is a stand-in.

    Raises:
        BadInput: settings that contradict each other.
    """
    check_device(settings, settings.tensor_parallel * settings.data_parallel)
    words, environment = engine_command(settings, Path(tempfile.gettempdir()))
    return shlex.join(["env", *(f"{name}={value}" for name, value in sorted(environment.items())), *words])


def stdin_closed(wait: float) -> bool:
    """Wait up to `wait` seconds for the end of standard input and tell whether it came."""
    readable, _, _ = select.select([0], [], [], wait)
    return bool(readable) and not os.read(0, 4096)


def run(args: argparse.Namespace) -> None:
    """Serve until told to stop."""
    check_model(args.model)
    if args.dry_run:
        print(shell_line(settings_of(args, args.port)))
        return
    if args.port:
        supervise.check_port(args.port)
    settings = settings_of(args, args.port or supervise.free_port())
    check_build(settings.device, vllm_version())
    check_device(settings, visible_gpus())
    scratch = Path(tempfile.mkdtemp(prefix="serve-"))
    log = (args.log or scratch / "engine.log").absolute()
    try:
        _serve(args, settings, scratch, log)
    except BadInput:
        # The log is named in the message: keep it, and only it.
        for entry_ in scratch.iterdir():
            if entry_ != log:
                shutil.rmtree(entry_) if entry_.is_dir() else entry_.unlink()
        raise
    except BaseException:
        shutil.rmtree(scratch)
        raise
    shutil.rmtree(scratch)


def keep_model_infos(cache: Path, kept: Path) -> None:
    """Let vLLM find what it has learnt of model classes in earlier runs.

    For a class that it has no notes of it starts a process that imports it, which takes as long as starting itself. The
    notes stand in the stack, so that they are of its packages; in an image, which cannot be written, there are none.

    Args:
        cache: vLLM's cache folder of this run.
        kept: where the notes stay, made if it can be.
    """
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(kept, os.W_OK) and not any(kept.iterdir()):
        return
    cache.mkdir()
    (cache / "modelinfos").symlink_to(kept, target_is_directory=True)


def _serve(args: argparse.Namespace, settings: EngineSettings, scratch: Path, log: Path) -> None:
    words, environment = engine_command(settings, scratch)
    # The engine's command stands beside this interpreter, which need not be on PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    words[0] = shutil.which(words[0], path=environment["PATH"]) or words[0]
    root_url = f"http://{HOST}:{settings.port}"
    started = time.monotonic()
    log.unlink(missing_ok=True)
    keep_model_infos(Path(environment["VLLM_CACHE_ROOT"]), Path(sys.prefix, "var", "vllm-modelinfos"))
    with running(words, environment, log) as engine:

        def abandoned() -> bool:
            return bool(args.until_stdin_closes) and stdin_closed(0)

        supervise.wait_until_healthy(engine, root_url, log, args.start_timeout, abandoned)
        ready = {
            "base_url": f"{root_url}/v1",
            "model": settings.name,
            "seconds": round(time.monotonic() - started, 1),
        }
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(ready), flush=True)
        while engine.poll() is None:
            if args.until_stdin_closes:
                if stdin_closed(1.0):
                    return
            else:
                time.sleep(1.0)
        raise BadInput(
            f"the engine ended with code {engine.returncode}: {supervise.last_words(log)} (all of it: {log})"
        )


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
