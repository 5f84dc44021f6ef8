"""Source `shell`: its tasks are solvable, not solved already, distinct, held out, and the same everywhere."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from recipe_core.tasks import TaskFile, check_task, task_id
from source_tasks import shell, words
from source_tasks.files import shell_check
from source_tasks.heldout import leaks, split_of
from source_tasks.source import Candidate


def candidates(split: str, count: int, seed: int = 0, families: tuple[str, ...] | None = None) -> list[Candidate]:
    return list(itertools.islice(shell.SOURCE.generate(split, seed, families or shell.SOURCE.families()), count))


def row(candidate: Candidate) -> dict[str, object]:
    return {
        "task_id": task_id(candidate.files),
        "source": "shell",
        "instruction": candidate.files["instruction.md"].content.decode(),
        "meta": json.dumps(candidate.meta),
    }


def lay_out(files: dict[str, TaskFile], root: Path) -> None:
    prefix = "environment/files/"
    for path, (content, mode) in files.items():
        if path.startswith(prefix):
            target = root / path.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(mode)


def problems(files: dict[str, TaskFile], root: Path) -> list[str]:
    expected = json.loads(files["tests/expected.json"].content)
    return [wrong for check in expected if (wrong := shell_check.problem(check, root))]


@pytest.mark.parametrize("family", shell.FAMILIES)
@pytest.mark.parametrize("index", range(3))
def test_the_reference_solution_reaches_the_state_and_doing_nothing_does_not(
    family: str, index: int, tmp_path: Path
) -> None:
    files = shell.propose(family, "train", 7, index).files
    check_task(files, family)
    lay_out(files, tmp_path)
    assert problems(files, tmp_path)
    subprocess.run(["bash", "-c", files["solution/solve.sh"].content.decode()], cwd=tmp_path, check=True)
    assert problems(files, tmp_path) == []


def test_solutions_are_one_to_three_plain_lines() -> None:
    for candidate in candidates("train", 200):
        first, *commands = candidate.files["solution/solve.sh"].content.decode().splitlines()
        assert first == "#!/bin/bash"
        assert 1 <= len(commands) <= 3
        assert all(len(command) < 80 for command in commands)


def test_families_come_in_turn_and_tasks_are_distinct() -> None:
    tasks = candidates("train", 300)
    counts = Counter(task.family for task in tasks)
    assert len(counts) == len(shell.FAMILIES) >= 12
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({task_id(task.files) for task in tasks}) == len(tasks)
    assert len({(task.family, json.dumps(task.meta["parameters"])) for task in tasks}) == len(tasks)


def test_no_open_value_of_a_test_task_occurs_in_a_training_task() -> None:
    train, test = candidates("train", 400, seed=1), candidates("test", 200, seed=2)
    assert leaks(map(row, train), map(row, test)) == []
    everything = " ".join(content.decode("latin-1") for task in train for content, _ in task.files.values())
    held_out = {value for task in test for value in task.meta["held_out"]}
    assert len(held_out) > 300
    assert not [value for value in held_out if value in everything]


def test_every_open_value_of_a_task_is_listed_as_held_out() -> None:
    known = set(words.values("train")) | set(words.values("test"))
    for task in candidates("test", 100):
        whole = json.dumps(task.meta["parameters"])
        assert {value for value in known if value in whole} == set(task.meta["held_out"])


def test_words_are_shared_between_splits_and_values_are_not() -> None:
    train, test = words.values("train"), words.values("test")
    assert not set(train) & set(test)
    assert 0.2 < len(test) / (len(train) + len(test)) < 0.3
    for position in (0, 1):
        assert {value.split("-")[position] for value in train} == {value.split("-")[position] for value in test}


@pytest.mark.parametrize("words_list", [words.FIRST, words.SECOND])
def test_no_word_begins_with_another(words_list: tuple[str, ...]) -> None:
    assert not [(a, b) for a, b in itertools.permutations(words_list, 2) if b.startswith(a)]


def test_a_task_depends_on_its_own_arguments_alone() -> None:
    every = {task_id(task.files) for task in candidates("train", 100, seed=3)}
    some = candidates("train", 4, seed=3, families=("copy-file", "sort-lines"))
    assert {task_id(task.files) for task in some} <= every
    assert every.isdisjoint(task_id(task.files) for task in candidates("train", 100, seed=4))


def test_a_task_is_the_same_on_every_machine() -> None:
    task = shell.propose("copy-file", "train", 0, 0)
    assert split_of(task.meta["held_out"][0]) == "train"
    assert task.files["solution/solve.sh"].content == b"#!/bin/bash\ncp merry-lake.txt empty-forest.txt\n"
