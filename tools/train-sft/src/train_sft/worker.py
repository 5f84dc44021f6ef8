"""What every training process runs: LLaMA-Factory, made fit to be stopped.

    python -m train_sft.worker llamafactory.yaml

SIGTERM or SIGUSR1 at any of the processes makes all of them write a checkpoint at the end of the step they are in and
end with code 143. A run that goes on from any checkpoint reports the same losses as one that was never stopped, and a
checkpoint counts only when all processes have written their part.

The heavy imports stand at the top since nothing else imports this module.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from llamafactory.train import tuner
from llamafactory.train.sft import workflow
from torch import distributed
from transformers import TrainerCallback

from train_sft.marks import STOPPED, WHOLE

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_EXIT_CODE = 128 + signal.SIGTERM


def _barrier() -> None:
    if distributed.is_initialized():
        distributed.barrier()


class _Stop(TrainerCallback):
    """Ends training behind a checkpoint once a signal came; takes up the sum of losses where the last run left it."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._asked = self._stopping = False
        self._before: dict[int, Any] = {}

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # From here on: a signal before ends the process at once, and nothing is lost by it.
        self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        if args.resume_from_checkpoint:
            self.trainer.load_loss(Path(args.resume_from_checkpoint))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        # A signal may reach one process only, or one a step earlier than another; saving needs all at the same step.
        asked = torch.tensor(int(self._asked), device=args.device)
        if distributed.is_initialized():
            distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        if asked.item() and state.global_step < state.max_steps:
            self._stopping = control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._stopping:
            if state.is_world_process_zero:
                Path(args.output_dir, STOPPED).write_text(f"{state.global_step}\n")
            _barrier()
            sys.exit(_EXIT_CODE)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Trainer(workflow.CustomSeq2SeqTrainer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_callback(_Stop(self))

    def _loss_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"loss_{self.args.process_index}.json"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        checkpoint.mkdir(parents=True, exist_ok=True)
        # The trainer forgets the losses since the last line of metrics; a float holds a float32 exactly.
        loss = {"sum": self._tr_loss.item(), "last_logged": self._globalstep_last_logged}
        self._loss_file(checkpoint).write_text(json.dumps(loss))
        super()._save_checkpoint(model, trial)
        _barrier()
        if self.is_world_process_zero():
            (checkpoint / WHOLE).touch()
        _barrier()

    def load_loss(self, checkpoint: Path) -> None:
        """Take up the losses since the last line of metrics from a checkpoint that has them."""
        file = self._loss_file(checkpoint)
        if file.is_file():
            loss = json.loads(file.read_text())
            self._tr_loss = torch.tensor(loss["sum"], device=self.args.device)
            self._globalstep_last_logged = loss["last_logged"]


def _spare_compiler() -> None:
    """Keep DeepSpeed on the CPU from compiling, at every start, a way to sum that only processes of one node have."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False


if __name__ == "__main__":
    _spare_compiler()
    workflow.CustomSeq2SeqTrainer = _Trainer
    tuner.run_exp()
