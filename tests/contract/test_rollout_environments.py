"""Remote providers as far as it goes without one: a missing key is said, trials are Harbor's own. None is asked."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.contract.test_rollout_cli import BIN, COMMON, environment, one_line, run

HARNESS = BIN.parent / "harness" / "bin" / "python"
KEYS = {
    "modal": "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET",
    "daytona": "DAYTONA_API_KEY",
    "e2b": "E2B_API_KEY",
}


def nothing_of_it(tmp_path: Path) -> bool:
    return not list(tmp_path.glob("out*"))


@pytest.mark.full
def test_harbor_finds_what_each_provider_needs():
    """Harbor takes a provider whose packages it cannot import for one without, and says so at the first trial."""
    script = (
        "from harbor.environments.daytona import environment as daytona\n"
        "from harbor.environments import e2b, modal\n"
        "import dockerfile_parse\n"
        "print(daytona._HAS_DAYTONA, modal._HAS_MODAL, e2b._HAS_E2B)\n"
    )
    done = subprocess.run([HARNESS, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 3, done.stderr


@pytest.mark.parametrize("provider", KEYS)
def test_a_missing_key_is_one_line_before_any_trial(provider, tasks_artifact, tmp_path):
    words = ("--tasks", tasks_artifact(1), "--teacher", "reference", "--environment", provider)
    unset = {name: "" for names in KEYS.values() for name in names.split(" and ")}
    env = {**unset, "HOME": str(tmp_path)}
    line = one_line(run(*words, *COMMON, "--out", tmp_path / "out", env=env))
    assert f"--environment {provider}:" in line and KEYS[provider] in line
    assert nothing_of_it(tmp_path)


@pytest.mark.full
def test_trials_are_described_as_harbor_describes_them():
    script = (
        "import json\nfrom rollout.engine import environment_config\nfrom rollout.settings import Settings\n"
        "names = ['sandbox', 'daytona', 'modal', 'e2b']\n"
        "found = [environment_config(Settings(environment=name, backend='bubblewrap')) for name in names]\n"
        "print(json.dumps([config.model_dump(mode='json', exclude_defaults=True) for config in found]))\n"
    )
    done = subprocess.run([HARNESS, "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"import_path": "rollout.environment:SandboxEnvironment", "kwargs": {"backend": "bubblewrap"}},
        {"type": "daytona"},
        {"type": "modal"},
        {"type": "e2b"},
    ]


def test_an_unknown_environment_is_one_line(tasks_artifact, tmp_path):
    words = ("--tasks", tasks_artifact(1), "--teacher", "reference", "--environment", "docker")
    assert "invalid choice: 'docker'" in one_line(run(*words, *COMMON, "--out", tmp_path / "out"))
