# What every rule of a stage needs to know of its step. A rule's output is the manifest: it is the last file an artifact
# gets, and the artifact's other files depend on what the stage is.


wildcard_constraints:
    key="[0-9a-f]{12}",
    recipe="[a-z0-9][a-z0-9-]*",


def inputs(flag):
    """Return an input function: the manifests of the artifacts that the flag takes."""

    def manifests(wildcards):
        return [
            f"{artifact}/manifest.json"
            for artifact in STEPS[wildcards.key].inputs.get(flag, [])
        ]

    return manifests


def artifacts(flag):
    """Return a params function: the artifact folders that the flag takes."""

    def folders(wildcards):
        return [str(artifact) for artifact in STEPS[wildcards.key].inputs.get(flag, [])]

    return folders


def flags(wildcards):
    """The flags for the step's parameters, as the recipe states them."""
    return STEPS[wildcards.key].flags


def seed(wildcards):
    """The step's seed."""
    return STEPS[wildcards.key].seed


def date(wildcards):
    """The date written into the step's rows."""
    return STEPS[wildcards.key].date
