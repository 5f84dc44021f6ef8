"""What Slurm, Snakemake and the tools leave behind, and what `recipe status` and `recipe cancel` make of it.

Slurm's answers are those of a cluster of version 22.05 with jobs that were made to end in each way.
"""

from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe import runs, slurm, status
from recipe.cancel import Ending, ending, find
from recipe.estimate import Cost, Estimator
from recipe.plan import PlannedStep, load_plan
from recipe.status_view import keyed
from recipe_core.errors import BadInput

RUN = "3f0c9a52-5b0e-4d0a-9c55-0d8a7c1be901"
FOLDER = "/home/hpc/rec"

SQUEUE = f"""\
19|PENDING|BeginTime||0:00|{RUN}|rule_train_rl_wildcards_aaaaaaaaaaa7|{FOLDER}
17|RUNNING|None|cpu2|0:47|{RUN}|rule_train_sft_wildcards_aaaaaaaaaaa5|{FOLDER}
26|RUNNING|None|gpu2|0:01|{RUN}|rule_export_data_wildcards_bbbbbbbbbbb5|{FOLDER}
5|CANCELLED|None|cpu1|0:07|wrap|(null)|/home/hpc
16|OUT_OF_MEMORY|OutOfMemory|cpu1|0:02|{RUN}|rule_rollout_wildcards_aaaaaaaaaaa4|{FOLDER}
slurm_load_jobs error: Unable to contact slurm controller
"""

SACCT = f"""\
13|{RUN}|COMPLETED|0:0||300M|cpu1|00:00:04|00:05:00|rule_mix_wildcards_aaaaaaaaaaa1
13.batch|batch|COMPLETED|0:0|10660K||cpu1|00:00:04||
13.0|sleep|COMPLETED|0:0|3136K||cpu1|00:00:03||
14|{RUN}|FAILED|1:0||300M|cpu1|00:00:01|00:05:00|rule_score_wildcards_aaaaaaaaaaa2
14.batch|batch|FAILED|1:0|3312K||cpu1|00:00:01||
14.0|bash|FAILED|2:0|2860K||cpu1|00:00:00||
15|{RUN}|FAILED|1:0||300M|cpu1|00:00:02|00:05:00|rule_dedup_wildcards_aaaaaaaaaaa3
15.batch|batch|FAILED|1:0|3248K||cpu1|00:00:02||
15.0|python3.11|OUT_OF_MEMORY|0:125|3132K||cpu1|00:00:01||
16|{RUN}|OUT_OF_MEMORY|0:125||300M|cpu1|00:00:02|00:05:00|rule_rollout_wildcards_aaaaaaaaaaa4
16.batch|batch|OUT_OF_MEMORY|0:125|3424K||cpu1|00:00:02||
17|{RUN}|TIMEOUT|0:0||300M|cpu2|00:01:03|00:01:00|rule_train_sft_wildcards_aaaaaaaaaaa5
17.batch|batch|CANCELLED|0:15|10716K||cpu2|00:01:04||
17.0|sleep|CANCELLED|0:15|3132K||cpu2|00:01:04||
18|{RUN}|CANCELLED by 1002|0:0||300M|cpu2|00:01:07|00:05:00|rule_evaluate_wildcards_aaaaaaaaaaa6
18.batch|batch|CANCELLED|0:15|10980K||cpu2|00:01:08||
18.0|sleep|CANCELLED|0:15|2988K||cpu2|00:01:09||
19|{RUN}|PENDING|0:0||300M|None assigned|00:00:00|00:05:00|
20|{RUN}|FAILED|1:0||300M|None assigned|00:00:00|00:05:00|rule_answers_wildcards_aaaaaaaaaaa8
22|{RUN}|PREEMPTED|0:0||300M|gpu2|00:00:03|00:05:00|rule_augment_wildcards_bbbbbbbbbbb1
22.batch|batch|CANCELLED|0:15|10904K||gpu2|00:00:03||
22.0|sleep|CANCELLED|0:15|2956K||gpu2|00:00:05||
23|{RUN}|NODE_FAIL|0:0||300M|cpu1|00:00:26|00:05:00|rule_filter_turns_wildcards_bbbbbbbbbbb2
23.batch|batch|CANCELLED||||cpu1|00:00:26||
23.0|sleep|CANCELLED||||cpu1|00:00:26||
24|{RUN}|NODE_FAIL|0:0||300M|cpu1|00:00:26|00:05:00|rule_filter_tasks_wildcards_bbbbbbbbbbb3
24.batch|batch|CANCELLED||||cpu1|00:00:26||
24.0|sleep|CANCELLED||||cpu1|00:00:26||
24|{RUN}|COMPLETED|0:0||300M|cpu1|00:01:00|00:05:00|rule_filter_tasks_wildcards_bbbbbbbbbbb3
24.batch|batch|COMPLETED|0:0|10884K||cpu1|00:01:00||
64|b3c55e4c-88f3-4046-be54-14cc9f526a38|FAILED|1:0||500M|cpu2|00:00:43|00:10:00|rule_source_tasks_wildcards_f5b4967ef669
64.batch|batch|FAILED|1:0|175564K||cpu2|00:00:43||
64.0|python3.11|OUT_OF_MEMORY|0:125|438720K||cpu2|00:00:25||
67|b3c55e4c-88f3-4046-be54-14cc9f526a38|TIMEOUT|0:0||500M|cpu1|00:01:12|00:01:00|rule_source_tasks_wildcards_e172e756d9ec
67.batch|batch|CANCELLED|0:15|175160K||cpu1|00:01:13||
67.0|python3.11|CANCELLED|0:9|184860K||cpu1|00:01:03||
"""

KILLED_LOG = """\
/usr/bin/bash: line 1:  9316 Killed                  python step.py source-tasks f5b4967ef669 41
Storing output in storage.
Elapsed time: 0:00:26.996418
WorkflowError:
At least one job did not complete successfully.
slurmstepd-cpu2: error: Detected 1 oom-kill event(s) in StepId=64.0. Some of your processes may have been killed by \
the cgroup out-of-memory handler.
srun: error: cpu2: task 0: Out Of Memory
"""

SNAKEMAKE = """\
SNAKEMAKE
=========
  Date: 2026-11-21 14:11:09
  Host: vm
  User: hpc

Building DAG of jobs...
SLURM run ID: d540267e-e6b3-4bcb-8a7b-5780d4078e7c
Execute 3 jobs...
[Sat Nov 21 14:11:10 2026]
rule source_tasks:
    output: results/source_tasks/1c63e51667bf/manifest.json
    log: results/logs/source_tasks/1c63e51667bf.log
    jobid: 4
    wildcards: key=1c63e51667bf
[Sat Nov 21 14:11:10 2026]
rule source_tasks:
    output: results/source_tasks/2f301242a575/manifest.json
    jobid: 5
[Sat Nov 21 14:11:10 2026]
localrule link:
    output: results/recipes/small/summary.json
    jobid: 9
Job 5 has been submitted with SLURM jobid 86 (log: /b/.snakemake/slurm_logs/rule_source_tasks/2f301242a575/86.log).
Job 4 has been submitted with SLURM jobid 87 (log: /b/.snakemake/slurm_logs/rule_source_tasks/1c63e51667bf/87.log).
[Sat Nov 21 14:11:48 2026]
Error in rule source_tasks:
    message: SLURM-job '86' failed, SLURM status is: 'FAILED'. Reason: Unknown.
    jobid: 5
    output: results/source_tasks/2f301242a575/manifest.json
    external_jobid: 86
[Sat Nov 21 14:11:49 2026]
Finished jobid: 9 (Rule: link)
"""
FIRST, SECOND = "results/source_tasks/1c63e51667bf/manifest.json", "results/source_tasks/2f301242a575/manifest.json"

LOCAL = """\
  Host: vm
localrule score:
    output: results/score/2bcf1a880bc8/manifest.json
    jobid: 14
Shell command:
        score --out results/score/2bcf1a880bc8

RuleException:
CalledProcessError in file "/w/workflow/rules/data.smk", line 214:
Command 'export PATH=/w/bin:$PATH;
            score --tasks results/mix/eaf69040ce50                --out results/score/2bcf1a880bc8              \
2>results/logs/score/2bcf1a880bc8.log' returned non-zero exit status 2.
[Sat Nov 21 11:18:08 2026]
Error in rule score:
    message: None
    jobid: 14
    output: results/score/2bcf1a880bc8/manifest.json
"""


def account(number: str) -> slurm.AccountedJob:
    return [job for job in slurm.parse_sacct(SACCT) if job.id == number][-1]


def queued(number: str) -> slurm.QueuedJob:
    return next(job for job in slurm.parse_squeue(SQUEUE) if job.id == number)


def test_squeue_tells_a_step_by_the_jobs_comment_and_other_lines_tell_nothing():
    jobs = slurm.parse_squeue(SQUEUE)
    assert [job.id for job in jobs] == ["19", "17", "26", "5", "16"]
    assert (jobs[1].rule, jobs[1].key, jobs[1].node, jobs[1].elapsed) == ("train_sft", "aaaaaaaaaaa5", "cpu2", 47)
    assert (jobs[0].state, jobs[0].reason, jobs[0].folder) == ("PENDING", "BeginTime", FOLDER)
    assert (jobs[3].rule, jobs[3].key) == ("", "")


def test_sacct_keeps_a_jobs_steps_with_it_and_the_tries_of_a_requeued_job_apart():
    jobs = slurm.parse_sacct(SACCT)
    assert [len(job.parts) for job in jobs if job.id == "15"] == [2]
    assert [job.word for job in jobs if job.id == "24"] == ["NODE_FAIL", "COMPLETED"]
    assert account("19").node == ""
    assert account("64").memory == 438720 * 1024


def test_hostile_answers_are_left_out():
    text = "JobID|JobName\n\n|||||||||\n7.0|x|FAILED|1:0|||n|0:01||\n8|x||abc||?|n|x|?|a|b|c\n"
    assert [(job.id, job.word, job.exit_code, job.elapsed) for job in slurm.parse_sacct(text)] == [
        ("", "", (0, 0), 0),
        ("8", "", (0, 0), 0),
    ]
    assert slurm.parse_squeue("a|b\n|||\n") == []


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        ("14", "FAILED", "exit code 1"),
        ("15", "OUT_OF_MEMORY", "out of memory: it had 300M of memory; give the rule more mem_mb"),
        ("16", "OUT_OF_MEMORY", "out of memory: it had 300M of memory; give the rule more mem_mb"),
        ("17", "TIMEOUT", "out of time: its limit is 00:01:00; give the rule more runtime"),
        ("18", "CANCELLED", "cancelled by 1002"),
        ("22", "PREEMPTED", "preempted by a job of higher priority and not requeued"),
        ("23", "NODE_FAIL", "its node cpu1 failed"),
        ("13", "COMPLETED", "the job completed, but its artifact is not there"),
        (
            "64",
            "OUT_OF_MEMORY",
            "out of memory: it had 500M of memory, of which 428M were seen in use; give the rule more mem_mb",
        ),
        ("67", "TIMEOUT", "out of time: its limit is 00:01:00; give the rule more runtime"),
    ],
)
def test_a_failure_has_a_kind_and_a_reason(number: str, kind: str, reason: str):
    assert slurm.failure(account(number)) == (kind, reason)


def test_memory_that_ran_out_is_seen_in_slurms_log_when_accounting_shows_only_failed():
    shown = slurm.AccountedJob("64", RUN, "FAILED", (1, 0), "500M", "cpu2", 43, "00:10:00", "")
    assert slurm.failure(shown)[0] == "FAILED"
    assert slurm.failure(shown, KILLED_LOG)[0] == "OUT_OF_MEMORY"
    kind, reason = slurm.failure(shown, "bash: line 1: 77 Killed\n")
    assert kind == "OUT_OF_MEMORY" and reason.startswith("killed by signal 9")
    by_signal = slurm.AccountedJob("64", RUN, "FAILED", (137, 0), "500M", "cpu2", 43, "00:10:00", "")
    assert slurm.failure(by_signal)[0] == "OUT_OF_MEMORY"
    assert slurm.failure(account("14"), "no room: Killed it is not, says the tool\n")[0] == "FAILED"


def test_a_run_tells_which_jobs_it_started_submitted_and_lost():
    run = runs.parse_run(SNAKEMAKE, Path("a.snakemake.log"))
    assert (run.host, run.id) == ("vm", "d540267e-e6b3-4bcb-8a7b-5780d4078e7c")
    first, second = run.attempts[FIRST], run.attempts[SECOND]
    assert (first.state, first.slurm) == ("started", ["87"])
    assert first.slurm_log.endswith("1c63e51667bf/87.log")
    assert (second.state, second.message) == (
        "failed",
        "SLURM-job '86' failed, SLURM status is: 'FAILED'. Reason: Unknown.",
    )
    assert run.attempts["results/recipes/small/summary.json"].state == "finished"


def test_a_job_that_is_submitted_again_after_a_failure_is_no_failure():
    again = SNAKEMAKE + "Job 5 has been submitted with SLURM jobid 99 (log: /b/99.log).\n"
    attempt = runs.parse_run(again, Path("a.snakemake.log")).attempts[SECOND]
    assert (attempt.state, attempt.slurm, attempt.slurm_log) == ("started", ["86", "99"], "/b/99.log")


def test_a_local_failure_has_its_exit_code_and_a_cut_log_is_read_as_far_as_it_goes():
    attempt = runs.parse_run(LOCAL, Path("a")).attempts["results/score/2bcf1a880bc8/manifest.json"]
    assert (attempt.state, attempt.code) == ("failed", 2)
    for end in range(0, len(LOCAL), 37):
        runs.parse_run(LOCAL[:end], Path("a"))


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (status.Trace(), (status.TO_BUILD, "")),
        (status.Trace(job=queued("19")), (status.WAITING, "BeginTime")),
        (status.Trace(job=queued("17")), (status.RUNNING, "")),
        (status.Trace(job=queued("16")), (status.FAILED, "OUT_OF_MEMORY")),
        (status.Trace(account=account("17")), (status.FAILED, "TIMEOUT")),
        (status.Trace(tried=runs.Attempt(FIRST), alive=True), (status.RUNNING, "")),
        (status.Trace(tried=runs.Attempt(FIRST)), (status.TO_BUILD, "was stopped")),
        (status.Trace(tried=runs.Attempt(FIRST, "failed", code=143)), (status.TO_BUILD, "was stopped")),
        (status.Trace(tried=runs.Attempt(FIRST, "failed", code=2)), (status.FAILED, "FAILED")),
        (
            status.Trace(tried=runs.Attempt(FIRST, slurm=["13"]), alive=True, account=account("13")),
            (status.RUNNING, "its artifact is awaited"),
        ),
        (status.Trace(tried=runs.Attempt(FIRST, slurm=["13"]), account=account("13")), (status.FAILED, "COMPLETED")),
    ],
)
def test_a_step_that_is_not_built_has_one_state(trace: status.Trace, expected: tuple[str, str]):
    assert status.state_of(trace) == expected


def test_what_an_earlier_run_did_is_past_once_another_has_claimed_the_file():
    old, new = runs.Run(Path("1.log")), runs.Run(Path("2.log"))
    old.attempts[FIRST] = runs.Attempt(FIRST, "failed")

    def known(alive: set[Path], locked: set[str]):
        evidence = status.Evidence([new, old], frozenset(alive), frozenset(locked), [], [])
        return status.attempt(evidence, [FIRST])

    assert known(set(), set()) == (old.attempts[FIRST], False)
    assert known({new.log}, {FIRST}) == (None, True)
    assert known({new.log}, {SECOND}) == (old.attempts[FIRST], False)


def test_jobs_that_share_a_step_tell_of_it_until_the_one_that_writes_its_artifact_does():
    step = PlannedStep("rollout/all", "rollout", "1c63e51667bf", {"shards": 2}, 1, "2026-01-01")
    made, first, second = files = status.outputs(step)
    assert first == "results/rollout/1c63e51667bf.shards/1.done"
    run = runs.Run(Path("1.log"))
    evidence = status.Evidence([run], frozenset({run.log}), frozenset(), [], [])
    for changes, telling in (
        ({first: "finished"}, None),
        ({second: "started"}, second),
        ({first: "failed"}, first),
        ({made: "started"}, made),
    ):
        run.attempts |= {file: runs.Attempt(file, state) for file, state in changes.items()}
        tried, _ = status.attempt(evidence, files)
        assert (tried and tried.output) == telling
    assert [log.name for log in status.tool_logs(step).values()] == [
        "1c63e51667bf.log",
        "1c63e51667bf-1.log",
        "1c63e51667bf-2.log",
    ]


def test_of_jobs_that_share_a_step_one_that_is_done_says_nothing_of_it():
    step = PlannedStep("rollout/all", "rollout", "1c63e51667bf", {"shards": 2}, 1, "2026-01-01")

    def job(number: str, state: str) -> slurm.QueuedJob:
        return slurm.QueuedJob(number, state, "", "n1", 5, "run", "rollout", step.key, "/w")

    done, runs_, waits = job("7", "COMPLETED"), job("8", "RUNNING"), job("9", "PENDING")
    assert status.queued([done, runs_, waits], step) == runs_
    assert status.queued([done, waits], step) == waits
    assert status.queued([done], step) is None
    alone = PlannedStep("rollout/all", "rollout", "1c63e51667bf", {}, 1, "2026-01-01")
    assert status.queued([done], alone) == done


def test_the_exit_code_of_a_job_that_shares_a_step_is_its_own():
    text = LOCAL.replace("score --tasks", "rollout pull --shard 2/3 --tasks").replace(
        "results/score/2bcf1a880bc8/manifest.json", "results/score/2bcf1a880bc8.shards/2.done"
    )
    run = runs.parse_run(text, Path("a.snakemake.log"))
    assert run.attempts["results/score/2bcf1a880bc8.shards/2.done"].code == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rollout: 1/490\nrollout: 434/490\n", "434/490 (89%)"),
        ("evaluate base: 49/120\nsome warning\n", "49/120 (41%)"),
        ("rollout: 490/490 done\n", "490/490 (100%)"),
        ("  3%|▎         | 5/144 [00:12<05:48,  2.5s/it]\r 10%|█    | 15/144 [00:40<05:48]", "15/144 (10%)"),
        ("Writing model shards: 100%|██████████| 1/1 [00:00<00:00, 74.28it/s]\n", "None"),
        ("mix: 0/0 done\n", "0/0"),
        ("see a/b: 1/2 of it\n", "None"),
        ("", "None"),
    ],
)
def test_the_last_count_in_a_log_is_the_progress(text: str, found: str):
    assert str(status.parse_progress(text)) == found


def test_a_log_that_an_earlier_try_wrote_is_not_read(tmp_path: Path):
    log = tmp_path / "a.log"
    log.write_bytes(b"rollout: 3/4\n\xff\n")
    assert status.tail(log).startswith("rollout: 3/4")
    assert status.tail(log, time.time() + 60) == ""
    assert status.tail(tmp_path / "none.log") == ""


def test_slurms_own_lines_are_shown_before_snakemakes():
    assert [line.split()[0] for line in status.slurm_lines(KILLED_LOG)] == [
        "/usr/bin/bash:",
        "slurmstepd-cpu2:",
        "srun:",
    ]


def at(state: str, elapsed: float | None = None, done: int | None = None) -> status.Status:
    progress = None if done is None else status.Progress(done, 100)
    return status.Status("mix/a", "k", Path("a"), state, elapsed=elapsed, progress=progress)


def test_a_running_steps_rest_follows_its_progress_else_what_it_is_expected_to_take():
    assert status.remaining(at(status.RUNNING, 60, 25), 1000) == pytest.approx(180)
    assert status.remaining(at(status.RUNNING, 60, 1), 1000) == 940
    assert status.remaining(at(status.RUNNING, 60), 40) == 0
    assert status.remaining(at(status.RUNNING, 60), None) is None
    assert status.remaining(at(status.TO_BUILD), 40) == 40
    assert status.remaining(at(status.BUILT), 40) == 0


def test_the_end_lies_between_all_at_once_and_one_after_another():
    rest = {"a": 10.0, "b": 20.0, "c": 5.0, "d": None}
    end = status.estimated_end(rest, {"a": [], "b": [], "c": ["a", "b"], "d": ["c"]}, {"measured": 3, "unknown": 1})
    assert (end.low, end.high) == (25, 35)
    said = status.end_text(end, datetime.datetime(2026, 1, 1, 12))
    assert "in 25 s" in said and "in 35 s" in said
    assert "3 by what built steps of their stage took, 1 counted as nothing" in said
    assert status.end_text(status.End(0, 0, {}), datetime.datetime(2026, 1, 1)) == "everything is built"


def test_an_expectation_says_what_it_is_made_from():
    samples = [status.Sample(10, 100, 1, {}), status.Sample(40, 400, 1, {})]
    assert status.expected(samples, Cost(rows=1000, gpu_hours=3)) == (100, "measured")
    assert status.expected(samples, Cost(rows=1)) == (10, "measured")
    assert status.expected([], Cost(rows=1000, gpu_hours=3)) == (10800, "plan")
    assert status.expected([], Cost(rows=1000)) == (None, "unknown")


def test_a_small_model_tells_nothing_of_a_large_one_nor_one_source_of_another():
    training = PlannedStep("train-sft/a", "train-sft", "k", {"epochs": 2}, 0, "")
    assert not status.alike(training, Cost(1, disk_bytes=16e9), status.Sample(1, 1, 1e7, {}))
    assert status.alike(training, Cost(1, disk_bytes=3e6), status.Sample(1, 1, 1e7, {}))
    source = PlannedStep("source-tasks/a", "source-tasks", "k", {"source": "shell"}, 0, "")
    assert not status.alike(source, Cost(1), status.Sample(1, 1, 1, {"source": "pybugs"}))
    assert status.alike(source, Cost(1), status.Sample(1, 1, 1, {"source": "shell"}))


def process(pid: int, *words: str) -> runs.Process:
    return runs.Process(pid, os.getuid(), ("snakemake", *words), Path(f"{pid}.log"))


def test_a_command_line_says_which_recipes_it_builds():
    known = ["demo", "grid-ablate-x", "mine"]
    assert runs.targets(["snakemake", "--profile", "workflow/profiles/slurm", "--", "mine"], known) == ["mine"]
    assert runs.targets(["snakemake", "results/recipes/mine/summary.json"], known) == ["mine"]
    assert runs.targets(["snakemake", "ablations"], known) == ["grid-ablate-x"]
    assert runs.targets(["snakemake", "--cores", "2"], known) == ["demo"]
    assert runs.targets(["snakemake", "results/mix/abc/manifest.json"], known) == []


def job(number: str, name: str, key: str, state: str = "RUNNING") -> slurm.QueuedJob:
    return slurm.QueuedJob(number, state, "None", "cpu1", 1, name, "mix", key, FOLDER)


def test_cancelling_ends_the_recipes_jobs_and_its_snakemake_and_no_others():
    mine, other = process(1, "mine"), process(2, "other")
    queue = [
        job("10", "run-1", "aaa"),
        job("11", "run-1", "fetched"),
        job("12", "run-2", "bbb"),
        job("13", "run-2", "aaa", "PENDING"),
        job("14", "gone", "aaa", "PENDING"),
        job("15", "gone", "bbb"),
        job("16", "run-1", "aaa", "COMPLETED"),
    ]
    ids = {mine.log: "run-1", other.log: "run-2"}
    found = ending("mine", {("mix", "aaa")}, [(mine, ["mine"]), (other, ["other"])], ids, queue)
    assert [process.pid for process, _ in found.processes] == [1]
    assert [job.id for job in found.jobs] == ["10", "11", "14"]
    assert found.left == ["job 13 (mix aaa) stays: another Snakemake that goes on needs it"]


def test_cancelling_a_cell_leaves_the_grids_snakemake_and_what_other_cells_need():
    grid = process(1, "grid")
    queue = [job("10", "run-1", "aaa"), job("11", "run-1", "bbb"), job("12", "run-1", "ccc")]
    keys, shared = {("mix", "aaa"), ("mix", "bbb")}, {("mix", "bbb"), ("mix", "ccc")}
    found = ending("grid", keys, [(grid, ["grid"])], {grid.log: "run-1"}, queue, cell="x", shared=shared)
    assert (found.processes, [job.id for job in found.jobs]) == ([], ["10"])
    assert len(found.left) == 2


MINE = PlannedStep("mix/a", "mix", "aaa", {}, 0, "")
HERE = socket.gethostname()


def run_on(folder: Path, day: int, host: str, *files: str) -> None:
    """Leave the log of a run of Snakemake that began on that day, and its lock of files soon after."""
    logs, locks = (folder / ".snakemake" / name for name in ("log", "locks"))
    for place in (logs, locks):
        place.mkdir(parents=True, exist_ok=True)
    (logs / f"2026-01-{day:02}T000000.000000.snakemake.log").write_text(f"{'x' * 200}\n  Host: {host}\n")
    if files:
        lock = locks / f"{day}.output.lock"
        lock.write_text("".join(f"{file}\n" for file in files))
        moment = datetime.datetime(2026, 1, day, 0, 1).timestamp()
        os.utime(lock, (moment, moment))


@pytest.fixture
def without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Slurm to ask: a client that is installed may have none behind it."""
    monkeypatch.setattr(slurm, "available", lambda: False)


@pytest.mark.parametrize("since", [[], [HERE], ["login3", HERE]])
@pytest.mark.usefixtures("without_slurm")
def test_a_build_that_goes_on_on_another_machine_is_not_cancelled(tmp_path: Path, since: list[str]):
    """Whatever else was built since, here or elsewhere."""
    run_on(tmp_path, 1, HERE)
    run_on(tmp_path, 2, "login2", *status.outputs(MINE))
    for day, host in enumerate(since, start=3):
        run_on(tmp_path, day, host)
    with pytest.raises(BadInput) as refused:
        find(tmp_path, "mine", [MINE], ["mine"])
    said = str(refused.value)
    assert said.startswith("mine: Snakemake on login2 holds the lock") and f"on {HERE};" in said and "\n" not in said
    assert "run this on login2, or if that Snakemake was killed" in said and "run `snakemake --unlock` and" in said


@pytest.mark.usefixtures("without_slurm")
def test_a_lock_of_this_machine_or_of_another_build_or_none_keeps_nothing_from_being_cancelled(
    tmp_path: Path, monkeypatch
):
    nothing = Ending([], [], [])
    run_on(tmp_path, 1, "login2")
    assert find(tmp_path, "mine", [MINE], ["mine"]) == nothing
    run_on(tmp_path, 2, "login2", "results/mix/of-another-recipe/manifest.json")
    assert find(tmp_path, "mine", [MINE], ["mine"]) == nothing
    run_on(tmp_path, 3, HERE, *status.outputs(MINE))
    assert find(tmp_path, "mine", [MINE], ["mine"]) == nothing
    run_on(tmp_path, 4, "login2")
    assert find(tmp_path, "mine", [MINE], ["mine"]) == nothing
    run_on(tmp_path, 5, "login2", *status.outputs(MINE))
    going = process(1, "mine")
    monkeypatch.setattr(runs, "processes", lambda folder: [going])
    assert find(tmp_path, "mine", [MINE], ["mine"]) == Ending([(going, ["mine"])], [], [])


def test_jobs_of_runs_that_submit_nothing_to_slurm_are_not_taken_for_each_others():
    local = process(1, "mine")
    found = ending("mine", set(), [(local, ["mine"])], {local.log: ""}, [job("10", "", "zzz")])
    assert found.jobs == []


def test_only_a_snakemake_that_works_in_the_folder_and_writes_its_log_counts(tmp_path: Path):
    logs = tmp_path / ".snakemake" / "log"
    logs.mkdir(parents=True)
    log = logs / "2026.snakemake.log"
    log.write_text("x")
    # Where the tests run in the background, SIGINT is ignored, which children inherit.
    code = "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "stream = open(sys.argv[1], sys.argv[2])\nprint(flush=True)\ntime.sleep(60)"
    started = []
    (tmp_path / "snakemake").write_text(code)
    for script, mode in (("snakemake", "a"), ("snakemake", "r"), ("other", "a")):
        (tmp_path / script).write_text(code)
        words = [sys.executable, script, str(log), mode]
        started.append(subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE))
    try:
        for child in started:
            assert child.stdout and child.stdout.readline()
        found = runs.processes(tmp_path)
        assert [(process.pid, process.log) for process in found] == [(started[0].pid, log)]
        assert runs.still(found[0], tmp_path) and runs.heeds_interrupt(found[0].pid)
        assert runs.processes(tmp_path / ".snakemake") == []
    finally:
        for child in started:
            child.send_signal(signal.SIGKILL)
            child.wait()
            if child.stdout:
                child.stdout.close()
    assert not runs.still(found[0], tmp_path)


def test_tools_that_ctrl_c_would_reach_are_those_of_snakemakes_own_group():
    tree = {1: (0, 1), 10: (1, 10), 11: (10, 10), 12: (11, 10), 13: (12, 13), 20: (1, 20)}
    assert runs.foreground(10, tree) == [11, 12]
    assert runs.foreground(99, tree) == []


def test_steps_that_are_made_alike_are_one_job_and_the_report_comes_last(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    source = "{source: shell, split: train, count: 5}"
    path.write_text(
        f"recipe: mine\ndescription: x\ndate: 2026-01-01\nstages:\n  source-tasks:\n    a: {source}\n    b: {source}\n"
    )
    steps = keyed({"mine": load_plan(path)}, None)
    assert [step.name for step in steps.values()] == ["source-tasks/a, source-tasks/b", "report"]
    assert Estimator(steps.values()).total().disk_bytes > 0


def test_the_cost_of_what_is_left_is_that_of_the_steps_given():
    steps = [PlannedStep(f"source-tasks/{n}", "source-tasks", n, {"count": 10}, 0, "") for n in "ab"]
    estimator = Estimator(steps)
    assert estimator.total(steps[:1]).disk_bytes == estimator.total().disk_bytes / 2
    assert estimator.total([]).disk_bytes == 0
