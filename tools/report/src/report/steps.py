"""The steps of a recipe as the report is given them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe_core.artifact import Artifact, open_artifact
from recipe_core.errors import BadInput
from recipe_core.terms import LABELS


@dataclass(frozen=True)
class Step:
    """One step of a recipe: its name, such as `mix/train`, and the artifact it wrote."""

    name: str
    artifact: Artifact

    @property
    def stage(self) -> str:
        """The stage that wrote the artifact, for example `mix`."""
        return self.artifact.stage

    @property
    def label(self) -> str | None:
        """Which model an evaluation scored: `base`, `sft` or `rl`; None for other stages."""
        if self.stage != "evaluate":
            return None
        return str(self.artifact.manifest.get("parameters", {}).get("label"))


def open_steps(given: Sequence[tuple[str, Path]]) -> list[Step]:
    """Open the artifacts of a recipe.

    Args:
        given: step name and folder, in pipeline order.

    Raises:
        BadInput: no readable artifact, a step named twice, or two evaluations of one model.
    """
    steps: list[Step] = []
    for name, folder in given:
        if any(step.name == name for step in steps):
            raise BadInput(f"--artifact names {name} twice; give each step once")
        step = Step(name, open_artifact(folder))
        if step.stage == "evaluate" and step.label not in LABELS:
            raise BadInput(f"{folder}: labelled {step.label}, expected one of {', '.join(LABELS)}; evaluate it again")
        steps.append(step)
    evaluations(steps)
    return steps


def evaluations(steps: Sequence[Step]) -> dict[str, Step]:
    """Return the evaluations by label, in the order of `LABELS`.

    Raises:
        BadInput: two evaluations have one label.
    """
    found: dict[str, Step] = {}
    for step in steps:
        if step.label is not None:
            if step.label in found:
                raise BadInput(
                    f"{found[step.label].name} and {step.name} are both labelled {step.label}; report one of them"
                )
            found[step.label] = step
    return {label: found[label] for label in LABELS if label in found}
