"""Start SkyRL with `rloo_n` and trials. `train-rl --trainer skyrl` runs this; `--dry-run` prints the command.

    python -m train_rl.trainers.skyrl --work DIR --metrics FILE trainer.strategy=fsdp trainer.seed=0 …

The words `key=value` are SkyRL 0.4.0's, to be had from `train-rl --trainer skyrl --dry-run`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipe_core.cli import Parser, above_zero, entry, iso_date, natural, positive
from recipe_core.errors import BadInput


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="train_rl.trainers.skyrl", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for trials under way")
    parser.add_argument("--metrics", type=Path, required=True, metavar="FILE", help="gets a line a step")
    parser.add_argument("--least-samples", type=positive, default=4, help="trials a baseline needs (default 4)")
    parser.add_argument("--agent-timeout", type=above_zero, default=120.0, help="seconds of a trial (default 120)")
    parser.add_argument("--verifier-timeout", type=above_zero, help="seconds of a verifier (default: the task's)")
    parser.add_argument("--trial-retries", type=natural, default=2, help="after infrastructure errors (default 2)")
    parser.add_argument("--settle", type=above_zero, default=10.0, help="longest wait for a command in s (default 10)")
    parser.add_argument("--concurrency", type=positive, default=8, help="trials at a time (default 8)")
    parser.add_argument("--backend", default="auto", help="of the sandbox (default auto)")
    parser.add_argument("--date", type=iso_date, default="1970-01-01", help="written into trials' rows")
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="SkyRL's configuration")
    return parser


def run(args: argparse.Namespace) -> None:
    """Check the configuration as SkyRL does, start Ray, train."""
    try:
        import ray
        from skyrl.train.config import SkyRLTrainConfig
        from skyrl.train.utils import validate_cfg
        from skyrl.train.utils.utils import initialize_ray
    except ModuleNotFoundError as error:
        raise BadInput(f"{error}; this trainer needs the stack of envs/rl-cuda") from None

    from train_rl.sampler import SamplingSettings
    from train_rl.trainers.skyrl.experiment import Trials, register, train

    try:
        cfg = SkyRLTrainConfig.from_cli_overrides(args.overrides)
        register(args.least_samples)
        validate_cfg(cfg)
    except (ValueError, AssertionError) as error:
        raise BadInput(f"SkyRL's configuration: {error}") from None
    sampling = cfg.generator.sampling_params
    settings = SamplingSettings(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_generate_length,
        max_turns=cfg.generator.max_turns,
        max_model_len=cfg.generator.inference_engine.engine_init_kwargs["max_model_len"],
        concurrency=args.concurrency,
        agent_timeout=args.agent_timeout,
        verifier_timeout=args.verifier_timeout,
        trial_retries=args.trial_retries,
        settle=args.settle,
        backend=args.backend,
        seed=cfg.trainer.seed,
        date=args.date,
    )
    initialize_ray(cfg)
    ray.get(train.remote(cfg, Trials(settings, args.work, args.metrics)))


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
