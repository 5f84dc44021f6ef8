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
    # Parameters that say how and where a step runs and nothing of what it makes: no part of its key.
    execution: ClassVar[frozenset[str]] = frozenset()

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


# Sources that make their tasks themselves; the others read what `input` names.
MADE_HERE = ("shell", "humaneval", "pybugs", "quantities")


class SourceTasks(Step):
    """Make the tasks of one source."""

    produces = "tasks"
    source: Literal[
        "shell",
        "humaneval",
        "pybugs",
        "quantities",
        "swe-smith",
        "issue-tasks",
        "superuser",
        "tezos",
        "codegolf",
        "physics",
        "pymethods2test",
        "r2egym",
        "nemotron-code",
        "inferredbugs",
        "freelancer",
        "code-contests",
        "nl2bash",
        "questions",
        "folder",
        "hf",
        "jsonl",
    ]
    split: Literal["train", "test", "all"] = "train"
    count: Count
    at_most: bool | None = None
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")] | None = None
    families: list[str] | None = None
    input: str | None = None

    @model_validator(mode="after")
    def _input_where_it_is_read(self) -> SourceTasks:
        if (self.input is None) != (self.source in MADE_HERE):
            need = "takes no" if self.input is not None else "needs"
            raise ValueError(f"source {self.source} {need} `input`")
        if self.split == "all" and self.input is None:
            raise ValueError(
                f"split all is for what `input` names; source {self.source} makes tasks of train or of test"
            )
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
    order: list[str] | None = None
    top: Count | None = None

    @model_validator(mode="after")
    def _rows_to_divide(self) -> Mix:
        if self.rows is None and self.method != "concatenate":
            raise ValueError(f"method {self.method} needs `rows`")
        if (self.weights is None) == (self.method == "weights"):
            raise ValueError("`weights` and method weights belong together")
        if self.top is not None and self.order is None:
            raise ValueError("`top` takes the first of `order`; give it")
        if self.with_replacement and self.method not in ("shares", "weights"):
            raise ValueError("`with-replacement` belongs to method shares or weights")
        return self


def check_selection(step: Any) -> None:
    """Raise ValueError where the keys of a filter ask for nothing, or for two things."""
    if step.rows is not None and step.fraction is not None:
        raise ValueError("`rows` and `fraction` both say how many to keep; give one of them")
    if (step.keep is None) != (step.rows is None and step.fraction is None):
        raise ValueError("`keep` needs `rows` or `fraction`, and they need `keep`")
    if step.keep is None and step.min is None and step.max is None:
        raise ValueError("nothing to filter by; give `keep` with `rows` or `fraction`, or `min`, or `max`")
    if step.min is not None and step.max is not None and step.min > step.max:
        raise ValueError("`min` is above `max`; no value lies between them")


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
        check_selection(self)
        return self


class Answered(Step):
    """What answers: a model artifact (`model`), served for it, or one behind an API (`endpoint`, `model-name`)."""

    execution = frozenset({"tensor-parallel", "data-parallel", "gpu-memory", "start-timeout"})
    model: StepReference | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    tensor_parallel: Count | None = None
    data_parallel: Count | None = None
    gpu_memory: Annotated[float, Field(gt=0, lt=1)] | None = None
    start_timeout: Positive | None = None
    endpoint: str | None = None
    model_name: str | None = None
    api_key_env: str | None = None
    extra_body: dict[str, JsonValue] | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    request_timeout: Positive | None = None

    def asks(self) -> bool:
        """Whether the step asks anything."""
        return True

    @model_validator(mode="after")
    def _one_that_answers(self) -> Answered:
        choices = [name for name in ("teacher", "model", "endpoint") if name in type(self).model_fields]
        given = sum(getattr(self, name) is not None for name in choices)
        if given > 1 or (not given and self.asks()):
            raise ValueError(f"takes one of {', '.join(choices)}")
        if (self.endpoint is None) != (self.model_name is None):
            raise ValueError("`endpoint` and `model-name` belong together")
        if self.api_key_env is not None and self.endpoint is None:
            raise ValueError("`api-key-env` belongs to `endpoint`")
        for name in ("dtype", "tensor_parallel", "data_parallel", "gpu_memory", "start_timeout"):
            if getattr(self, name) is not None and self.model is None:
                raise ValueError(f"`{name.replace('_', '-')}` belongs to `model`")
        return self


class Asking(Answered):
    """How a teacher is asked about each row; shared by the stages that do."""

    references = {"from_": "tasks", "model": "model"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    teacher: Literal["reference"] | None = None
    max_model_len: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: int | None = None
    max_tokens: Count | None = None
    concurrency: Count | None = None
    requests_per_minute: Positive | None = None

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Asking:
        if self.model is not None and (self.max_tokens or 0) >= (self.max_model_len or 4096):
            raise ValueError("`max-tokens` leaves no room for a prompt in `max-model-len` (4096 by default)")
        return self


class Score(Asking):
    """Measure tasks: signals that filters select by."""

    produces = "tasks"
    method: Literal["response-length", "difficulty", "ask-llm", "embedding", "fasttext", "random"]
    column: str | None = None
    positives: str | None = None
    negatives: str | None = None
    prompt_file: str | None = None

    def asks(self) -> bool:
        """Whether the method asks a model."""
        return self.method not in ("random", "fasttext")

    @model_validator(mode="after")
    def _what_the_method_takes(self) -> Score:
        asked = self.teacher or self.model or self.endpoint
        if not self.asks() and asked:
            raise ValueError(f"method {self.method} asks no model; leave teacher, model and endpoint out")
        if self.teacher and self.method != "response-length":
            raise ValueError(
                f"method {self.method} needs a model that answers; the reference teacher gives lengths alone"
            )
        if self.method == "embedding" and self.endpoint is None:
            raise ValueError("method embedding needs an endpoint")
        if (self.positives is None) == (self.method in ("embedding", "fasttext")):
            raise ValueError("`positives` and the methods embedding and fasttext belong together")
        if self.negatives is not None and self.method != "fasttext":
            raise ValueError("`negatives` belongs to method fasttext")
        if self.prompt_file is not None and self.method not in ("difficulty", "ask-llm"):
            raise ValueError("`prompt-file` belongs to the methods difficulty and ask-llm")
        return self


class FilterTasks(Step):
    """Keep tasks by a signal."""

    produces = "tasks"
    references = {"from_": "tasks"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    column: str
    keep: Literal["highest", "lowest"] | None = None
    rows: Count | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    min: float | None = None
    max: float | None = None
    within_source: bool | None = None

    @model_validator(mode="after")
    def _something_to_filter_by(self) -> FilterTasks:
        check_selection(self)
        if self.within_source and self.keep is None:
            raise ValueError("`within-source` needs `keep`")
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
    references = {"from_": "tasks", "held_out": "held-out"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    benchmarks: Annotated[list[str], Field(min_length=1)] | None = None
    held_out: StepReferences | None = None
    benchmark_column: str | None = None
    method: Literal["openthoughts3", "agent", "ngram", "indel"] | None = None
    column: str | None = None
    ngram: Count | None = None
    similarity: Annotated[float, Field(gt=0, le=100)] | None = None
    tokenizer: str | None = None
    max_share: Share | None = None

    @field_validator("held_out", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_to_compare_with(self) -> Decontaminate:
        if self.benchmarks is None and self.held_out is None:
            raise ValueError("takes `benchmarks` (files), `held-out` (steps that make evaluation tasks), or both")
        if self.similarity is not None and self.method == "ngram":
            raise ValueError("`similarity` decides nothing with method ngram")
        if self.ngram is not None and self.method == "indel":
            raise ValueError("`ngram` decides nothing with method indel")
        return self


class Augment(Asking):
    """Rewrite the instructions of tasks."""

    produces = "tasks"
    method: Literal["rewrite", "harden", "constrain", "hints"]
    copies: Count | None = None
    rows: Count | None = None
    keep_original: bool | None = None

    @model_validator(mode="after")
    def _how_many(self) -> Augment:
        if (self.copies is None) == (self.rows is None):
            raise ValueError("takes one of copies, rows")
        return self


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


class ModelTrials(Trials, Answered):
    """Trials of a model, an artifact or one behind an API."""

    references = {"from_": "tasks", "model": "model"}
    execution = Answered.execution | {"shards"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    attempts: Count | None = None
    environment: Literal["sandbox", "daytona", "modal", "e2b"] | None = None
    shards: Count | None = Field(
        default=None,
        description="jobs that pull trials from one heap, each with a model server of its own (default 1); "
        "with another number a finished step is done again",
    )


class Rollout(ModelTrials):
    """Let a teacher work on tasks and record what it does."""

    produces = "trajectories"
    teacher: Literal["reference"] | None = None


class Answers(Asking):
    """Sample answers to questions from a teacher, and filter them."""

    produces = "trajectories"
    samples: Count | None = None
    system: str | None = None
    question_suffix: str | None = None
    filter: Literal["none", "random", "length", "majority", "llm", "verifier"] | None = None
    keep_per_question: Count | None = None
    prefer: Literal["longest", "shortest"] | None = None
    min_answer_tokens: Count | None = None
    max_answer_tokens: Count | None = None
    time_limit: Count | None = None
    keep_cut: bool | None = None

    @model_validator(mode="after")
    def _what_the_filter_takes(self) -> Answers:
        bounds = self.min_answer_tokens is not None or self.max_answer_tokens is not None
        if self.filter == "random" and self.keep_per_question is None:
            raise ValueError("filter random needs `keep-per-question`")
        if self.filter == "length" and self.keep_per_question is None and not bounds:
            raise ValueError("filter length needs `keep-per-question`, `min-answer-tokens` or `max-answer-tokens`")
        if self.keep_per_question is not None and self.filter not in ("random", "length"):
            raise ValueError("`keep-per-question` belongs to the filters random and length")
        if (self.prefer is not None or bounds) and self.filter != "length":
            raise ValueError("`prefer`, `min-answer-tokens` and `max-answer-tokens` belong to filter length")
        if self.time_limit is not None and self.filter != "verifier":
            raise ValueError("`time-limit` belongs to filter verifier")
        return self


class FilterTurns(Step):
    """Keep trajectories by turns, outcome and error class."""

    produces = "trajectories"
    references = {"from_": "trajectories"}
    from_: Annotated[StepReferences, Field(max_length=1)]
    min_turns: Count | None = None
    outcome: Literal["success", "any"] | None = None
    drop_errors: list[Literal["timeout", "parse", "context", "output_length"]] | None = None
    drop_subagents: bool | None = None
    rows: Count | None = None
    tokens: Count | None = None
    tokenizer: str | None = None


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
    hub: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")] | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
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
        if sum(start is not None for start in (self.from_, self.pretrained, self.hub)) != 1:
            raise ValueError("takes one of `from` (trajectories for a tokenizer), `pretrained`, `hub`")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("`hub` and `revision` belong together")
        if self.from_ is None and set(self.parameters()) - {"pretrained", "hub", "revision"}:
            raise ValueError("a pretrained model has its own shape; leave the other keys out")
        return self


class TrainSft(Step):
    """Fine-tune the student on trajectories."""

    produces = "model"
    references = {"model": "model", "from_": "trajectories"}
    execution = frozenset({"save-steps"})
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
    save_steps: Count | None = None
    threads: Count | None = None
    nodes: Count | None = None
    processes_per_node: Count | None = None
    zero_stage: Literal[0, 3] | None = None
    flash_attention: bool | None = None
    gradient_checkpointing: bool | None = None
    liger_kernel: bool | None = None


class TrainRl(Trials):
    """Train the student on tasks with the verifier's reward."""

    produces = "model"
    references = {"model": "model", "from_": "tasks"}
    execution = frozenset({"gpus", "nodes", "save-steps"})
    model: StepReference
    from_: Annotated[StepReferences, Field(max_length=1)]
    trainer: Literal["trl", "skyrl"] | None = None
    nodes: Count | None = None
    gpus: Count | None = None
    verifier_timeout: Positive | None = None
    trial_retries: Annotated[int, Field(ge=0)] | None = None
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
    save_steps: Count | None = None
    threads: Count | None = None

    @model_validator(mode="after")
    def _machines_are_skyrls(self) -> TrainRl:
        for name in ("nodes", "gpus"):
            if getattr(self, name) is not None and self.trainer != "skyrl":
                raise ValueError(f"`{name}` belongs to trainer skyrl")
        return self


class Evaluate(ModelTrials):
    """Score a model on held-out tasks."""

    produces = "scores"
    label: Literal["base", "sft", "rl"]


class Stages(BaseModel):
    """The steps of each stage, by name."""

    model_config = ConfigDict(extra="forbid", alias_generator=_kebab, frozen=True)

    source_tasks: dict[str, SourceTasks] = {}
    mix: dict[str, Mix] = {}
    score: dict[str, Score] = {}
    filter_length: dict[str, FilterLength] = {}
    filter_tasks: dict[str, FilterTasks] = {}
    dedup: dict[str, Dedup] = {}
    decontaminate: dict[str, Decontaminate] = {}
    augment: dict[str, Augment] = {}
    upsample: dict[str, Upsample] = {}
    rollout: dict[str, Rollout] = {}
    answers: dict[str, Answers] = {}
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
    rank: StepReference | None = Field(
        default=None,
        description="the evaluation by which the recipes of the grid are ranked, such as evaluate/sft",
    )
