"""What may stand in a recipe file.

A recipe names its stages, each stage its steps, each step its parameters and what it is made from:

    stages:
      mix:
        train: {from: [source-tasks/shell, source-tasks/humaneval], rows: 400}

A parameter's name is the flag of the stage's tool (`min-turns: 2` becomes `--min-turns 2`), so the documentation of a
key is the tool's `--help`. `from` and `model` refer to other steps as `stage/step`.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


StepReference = Annotated[str, Field(pattern=r"^[a-z][a-z-]*/[a-z0-9][a-z0-9-]*$")]
StepReferences = Annotated[list[StepReference], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Step(BaseModel):
    """One step: the parameters of its stage's tool, and references to the steps it is made from."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=_kebab, populate_by_name=True, frozen=True, strict=True, allow_inf_nan=False
    )

    # What an artifact of this stage holds: the flag of the tools that take it.
    produces: ClassVar[str]
    # Fields that refer to other steps, and the flag of the tool that takes each.
    references: ClassVar[dict[str, str]] = {}

    seed: Seed | None = Field(default=None, description="overrides the recipe's seed for this step")

    @field_validator("from_", mode="before", check_fields=False)
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def inputs(self) -> dict[str, list[str]]:
        """Return the referenced steps by the flag that takes them."""
        found = {}
        for field, flag in self.references.items():
            value = getattr(self, field)
            if value is not None:
                found[flag] = value if isinstance(value, list) else [value]
        return found

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that the recipe states, by flag, without references and seed."""
        values = self.model_dump(
            by_alias=True, exclude_none=True, exclude_unset=True, exclude={*self.references, "seed"}
        )
        return dict(sorted(values.items()))


class SourceTasks(Step):
    """Make the tasks of one source."""

    produces = "tasks"
    source: Literal["shell", "humaneval", "pybugs", "nl2bash", "inferredbugs", "folder", "hf", "jsonl"]
    split: Literal["train", "test"] = "train"
    count: Count
    families: list[str] | None = None
    input: str | None = None

    @model_validator(mode="after")
    def _input_where_it_is_read(self) -> SourceTasks:
        if (self.input is None) != (self.source in ("shell", "humaneval", "pybugs")):
            need = "takes no" if self.input is not None else "needs"
            raise ValueError(f"source {self.source} {need} `input`")
        return self


class Mix(Step):
    """Draw tasks from several sources."""

    produces = "tasks"
    references = {"from_": "tasks"}
    from_: StepReferences
    method: Literal["shares", "weights", "round-robin", "concatenate"] = "shares"
    rows: Count | None = None
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    cap: Count | None = None
    with_replacement: bool | None = None

    @model_validator(mode="after")
    def _rows_to_divide(self) -> Mix:
        if self.rows is None and self.method != "concatenate":
            raise ValueError(f"method {self.method} needs `rows`")
        if (self.weights is None) == (self.method == "weights"):
            raise ValueError("`weights` and method weights belong together")
        return self


class FilterLength(Step):
    """Keep tasks by the length of something."""

    produces = "tasks"
    references = {"from_": "tasks"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    column: str = "instruction_chars"
    keep: Literal["longest", "shortest"] | None = None
    rows: Count | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _something_to_filter_by(self) -> FilterLength:
        if self.rows is not None and self.fraction is not None:
            raise ValueError("`rows` and `fraction` both say how many to keep; give one of them")
        if (self.keep is None) != (self.rows is None and self.fraction is None):
            raise ValueError("`keep` needs `rows` or `fraction`, and they need `keep`")
        if self.keep is None and self.min is None and self.max is None:
            raise ValueError("nothing to filter by; give `keep` with `rows` or `fraction`, or `min`, or `max`")
        return self


class Dedup(Step):
    """Drop tasks that are the same as another, or nearly."""

    produces = "tasks"
    references = {"from_": "tasks"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    method: Literal["exact", "indel", "minhash"]
    column: str | None = None
    threshold: Positive | None = None
    ngram: Count | None = None
    permutations: Count | None = None
    raw: bool | None = None


class Decontaminate(Step):
    """Drop tasks that a benchmark holds too, or nearly."""

    produces = "tasks"
    references = {"from_": "tasks"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    benchmarks: Annotated[list[str], Field(min_length=1)]
    benchmark_column: str | None = None
    method: Literal["openthoughts3", "agent", "ngram", "indel"] | None = None
    column: str | None = None
    ngram: Count | None = None
    similarity: Annotated[float, Field(gt=0, le=100)] | None = None
    tokenizer: Literal["words"] | None = None
    max_share: Share | None = None


class Upsample(Step):
    """Divide a number of rollouts among tasks."""

    produces = "tasks"
    references = {"from_": "tasks"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    column: str
    rows: Count


Backend = Literal["auto", "apptainer", "bubblewrap"]


class Trials(Step):
    """How an agent is run on tasks; shared by the stages that do."""

    concurrency: Count | None = None
    max_turns: Count | None = None
    max_tokens: Count | None = None
    agent_timeout: Positive | None = None
    settle: Positive | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: int | None = None
    backend: Backend | None = None
    max_model_len: Count | None = None


class ModelTrials(Trials):
    """Trials of a model: an artifact (`model`) or one behind an API (`endpoint`, `model-name`)."""

    references = {"from_": "tasks", "model": "model"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    model: StepReference | None = None
    endpoint: str | None = None
    model_name: str | None = None
    api_key_env: str | None = None
    attempts: Count | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    request_timeout: Positive | None = None
    extra_body: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _one_model(self) -> ModelTrials:
        choices = [name for name in ("teacher", "model", "endpoint") if name in type(self).model_fields]
        if sum(getattr(self, name) is not None for name in choices) != 1:
            raise ValueError(f"takes one of {', '.join(choices)}")
        if (self.endpoint is None) != (self.model_name is None):
            raise ValueError("`endpoint` and `model-name` belong together")
        if self.api_key_env is not None and self.endpoint is None:
            raise ValueError("`api-key-env` belongs to `endpoint`")
        return self


class Rollout(ModelTrials):
    """Let a teacher work on tasks and record what it does."""

    produces = "trajectories"
    teacher: Literal["reference"] | None = None


class FilterTurns(Step):
    """Keep trajectories by turns, outcome and error class."""

    produces = "trajectories"
    references = {"from_": "trajectories"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    min_turns: Count | None = None
    outcome: Literal["success", "any"] | None = None
    drop_errors: list[Literal["timeout", "parse", "context", "output_length"]] | None = None
    drop_subagents: bool | None = None


class ExportData(Step):
    """Write tasks or trajectories in a published form, with a card."""

    produces = "data set"
    references = {"from_": "rows"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    form: Literal["sft", "sharegpt", "openai", "tasks"]
    name: str
    shard_rows: Count | None = None


class InitModel(Step):
    """Make the student that training starts from."""

    produces = "model"
    references = {"from_": "trajectories"}
    from_: Annotated[StepReferences, Field(max_length=1)] | None = None
    pretrained: Literal["smollm2"] | None = None
    vocab_size: Annotated[int, Field(ge=300)] | None = None
    hidden_size: Count | None = None
    layers: Count | None = None
    heads: Count | None = None
    head_size: Count | None = None
    mlp_size: Count | None = None
    max_length: Count | None = None
    circuit: Literal["copy", "none"] | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> InitModel:
        if (self.from_ is None) == (self.pretrained is None):
            raise ValueError("takes either `from` (trajectories for a tokenizer) or `pretrained`")
        if self.pretrained and set(self.parameters()) != {"pretrained"}:
            raise ValueError("a pretrained model has its own shape; leave the other keys out")
        return self


class TrainSft(Step):
    """Fine-tune the student on trajectories."""

    produces = "model"
    references = {"model": "model", "from_": "trajectories"}
    model: StepReference
    from_: Annotated[StepReferences, Field(max_length=1)]
    template: str | None = None
    cutoff: Count | None = None
    mask_history: bool | None = None
    packing: bool | None = None
    keep_order: bool | None = None
    learning_rate: Positive | None = None
    batch_size: Count | None = None
    micro_batch_size: Count | None = None
    epochs: Positive | None = None
    warmup: Share | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    adam_beta1: Share | None = None
    adam_beta2: Share | None = None
    clip: Positive | None = None
    threads: Count | None = None


class TrainRl(Trials):
    """Train the student on tasks with the verifier's reward."""

    produces = "model"
    references = {"model": "model", "from_": "tasks"}
    model: StepReference
    from_: Annotated[StepReferences, Field(max_length=1)]
    trainer: Literal["trl"] | None = None
    steps: Count | None = None
    prompts: Count | None = None
    samples: Count | None = None
    micro_batch_size: Count | None = None
    least_samples: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    adam_beta1: Share | None = None
    adam_beta2: Share | None = None
    clip: Positive | None = None
    clip_low: Positive | None = None
    clip_high: Positive | None = None
    threads: Count | None = None


class Evaluate(ModelTrials):
    """Score a model on held-out tasks."""

    produces = "scores"
    label: Literal["base", "sft", "rl"]


class Stages(BaseModel):
    """The steps of each stage, by name."""

    model_config = ConfigDict(extra="forbid", alias_generator=_kebab, frozen=True)

    source_tasks: dict[str, SourceTasks] = {}
    mix: dict[str, Mix] = {}
    filter_length: dict[str, FilterLength] = {}
    dedup: dict[str, Dedup] = {}
    decontaminate: dict[str, Decontaminate] = {}
    upsample: dict[str, Upsample] = {}
    rollout: dict[str, Rollout] = {}
    filter_turns: dict[str, FilterTurns] = {}
    export_data: dict[str, ExportData] = {}
    init_model: dict[str, InitModel] = {}
    train_sft: dict[str, TrainSft] = {}
    train_rl: dict[str, TrainRl] = {}
    evaluate: dict[str, Evaluate] = {}

    def by_name(self) -> dict[str, dict[str, Step]]:
        """Return every stage's steps by the stage's name, in pipeline order."""
        return {_kebab(field): getattr(self, field) for field in type(self).model_fields}


class Recipe(BaseModel):
    """A whole recipe file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="its name, which is also the file's")]
    description: str = Field(description="what it is for, in a sentence")
    seed: Seed = Field(default=0, description="of everything random; split by step and row")
    date: datetime.date = Field(description="written into trajectory rows, so that a rebuild writes the same bytes")
    stages: Stages = Field(description="what is built")


class RecipeFile(Recipe):
    """A recipe file as written, which may take from another and stand for several recipes."""

    extends: str | None = Field(
        default=None,
        description="a recipe beside this one; this one is merged over it: mappings key by key, null removes",
    )
    grid: dict[str, dict[str, dict[str, JsonValue]]] | None = Field(
        default=None,
        description="axes of variants, a variant being what it changes in `stages`: one recipe for each combination",
    )
