"""What a Snakemake profile says of the cluster.

Keys, forms and precedence are those of Snakemake 9 (`snakemake/profiles.py`, `snakemake/cli.py`): a later profile's key
replaces the earlier one's whole key, lists and mappings too. Keys that are absent are empty here, never an error.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput, nearest

# What Snakemake 9 looks for in a profile's folder: first what is written for the newest version.
_NAMES = tuple(f"{stem}{version}.yaml" for version in (".v9+", ".v8+", "") for stem in ("profile", "config"))


@dataclass(frozen=True)
class Target:
    """Where and how jobs are submitted: what sbatch is told beside a job's size."""

    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""
    gpus: str = ""
    extra: str = ""

    def words(self) -> list[str]:
        """Return the flags for sbatch and srun.

        Raises:
            BadInput: slurm_extra has a quote that is not closed.
        """
        try:
            extra = shlex.split(self.extra)
        except ValueError as error:
            raise BadInput(f"profile: slurm_extra={self.extra!r}: {error}") from None
        flags = {
            "--account": self.account,
            "--partition": self.partition,
            "--qos": self.qos,
            "--constraint": self.constraint,
            "--gres": self.gres,
            "--gpus": self.gpus,
        }
        return [f"{flag}={value}" for flag, value in flags.items() if value] + extra


_NO_NETWORK = "--network none"
# Without these an image sees the submitting shell's variables or the node's network, or not its GPUs or threads.
_APPTAINER_WORDS = ("--cleanenv", _NO_NETWORK, "--nv", "OMP_NUM_THREADS")
# Rules whose jobs get GPUs, by workflow/rules.
GPU_RULES = frozenset(
    {
        *("rollout", "rollout_shard", "evaluate", "evaluate_shard", "train_sft", "train_rl"),
        # Where a recipe gives them a model to serve.
        *("score", "augment", "answers"),
    }
)


@dataclass(frozen=True)
class Profile:
    """The keys of a generic profile and a site's that matter here.

    `defaults` is default-resources, `by_rule` set-resources, `settings` every other key that is not a list or mapping.
    `undefined` are variables that values name and the environment lacks; `lost` are entries of the generic profile that
    are gone because the site's has the same key.
    """

    executor: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)
    by_rule: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    envvars: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    undefined: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def target(self, rule: str = "") -> Target:
        """Return where a rule's jobs go; without a rule, where those go that the profile says nothing of."""
        said = {**self.defaults, **self.by_rule.get(rule, {})}
        if rule in GPU_RULES and self.config.get("cuda") == "on" and self.config.get("gpus"):
            # As the rules do, which ask for as many as the step's recipe says.
            said.setdefault("gres", f"{self.config['gpus']}:1")
        return Target(
            account=said.get("slurm_account", ""),
            partition=said.get("slurm_partition", ""),
            qos=said.get("qos", "") or self.settings.get("slurm-qos", ""),
            constraint=said.get("constraint", ""),
            gres=said.get("gres", ""),
            gpus="" if said.get("gres") or said.get("gpu", "0") == "0" else said["gpu"],
            extra=said.get("slurm_extra", ""),
        )

    @property
    def memory(self) -> list[str]:
        """The words that ask for a job's memory as its default says; none where that is 0 or computed.

        The executor leaves --mem away for 0, which sites need whose Slurm refuses the flag.
        """
        stated = self.defaults.get("mem_mb", "")
        return [f"--mem={stated}"] if stated.isdigit() and int(stated) else []


def read_profile(generic: Path, site: Path | None, environment: Mapping[str, str]) -> Profile:
    """Read a profile, and a site's over it.

    Args:
        generic: a profile's folder or file.
        site: another, whose keys replace the first one's.
        environment: variables that values may name as `$NAME`.

    Raises:
        BadInput: no such profile, not YAML, or not of Snakemake's form.
    """
    keys: dict[str, Any] = {}
    files: dict[str, Path] = {}
    for path in (generic, site) if site else (generic,):
        file = _file(path)
        found = _load(file)
        lost = [entry for key in found.keys() & keys.keys() for entry in _lost(key, keys[key], found[key])]
        keys |= found
        files |= dict.fromkeys(found, file)
    profile = parse(keys, environment, files)
    if profile.config.get("network") == "on":
        # Then a network is what the site wants.
        lost = [entry for entry in lost if entry != f"apptainer-args: {_NO_NETWORK}"]
    return replace(profile, lost=tuple(sorted(lost)))


def _lost(key: str, before: Any, after: Any) -> list[str]:
    """Return what a key has and the one that replaces it has not, each with the key: names of NAME=VALUE, or words."""
    if key == "apptainer-args":
        return [f"{key}: {words}" for words in _APPTAINER_WORDS if words in str(before) and words not in str(after)]
    if key not in ("config", "default-resources"):
        return []
    names = [name for name, _ in _pairs(before, key)]
    kept = {name for name, _ in _pairs(after, key)}
    return [f"{key}: {name}" for name in names if name not in kept]


def _file(path: Path) -> Path:
    file = path
    if path.is_dir():
        file = next((path / name for name in _NAMES if (path / name).is_file()), path / "config.yaml")
    if not file.is_file():
        known = sorted(str(found.parent) for found in path.parent.glob("*/config.yaml"))
        hint = nearest(str(path), known) or (f"; there are {', '.join(known)}" if known else "")
        raise BadInput(f"{path}: no profile here (config.yaml is missing){hint}")
    return file


def _load(file: Path) -> dict[str, Any]:
    import yaml

    try:
        keys = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if keys is None:
        return {}
    if not isinstance(keys, dict):
        raise BadInput(f"{file}: expected `key: value` lines, found {type(keys).__name__}")
    return {str(key): value for key, value in keys.items() if value is not None}


def parse(keys: Mapping[str, Any], environment: Mapping[str, str], files: Mapping[str, Path] | None = None) -> Profile:
    """Return what the keys of a profile say.

    Args:
        keys: as YAML gives them.
        environment: variables that values may name; those that it lacks are in `undefined` and stay as they are.
        files: where each key stands, for what errors say.

    Raises:
        BadInput: a resource or config entry that is not NAME=VALUE.
    """
    undefined: set[str] = set()

    def where(key: str) -> str:
        return f"{files[key]}: {key}" if files and key in files else f"profile key {key}"

    def expand(value: Any) -> str:
        def variable(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in environment:
                undefined.add(name)
            return environment.get(name, match[0])

        text = re.sub(r"\$(?:(\w+)|\{(\w+)\})", variable, _unquote(value))
        if text == "~" or text.startswith("~/"):
            text = environment.get("HOME", "~") + text[1:]
        return text

    def pairs(name: str) -> dict[str, str]:
        return {key: expand(value) for key, value in _pairs(keys.get(name, ()), where(name))}

    by_rule: dict[str, dict[str, str]] = {}
    for what, value in _pairs(_flat(keys.get("set-resources", ())), where("set-resources")):
        rule, found, resource = what.partition(":")
        if not found or not rule or not resource:
            raise BadInput(f"{where('set-resources')}: {what!r} is not RULE:RESOURCE=VALUE")
        by_rule.setdefault(rule, {})[resource] = expand(value)
    envvars = keys.get("envvars", ())
    return Profile(
        executor=str(keys.get("executor", "")),
        defaults=pairs("default-resources"),
        by_rule=by_rule,
        config=pairs("config"),
        envvars=tuple(map(str, envvars if isinstance(envvars, list | tuple) else str(envvars).split())),
        settings={
            # The shell of the job reads these words, and knows variables that are not known here.
            key: str(value) if key == "apptainer-args" else expand(value)
            for key, value in keys.items()
            if key != "envvars" and not isinstance(value, list | dict)
        },
        undefined=tuple(sorted(undefined)),
    )


def _unquote(value: Any) -> str:
    text = str(value).strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _flat(value: Any) -> Any:
    """Return `{rule: {resource: value}}` as `{rule:resource: value}`; other forms as they are."""
    if not isinstance(value, dict):
        return value
    return {
        f"{rule}:{name}": one
        for rule, resources in value.items()
        for name, one in (resources if isinstance(resources, dict) else {"": resources}).items()
    }


def _pairs(value: Any, where: str) -> Iterable[tuple[str, Any]]:
    """Yield names and values of a list of NAME=VALUE, of one such text, or of a mapping."""
    if isinstance(value, dict):
        yield from ((str(name), one) for name, one in value.items())
        return
    for item in value if isinstance(value, list | tuple) else [value]:
        name, found, one = str(item).partition("=")
        if not found:
            raise BadInput(f"{where}: {item!r} is not NAME=VALUE; quote an entry that has a comma")
        yield name.strip(), one
