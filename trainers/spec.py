"""The specs of the built-in backbones, their presets, and the values that cross the run directory. No torch."""

from __future__ import annotations

import types
from typing import Annotated, Any, ClassVar, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from trainers.space import Config, Field, Knob, Space, Value

METRICS = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10")
TRAINER_VERSION = "2"
"""Part of the training fingerprint: raised whenever the same spec, seed and data would train to other weights."""

Outcome = Literal["ok", "stopped", "diverged", "out_of_memory", "timed_out", "cancelled", "crashed"]
FilterSeen = Literal["auto", "yes", "no", "reference"]
Preset = Literal["strong", "paper"]


class Spec(BaseModel):
    """Base of the flat specs. Bounds live in the `Knob` of each field and are checked here, in one place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        return space_of(cls).check(cast(dict[str, Any], data)) if isinstance(data, dict) else data

    # architecture
    max_length: Annotated[
        int, Knob("architecture", 10, 200, about="items of a history the encoder sees, newest kept")
    ] = 50
    hidden_dim: Annotated[int, Knob("architecture", 16, 512, "log", about="width of item embeddings and blocks")] = 64
    num_blocks: Annotated[int, Knob("architecture", 1, 8, about="encoder blocks")] = 2
    num_heads: Annotated[int, Knob("architecture", 1, 8, about="attention heads")] = 2
    tie_embeddings: Annotated[bool, Knob("architecture", about="score with the input item table")] = True
    scale_embeddings: Annotated[
        bool, Knob("architecture", neutral=False, about="multiply inputs by sqrt(hidden_dim)")
    ] = False
    # regularization
    dropout: Annotated[float, Knob("regularization", 0, 0.8, about="on embeddings and inside blocks")] = 0.5
    attention_dropout: Annotated[float, Knob("regularization", 0, 0.5, neutral=0.0, about="on attention weights")] = 0.0
    weight_decay: Annotated[
        float, Knob("regularization", 1e-6, 1e-1, "log", zero=True, neutral=0.0, about="0 is off")
    ] = 0.0
    # training
    optimizer: Annotated[Literal["adam", "adamw"], Knob("training", about="adamw decouples weight decay")] = "adam"
    learning_rate: Annotated[float, Knob("training", 1e-5, 1e-2, "log", about="constant through the training")] = 1e-3
    beta2: Annotated[float, Knob("training", 0.9, 0.9999, about="second-moment decay of the optimizer")] = 0.98
    batch_size: Annotated[int, Knob("training", 32, 4096, "log", about="users a step")] = 256
    gradient_clip: Annotated[
        float, Knob("training", 0.01, 100, "log", zero=True, neutral=0.0, about="largest gradient norm; 0 is off")
    ] = 0.0
    loss: Annotated[
        Literal["full_softmax", "sampled_softmax"], Knob("training", about="over all items, or negatives")
    ] = "full_softmax"
    num_negatives: Annotated[
        int, Knob("training", 1, 4096, "log", when=("loss", ("sampled_softmax",)), about="uniform negatives")
    ] = 512
    negative_sharing: Annotated[
        Literal["batch", "position"],
        Knob("training", when=("loss", ("sampled_softmax",)), about="one set a batch, or one a position (slow)"),
    ] = "batch"
    table_updates: Annotated[
        Literal["all_rows", "touched_rows"],
        Knob(
            "training",
            neutral="all_rows",
            when=("loss", ("sampled_softmax",)),
            about="item rows that a step updates: for a large catalogue only those in the batch",
        ),
    ] = "all_rows"
    train_targets: Annotated[
        Literal["all_positions", "last_position"], Knob("training", neutral="all_positions", about="what predicts")
    ] = "all_positions"
    train_window: Annotated[
        int, Knob("training", 2, 200, zero=True, neutral=0, about="train on the newest N items of a user; 0 is all")
    ] = 0
    max_epochs: Annotated[int, Knob("training", 1, 500, "log", about="upper bound; patience usually ends earlier")] = (
        120
    )
    patience: Annotated[int, Knob("training", 1, 50, "log", about="epochs without a better validation")] = 8

    @property
    def updates_touched_rows(self) -> bool:
        """Whether a step updates only the item rows of its batch: `table_updates` has no effect on a full softmax."""
        return self.table_updates == "touched_rows" and self.loss != "full_softmax"


class SASRecSpec(Spec):
    """SASRec: causal softmax attention (Kang & McAuley 2018), pre-norm, recency-aligned learned positions."""

    backbone: ClassVar[str] = "sasrec"


class HSTUSpec(Spec):
    """HSTU: pointwise SiLU attention with relative position bias (Zhai et al. 2024)."""

    backbone: ClassVar[str] = "hstu"

    linear_dim: Annotated[int, Knob("architecture", 8, 128, "log", about="width of u and v a head")] = 16
    attention_dim: Annotated[int, Knob("architecture", 8, 128, "log", about="width of q and k a head")] = 16
    normalize_embeddings: Annotated[bool, Knob("architecture", neutral=False, about="cosine scores / temperature")] = (
        False
    )
    temperature: Annotated[
        float, Knob("training", 0.01, 1, "log", when=("normalize_embeddings", (True,)), about="of cosine scores")
    ] = 0.05


SPECS: dict[str, type[Spec]] = {"sasrec": SASRecSpec, "hstu": HSTUSpec}

_PAPER: dict[str, Config] = {
    "sasrec": {
        "max_length": 50, "hidden_dim": 128, "num_blocks": 1, "num_heads": 1, "dropout": 0.2, "batch_size": 256,
        "learning_rate": 3e-4, "weight_decay": 1e-5, "optimizer": "adam", "beta2": 0.999, "loss": "sampled_softmax",
        "num_negatives": 500, "negative_sharing": "position", "tie_embeddings": False, "scale_embeddings": True,
        "gradient_clip": 5.0, "max_epochs": 20, "patience": 3,
    },
    "hstu": {
        "max_length": 50, "hidden_dim": 128, "num_blocks": 1, "num_heads": 1, "linear_dim": 16, "attention_dim": 16,
        "dropout": 0.5, "attention_dropout": 0.0, "batch_size": 128, "learning_rate": 3e-4, "weight_decay": 0.0,
        "optimizer": "adamw", "beta2": 0.98, "loss": "sampled_softmax", "num_negatives": 500,
        "negative_sharing": "position", "normalize_embeddings": True, "temperature": 0.05, "tie_embeddings": True,
        "gradient_clip": 5.0, "max_epochs": 20, "patience": 3,
    },
}  # fmt: skip

FULL_SOFTMAX_ITEMS = 100_000
"""Above this catalogue size `strong` trains with sampled softmax and updates touched rows: all items no longer pay."""
LENGTHS = (50, 100, 200)
"""`strong` takes the smallest of these that covers 90 % of users whole."""


class DatasetFacts(BaseModel):
    """Meta-features of a dataset: sizes and lengths count all its events; gini and rates its training events only."""

    model_config = ConfigDict(frozen=True)

    users: int
    items: int
    interactions: int
    mean_length: float
    p50_length: float
    p90_length: float
    p95_length: float
    density: float
    item_gini: float
    repeat_rate: float
    timestamp_tie_rate: float | None
    ascending_id_rate: float


def preset(name: Preset, backbone: str, facts: DatasetFacts) -> Spec:
    """The default spec of `backbone` for a dataset with `facts`: pure, and what trial 0 of every study trains."""
    spec = SPECS[backbone]
    if name == "paper":
        return spec.model_validate(_PAPER[backbone])
    config: Config = {"max_length": next((n for n in LENGTHS if facts.p90_length <= n), LENGTHS[-1])}
    if facts.items > FULL_SOFTMAX_ITEMS:
        config |= {"loss": "sampled_softmax", "table_updates": "touched_rows"}
    return spec.model_validate(config)


def space_of(spec: type[Spec], defaults: Config | None = None) -> Space:
    """The space that a spec class declares, its defaults replaced by those of a preset's config where given."""
    fields: list[Field] = []
    for name, info in spec.model_fields.items():
        knob = next(item for item in info.metadata if isinstance(item, Knob))
        default = cast(Value, (defaults or {}).get(name, info.default))
        fields.append(Field(name=name, default=default, **_kind(info.annotation), **vars(knob)))
    return Space(backbone=spec.backbone, fields=tuple(fields), divisible=(("hidden_dim", "num_heads"),))


def _kind(annotation: Any) -> dict[str, Any]:
    if get_origin(annotation) in (Literal, Union, types.UnionType):
        return {"kind": "choice", "choices": get_args(annotation)}
    return {"kind": {bool: "bool", int: "int", float: "float"}[annotation]}


class TrialSpec(BaseModel):
    """spec.json: what a child is asked to do. No absolute path: datasets resolve by hash under `--datasets`.

    `memory_mb` is what the training may hold at most; one that is predicted to need more does not begin.
    `weights_of` names a finished trial of the same training fingerprint, whose run directory lies beside this one.
    `stop_below`: the training is `stopped` after epoch e if no epoch so far validated at `stop_below[e - 1]` or above.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    task: Literal["train"] = "train"
    backbone: str
    config: Config
    seed: int
    dataset_hash: str
    threads: int
    memory_mb: int | None = None
    metric: str = "ndcg@10"
    filter_seen: FilterSeen = "auto"
    weights_of: str | None = None
    stop_below: tuple[float, ...] = ()


class Epoch(BaseModel):
    """One line of epochs.jsonl. `seconds` is training only, `eval_seconds` evaluation only."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    loss: float
    validation: dict[str, float]
    seconds: float
    eval_seconds: float


class TrialResult(BaseModel):
    """result.json: how a trial ended. `validation` is that of the best epoch; empty where no epoch finished."""

    model_config = ConfigDict(frozen=True)

    trial_id: str
    status: Outcome
    message: str = ""
    validation: dict[str, float] = {}
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    eval_seconds: float = 0.0
    peak_memory_mb: float | None = None
    parameters: int | None = None
    device: str | None = None
    threads: int | None = None
    weights_of: str | None = None
    predicted_memory_mb: float | None = None
    trainer_version: str = TRAINER_VERSION
    versions: dict[str, str] = {}


class CheckpointPath(BaseModel):
    """The checkpoint of one trial; `path` is relative to the directory of evaluate.json."""

    model_config = ConfigDict(frozen=True)

    trial_id: str
    path: str


class EvaluationSpec(BaseModel):
    """evaluate.json: the checkpoints whose sealed test is read, all trained on the dataset of `dataset_hash`."""

    model_config = ConfigDict(frozen=True)

    dataset_hash: str
    filter_seen: FilterSeen = "auto"
    checkpoints: tuple[CheckpointPath, ...]


class Revealed(BaseModel):
    """revealed.json: test metrics by trial id, or one line that says why there are none."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "failed"]
    trials: dict[str, dict[str, float]] = {}
    message: str = ""
