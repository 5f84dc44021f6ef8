"""What is said of a published data set: the lineage as JSON, and a card made of it for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from export_data.sources import Tally
from recipe_core.artifact import Artifact

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# The hub's names of licences in use for data and code; it refuses a card that gives another name than its own.
_HUB_LICENCES = re.compile(
    r"apache-2\.0|mit|isc|zlib|unlicense|unknown|bsd-[23]-clause|mpl-2\.0|a?gpl-3\.0|gpl-2\.0|lgpl-(2\.1|3\.0)"
    r"|cc0-1\.0|cc-by(-sa)?-[34]\.0|cc-by-nc(-sa|-nd)?-4\.0|cc-by-nd-4\.0|odc-by|odbl|pddl"
)
_EXAMPLES = {
    "jsonl": """\
import json
from pathlib import Path

for path in sorted(Path("data").glob("*.jsonl")):
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            # use the row
print(row)
""",
    "parquet": """\
import pyarrow.dataset

rows = pyarrow.dataset.dataset("data", format="parquet")
for batch in rows.to_batches():
    for row in batch.to_pylist():
        pass  # use the row
print(rows.count_rows(), "rows of", ", ".join(rows.schema.names))
""",
    "tasks": """\
import io
import tarfile
from pathlib import Path

import pyarrow.dataset

rows = pyarrow.dataset.dataset("data", format="parquet")
for batch in rows.to_batches():
    for row in batch.to_pylist():
        with tarfile.open(fileobj=io.BytesIO(row["task_binary"])) as task:
            task.extractall(Path("tasks", row["path"]), filter="data")
""",
}


def size_category(rows: int) -> str:
    """Return the hub's word for a number of rows.

    >>> size_category(999), size_category(94_334)
    ('n<1K', '10K<n<100K')
    """
    return next((word for limit, word in _SIZES if rows < limit), "n>1M")


def hub_licence(licences: Sequence[str]) -> str:
    """Return the hub's name for the licences of rows: that of the one licence, or `other`.

    >>> hub_licence(["Apache-2.0"]), hub_licence(["MIT", "Apache-2.0"]), hub_licence(["PSF-2.0"])
    ('apache-2.0', 'other', 'other')
    """
    name = licences[0].lower() if len(licences) == 1 else ""
    return name if _HUB_LICENCES.fullmatch(name) else "other"


def step_of(name: str, artifact: Artifact) -> dict[str, Any]:
    """Return what the lineage says of a step: its counts, and the source and revision if it reads one."""
    manifest = artifact.manifest
    step = {"step": name, "stage": artifact.stage, "digest": artifact.digest}
    step |= {key: manifest[key] for key in ("tier", "rows_in", "rows_out", "dropped")}
    if artifact.stage == "source-tasks":
        step |= {key: manifest["parameters"].get(key) for key in ("source", "split")}
        inputs = manifest.get("inputs", {})
        step |= {"revision": inputs.get("origin"), "input": inputs.get("input")}
    return step


def lineage(
    name: str,
    *,
    form: str,
    tally: Tally,
    steps: Sequence[Mapping[str, Any]],
    decontamination: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what is known of the rows' descent, as JSON values.

    Args:
        name: the data set's.
        form: name of the rows' form.
        tally: the rows, counted.
        steps: the steps they went through, in pipeline order, each as :func:`step_of` says.
        decontamination: by step, what the decontamination report says, less the hits.
    """
    return {
        "name": name,
        "form": form,
        "rows": tally.rows.total(),
        "splits": {split or "unknown": n for split, n in sorted(tally.splits.items())},
        "licences": {licence or "not stated": n for licence, n in sorted(tally.licences().items())},
        "sources": [
            {"source": source, "licence": licence or "not stated", "origin": tally.origin(source, licence), "rows": n}
            for (source, licence), n in sorted(tally.rows.items())
        ],
        "steps": list(steps),
        "decontamination": dict(decontamination),
    }


def front_matter(name: str, licences: Sequence[str], rows: int, suffix: str) -> str:
    """Return the YAML that the hub reads at the head of a card."""
    facts = {
        "pretty_name": name,
        "license": hub_licence(licences),
        "size_categories": [size_category(rows)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": f"data/*.{suffix}"}]}],
    }
    return "---\n" + yaml.safe_dump(facts, sort_keys=False, allow_unicode=True) + "---\n"


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str("" if value is None else value)
    return " ".join(text.replace("|", "\\|").split())


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]


def _steps(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = []
    for step in steps:
        dropped = ", ".join(f"{n:,} {reason}" for reason, n in step["dropped"].items())
        row = (step["step"], step["rows_in"], step["rows_out"], dropped, step["tier"], f"`{step['digest'][:16]}`")
        cells.append(row)
    lines = ["", "## Steps", ""]
    lines += _table(("step", "rows in", "rows out", "dropped", "exactness", "digest"), cells)
    read = [step for step in steps if step["stage"] == "source-tasks"]
    if read:
        lines += ["", "## Revisions", ""]
        head = ("step", "source", "split", "revision", "input")
        lines += _table(head, ([step[name] for name in head] for step in read))
    return lines


def _decontamination(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["", "## Decontamination", ""]
    if not found:
        return [*lines, "Not decontaminated: no step compared these rows with a benchmark."]
    for step, report in found.items():
        rule = ", ".join(f"{name} {value}" for name, value in report["rule"].items() if value is not None)
        lines += [
            f"`{step}` compared column `{report['column']}` of {report['rows_in']:,} rows with the prompts of the "
            f"benchmarks below (method `{report['method']}`: {rule}) and dropped {report['dropped']:,}.",
            "",
        ]
        others = [name for name in report["benchmarks"][0] if name not in ("name", "prompts", "sha256")]
        lines += _table(
            ("benchmark", "prompts", *(f"dropped: {name}" for name in others), "sha256"),
            (
                (one["name"], one["prompts"], *(one[name] for name in others), f"`{one['sha256'][:16]}`")
                for one in report["benchmarks"]
            ),
        )
        lines.append("")
    return lines[:-1]


def card(about: Mapping[str, Any], *, form: str, suffix: str) -> str:
    """Return the card, in Markdown.

    Args:
        about: what :func:`lineage` returns.
        form: what the rows are, in words.
        suffix: of the data files.
    """
    name, rows, licences = about["name"], about["rows"], about["licences"]
    lines = [front_matter(name, list(licences), rows, suffix), f"# {name}", ""]
    lines += [f"{rows:,} rows: {form}. Made by agent-recipes; the tables are written from the manifests.", ""]
    example = _EXAMPLES["tasks" if about["form"] == "tasks" else suffix]
    lines += ["In a copy of this folder:", "", "```python", *example.splitlines(), "```", "", "## Sources", ""]
    lines += _table(
        ("source", "licence", "origin", "rows"),
        ((one["source"], one["licence"], one["origin"], one["rows"]) for one in about["sources"]),
    )
    lines += ["", "## Licences", ""]
    lines += _table(("licence", "rows"), licences.items())
    if set(about["splits"]) != {"unknown"}:
        lines += ["", "## Splits", "", "Which split of their source the tasks are from:", ""]
        lines += _table(("split", "rows"), about["splits"].items())
    if about["steps"]:
        lines += _steps(about["steps"])
    lines += _decontamination(about["decontamination"])
    return "\n".join(lines) + "\n"
