"""Names of images, and the comparison of what they hold."""

from __future__ import annotations

import doctest
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import images.__main__ as command
import images.build
from images.__main__ import build_all, build_parser, lock_digests, names_of, read_lock
from images.contents import Entry, differences, digest_of, packages_of, read_listing, write_listing
from images.names import (
    HOME,
    all_images,
    definition,
    for_gpus,
    image_path,
    lineage,
    source_digest,
    source_files,
    stacks_of,
)
from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
WALK = ROOT / "tools" / "images" / "src" / "images" / "walk.py"


def test_every_stack_of_the_pipeline_has_an_image():
    assert all_images(ROOT) == ["data", "harness", "rl", "serve", "sft", "workflow"]
    for image in all_images(ROOT):
        assert stacks_of(ROOT, image)[0] == image
        assert re.fullmatch(rf"images/{image}-[0-9a-f]{{12}}\.sif", str(image_path(ROOT, image)))


def test_an_image_holds_the_stacks_of_those_it_stands_on():
    assert lineage(ROOT, "rl") == ["serve", "harness", "rl"]
    assert stacks_of(ROOT, "rl") == ["rl", "harness", "serve"]
    assert lineage(ROOT, "sft") == ["sft"]


def test_images_for_gpus_hold_the_builds_for_gpus():
    assert all_images(ROOT, cuda=True) == ["data-cuda", "harness-cuda", "rl-cuda", "serve-cuda", "sft-cuda"]
    assert lineage(ROOT, "rl-cuda") == ["serve-cuda", "harness-cuda", "rl-cuda"]
    assert stacks_of(ROOT, "rl-cuda") == ["rl-cuda", "harness", "serve-cuda"]
    assert [for_gpus(ROOT, image) for image in ("sft", "workflow")] == ["sft-cuda", "workflow"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["build", "--cuda", "rl", "serve"], ["rl-cuda", "serve-cuda"]),
        (["build", "--cuda", "rl-cuda"], ["rl-cuda"]),
        # None of its stacks has a build for GPUs.
        (["build", "--cuda", "workflow"], ["workflow"]),
        (["build", "rl", "serve-cuda"], ["rl", "serve-cuda"]),
        (["build", "--cuda"], ["data-cuda", "harness-cuda", "rl-cuda", "serve-cuda", "sft-cuda", "workflow"]),
        (["list"], ["data", "harness", "rl", "serve", "sft", "workflow"]),
    ],
)
def test_with_cuda_a_name_means_the_image_for_gpus(words: list[str], names: list[str]):
    assert names_of(ROOT, build_parser().parse_args(words)) == names


def test_with_cuda_an_unknown_name_is_told_as_it_was_given():
    (name,) = names_of(ROOT, build_parser().parse_args(["build", "--cuda", "nosuch"]))
    with pytest.raises(BadInput, match="no image 'nosuch'"):
        lineage(ROOT, name)


def test_a_definition_below_is_part_of_the_name(tmp_path: Path):
    shutil.copytree(ROOT / "containers", tmp_path / "containers")
    (tmp_path / "envs").mkdir()
    for name in ("install.py", "stacks.toml"):
        shutil.copy(ROOT / "envs" / name, tmp_path / "envs")
    before = {name: image_path(tmp_path, name) for name in all_images(tmp_path)}
    image_path.cache_clear()
    with (tmp_path / "containers" / "serve.def").open("a") as stream:
        stream.write("\n# another\n")
    assert {name for name in before if image_path(tmp_path, name) != before[name]} == {"data", "harness", "rl", "serve"}


@pytest.mark.parametrize(("image", "on"), [("serve", "rl"), ("sft", "nothing-2")])
def test_an_image_stands_on_one_that_there_is(image: str, on: str, tmp_path: Path):
    shutil.copytree(ROOT / "containers", tmp_path / "containers")
    shutil.copytree(ROOT / "envs", tmp_path / "envs", ignore=shutil.ignore_patterns("*.lock"))
    path = tmp_path / "containers" / f"{image}.def"
    path.write_text(path.read_text().replace("    stack=", f"    on={on}\n    stack="))
    with pytest.raises(BadInput, match=r"on=\S+: no image that it can stand on"):
        lineage(tmp_path, image)


def test_a_definition_without_a_stack_is_one_line(tmp_path: Path):
    shutil.copytree(ROOT / "containers", tmp_path / "containers")
    shutil.copytree(ROOT / "envs", tmp_path / "envs", ignore=shutil.ignore_patterns("*.lock"))
    path = tmp_path / "containers" / "sft.def"
    path.write_text(path.read_text().replace("    stack=sft\n", ""))
    with pytest.raises(BadInput, match=r"containers/sft.def: expected a line such as stack=data"):
        stacks_of(tmp_path, "sft")


def test_every_definition_lists_its_files():
    for image in all_images(ROOT):
        assert "/mnt/walk.py / >/mnt/files\n\n%environment" in definition(ROOT, image).read_text()


def test_one_failure_ends_what_has_not_begun(tmp_path: Path, monkeypatch):
    begun = []

    def build_image(root, name, base, work):
        begun.append(name)
        raise BadInput(f"{name} failed")

    monkeypatch.setattr(images.build, "build_image", build_image)
    with pytest.raises(BadInput, match="failed"):
        build_all(ROOT, all_images(ROOT), tmp_path, tmp_path, 1)
    assert 1 <= len(begun) < len(all_images(ROOT))


def test_a_readme_is_no_part_of_an_image():
    assert not [path for path in source_files(ROOT, ["data"]) if path.suffix == ".md"]


def test_an_unknown_image_is_one_line():
    with pytest.raises(BadInput, match=r"no image 'nosuch': containers/ defines data, "):
        definition(ROOT, "nosuch")
    with pytest.raises(BadInput, match="no image 'base'"):
        definition(ROOT, "base")


def test_the_base_is_pinned_by_digest():
    text = (ROOT / "containers" / "base.def").read_text()
    assert re.search(r"^ *base=[a-z]+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    for image in all_images(ROOT):
        assert "\nFrom: {{ base }}\n" in definition(ROOT, image).read_text()


def test_the_base_takes_python_by_its_name_and_leaves_no_link_to_it(tmp_path: Path):
    """As uv 0.13 leaves it: a folder named by the whole version, and a link to it named by the minor one."""
    build = tmp_path / "cpython-3.12.13-linux-x86_64-gnu"
    (build / "bin").mkdir(parents=True)
    (tmp_path / "cpython-3.12-linux-x86_64-gnu").symlink_to(build.name)
    text = (ROOT / "containers" / "base.def").read_text()
    lines = re.findall(r"^ +((?:mv|rm -rf) /opt/cpython.*)$", text, re.MULTILINE)
    assert len(lines) == 2
    subprocess.run("\n".join(lines).replace("/opt", str(tmp_path)), shell=True, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["python3.12"]
    assert (tmp_path / "python3.12" / "bin").is_dir()


def test_sources_are_locks_installer_and_the_tools_of_the_stacks():
    files = {str(path) for path in source_files(ROOT, ["sft"])}
    assert "envs/sft/requirements.lock" in files
    assert "envs/uv/requirements.lock" in files
    assert "envs/install.py" in files
    assert "tools/train-sft/pyproject.toml" in files
    assert not any("__pycache__" in file or file.startswith(("tools/rollout/", "envs/rl/")) for file in files)


def test_a_digest_follows_names_and_contents(tmp_path: Path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    first = source_digest(tmp_path, [Path("a")])
    assert first == source_digest(tmp_path, [Path("a")])
    assert first != source_digest(tmp_path, [Path("b")])
    (tmp_path / "a").write_text("2")
    assert first != source_digest(tmp_path, [Path("a")])


ENTRIES = [
    Entry("/opt/agent-recipes/.venvs/data/lib/x.py", "0o644", "aa"),
    Entry("/opt/agent-recipes/.venvs/data/lib/x.pyc", "0o644", "bb"),
    Entry("/usr/bin/tmux", "0o755", "cc"),
]


def test_differences_name_the_file():
    assert differences(ENTRIES, ENTRIES) == []
    found = [ENTRIES[0]._replace(what="dd"), ENTRIES[2]._replace(mode="0o700"), Entry("/new", "0o644", "ee")]
    assert differences(ENTRIES, found) == [
        "/new: not expected",
        "/opt/agent-recipes/.venvs/data/lib/x.py: dd, expected aa",
        "/opt/agent-recipes/.venvs/data/lib/x.pyc: missing",
        "/usr/bin/tmux: mode 0o700, expected 0o755",
    ]


def test_compiled_files_are_no_part_of_a_digest():
    changed = [ENTRIES[0], ENTRIES[1]._replace(what="other"), ENTRIES[2]]
    assert digest_of(ENTRIES) == digest_of(changed)
    assert digest_of(ENTRIES) != digest_of(changed[:2])
    assert packages_of(ENTRIES) == ENTRIES[:2]


def test_the_projects_own_tools_are_no_packages():
    site = "/opt/agent-recipes/.venvs/data/lib"
    own = [f"{site}/mix-0.1.0.dist-info/{name}" for name in ("RECORD", "uv_cache.json")]
    listed = [Entry(path, "0o644", "aa") for path in (*own, f"{site}/six.py", "/opt/agent-recipes/.venvs/data/ready")]
    assert [entry.path for entry in packages_of(listed)] == [f"{site}/six.py"]


def test_a_listing_is_read_as_it_was_written(tmp_path: Path):
    write_listing(tmp_path / "x.files", ENTRIES)
    assert read_listing(tmp_path / "x.files") == ENTRIES
    with pytest.raises(BadInput, match="no such file; build the image again"):
        read_listing(tmp_path / "y.files")
    (tmp_path / "z.files").write_text("one\ttwo\n")
    with pytest.raises(BadInput, match="not a list of an image's files"):
        read_listing(tmp_path / "z.files")


def test_the_committed_lock_records_every_image_for_cpus():
    recorded = read_lock(ROOT)["x86_64"]
    assert set(recorded) == {"base", "images"}
    # By the locks that stand here; where one has changed: images build --record.
    for name in all_images(ROOT):
        assert recorded["images"][name]["locks"] == lock_digests(ROOT, name), name


@pytest.mark.parametrize("text", ["{", "[]", '{"base": {}, "images": {}}', '{"x86_64": {"images": 3}}', '{"arm": {}}'])
def test_a_lock_of_another_form_is_one_line(text: str, tmp_path: Path):
    assert read_lock(tmp_path) == {}
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers" / "images.lock").write_text(text)
    with pytest.raises(BadInput, match=r"images\.lock: not records by architecture, .* git checkout containers/"):
        read_lock(tmp_path)


PACKAGE = Entry(f"{HOME}/.venvs/sft/lib/six.py", "0o644", "aa")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on Arm with the image sft, which holds what its build has listed: a package and the project's files."""
    for folder in ("containers", "envs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "containers" / "images.lock").unlink()
    own = source_files(tmp_path, ["sft"])
    held = [Entry(f"{HOME}/{path}", "0o644", file_digest(tmp_path / path)) for path in own]
    image = tmp_path / image_path(tmp_path, "sft")
    image.parent.mkdir()
    image.touch()
    write_listing(image.with_suffix(".files"), [*held, PACKAGE])
    monkeypatch.setattr(command, "listing", lambda path: read_listing(path.with_suffix(".files")))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(project: Path, machine: str, *, image: str = "sft", packages: str = "", **locks: str) -> None:
    """Write a lock that records one image."""
    packages = packages or digest_of(packages_of([PACKAGE]))
    held = {"locks": command.lock_digests(project, image) | locks, "packages": packages}
    text = json.dumps({machine: {"base": {}, "images": {image: held}}})
    (project / "containers" / "images.lock").write_text(text)


def verify() -> None:
    command.run(build_parser().parse_args(["verify"]))


def test_an_image_is_compared_with_its_record(project: Path, capsys):
    record(project, "aarch64")
    verify()
    said = "sft: read whole, as built and as this commit says; its packages are those recorded\n"
    assert capsys.readouterr().out == said
    record(project, "aarch64", packages="0123456789abcdef")
    with pytest.raises(SystemExit) as ended:
        verify()
    output = capsys.readouterr()
    assert ended.value.code == 1 and "containers/images.lock has 0123456789ab" in output.out
    assert "1 of 1 differ; build them again" in output.err


@pytest.mark.parametrize(
    ("recorded", "why"),
    [
        ({}, "no record for aarch64"),
        ({"machine": "x86_64", "packages": "other"}, "no record for aarch64"),
        ({"machine": "aarch64", "image": "serve", "packages": "other"}, "no record of sft for aarch64"),
        ({"machine": "aarch64", "sft": "other", "packages": "other"}, "the record is of other locks"),
    ],
)
def test_an_image_without_such_a_record_is_no_failure_and_says_why(project: Path, capsys, recorded, why: str):
    if recorded:
        record(project, **recorded)
    verify()
    assert capsys.readouterr().out.endswith(f"; not compared with containers/images.lock: {why}\n")


def test_a_missing_file_is_a_failure_without_a_record_too(project: Path, capsys, monkeypatch):
    monkeypatch.setattr(command, "listing", lambda path: read_listing(path.with_suffix(".files"))[:-1])
    with pytest.raises(SystemExit):
        verify()
    assert capsys.readouterr().out == f"sft: {PACKAGE.path}: missing\n"


def test_recording_keeps_what_is_recorded_of_other_architectures(project: Path, monkeypatch):
    record(project, "x86_64")
    before = read_lock(project)["x86_64"]
    monkeypatch.setattr(images.build, "build_base", lambda root, base, work: project / "base")
    monkeypatch.setattr(images.build, "base_digest", lambda base: "digest")
    command.build_images(project, build_parser().parse_args(["build", "--base", "local", "--record", "sft"]))
    after = read_lock(project)
    assert after["x86_64"] == before
    assert after["aarch64"] == {"base": {"from": "local", "files": "digest"}, "images": before["images"]}


def test_a_walk_lists_files_links_and_what_cannot_be_read(tmp_path: Path):
    (tmp_path / "d").mkdir(mode=0o755)
    (tmp_path / "d" / "file").write_text("x")
    (tmp_path / "link").symlink_to("d/file")
    done = subprocess.run(
        [sys.executable, "-", tmp_path, "/nosuch"], stdin=WALK.open(), capture_output=True, text=True, check=True
    )
    lines = {Path(path).name: (mode, what) for path, mode, what in map(json.loads, done.stdout.splitlines())}
    assert lines["d"] == ("0o755", "dir")
    assert lines["file"][1] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert lines["link"][1] == "-> d/file"
    assert lines["nosuch"] == ("", "unreadable: No such file or directory")


def test_settings_of_a_build_are_seen_below_mnt():
    assert doctest.testmod(images.build).failed == 0
