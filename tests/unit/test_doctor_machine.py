"""What doctor makes of Apptainer, file systems, GPUs, the hub, images and secrets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from doctor import apptainer, gpu, hub, images, sandbox, secrets, storage
from doctor.commands import Answer, ask
from doctor.findings import Finding, bytes_text, line, one_line, summary
from doctor.profile import Profile
from recipe_core.errors import BadInput


def bad(findings: list[Finding]) -> list[str]:
    return [f"{each.level}: {each.text}; {each.mend}" for each in findings if each.level != "ok"]


GOOD = apptainer.Facts(
    version="apptainer version 1.4.5",
    max_user_namespaces=96365,
    subuid=65536,
    subgid=65536,
    newuidmap=True,
    overlay=True,
    fuse=True,
    squashfuse=True,
    fuse_overlayfs=True,
    trial_ms=120.0,
)


def test_a_line_is_one_line():
    assert line(Finding("ok", "gpu", "no GPU"), "n1") == "ok    n1  gpu: no GPU"
    assert one_line("\x1b[31mFATAL:\x1b[0m  a\n\tb\x07") == "FATAL: a b"
    assert len(one_line("x" * 1000)) == 300
    assert summary([Finding("ok", "a", ""), Finding("fail", "a", "")]) == "1 ok, 0 to look at (warn), 1 to mend (fail)"
    assert [bytes_text(count) for count in (12, 1200, 50 * 10**9)] == ["12 B", "1.2 kB", "50 GB"]


def test_commands_never_raise():
    assert ask(["/nonexistent/x"]).code == 127
    assert ask(["sleep", "5"], seconds=0.05).complaint == "no answer within 0.05 s"
    assert ask(["sh", "-c", "printf 'a\\377\\n'; echo one >&2; echo two >&2; exit 3"]).complaint == "two"
    assert Answer(3).complaint == "exit code 3"


def test_a_good_apptainer():
    assert bad(apptainer.judge(GOOD)) == []
    assert len(apptainer.judge(GOOD)) == 5


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("", "apptainer is not on PATH"),
        ("singularity-ce version 3.11.4", "not Apptainer but singularity-ce"),
        ("apptainer version 1.0.3", "older than 1.1"),
    ],
)
def test_no_apptainer_or_an_old_one_is_all_that_is_said(version: str, text: str):
    (found,) = bad(apptainer.judge(apptainer.Facts(version=version)))
    assert found.startswith("fail:") and text in found and "install Apptainer" in found


def test_versions():
    assert apptainer.parse_version("apptainer version 1.10.0-rc.1+3-gabc") == (1, 10)
    assert apptainer.parse_version("singularity version 3.8.7-1.el8") is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"max_user_namespaces": 0}, "fail: no user namespaces: user.max_user_namespaces=0"),
        ({"unprivileged_userns_clone": 0}, "fail: no user namespaces for users"),
        ({"apparmor_restrict": 1, "trial": Answer(1)}, "fail: user.max_user_namespaces=96365, but kernel.apparmor"),
        ({"trial": Answer(255, errors="FATAL: no\n")}, "fail: apptainer exec --userns of a folder fails: FATAL: no"),
        ({"subgid": 0}, "warn: --fakeroot has one user only (0 subordinate ids)"),
        ({"newuidmap": False}, "warn: --fakeroot has one user only (newuidmap is not on PATH)"),
        ({"squashfuse": False}, "warn: images cannot be mounted: /dev/fuse yes, squashfuse no"),
        ({"overlay": False, "fuse_overlayfs": False}, "warn: no writable layer over an image"),
    ],
)
def test_what_apptainer_lacks(change: dict, text: str):
    found = bad(apptainer.judge(replace(GOOD, **change)))
    assert found[0].startswith(text) and not found[0].endswith("; ")


def test_what_apptainer_can_do_without():
    assert bad(apptainer.judge(replace(GOOD, apparmor_restrict=1))) == []
    assert bad(apptainer.judge(replace(GOOD, setuid=True, fuse=False, squashfuse=False))) == []
    assert bad(apptainer.judge(replace(GOOD, root=True, subuid=0, newuidmap=False))) == []
    assert bad(apptainer.judge(replace(GOOD, max_user_namespaces=None))) == []


def test_subordinate_ids():
    text = "ann:100000:65536\nbob:200000:65536\n1000:300000:10\nann:bad\n\nann:1:x\n"
    assert apptainer.subordinate_ids(text, ("ann", "1000")) == 65546
    assert apptainer.subordinate_ids("", ("ann",)) == 0


MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /scratch rw - lustre 10.0.0.1@o2ib:/s rw
31 27 0:41 / /home rw,nosuid shared:1 - nfs4 server:/home rw
32 31 0:42 / /home/my\\040disk rw - tmpfs tmpfs rw
33 27 0:43 / /over rw - tmpfs tmpfs rw
34 33 0:44 / /over rw - nfs server:/x rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/tmp", "ext4"),
        ("/scratch", "lustre"),
        ("/scratch/ann", "lustre"),
        ("/scratchy", "ext4"),
        ("/home/ann/x", "nfs4"),
        ("/home/my disk/a", "tmpfs"),
        ("/over/x", "nfs"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str):
    assert storage.file_system(path, MOUNTS) == kind


def test_without_mounts_the_type_is_unknown():
    assert storage.file_system("/x", "") == ""


def place(name: str, **change) -> storage.Place:
    values = {"kind": "ext4", "free": 10**12, "inodes": 10**7, **change}
    return storage.Place(name, values.pop("path", "/somewhere"), **values)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (place("bind", exists=False), "fail: bind /somewhere: no such folder"),
        (place("project", writable=False), "fail: project /somewhere: not writable"),
        (
            place("apptainer-prefix", free=10**9),
            "fail: apptainer-prefix /somewhere: ext4, of this machine, 1 GB free, 10,000,000 files: too",
        ),
        (
            place("project", free=20 * 10**9, inodes=None),
            "warn: project /somewhere: ext4, of this machine, 20 GB free: less",
        ),
        (
            place("project", inodes=1000),
            "warn: project /somewhere: ext4, of this machine, 1 TB free, 1,000 files: fewer",
        ),
        (place("tmp", kind="lustre"), "warn: tmp /somewhere: lustre, network"),
        (place("tmp", path="/t" * 30), "warn: tmp /t/t"),
        (place("shm", free=64 * 10**6), "warn: shm /somewhere: ext4, of this machine, 64 MB free"),
        (place("tmux", kind="gpfs"), "fail: tmux /somewhere: gpfs, network"),
        (place("tmux", path="/" + "t" * 70), "fail: tmux /ttt"),
        (place("project"), "warn: project /somewhere: ext4, of this machine"),
    ],
)
def test_folders_that_will_not_do(at: storage.Place, text: str):
    (found,) = bad(storage.judge([at], [], shared=True))
    assert found.startswith(text) and not found.endswith("; ")


def test_folders_that_will_do():
    good = [place(name, kind="lustre") for name in ("project", "bind", "apptainer-prefix")]
    good += [place(name) for name in ("tmp", "shm", "tmux")]
    # Models and data that belong to somebody else, on a volume that is full.
    good += [place("bind", writable=False, free=0, inodes=0)]
    assert bad(storage.judge(good, [], shared=True)) == []
    assert bad(storage.judge([place("project")], [], shared=False)) == []


def test_the_folders_are_the_profiles_and_the_environments():
    profile = Profile(config={"bind": "/s"}, settings={"apptainer-prefix": "/i"})
    named = dict(storage.named_places(profile, {"TMPDIR": "/t", "TMUX_TMPDIR": "/x", "SCRATCH": "/other"}, "/p"))
    assert named == {
        "project": "/p",
        "bind": "/s",
        "apptainer-prefix": "/i",
        "tmp": "/t",
        "shm": "/dev/shm",
        "tmux": "/x",
    }
    assert "bind" not in dict(storage.named_places(Profile(), {}, "/p"))


def test_a_folder_is_looked_at(tmp_path: Path):
    found = storage.look("bind", str(tmp_path), MOUNTS)
    assert found.exists and found.writable and found.free > 0
    assert not storage.look("bind", str(tmp_path / "absent"), MOUNTS).exists


QUOTA = """\
Disk quotas for user ann (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
server:/home  95000* 90000 100000 1700000000 10 0 0 0
/dev/sda1 5 0 0 0 1 0 0 0
"""


def test_quotas():
    found = storage.parse_quota(QUOTA)
    assert found[0] == storage.Quota("server:/home", 95000, 100000, 10, 0) and len(found) == 2
    assert bad(storage.judge([], found, shared=False)) == [
        "warn: quota on server:/home: 95,000 of 100,000 kB: nearly full; "
        "remove what you do not need, or work on scratch"
    ]
    assert storage.parse_quota("none\n") == []


@pytest.mark.parametrize(
    ("lock", "version"),
    [
        ("nvidia-cuda-runtime==13.0.96 \\\n    --hash=x\ntorch==2.13.0 \\\n", (13, 0)),
        ("nvidia-cuda-runtime-cu12==12.8.90\n", (12, 8)),
        ("torch==2.9.0+cu128 \\\n", (12, 8)),
        ("torch==2.13.0+cu130\n", (13, 0)),
        ("torch==2.13.0+cpu\n", None),
        ("# nvidia-cuda-runtime==13.0\nnumpy==2\n", None),
        ("", None),
    ],
)
def test_the_cuda_of_a_lock(lock: str, version: tuple[int, int] | None):
    assert gpu.cuda_of_lock(lock) == version


def test_the_cuda_of_a_driver():
    heading = "| NVIDIA-SMI 570.86.15   Driver Version: 570.86.15   CUDA Version: 12.8     |"
    assert gpu.driver_cuda(heading) == (12, 8)
    assert gpu.driver_cuda("CUDA Version: N/A") is None


def test_gpus():
    here = gpu.Facts(Answer(0), ("NVIDIA H200, 570.86.15, 143771 MiB",), (12, 8), {"rl-cuda": (12, 8)})
    assert bad(gpu.judge(here)) == [] and "CUDA up to 12.8; stacks need CUDA: rl-cuda 12.8" in gpu.judge(here)[0].text
    newer = replace(here, needs={"rl-cuda": (13, 0), "serve-cuda": (12, 9)})
    found = bad(gpu.judge(newer))
    assert found[0].startswith("fail: stack rl-cuda needs CUDA 13.0, the driver runs up to 12.8")
    assert found[1].startswith("warn: stack serve-cuda needs CUDA 12.9")
    assert bad(gpu.judge(replace(here, cuda=None)))[0].startswith(
        "warn: stack rl-cuda needs CUDA 12.8; nvidia-smi does"
    )


def test_no_gpu_is_no_failure():
    assert gpu.judge(gpu.Facts()) == [Finding("ok", "gpu", "no GPU here (no nvidia-smi); no stack here needs CUDA")]
    assert bad(gpu.judge(gpu.Facts(given="0")))[0].startswith("warn: Slurm gave GPU 0, but nvidia-smi is not on PATH")
    broken = gpu.Facts(Answer(9, errors="NVIDIA-SMI has failed\n"))
    assert bad(gpu.judge(broken))[0].startswith("warn: nvidia-smi shows no GPU: NVIDIA-SMI has failed")


def test_the_hub():
    assert bad(hub.judge(hub.Facts("https://h", 200, milliseconds=80), node=False)) == []
    assert bad(hub.judge(hub.Facts("https://h", 401), node=True)) == []
    assert "HTTP status 407" in bad(hub.judge(hub.Facts("https://h", 407), node=False))[0]
    here = bad(hub.judge(hub.Facts("https://h", error="timed out"), node=False))
    there = bad(hub.judge(hub.Facts("https://h", error="timed out"), node=True))
    assert here[0].startswith("warn: https://h does not answer: timed out; run `make fetch") and here != there


def test_the_hubs_address():
    assert hub.endpoint({}) == hub.endpoint({"HF_ENDPOINT": ""}) == "https://huggingface.co"
    assert hub.endpoint({"HF_ENDPOINT": "http://mirror:8000"}) == "http://mirror:8000"
    with pytest.raises(BadInput, match="HF_ENDPOINT"):
        hub.endpoint({"HF_ENDPOINT": "mirror"})


def test_a_hub_that_is_not_there():
    found = hub.gather("http://127.0.0.1:9", 1.0)
    assert found.status is None and "refused" in found.error
    assert hub.gather("http://[bad", 1.0).error


LIST = "data\timages/data-aaa.sif\tbuilt\tdata\nrl\timages/rl-bbb.sif\tnot built\trl\n"
BUILT = images.Facts(images.parse_list(LIST.splitlines()[0]), None, 10**9, "images/data-aaa.sif", Answer(0))


def test_images():
    assert bad(images.judge(BUILT)) == []
    listed = images.parse_list(LIST)
    assert [image.built for image in listed] == [True, False]
    partly = replace(BUILT, images=listed)
    assert bad(images.judge(partly)) == ["fail: 1 of 2 are here, not images/rl-bbb.sif; build them: images build rl"]
    # Where jobs run in no images, as on a laptop, a build does without.
    assert bad(images.judge(partly, needed=False))[0].startswith("warn: 1 of 2 are here")
    # With GPUs some images for CPUs are needed too, by some recipes.
    assert bad(images.judge(replace(BUILT, besides=listed))) == [
        "warn: not here: images/rl-bbb.sif (data is for `make fetch`, rl for train-rl with the trainer trl); "
        "build what your recipes need: images build rl"
    ]
    none = images.Facts(listed[1:], flags=("--cuda",))
    (found,) = bad(images.judge(none))
    assert found.startswith("fail: none of 1 images is in images/; build them (images build --cuda), or copy ")
    assert "none of 1 images is in images/; 1 of another" in bad(images.judge(replace(none, others=("rl-old.sif",))))[0]
    broken = replace(BUILT, trial=Answer(255, errors="FATAL: no squashfs\n"))
    assert bad(images.judge(broken))[0].startswith("fail: images/data-aaa.sif does not start: FATAL: no squashfs")
    missing = images.Facts(listing=Answer(127, errors="the command images is not installed"))
    assert "make setup-cluster" in bad(images.judge(missing))[0]


def test_sandboxes():
    assert sandbox.judge(sandbox.Facts())[0].level == "ok"
    rows = "apptainer: not installed; install it\nbubblewrap: works (bwrap, 40 ms)\n"
    found = sandbox.judge(sandbox.Facts("in images/data-aaa.sif", Answer(0, rows)))
    assert [each.level for each in found] == ["ok", "ok"] and found[1].text.startswith(
        "in images/data-aaa.sif bubblewrap"
    )
    failed = Answer(2, "apptainer: not installed; install it\n", "sandbox: error: none\n")
    (found,) = bad(sandbox.judge(sandbox.Facts("on this machine", failed)))
    assert found.startswith("fail: on this machine no back end works: apptainer: not installed")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"below_project": True}, "is below the project"),
        ({"mode": None}, "does not exist"),
        ({"regular": False}, "is not a file"),
        ({"own": False}, "is not yours"),
        ({"mode": 0o640}, "has mode 0640, not 0600; chmod 600 /h/keys"),
    ],
)
def test_secrets_that_are_not_private(change: dict, text: str):
    (found,) = bad(secrets.judge(replace(secrets.Facts("/h/keys", 0o600), **change)))
    assert found.startswith("fail: /h/keys") and text in found


def test_secrets_that_are():
    assert bad(secrets.judge(secrets.Facts("/h/keys", 0o600))) == []
    assert bad(secrets.judge(secrets.Facts())) == []
    assert "not set: HF_TOKEN" in bad(secrets.judge(secrets.Facts(unset=("HF_TOKEN",))))[0]


def test_a_secrets_file_is_looked_at_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    keys = tmp_path / "keys"
    keys.write_text("TOKEN=do-not-show\n")
    keys.chmod(0o600)
    profile = Profile(config={"secrets": str(keys)}, envvars=("NOT_SET_HERE",))
    facts = secrets.gather(profile, {})
    assert (facts.mode, facts.own, facts.below_project, facts.unset) == (0o600, True, False, ("NOT_SET_HERE",))
    assert "do-not-show" not in repr(facts)
    (project / "link").symlink_to(keys)
    assert not secrets.gather(Profile(config={"secrets": "link"}), {}).below_project
    inside = project / "keys"
    inside.touch()
    assert secrets.gather(Profile(config={"secrets": str(inside)}), {}).below_project
