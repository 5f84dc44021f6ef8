"""The trials of candidates, benchmark by benchmark, on tasks that all of them were evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evaluate.statistics import Outcome, outcomes, task_means
from recipe_core.artifact import Artifact
from recipe_core.errors import BadInput

TRIALS = "trials.parquet"
_COLUMNS = ("task_id", "source", "attempt", "reward", "error_class")


class Benchmark(NamedTuple):
    """One benchmark as all candidates are compared on it.

    Attributes:
        name: what the trials' `source` column says.
        tasks: ids of the tasks at which every candidate has a valid attempt, in order.
        excluded: tasks at which some candidate has none, because all its attempts failed outside the model.
        trials: each candidate's attempts at `tasks`.
        infra_errors: each candidate's attempts, at any task of the benchmark, that failed outside the model.
    """

    name: str
    tasks: list[str]
    excluded: int
    trials: dict[str, list[Outcome]]
    infra_errors: dict[str, int]

    def shares(self) -> dict[str, list[float]]:
        """Return by candidate the share of valid attempts that solved each of `tasks`, 0 to 1."""
        return {name: list(task_means(trials).values()) for name, trials in self.trials.items()}


def read_trials(name: str, artifacts: Sequence[Artifact]) -> dict[str, list[Outcome]]:
    """Return a candidate's attempts by benchmark, those of several artifacts together.

    Raises:
        BadInput: an artifact given twice, artifacts of different models, no trials, or a row without id or benchmark.
    """
    from recipe_core.records import read_rows

    if len({artifact.digest for artifact in artifacts}) < len(artifacts):
        raise BadInput(f"candidate {name!r} has the same artifact twice; give each once")
    if any(_model(artifact) != _model(artifacts[0]) for artifact in artifacts):
        raise BadInput(f"candidate {name!r} has artifacts of different models; a candidate is one model: split it")
    found: dict[str, list[Outcome]] = {}
    for artifact in artifacts:
        path = artifact.data(TRIALS)
        for number, row in enumerate(read_rows(path, _COLUMNS)):
            if not row["task_id"] or not row["source"]:
                raise BadInput(f"{path}: row {number} has no task_id or no source; make it again with evaluate")
            found.setdefault(row["source"], []).extend(outcomes([row]))
    if not found:
        raise BadInput(f"{artifacts[0].path}: holds no trials; evaluate candidate {name!r} first")
    return found


def _model(artifact: Artifact) -> tuple[object, ...]:
    parameters = artifact.manifest["parameters"]
    return artifact.manifest["inputs"].get("model"), parameters.get("endpoint"), parameters.get("model")


def common_benchmarks(trials: Mapping[str, Mapping[str, Sequence[Outcome]]]) -> list[Benchmark]:
    """Return the benchmarks by name, each cut to the tasks at which every candidate has a valid attempt.

    Args:
        trials: attempts by candidate and benchmark.

    Raises:
        BadInput: a candidate that lacks a benchmark, was evaluated on other tasks of one, or a benchmark of which
            nothing is left.
    """
    names = sorted({name for found in trials.values() for name in found})
    for candidate, found in sorted(trials.items()):
        for name in names:
            if name not in found:
                others = sorted(other for other in trials if name in trials[other])
                raise BadInput(
                    f"candidate {candidate!r} has no trials of {name!r}, which {others[0]!r} has; evaluate all "
                    "candidates on the same benchmarks"
                )
    return [_common(name, {candidate: found[name] for candidate, found in sorted(trials.items())}) for name in names]


def _common(name: str, trials: Mapping[str, Sequence[Outcome]]) -> Benchmark:
    asked = {candidate: {trial.task_id for trial in found} for candidate, found in trials.items()}
    first = next(iter(asked))
    for candidate, tasks in asked.items():
        if tasks != asked[first]:
            raise BadInput(
                f"candidates {first!r} and {candidate!r} were evaluated on different tasks of {name!r}: "
                f"{len(asked[first] - tasks)} only by the first, {len(tasks - asked[first])} only by the second; "
                "evaluate all candidates on the same tasks"
            )
    valid = {candidate: set(task_means(found)) for candidate, found in trials.items()}
    tasks = set.intersection(*valid.values())
    if not tasks:
        worst = min(valid, key=lambda candidate: (len(valid[candidate]), candidate))
        raise BadInput(
            f"no task of {name!r} has a valid attempt by every candidate ({worst!r} has one at {len(valid[worst])} of "
            f"{len(asked[first])} tasks, the rest failed outside the model); evaluate it again"
        )
    return Benchmark(
        name,
        sorted(tasks),
        len(asked[first]) - len(tasks),
        {candidate: [trial for trial in found if trial.task_id in tasks] for candidate, found in trials.items()},
        {candidate: sum(not trial.valid for trial in found) for candidate, found in trials.items()},
    )


def check_candidates(candidates: Mapping[str, Sequence[Path]], top: int | None) -> None:
    """Raise BadInput when there is nothing to rank, or less than is to be taken."""
    if len(candidates) < 2:
        raise BadInput(f"{len(candidates)} candidate cannot be ranked; give two or more by --candidate NAME=DIR")
    if top is not None and top > len(candidates):
        raise BadInput(f"--top {top} is more than the {len(candidates)} candidates; lower it")
