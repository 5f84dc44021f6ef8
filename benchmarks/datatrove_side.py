"""The same questions put to datatrove, in the environment that holds it.

    python datatrove_side.py ngrams OUT TASKS WORKERS BENCHMARK...   13-grams: NGramsDecontFilter
    python datatrove_side.py minhash OUT TASKS WORKERS               the four steps of its MinHash pipeline

Rows come from the artifact's Parquet by its ParquetReader. OUT gets `dropped.json`: the task ids that it drops.
datatrove fills its index of grams from lighteval's tasks only, so the index is written here, with the tokenizer, the
normalisation and the hash of the filter itself.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.text import ngrams, simplify_text


def _reader(shards: Path) -> ParquetReader:
    return ParquetReader(str(shards), text_key="instruction", id_key="task_id", glob_pattern="*.parquet")


def _shards(tasks: Path, out: Path, workers: int) -> Path:
    """Write id and text into one file a worker: datatrove divides work by files."""
    import pyarrow.parquet as pq

    folder = out / "shards"
    folder.mkdir(parents=True)
    table = pq.read_table(tasks / "tasks.parquet", columns=["task_id", "instruction"])
    size = -(-table.num_rows // workers)
    for worker in range(workers):
        pq.write_table(table.slice(worker * size, size), folder / f"{worker:03d}.parquet", compression="zstd")
    return folder


def _dropped(folder: Path) -> list[str]:
    import gzip

    return sorted(
        json.loads(line)["id"] for path in folder.glob("*.jsonl.gz") for line in gzip.open(path, "rt", encoding="utf-8")
    )


def decontaminate(out: Path, tasks: Path, workers: int, benchmarks: list[Path]) -> None:
    """Drop what shares 13 words with a prompt."""
    config = NGramsDecontConfig(n_grams=13, find_query_ngrams=True)
    index = out / "index"
    index.mkdir(parents=True)
    made = NGramsDecontFilter(str(index), config=config)
    for path in benchmarks:
        hashes = {
            made.hash_func(" ".join(gram))
            for line in path.read_text().splitlines()
            for gram in ngrams(
                made.tokenizer.word_tokenize(simplify_text(json.loads(line)["prompt"], config.norm_config)), 13
            )
        }
        np.array(sorted(hashes), dtype=config.hash_config.np_descr).tofile(index / f"{path.stem}.index.hashes")
    LocalPipelineExecutor(
        pipeline=[
            _reader(_shards(tasks, out, workers)),
            NGramsDecontFilter(str(index), config=config, exclusion_writer=JsonlWriter(str(out / "dropped"))),
            JsonlWriter(str(out / "kept")),
        ],
        tasks=workers,
        workers=workers,
        logging_dir=str(out / "logs"),
    ).run()


def minhash(out: Path, tasks: Path, workers: int, _: list[Path]) -> None:
    """Drop near duplicates: 5 words a shingle, 14 buckets of 8 hashes, as it comes."""
    config = MinhashConfig()
    shards = _shards(tasks, out, workers)
    signature = LocalPipelineExecutor(
        pipeline=[_reader(shards), MinhashDedupSignature(str(out / "signatures"), config=config)],
        tasks=workers,
        workers=workers,
        logging_dir=str(out / "logs" / "1"),
    )
    buckets = LocalPipelineExecutor(
        pipeline=[MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=config)],
        tasks=config.num_buckets,
        workers=workers,
        logging_dir=str(out / "logs" / "2"),
        depends=signature,
    )
    cluster = LocalPipelineExecutor(
        pipeline=[MinhashDedupCluster(str(out / "buckets"), str(out / "remove"), config=config)],
        tasks=1,
        logging_dir=str(out / "logs" / "3"),
        depends=buckets,
    )
    LocalPipelineExecutor(
        pipeline=[
            _reader(shards),
            MinhashDedupFilter(str(out / "remove"), exclusion_writer=JsonlWriter(str(out / "dropped"))),
            JsonlWriter(str(out / "kept")),
        ],
        tasks=workers,
        workers=workers,
        logging_dir=str(out / "logs" / "4"),
        depends=cluster,
    ).run()


if __name__ == "__main__":
    kind, place, tasks, workers, *benchmarks = sys.argv[1:]
    out = Path(place)
    shutil.rmtree(out, ignore_errors=True)
    steps = {"ngrams": decontaminate, "minhash": minhash}
    steps[kind](out, Path(tasks), int(workers), [Path(path) for path in benchmarks])
    (out / "dropped.json").write_text(json.dumps(_dropped(out / "dropped")))
