"""What doctor takes from Snakemake profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from doctor.profile import Profile, Target, parse, read_profile
from recipe_core.errors import BadInput

LISTS = {
    "executor": "slurm",
    "default-resources": ["slurm_account=$ACCOUNT", "slurm_partition='cpu'", "mem_mb=400", "runtime=60"],
    "set-resources": ["train_sft:slurm_partition=gpu", "train_sft:gres=gpu:2", "evaluate:runtime=30"],
    "config": ["secrets=~/keys", "bind=${SCRATCH}/work"],
    "envvars": ["HF_TOKEN"],
    "apptainer-prefix": "images",
}
ENVIRONMENT = {"ACCOUNT": "lab", "HOME": "/home/ann", "SCRATCH": "/scratch/ann"}


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    return folder


def test_lists_and_mappings_say_the_same():
    mappings = {
        **LISTS,
        "default-resources": {"slurm_account": "$ACCOUNT", "slurm_partition": "cpu", "mem_mb": 400, "runtime": 60},
        "set-resources": {"train_sft": {"slurm_partition": "gpu", "gres": "gpu:2"}, "evaluate": {"runtime": 30}},
        "config": {"secrets": "~/keys", "bind": "${SCRATCH}/work"},
        "envvars": "HF_TOKEN",
    }
    found = parse(LISTS, ENVIRONMENT)
    assert found == parse(mappings, ENVIRONMENT)
    assert found.defaults == {"slurm_account": "lab", "slurm_partition": "cpu", "mem_mb": "400", "runtime": "60"}
    assert found.config == {"secrets": "/home/ann/keys", "bind": "/scratch/ann/work"}
    assert (found.executor, found.envvars, found.settings["apptainer-prefix"]) == ("slurm", ("HF_TOKEN",), "images")


def test_nothing_is_needed():
    assert parse({}, {}) == Profile()
    assert Profile().target() == Target() and Target().words() == []


def test_a_variable_that_is_not_set_is_named_and_left():
    found = parse({"default-resources": ["slurm_account=$NOBODY"]}, {})
    assert found.undefined == ("NOBODY",) and found.defaults["slurm_account"] == "$NOBODY"


def test_a_rule_goes_where_set_resources_sends_it():
    profile = parse(LISTS, ENVIRONMENT)
    assert profile.target("mix") == profile.target() == Target("lab", "cpu")
    assert profile.target("train_sft").words() == ["--account=lab", "--partition=gpu", "--gres=gpu:2"]


def test_gpus_by_the_resource_gpu_and_further_words():
    profile = parse({"default-resources": ["gpu=4", "slurm_extra='--exclude=a1 --reservation=\"x y\"'"]}, {})
    assert profile.target().words() == ["--gpus=4", "--exclude=a1", "--reservation=x y"]
    assert parse({"default-resources": ["gpu=0"]}, {}).target().words() == []


@pytest.mark.parametrize(("stated", "words"), [("400", ["--mem=400"]), ("0", []), ("attempt * 400", []), ("", [])])
def test_memory_is_asked_for_where_the_executor_does(stated: str, words: list[str]):
    assert parse({"default-resources": [f"mem_mb={stated}"]}, {}).memory == words


def test_an_open_quote_is_one_line():
    with pytest.raises(BadInput, match="slurm_extra"):
        Target(extra="--comment='x").words()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"default-resources": ["slurm_account"]}, "default-resources: 'slurm_account' is not NAME=VALUE"),
        ({"config": [3]}, "config: 3 is not NAME=VALUE"),
        ({"set-resources": ["train_sft=3"]}, "set-resources: 'train_sft' is not RULE:RESOURCE=VALUE"),
        ({"set-resources": {"train_sft": 3}}, "set-resources: 'train_sft:' is not RULE:RESOURCE=VALUE"),
    ],
)
def test_an_entry_of_another_form_is_one_line(keys: dict, said: str):
    with pytest.raises(BadInput) as error:
        parse(keys, {})
    assert said in str(error.value)


def test_a_sites_key_replaces_the_whole_key(tmp_path: Path):
    generic = write(tmp_path / "slurm", "executor: slurm\ndefault-resources: [slurm_account=lab, mem_mb=400]\n")
    site = write(tmp_path / "mine", "default-resources: [slurm_partition=gpu]\nconfig:\n")
    found = read_profile(generic, site, {})
    assert found.executor == "slurm" and found.defaults == {"slurm_partition": "gpu"}


def test_a_newer_file_comes_before_an_older(tmp_path: Path):
    folder = write(tmp_path / "mine", "executor: local\n")
    (folder / "config.v8+.yaml").write_text("executor: slurm\n")
    assert read_profile(folder, None, {}).executor == "slurm"
    assert read_profile(folder / "config.yaml", None, {}).executor == "local"


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "just words"])
def test_a_file_of_another_form_is_one_line(tmp_path: Path, text: str):
    folder = write(tmp_path / "mine", text)
    with pytest.raises(BadInput) as error:
        read_profile(folder, None, {})
    assert "config.yaml" in str(error.value) and "\n" not in str(error.value)


def test_invalid_bytes_are_one_line(tmp_path: Path):
    folder = write(tmp_path / "mine", "")
    (folder / "config.yaml").write_bytes(b"executor: \xff\xfe\n")
    with pytest.raises(BadInput, match="not YAML"):
        read_profile(folder, None, {})


def test_a_missing_profile_names_the_nearest(tmp_path: Path):
    write(tmp_path / "vista", "executor: slurm\n")
    with pytest.raises(BadInput, match=r"did you mean '.*/vista'"):
        read_profile(tmp_path / "visto", None, {})
    with pytest.raises(BadInput, match="no profile here"):
        read_profile(tmp_path / "nowhere" / "x", None, {})


def test_an_entry_that_yaml_split_names_its_file(tmp_path: Path):
    generic = write(tmp_path / "slurm", "executor: slurm\n")
    site = write(tmp_path / "mine", "default-resources: [slurm_partition=cpu,gpu]\n")
    with pytest.raises(BadInput) as error:
        read_profile(generic, site, {})
    assert str(error.value).startswith(f"{site}/config.yaml: default-resources: 'gpu' is not NAME=VALUE; quote")


def test_what_a_sites_key_hides_is_named(tmp_path: Path):
    text = "config: [sandbox=bubblewrap, network=off]\ndefault-resources: {mem_mb: 1}\njobs: 3\n"
    generic = write(tmp_path / "slurm", text)
    site = write(tmp_path / "mine", "config: [network=off, bind=/s]\ndefault-resources: [runtime=1]\njobs: 4\n")
    assert read_profile(generic, site, {}).lost == ("config: sandbox", "default-resources: mem_mb")
    assert read_profile(generic, None, {}).lost == ()


def test_apptainers_words_are_the_jobs_shells():
    words = "--nv ${GPU:+--env GPU=$GPU} --env X=$NOT_SET"
    found = parse({"apptainer-args": words, "apptainer-prefix": "$SCRATCH/i"}, ENVIRONMENT)
    assert found.settings["apptainer-args"] == words and found.undefined == ()
    assert found.settings["apptainer-prefix"] == "/scratch/ann/i"


def test_words_for_apptainer_that_a_site_file_loses_are_named(tmp_path: Path):
    args = "--userns --cleanenv --net --network none ${OMP_NUM_THREADS:+--env A=$OMP_NUM_THREADS} $(echo --nv)"
    generic, site = tmp_path / "generic.yaml", tmp_path / "site.yaml"
    generic.write_text(f"apptainer-args: '{args}'\n")
    site.write_text("apptainer-args: --userns\n")
    lost = [f"apptainer-args: {words}" for words in ("--cleanenv", "--network none", "--nv", "OMP_NUM_THREADS")]
    assert read_profile(generic, site, {}).lost == tuple(lost)
    site.write_text("apptainer-args: --userns\nconfig: [network=on]\n")
    assert f"apptainer-args: {'--network none'}" not in read_profile(generic, site, {}).lost


def test_rules_with_gpus_ask_for_one_as_the_rules_do():
    profile = parse({"config": ["cuda=on", "gpus=gpu:a100"], "set-resources": {"answers": {"gres": "gpu:h100:2"}}}, {})
    assert [profile.target(rule).gres for rule in ("rollout", "answers", "mix")] == ["gpu:a100:1", "gpu:h100:2", ""]
    assert parse({"config": ["gpus=gpu"]}, {}).target("rollout").gres == ""
