"""What is said of a published data set: a card for people, Croissant metadata for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

CROISSANT = "http://mlcommons.org/croissant/1.0"
# https://docs.mlcommons.org/croissant/docs/croissant-spec.html: the terms of version 1.0 that are used here.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "column": "cr:column",
    "jsonPath": "cr:jsonPath",
    "recordSet": "cr:recordSet",
    "repeated": "cr:repeated",
    "sc": "https://schema.org/",
    "source": "cr:source",
    "subField": "cr:subField",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Lineage:
    """A step that the data went through, as its manifest says."""

    name: str
    digest: str
    tier: str
    rows_in: int | None
    rows_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFile:
    """One file of the data set: its path, SHA-256, bytes."""

    path: str
    sha256: str
    size: int


def size_category(rows: int) -> str:
    """Return the hub's word for a number of rows.

    >>> size_category(999), size_category(94_334)
    ('n<1K', '10K<n<100K')
    """
    return next((word for limit, word in _SIZES if rows < limit), "n>1M")


def licences_of(sources: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return the licences of (source, licence, origin) triples, each once, in order."""
    return sorted({licence for _, licence, _ in sources if licence})


def front_matter(name: str, licences: Sequence[str], rows: int, suffix: str) -> str:
    """Return the YAML that the hub reads at the head of a card."""
    facts = {
        "pretty_name": name,
        "license": licences[0].lower() if len(licences) == 1 else "other",
        "size_categories": [size_category(rows)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": f"data/*.{suffix}"}]}],
    }
    return "---\n" + yaml.safe_dump(facts, sort_keys=False) + "---\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def card(
    name: str,
    *,
    form: str,
    suffix: str,
    rows: int,
    sources: Counter[tuple[str, str, str]],
    lineage: Sequence[Lineage],
) -> str:
    """Return the card, in Markdown.

    Args:
        name: the data set's.
        form: what its rows are, in words.
        suffix: of its data files.
        rows: how many.
        sources: rows by (source, licence, origin); a licence or origin that the rows do not name is empty.
        lineage: the steps it went through, in pipeline order.
    """
    lines = [front_matter(name, licences_of(sources), rows, suffix), f"# {name}", ""]
    lines += [f"{rows:,} rows: {form}. Made by agent-recipes; the tables are written from the manifests.", ""]
    lines += ["## Sources", ""]
    lines += _table(
        ("source", "licence", "origin", "rows"),
        (
            (source, licence or "not stated", origin, f"{n:,}")
            for (source, licence, origin), n in sorted(sources.items())
        ),
    )
    if lineage:
        lines += ["", "## Steps", ""]
        cells = []
        for step in lineage:
            dropped = ", ".join(f"{n:,} {reason}" for reason, n in step.dropped.items())
            before = "" if step.rows_in is None else f"{step.rows_in:,}"
            cells.append((step.name, before, f"{step.rows_out:,}", dropped, step.tier, f"`{step.digest[:16]}`"))
        lines += _table(("step", "rows in", "rows out", "dropped", "exactness", "digest"), cells)
        checked = [step for step in lineage if step.name.startswith("decontaminate/")]
        said = (
            f"Compared with benchmarks in {', '.join(f'`{step.name}`' for step in checked)}; its report lists each hit."
            if checked
            else "Not compared with any benchmark."
        )
        lines += ["", "## Decontamination", "", said]
    return "\n".join(lines) + "\n"


def croissant(
    name: str,
    *,
    description: str,
    licences: Sequence[str],
    files: Sequence[DataFile],
    suffix: str,
    columns: Sequence[str],
) -> str:
    """Return Croissant 1.0 metadata, in JSON-LD: each file with its SHA-256, and the columns of the rows."""
    kind = "application/x-parquet" if suffix == "parquet" else "application/jsonlines"
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path.rpartition("/")[2],
            "contentUrl": file.path,
            "contentSize": f"{file.size} B",
            "encodingFormat": kind,
            "sha256": file.sha256,
        }
        for file in files
    ]
    extract, root = ("column", "") if suffix == "parquet" else ("jsonPath", "$.")
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"rows/{column}",
            "name": column,
            "dataType": "sc:Text",
            "source": {"fileSet": {"@id": "files"}, "extract": {extract: root + column}},
        }
        for column in columns
    ]
    about = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CROISSANT,
        "name": name,
        "description": description,
        "license": list(licences) or ["not stated"],
        "distribution": [
            *objects,
            {"@type": "cr:FileSet", "@id": "files", "encodingFormat": kind, "includes": f"data/*.{suffix}"},
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": fields}],
    }
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"
