"""What a recipe costs before anything of it is built: rows, model tokens, GPU hours and disk of every step.

Rows follow from the recipe: counts, shares and samples are stated there, and what a filter without a stated size drops
is not known, so rows behind it are an upper bound. Tokens, hours and bytes follow from rows by the figures of
:class:`Assumptions`, each with where it comes from; none of them is measured on the machine at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from recipe.plan import PlannedStep
from recipe_core.select import rows_of_fraction

# Bytes of a conversation on disk, a token: four of text, compressed to a third; assumed.
_ROW_BYTES = 4 / 3
# Of a parameter in a checkpoint: the weight in 16 bits; in 32 bits the weight and the two moments of Adam.
_CHECKPOINT_BYTES = 2 + 3 * 4

ASSUMED = """Rows follow from what the recipe states; behind a filter of no stated size they are an upper bound. The
rest is estimated from rows, not measured: 14,683 tokens a trajectory (144.76 M in 9,859 kept rows, arXiv 2606.24855),
30 % of them sampled; 8,000 an answer; 500 a scored or rewritten task; 1,000 tokens a second and GPU sampled; 6
operations a parameter and token in training, on 989 TFLOP/s at 40 % utilisation; two checkpoints, each of 14 bytes a
parameter."""


@dataclass(frozen=True)
class Assumptions:
    """Figures that turn rows into cost.

    Attributes:
        trajectory_tokens: of one agent trajectory: 144.76 M tokens in 9,859 kept rows (arXiv 2606.24855).
        generated_share: of those, sampled by the model and not read from the terminal; assumed.
        answer_tokens: of one long reasoning answer; assumed, the published cut-off being 16,384 (arXiv 2506.04178).
        reply_tokens: of one reply that scores or rewrites a task; assumed.
        decode_tokens_per_gpu_second: a served model samples at many requests at once; assumed.
        train_flops: floating-point operations a GPU trains with each second: the 989 TFLOP/s that an H100 has in
            bfloat16 at 40 % utilisation; assumed.
        parameters: of the student where its name does not tell.
        task_bytes: of a packed task on disk; assumed.
    """

    trajectory_tokens: float = 144.76e6 / 9859
    generated_share: float = 0.3
    answer_tokens: float = 8000
    reply_tokens: float = 500
    decode_tokens_per_gpu_second: float = 1000
    train_flops: float = 989e12 * 0.4
    parameters: float = 1.5e6
    task_bytes: float = 8e3


@dataclass(frozen=True)
class Cost:
    """What one step is estimated to make and take.

    Attributes:
        rows: rows it writes; for a stage that works on attempts (upsample, rollout, evaluate), the attempts.
        bound: whether `rows` is only an upper bound.
        tokens: tokens that models read and write in it.
        gpu_hours: of one GPU.
        disk_bytes: of the artifact.
        work_bytes: of what stands beside it only while it is made: the last two checkpoints of a training.
        row_tokens: of one row, where it is a conversation; what training reads.
    """

    rows: float
    bound: bool = False
    tokens: float = 0.0
    gpu_hours: float = 0.0
    disk_bytes: float = 0.0
    work_bytes: float = 0.0
    row_tokens: float = 0.0


def model_parameters(step: PlannedStep | None, default: float) -> float:
    """Return how many parameters a student has, as the name of its repository tells (`Qwen3-8B`).

    >>> model_parameters(None, 5.0)
    5.0
    """
    match = re.search(r"(\d+(?:\.\d+)?)B\b", str(step.parameters.get("hub", ""))) if step else None
    return float(match[1]) * 1e9 if match else default


class Estimator:
    """Estimates the steps of plans that share steps; each step is estimated once."""

    def __init__(self, steps: Iterable[PlannedStep], assumed: Assumptions | None = None) -> None:
        self.assumed = assumed or Assumptions()
        self._steps = {step.artifact: step for step in steps}
        self._costs: dict[str, Cost] = {}

    def cost(self, step: PlannedStep) -> Cost:
        """Return the estimate of a step."""
        if step.key not in self._costs:
            inputs = {flag: [self.cost(self._steps[path]) for path in paths] for flag, paths in step.inputs.items()}
            self._costs[step.key] = self._estimate(step, inputs)
        return self._costs[step.key]

    def total(self, steps: Iterable[PlannedStep] | None = None) -> Cost:
        """Return the sum over distinct steps, all unless some are given; its rows are meaningless and 0."""
        chosen = self._steps.values() if steps is None else steps
        costs = [self.cost(step) for step in {step.key: step for step in chosen}.values()]
        return Cost(
            rows=0,
            bound=any(cost.bound for cost in costs),
            tokens=sum(cost.tokens for cost in costs),
            gpu_hours=sum(cost.gpu_hours for cost in costs),
            disk_bytes=sum(cost.disk_bytes for cost in costs),
            work_bytes=sum(cost.work_bytes for cost in costs),
        )

    def _estimate(self, step: PlannedStep, inputs: Mapping[str, list[Cost]]) -> Cost:
        taken = [cost for flag, costs in inputs.items() if flag != "model" for cost in costs]
        rows, bound = _rows(step.stage, step.parameters, inputs)
        # What RL samples is stated, whatever number of tasks it samples from.
        estimate = Cost(rows, bound or (step.stage != "train-rl" and any(cost.bound for cost in taken)))
        asked = "model" in step.inputs or "endpoint" in step.parameters
        if step.stage in ("rollout", "evaluate", "answers"):
            return self._conversations(step, estimate, asked)
        if step.stage in ("score", "augment"):
            return self._replies(step, estimate, asked, sum(cost.rows for cost in inputs["tasks"]))
        if step.stage in ("init-model", "train-sft", "train-rl"):
            return self._model(step, estimate, max((cost.row_tokens for cost in taken), default=0.0))
        length = max((cost.row_tokens for cost in taken), default=0.0)
        return replace(estimate, disk_bytes=rows * (length * _ROW_BYTES or self.assumed.task_bytes), row_tokens=length)

    def _conversations(self, step: PlannedStep, estimate: Cost, asked: bool) -> Cost:
        answers = step.stage == "answers"
        length = self.assumed.answer_tokens if answers else self.assumed.trajectory_tokens
        tokens = estimate.rows * length if asked else 0.0
        hours = self._hours(tokens * (1.0 if answers else self.assumed.generated_share))
        return replace(
            estimate, tokens=tokens, gpu_hours=hours, disk_bytes=estimate.rows * length * _ROW_BYTES, row_tokens=length
        )

    def _replies(self, step: PlannedStep, estimate: Cost, asked: bool, before: float) -> Cost:
        replies = estimate.rows if step.stage == "augment" else before
        tokens = replies * self.assumed.reply_tokens if asked else 0.0
        disk = estimate.rows * self.assumed.task_bytes
        return replace(estimate, tokens=tokens, gpu_hours=self._hours(tokens), disk_bytes=disk)

    def _model(self, step: PlannedStep, estimate: Cost, row_tokens: float) -> Cost:
        size = model_parameters(self._student(step), self.assumed.parameters)
        if step.stage == "init-model":
            return Cost(1, disk_bytes=2 * size)
        if step.stage == "train-rl":
            tokens = estimate.rows * self.assumed.trajectory_tokens
            sampling = self._hours(tokens * self.assumed.generated_share)
        else:
            length = min(row_tokens, float(step.parameters.get("cutoff", 32768)))
            tokens = estimate.rows * length * float(step.parameters.get("epochs", 1))
            sampling = 0.0
        # Six operations a parameter and token: two forward, four backward (arXiv 2001.08361).
        training = 6 * size * tokens / self.assumed.train_flops / 3600
        return replace(
            estimate,
            tokens=tokens,
            gpu_hours=sampling + training,
            disk_bytes=2 * size,
            work_bytes=2 * _CHECKPOINT_BYTES * size,
        )

    def _hours(self, sampled: float) -> float:
        return sampled / self.assumed.decode_tokens_per_gpu_second / 3600

    def _student(self, step: PlannedStep) -> PlannedStep | None:
        """Return the step that the trained model begins with."""
        while step.stage in ("train-sft", "train-rl"):
            step = self._steps[step.inputs["model"][0]]
        return step


def _rows(stage: str, parameters: Mapping[str, Any], inputs: Mapping[str, list[Cost]]) -> tuple[float, bool]:
    """Return the rows that a step writes, and whether that is an upper bound."""
    data = [cost for flag, costs in inputs.items() if flag != "model" for cost in costs]
    before = sum(cost.rows for cost in data)
    stated = parameters.get("rows")
    per_row = parameters.get("attempts", 3 if stage == "evaluate" else 1)
    fixed: dict[str, float] = {
        "source-tasks": parameters.get("count", 0),
        "score": before,
        "upsample": stated or before,
        "rollout": before * per_row,
        "evaluate": before * per_row,
        "answers": before * parameters.get("samples", 1),
        "export-data": before,
        "train-sft": before,
        "train-rl": parameters.get("steps", 1) * parameters.get("prompts", 1) * parameters.get("samples", 1),
        "augment": stated or before * (parameters.get("copies", 1) + bool(parameters.get("keep-original"))),
    }
    if stage in fixed:
        return fixed[stage], False
    if stage == "mix" and not parameters.get("with-replacement"):
        stated = min(stated or before, before)
    if "fraction" in parameters:
        return rows_of_fraction(str(parameters["fraction"]), int(before)), False
    if stated is not None:
        return min(stated, before) if stage != "mix" else stated, False
    # What a filter without a stated size leaves is known when it has run.
    return before, True
