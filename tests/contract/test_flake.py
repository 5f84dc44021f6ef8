"""The flake: what is pinned, and what its shell and its apps are, evaluated with a stand-in for nixpkgs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ("x86_64-linux", "aarch64-linux")
PROGRAMS = ["python312", "uv", "apptainer", "slurm", "tmux", "squashfsTools", "bubblewrap", "git", "gnumake", "gcc"]
# A nixpkgs whose packages are their names: an attribute that is not listed here is an error, as it is there.
STUB = """
{
  outputs = _: {
    lib.genAttrs = names: make: builtins.listToAttrs (map (name: { inherit name; value = make name; }) names);
    legacyPackages = builtins.listToAttrs (map (system: {
      name = system;
      value = let
        package = name: derivation { inherit name system; builder = "/bin/sh"; } // { inherit name; };
        names = [ PROGRAMS ];
      in builtins.listToAttrs (map (name: { inherit name; value = package name; }) names) // {
        python311.withPackages = choose: package "python311-${(builtins.head (choose { pip = package "pip"; })).name}";
        zlib = package "zlib";
        numactl = package "numactl";
        stdenv.cc.cc.lib = package "gcc-lib";
        lib.makeLibraryPath = libraries: builtins.concatStringsSep ":" (map (library: library.name) libraries);
        lib.makeBinPath = programs: builtins.concatStringsSep ":" (map (program: program.name) programs);
        mkShell = { packages, LD_LIBRARY_PATH }:
          package "shell" // { programs = map (program: program.name) packages; libraries = LD_LIBRARY_PATH; };
        writeShellScript = name: text: "${builtins.toFile name text}";
      };
    }) [ "x86_64-linux" "aarch64-linux" ]);
  };
}
"""


def test_the_lock_pins_a_revision_and_its_content():
    lock = json.loads((ROOT / "flake.lock").read_text())
    assert lock["nodes"][lock["root"]]["inputs"] == {"nixpkgs": "nixpkgs"}
    pinned = lock["nodes"]["nixpkgs"]["locked"]
    assert re.fullmatch(r"[0-9a-f]{40}", pinned["rev"])
    # 32 bytes in base 64.
    assert re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", pinned["narHash"])
    assert pinned["lastModified"] > 1_700_000_000


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory):
    """Return a caller of nix on the flake, with the stand-in and without a network."""
    program = shutil.which("nix")
    if program is None:
        pytest.skip("no nix here")
    folder = tmp_path_factory.mktemp("nix")
    flake, stub = folder / "flake", folder / "stub"
    for path in (flake, stub):
        path.mkdir()
    for name in ("flake.nix", "flake.lock"):
        shutil.copy(ROOT / name, flake)
    names = " ".join(json.dumps(name) for name in PROGRAMS)
    (stub / "flake.nix").write_text(STUB.replace("PROGRAMS", names))
    local = {name: str(folder / name) for name in ("state", "log", "conf", "store")}
    environment = {
        **{"PATH": str(Path(program).parent), "HOME": str(folder)},
        **{f"NIX_{name.upper()}_DIR": path for name, path in local.items() if name != "store"},
    }

    def call(*words: str, standing_in: bool = True) -> Any:
        options = ["--extra-experimental-features", "nix-command flakes", "--offline", "--json"]
        override = ["--override-input", "nixpkgs", f"path:{stub}"] if standing_in else []
        command = [program, *words, *options, "--no-write-lock-file", "--store", local["store"], *override]
        done = subprocess.run(command, cwd=flake, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    call.flake, call.store = f"path:{flake}", local["store"]  # type: ignore[attr-defined]
    return call


def test_the_lock_belongs_to_the_flake(nix):
    # A lock that does not fit would be resolved anew, which needs a network.
    found = nix("flake", "metadata", "--no-update-lock-file", nix.flake, standing_in=False)
    assert found["locks"] == json.loads((ROOT / "flake.lock").read_text())


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_shell_has_every_program(system: str, nix):
    assert nix("eval", f"{nix.flake}#devShells.{system}.default.programs") == ["python311-pip", *PROGRAMS]
    assert nix("eval", f"{nix.flake}#devShells.{system}.default.libraries") == "gcc-lib:zlib:numactl"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_apps_are_the_two_commands(system: str, target: str, nix):
    app = nix("eval", f"{nix.flake}#apps.{system}.{target}")
    assert app["type"] == "app"
    script = Path(f"{nix.store}{app['program']}").read_text()
    assert script.splitlines()[-1] == f"exec make {target}"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_nothing_else_is_in_it(nix):
    shown = nix("flake", "show", nix.flake)
    assert {kind: set(shown[kind]) for kind in shown} == {"apps": set(SYSTEMS), "devShells": set(SYSTEMS)}
