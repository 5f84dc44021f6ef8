"""What doctor makes of Slurm's answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doctor.commands import TIMED_OUT, Answer
from doctor.findings import Finding, dump
from doctor.node import command, judge, target
from doctor.profile import Target, parse
from doctor.slurm import (
    Facts,
    asked_minutes,
    default_partition,
    judge_node,
    parse_minutes,
    parse_partitions,
    targets_of,
    trial_words,
)
from doctor.slurm import judge as judge_slurm

# `scontrol show partition --oneliner` of Slurm 22.05.8, shortened.
PARTITIONS = """\
PartitionName=cpu AllowGroups=ALL AllowAccounts=ALL Default=YES MaxTime=01:00:00 State=UP TotalCPUs=8 TotalNodes=2 \
TRES=cpu=8,mem=12340M,node=2,billing=8
PartitionName=gpu AllowGroups=ALL AllowAccounts=ALL Default=NO MaxTime=UNLIMITED State=UP TotalCPUs=8 TotalNodes=2 \
TRES=cpu=8,mem=12340M,node=2,billing=8,gres/gpu=4
"""
PROFILE = parse(
    {
        "executor": "slurm",
        "default-resources": ["slurm_account=lab", "slurm_partition=cpu", "runtime=10"],
        "set-resources": ["train_sft:slurm_partition=gpu", "answers:runtime=1h"],
        "slurm-requeue": True,
    },
    {},
)
CPU, GPU = Target("lab", "cpu"), Target("lab", "gpu")
GOOD = Facts(
    version="slurm-wlm 22.05.8",
    partitions=parse_partitions(PARTITIONS),
    accounts=frozenset({"lab", "other"}),
    trials={CPU: Answer(0), GPU: Answer(0)},
    minutes={"mix": 0, "answers": 2880, "train_sft": 1440},
)


def levels(facts: Facts, profile=PROFILE) -> list[str]:
    return [finding.level for finding in judge_slurm(facts, profile)]


def bad(facts: Facts, profile=PROFILE) -> list[str]:
    return [f"{each.level}: {each.text}; {each.mend}" for each in judge_slurm(facts, profile) if each.level != "ok"]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("60", 60),
        ("60:30", 61),
        ("2:00:00", 120),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-12:00:00", 2160),
        ("2h", 120),
        ("90m", 90),
        ("1d", 1440),
        ("UNLIMITED", None),
        ("", None),
        ("attempt * 10", None),
    ],
)
def test_durations(text: str, minutes: int | None):
    assert parse_minutes(text) == minutes


def test_partitions_and_their_default():
    found = parse_partitions(PARTITIONS)
    assert list(found) == ["cpu", "gpu"] and found["gpu"]["TRES"].endswith("gres/gpu=4")
    assert default_partition(found) == "cpu"
    assert parse_partitions("No partitions in the system\n") == {}


def test_set_resources_come_before_the_rule_and_the_rule_before_the_default():
    assert asked_minutes(PROFILE, "answers", 2880) == 60
    assert asked_minutes(PROFILE, "evaluate", 1440) == 1440
    assert asked_minutes(PROFILE, "mix", 0) == 10
    assert asked_minutes(PROFILE, "mix", None) is None


def test_targets():
    assert targets_of(PROFILE, ["mix", "train_sft", "answers"]) == {CPU: ["mix", "answers"], GPU: ["train_sft"]}
    assert set(targets_of(PROFILE, [])) == {CPU, GPU}
    assert trial_words(CPU, PROFILE)[-3:] == ["--account=lab", "--partition=cpu", "--wrap=true"]
    with_memory = replace(PROFILE, defaults={"mem_mb": "400"})
    assert "--mem=400" in trial_words(CPU, with_memory)


def test_all_is_well():
    assert bad(GOOD) == []
    assert "longest rule asks for 60 min (answers)" in " ".join(each.text for each in judge_slurm(GOOD, PROFILE))


def test_a_missing_command_is_all_that_is_said():
    assert bad(Facts(missing=("sacct",))) == [
        "fail: not on PATH: sacct; load the site's Slurm module, or run doctor where jobs are submitted"
    ]


def test_accounting():
    broken = replace(GOOD, accounting=Answer(1, errors="Slurm accounting storage is disabled\n"))
    assert bad(broken) == [
        "fail: accounting does not answer: Slurm accounting storage is disabled; "
        "write `slurm-status-command: squeue` into the site file"
    ]
    squeue = replace(PROFILE, settings={**PROFILE.settings, "slurm-status-command": "squeue"})
    assert levels(broken, squeue).count("warn") == 1 and "fail" not in levels(broken, squeue)


def test_accounts():
    assert "account lab is not yours; correct slurm_account" in bad(replace(GOOD, accounts=frozenset({"other"})))[0]
    assert bad(replace(GOOD, accounts=None))[0].startswith("warn: account lab: the database does not say")
    assert bad(replace(GOOD, accounts=frozenset({"LAB"}))) == []
    nameless = replace(PROFILE, defaults={"slurm_partition": "cpu"}, by_rule={})
    facts = replace(GOOD, trials={Target(partition="cpu"): Answer(0)}, minutes={"mix": 5})
    assert bad(facts, nameless)[0].endswith("slurm_account=… (yours: lab, other)")
    assert bad(facts, replace(nameless, settings={**PROFILE.settings, "slurm-no-account": "True"})) == []


def test_a_partition_that_is_not_there():
    typo = replace(PROFILE, defaults={**PROFILE.defaults, "slurm_partition": "cpus"}, by_rule={})
    facts = replace(GOOD, trials={Target("lab", "cpus"): Answer(1)})
    assert bad(facts, typo) == [
        "fail: no partition cpus; correct slurm_partition in the site file (there are cpu, gpu); did you mean 'cpu'?"
    ]


def test_no_partition_is_slurms_default_and_an_error_without_one():
    silent = replace(PROFILE, defaults={"slurm_account": "lab", "runtime": "10"}, by_rule={})
    facts = replace(GOOD, trials={Target("lab"): Answer(0)}, minutes={"mix": 5})
    assert bad(facts, silent) == []
    without = {name: {**fields, "Default": "NO"} for name, fields in GOOD.partitions.items()}
    assert "names no partition and Slurm has no default" in bad(replace(facts, partitions=without), silent)[0]


def test_a_partition_that_refuses_says_why():
    words = "sbatch: error: something before\nallocation failure: Invalid account or account/partition combination\n"
    found = bad(replace(GOOD, trials={CPU: Answer(0), GPU: Answer(1, errors=words)}))
    assert len(found) == 1
    assert "partition gpu (2 nodes) refuses a job of yours: Invalid account or account/partition" in found[0]
    assert "tried: sbatch --test-only" in found[0]


def test_a_time_limit_below_what_rules_ask_for_names_the_rules():
    short = {**GOOD.partitions, "gpu": {**GOOD.partitions["gpu"], "MaxTime": "12:00:00"}}
    found = bad(replace(GOOD, partitions=short))
    assert found == [
        "fail: partition gpu: time limit 720 min, the longest rule asks for 1440 min (train_sft); "
        "in the site file's set-resources give less runtime, or another partition, to train_sft"
    ]
    # What fetches is no job where the nodes have no network.
    fetching = replace(GOOD, minutes={"mix": 0, "fetch_data": 20000})
    assert bad(fetching, replace(PROFILE, config={})) == []
    assert bad(fetching, replace(PROFILE, config={"network": "on"}))[0].endswith("another partition, to fetch_data")
    equal = {**GOOD.partitions, "gpu": {**GOOD.partitions["gpu"], "MaxTime": "1-00:00:00"}}
    assert bad(replace(GOOD, partitions=equal)) == []


@pytest.mark.parametrize(
    "entry", ["train_sft:qos=long", "train_sft:slurm_extra=--qos=long", "train_sft:slurm_extra=-q long"]
)
def test_a_quality_of_service_may_go_beyond_a_time_limit(entry: str):
    short = {**GOOD.partitions, "gpu": {**GOOD.partitions["gpu"], "MaxTime": "12:00:00"}}
    longer = parse(
        {
            "executor": "slurm",
            "default-resources": ["slurm_account=lab", "slurm_partition=cpu", "runtime=10"],
            "set-resources": ["train_sft:slurm_partition=gpu", "answers:runtime=1h", entry],
            "slurm-requeue": True,
        },
        {},
    )
    (found,) = bad(replace(GOOD, partitions=short), longer)
    assert found.startswith("warn: partition gpu: time limit 720 min")
    assert found.endswith("to train_sft, unless its quality of service allows that")


def test_a_workflow_that_does_not_load():
    found = bad(replace(GOOD, minutes=Answer(1, errors="Traceback\nrecipe.yaml: unknown key 'x'\n")))
    assert found[0].startswith("fail: the workflow does not load: recipe.yaml: unknown key 'x'")


@pytest.mark.parametrize("settings", [{}, {"slurm-requeue": "False"}])
def test_a_profile_that_does_not_ask_for_requeueing(settings: dict[str, str]):
    assert bad(GOOD, replace(PROFILE, settings=settings)) == [
        "fail: the profile does not have preempted jobs requeued; write `slurm-requeue: true` into the site file"
    ]


def with_modes(cpu: str, gpu: str) -> Facts:
    modes = {"cpu": cpu, "gpu": gpu}
    return replace(GOOD, partitions={name: {**GOOD.partitions[name], "PreemptMode": modes[name]} for name in modes})


@pytest.mark.parametrize("mode", ["CANCEL", "GANG,CANCEL"])
def test_a_partition_that_cancels_what_it_preempts(mode: str):
    facts = with_modes("REQUEUE", mode)
    assert bad(facts) == [
        "warn: partition gpu: preempted jobs are cancelled, not requeued (PreemptMode=CANCEL); "
        "name another in the site file; on this one `retries` is how often a job is submitted again"
    ]
    assert not [each for each in judge_slurm(facts, PROFILE) if "are requeued" in each.text]


def test_partitions_that_jobs_may_go_to_are_looked_at_for_what_they_preempt():
    facts = with_modes("CANCEL", "CANCEL")
    assert [line for line in bad(facts) if "partition cpu: preempted" in line]
    either = replace(PROFILE, defaults={**PROFILE.defaults, "slurm_partition": "gpu,cpu"}, by_rule={})
    assert len([line for line in bad(facts, either) if "are cancelled" in line]) == 2
    silent = replace(PROFILE, defaults={"slurm_account": "lab"}, by_rule={})
    assert [line for line in bad(facts, silent) if "partition cpu: preempted" in line]
    # What no job goes to does not matter.
    facts = replace(with_modes("REQUEUE", "CANCEL"), minutes={"mix": 0})
    assert bad(facts, replace(PROFILE, by_rule={})) == []
    assert bad(with_modes("OFF", "SUSPEND")) == []


def test_a_squeue_that_forgets_too_soon():
    profile = replace(PROFILE, settings={**PROFILE.settings, "slurm-init-seconds-before-status-checks": "10"})
    assert bad(replace(GOOD, remembered_sec=30), profile) == []
    assert bad(replace(GOOD, remembered_sec=29), profile) == [
        "fail: squeue forgets a job 29 s after its end (MinJobAge); "
        "set `slurm-init-seconds-before-status-checks: 9` in the site file"
    ]
    seldom = replace(PROFILE, settings={**PROFILE.settings, "seconds-between-status-checks": "60"})
    assert bad(replace(GOOD, remembered_sec=60), seldom) == [
        "fail: squeue forgets a job 60 s after its end (MinJobAge); set "
        "`slurm-init-seconds-before-status-checks: 20`, `seconds-between-status-checks: 59` in the site file"
    ]
    assert bad(replace(GOOD, remembered_sec=2), profile)[0].endswith("ask the site's administrators for a longer one")


def test_a_node_needs_srun():
    assert [each.level for each in judge_node("/usr/bin/srun") + judge_node(None)] == ["ok", "fail"]


def test_the_job_for_a_node_is_like_the_rules_jobs_there():
    partitions = GOOD.partitions
    assert target(PROFILE, "cpu", partitions) == CPU
    assert target(PROFILE, "gpu", partitions) == Target("lab", "gpu", gres="gpu:1")
    typed = parse({"set-resources": ["serve:slurm_partition=gpu", "serve:gres=gpu:h200:1", "serve:qos=high"]}, {})
    assert target(typed, "gpu", partitions) == Target("", "gpu", "high", gres="gpu:h200:1")
    assert target(PROFILE, "new", partitions) == Target("lab", "new")
    assert not [word for word in command(CPU, [], memory=False) if word.startswith("--mem")]
    words = command(CPU, ["--as-node"])
    assert words[0] == "srun" and "--partition=cpu" in words and words[-3:] == ["-m", "doctor", "--as-node"]


@pytest.mark.parametrize("signal", ["--signal=TERM@900", "--signal TERM@900", "--signal=R:TERM@900"])
def test_the_job_for_a_node_is_not_warned_of_its_end(signal: str):
    where = Target("lab", "gpu", extra=f"--exclude=a1 {signal} --exclusive")
    assert command(where, ["--as-node"]) == command(replace(where, extra="--exclude=a1 --exclusive"), ["--as-node"])
    # Whether Slurm takes the words is still asked.
    assert "TERM@900" in " ".join(trial_words(where, PROFILE))


def test_what_a_node_finds_is_read_back():
    finding = Finding("warn", "hub", "no answer: “x”", "fetch")
    output = f"Welcome\n{dump(finding, 'gpu1')}\n" + '{"machine": "x"}\n[1]\n{"level": 3}\n'
    assert judge(Answer(1, output), "gpu") == [("gpu1", finding)]


def test_a_node_that_stops_in_the_middle_is_a_failure():
    finding = Finding("ok", "hub", "answers")
    found = judge(Answer(137, dump(finding, "gpu1"), "slurmstepd-gpu1: error: Detected 1 oom-kill event\n"), "gpu")
    assert found[0] == ("gpu1", finding)
    assert found[1][1].level == "fail" and "doctor did not end there: slurmstepd-gpu1: error" in found[1][1].text


@pytest.mark.parametrize(
    ("answer", "text", "mend"),
    [
        (Answer(TIMED_OUT, errors="no answer from the partition within 5 s"), "within 5 s", "--wait"),
        (
            Answer(
                2, errors="srun: error: cpu1: task 0\nslurmstepd-cpu1: error: execve(): /p: No such file or directory\n"
            ),
            "execve()",
            "shared file system",
        ),
        (
            Answer(8, errors="srun: error: cpu1: task 0\nslurmstepd-cpu1: error: execve(): /p: Exec format error\n"),
            "Exec format",
            "another processor",
        ),
        (
            Answer(1, errors="srun: job 3 queued\nsrun: error: Unable to allocate resources: Invalid account\n"),
            "Invalid account",
            "--only slurm",
        ),
        (Answer(0, output="hello"), "hello", "--only slurm"),
    ],
)
def test_a_node_that_does_not_answer(answer: Answer, text: str, mend: str):
    ((name, finding),) = judge(answer, "gpu")
    assert (name, finding.level) == ("gpu", "fail")
    assert text in finding.text and mend in finding.mend
