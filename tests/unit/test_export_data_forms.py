from __future__ import annotations

import json
from collections import Counter

import yaml
from hypothesis import given
from hypothesis import strategies as st

from export_data.card import DataFile, Lineage, card, croissant, size_category
from export_data.forms import FORMS, SFT_COLUMNS, messages_of

messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}), max_size=6
)


@given(messages)
def test_every_form_of_a_conversation_gives_it_back(turns: list[dict[str, str]]):
    row = {**dict.fromkeys(SFT_COLUMNS), "conversations": turns, "trial_name": "a__0"}
    for name in ("sft", "sharegpt", "openai"):
        published = json.loads(json.dumps(FORMS[name].convert(row)))
        assert messages_of(published) == turns


def test_published_columns_and_no_others():
    row = {**dict.fromkeys(SFT_COLUMNS), "reward": 1.0, "task_id": "a"}
    assert tuple(FORMS["sft"].convert(row)) == SFT_COLUMNS
    task = {"path": "p", "task_binary": b"x"}
    assert FORMS["tasks"].convert({**task, "source": "s"}) == task


def test_size_categories_are_the_hubs():
    sizes = {1: "n<1K", 1_000: "1K<n<10K", 94_334: "10K<n<100K", 999_999: "100K<n<1M", 1_200_000: "n>1M"}
    assert {rows: size_category(rows) for rows in sizes} == sizes


SOURCES = Counter({("shell", "Apache-2.0", "generator 1"): 1200, ("humaneval", "MIT", "a|b"): 12})
LINEAGE = [
    Lineage("source-tasks/shell", "ab" * 32, "T0", None, 1212),
    Lineage("filter-turns/train", "cd" * 32, "T0", 1212, 1200, {"too-few-turns": 12}),
]


def test_the_card_says_where_rows_come_from_and_what_was_dropped():
    text = card("demo", form="rows", suffix="parquet", rows=1212, sources=SOURCES, lineage=LINEAGE)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "other"
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert "| humaneval | MIT | a\\|b | 12 |" in text
    assert "| filter-turns/train | 1,212 | 1,200 | 12 too-few-turns | T0 | `cdcdcdcdcdcdcdcd` |" in text
    assert "Not compared with any benchmark." in text
    checked = [*LINEAGE, Lineage("decontaminate/train", "ef" * 32, "T0", 1200, 1200)]
    assert "`decontaminate/train`" in card("d", form="r", suffix="jsonl", rows=1, sources=SOURCES, lineage=checked)


def test_one_licence_is_named_in_the_head():
    text = card("d", form="r", suffix="jsonl", rows=1, sources=Counter({("s", "MIT", ""): 1}), lineage=[])
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "mit"


def test_croissant_names_every_file_and_column():
    files = [DataFile("data/train-00000-of-00001.parquet", "0" * 64, 10)]
    columns = ["path", "task_binary"]
    text = croissant("d", description="x", licences=["MIT"], files=files, suffix="parquet", columns=columns)
    about = json.loads(text)
    assert about["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    *named, files_set = about["distribution"]
    assert [(file["contentUrl"], file["sha256"]) for file in named] == [("data/train-00000-of-00001.parquet", "0" * 64)]
    fields = {field["name"]: field["source"] for field in about["recordSet"][0]["field"]}
    assert list(fields) == columns
    assert all(source["fileSet"]["@id"] == files_set["@id"] for source in fields.values())
