"""What comes into containers from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.containers import let_in, let_secrets_in, read_secrets
from recipe_core.errors import BadInput


def secrets_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secrets"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_lines_comments_and_quotes(tmp_path: Path):
    text = "# keys\n\nHF_TOKEN=hf_abc\nexport OPENAI_API_KEY='k=1 2'\nEMPTY=\n"
    found = read_secrets(secrets_file(tmp_path, text))
    assert found == {"HF_TOKEN": "hf_abc", "OPENAI_API_KEY": "k=1 2", "EMPTY": ""}


def test_a_file_that_others_may_read_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="mode 640, others may read it; run: chmod 600"):
        read_secrets(secrets_file(tmp_path, "A=1", 0o640))


def test_a_wrong_line_is_named_by_its_number_and_not_quoted(tmp_path: Path):
    with pytest.raises(BadInput, match=r"line 2: expected NAME=value") as caught:
        read_secrets(secrets_file(tmp_path, "A=1\nvery-secret\n"))
    assert "very-secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(BadInput, match="FileNotFoundError"):
        read_secrets(tmp_path / "nosuch")


def test_named_variables_come_in_with_what_they_name(tmp_path: Path):
    environment = {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1", "HOME": "/root", "EMPTY": ""}
    let_in(environment, ["TMPDIR", "CUDA_VISIBLE_DEVICES", "EMPTY", "ABSENT", ""])
    added = {name: value for name, value in environment.items() if name.startswith("APPTAINER")}
    assert added == {
        "APPTAINERENV_TMPDIR": str(tmp_path),
        "APPTAINERENV_CUDA_VISIBLE_DEVICES": "0,1",
        "APPTAINER_BIND": str(tmp_path),
    }
    let_in(environment, ["TMPDIR"])
    assert environment["APPTAINER_BIND"] == str(tmp_path)


def test_further_folders_are_seen_in_containers(tmp_path: Path):
    environment: dict[str, str] = {}
    let_in(environment, [], [str(tmp_path)])
    assert environment == {"APPTAINER_BIND": str(tmp_path)}
    with pytest.raises(BadInput, match="bind=/nosuch in the profile: no such folder"):
        let_in(environment, [], ["/nosuch"])
    with pytest.raises(BadInput, match=r"bind=\$\{SCRATCH\}/data in the profile: \$SCRATCH is not set"):
        let_in(environment, [], ["${SCRATCH}/data"])


def test_secrets_come_in_by_the_environment(tmp_path: Path):
    environment: dict[str, str] = {}
    let_secrets_in(environment, secrets_file(tmp_path, "KEY=planted"))
    assert environment == {"KEY": "planted", "APPTAINERENV_KEY": "planted"}


def test_a_place_that_was_bound_on_another_machine_is_not_bound_here(tmp_path: Path):
    environment = {"TMPDIR": str(tmp_path), "APPTAINER_BIND": f"/of/the/login/node,/usr:/opt/usr,{tmp_path}"}
    let_in(environment, ["TMPDIR"])
    assert environment["APPTAINER_BIND"] == f"/usr:/opt/usr,{tmp_path}"
    alone = {"APPTAINER_BIND": "/of/the/login/node"}
    let_in(alone, [])
    assert "APPTAINER_BIND" not in alone
