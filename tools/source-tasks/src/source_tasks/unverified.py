"""Sources `freelancer` and `issue-tasks`: requests that nothing can verify.

Their tasks are real task folders whose verifier says that there is nothing to verify and writes no reward
(`source.unverifiable`); `meta` says `"verifiable": false`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from source_tasks.benchmarks import COLUMNS, refuse_benchmark
from source_tasks.given import UNKNOWN_LICENCE, instruction_key
from source_tasks.source import BASE_IMAGE, unverifiable
from source_tasks.swesmith import image_of
from source_tasks.tables import Made, Row, TableSource, text_of, text_or_none

STATEMENT = ("problem_statement", "issue", "instruction")


def _licence(row: Row) -> str:
    return text_or_none(row, "licence") or text_or_none(row, "license") or UNKNOWN_LICENCE


class Freelancer(TableSource):
    """Descriptions of freelance projects: `description`, and where they are known `title`, `skills`, `id`.

    The published task folders of this source (columns `path` and `task_binary`) are read by the source `hf`.
    """

    name: ClassVar[str] = "freelancer"
    needed = (("description",),)
    optional = ("title", "skills", "id", "licence", "license")
    label = ("id", "title")

    def key(self, row: Row) -> str | None:
        """Return the key of the description."""
        description = text_or_none(row, "description")
        return instruction_key(description) if description else None

    def make(self, row: Row) -> Made:
        """Return the task folder."""
        title, description = text_or_none(row, "title"), text_of(row, "description").strip()
        skills = row.get("skills")
        named = skills if isinstance(skills, list) else [skills]
        wanted = ", ".join(str(skill).strip() for skill in named if text_or_none({"skill": skill}, "skill"))
        parts = [f"# {title.strip()}" if title else "", description, f"Skills: {wanted}" if wanted else ""]
        instruction = "\n\n".join(part for part in parts if part)
        meta = {"solution": False, "verifiable": False}
        return Made(unverifiable(self.name, "task", instruction), licence=_licence(row), meta=meta, validate=False)


class IssueTasks(TableSource):
    """Issues that a language model wrote for repositories.

    `problem_statement`, `issue` or `instruction` is the text; `repo`, `base_commit`, `image_name` and `instance_id` are
    taken where they are. Rows that name a benchmark's test split are refused, not rejected: an input that holds some
    was made of the benchmark.
    """

    name: ClassVar[str] = "issue-tasks"
    needed = (STATEMENT,)
    optional = (*COLUMNS, "repo", "base_commit", "image_name", "licence", "license")
    label = ("instance_id",)

    def check(self, row: Row, where: str) -> None:
        """Refuse rows of a benchmark's test split."""
        refuse_benchmark(row, where)

    def key(self, row: Row) -> str | None:
        """Return the repository where it is known, else the key of the text."""
        repository = text_or_none(row, "repo")
        statement = next((found for name in STATEMENT if (found := text_or_none(row, name))), None)
        if repository:
            return f"repository:{repository.strip().lower()}"
        return instruction_key(statement) if statement else None

    def make(self, row: Row) -> Made:
        """Return the task folder; its environment is the row's image where it names one, else the plain one."""
        statement, repository = text_of(row, *STATEMENT).strip(), text_or_none(row, "repo")
        commit = text_or_none(row, "base_commit")
        about = f"This issue is about the repository {repository}" + (f" at commit {commit}" if commit else "") + "."
        instruction = f"{about}\n\n{statement}" if repository else statement
        meta: dict[str, Any] = {"solution": False, "verifiable": False, "repository": repository}
        image = BASE_IMAGE
        if text_or_none(row, "image_name"):
            meta["image"] = image = image_of(row, "image_name")
        files = unverifiable(self.name, "task", instruction, image=image)
        return Made(files, licence=_licence(row), meta=meta, validate=False)


def open_freelancer(given: Path) -> Freelancer:
    """Return the source `freelancer`; `given` is the file or folder of tables."""
    return Freelancer(given)


def open_issue_tasks(given: Path) -> IssueTasks:
    """Return the source `issue-tasks`; `given` is the file or folder of tables."""
    return IssueTasks(given)
