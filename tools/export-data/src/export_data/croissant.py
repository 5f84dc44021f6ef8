"""Croissant metadata: what a data set's files and columns are, for machines.

Version 1.0, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CROISSANT = "http://mlcommons.org/croissant/1.0"
# The context of the specification, whole: readers compare it with their own.
_OWN_TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{name: f"cr:{name}" for name in _OWN_TERMS},
}
# What readers of Croissant call the formats.
_ENCODINGS = {"parquet": "application/x-parquet", "jsonl": "application/jsonlines"}


@dataclass(frozen=True)
class DataFile:
    """One file of the data set: its path, SHA-256, bytes."""

    path: str
    sha256: str
    size: int


def _field(name: str, parts: Sequence[str]) -> dict[str, Any]:
    column: dict[str, Any] = {"fileSet": {"@id": "files"}, "extract": {"column": name}}
    about: dict[str, Any] = {"@type": "cr:Field", "@id": f"rows/{name}", "name": f"rows/{name}"}
    if not parts:
        return {**about, "dataType": "sc:Text", "source": column}
    inner = [
        {
            "@type": "cr:Field",
            "@id": f"rows/{name}/{part}",
            "name": f"rows/{name}/{part}",
            "dataType": "sc:Text",
            "source": {**column, "transform": {"jsonPath": part}},
        }
        for part in parts
    ]
    return {**about, "repeated": True, "subField": inner}


def croissant(
    name: str,
    *,
    description: str,
    licences: Sequence[str],
    version: str,
    date: str | None,
    files: Sequence[DataFile],
    suffix: str,
    columns: Mapping[str, Sequence[str]],
) -> str:
    """Return Croissant 1.0 metadata, in JSON-LD: each file with its SHA-256, and the columns of the rows.

    Args:
        name: the data set's.
        description: what it is, in words.
        licences: names of licences.
        version: semantic version.
        date: when it was published, `YYYY-MM-DD`.
        files: its data files, paths relative to the metadata's folder.
        suffix: how their names end.
        columns: the columns of rows; for one of messages the names of their parts, otherwise none.
    """
    encoding = _ENCODINGS[suffix]
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path.rpartition("/")[2],
            "contentUrl": file.path,
            "contentSize": f"{file.size} B",
            "encodingFormat": encoding,
            "sha256": file.sha256,
        }
        for file in files
    ]
    about = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CROISSANT,
        "name": name,
        "description": description,
        "version": version,
        **({"datePublished": date} if date else {}),
        "license": list(licences) or ["not stated"],
        "distribution": [
            *objects,
            {
                "@type": "cr:FileSet",
                "@id": "files",
                "name": "files",
                "encodingFormat": encoding,
                "includes": f"data/*.{suffix}",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "field": [_field(column, parts) for column, parts in columns.items()],
            }
        ],
    }
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"
