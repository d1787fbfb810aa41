"""The fields that all built-in backbones share, with type, bounds, scale, default, group and condition. No torch."""

from __future__ import annotations

import types
from typing import Annotated, Any, ClassVar, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from trainers.contract.space import Condition, Config, Field, Knob, Space, Value

_SAMPLED = (Condition(field="loss", values=("sampled_softmax", "bce", "gbce")),)
_SAMPLED_SOFTMAX = (Condition(field="loss", values=("sampled_softmax",)),)
_RELATED = (Condition(field="transition_alpha"), Condition(field="item_cf_alpha"))
_PRIORS = (Condition(field="popularity_alpha"), *_RELATED)


class Spec(BaseModel):
    """Base class of the specs. The bounds of a field are declared in its `Knob` and are all checked here."""

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
    normalize_embeddings: Annotated[bool, Knob("architecture", neutral=False, about="cosine scores / temperature")] = (
        False
    )
    position: Annotated[
        Literal["learned", "relative", "rotary"],
        Knob("architecture", neutral="learned", about="what tells attention the order of items"),
    ] = "learned"
    block_norm: Annotated[
        Literal["pre", "post"], Knob("architecture", neutral="pre", about="normalise before a layer, or its sum after")
    ] = "pre"
    share_blocks: Annotated[bool, Knob("architecture", neutral=False, about="all blocks have the same weights")] = False
    pooling: Annotated[
        Literal["last", "mean"], Knob("architecture", neutral="last", about="the newest state, or a mean of the newest")
    ] = "last"
    pooling_window: Annotated[
        int,
        Knob(
            "architecture", 2, 20, "log", when=(Condition(field="pooling", values=("mean",)),), about="states averaged"
        ),
    ] = 3
    # regularization
    dropout: Annotated[float, Knob("regularization", 0, 0.8, about="on embeddings and inside blocks")] = 0.5
    attention_dropout: Annotated[float, Knob("regularization", 0, 0.5, neutral=0.0, about="on attention weights")] = 0.0
    weight_decay: Annotated[
        float, Knob("regularization", 1e-6, 1e-1, "log", zero=True, neutral=0.0, about="0 is off")
    ] = 0.0
    # training
    optimizer: Annotated[Literal["adam", "adamw"], Knob("training", about="adamw decouples weight decay")] = "adam"
    learning_rate: Annotated[
        float, Knob("training", 1e-5, 1e-2, "log", about="highest, where it follows a schedule")
    ] = 1e-3
    learning_rate_schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        Knob("training", neutral="constant", about="how the rate falls to 0 at max_epochs"),
    ] = "constant"
    warmup_epochs: Annotated[
        int, Knob("training", 1, 20, "log", zero=True, neutral=0, about="epochs in which the rate rises; 0 is off")
    ] = 0
    beta2: Annotated[float, Knob("training", 0.9, 0.9999, about="second-moment decay of the optimizer")] = 0.98
    batch_size: Annotated[int, Knob("training", 32, 4096, "log", about="users a step")] = 256
    gradient_clip: Annotated[
        float, Knob("training", 0.01, 100, "log", zero=True, neutral=0.0, about="largest gradient norm; 0 is off")
    ] = 0.0
    loss: Annotated[
        Literal["full_softmax", "sampled_softmax", "bce", "gbce"],
        Knob("training", about="softmax over all items or over negatives; binary cross entropy, plain or calibrated"),
    ] = "full_softmax"
    num_negatives: Annotated[int, Knob("training", 1, 4096, "log", when=_SAMPLED, about="negatives drawn")] = 512
    negative_sharing: Annotated[
        Literal["batch", "position"], Knob("training", when=_SAMPLED, about="one set a batch, or one a position (slow)")
    ] = "batch"
    negative_distribution: Annotated[
        Literal["uniform", "popularity"],
        Knob("training", neutral="uniform", when=_SAMPLED, about="all items alike, or as often as in the training"),
    ] = "uniform"
    logq_correction: Annotated[
        bool, Knob("training", neutral=False, when=_SAMPLED_SOFTMAX, about="weigh a negative by how rarely it is drawn")
    ] = False
    gbce_calibration: Annotated[
        float,
        Knob("training", 0, 1, when=(Condition(field="loss", values=("gbce",)),), about="0 is bce, 1 undoes sampling"),
    ] = 0.75
    temperature: Annotated[
        float,
        Knob(
            "training",
            0.01,
            1,
            "log",
            when=(Condition(field="normalize_embeddings", values=(True,)),),
            about="of cosine scores",
        ),
    ] = 0.05
    table_updates: Annotated[
        Literal["all_rows", "touched_rows"],
        Knob(
            "training",
            neutral="all_rows",
            when=_SAMPLED,
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
    # scoring: priors are counted in the training split and change only the scores, after the weights have been chosen
    popularity_alpha: Annotated[
        float, Knob("scoring", 0, 0.5, neutral=0.0, about="weight of log popularity; 0 is off")
    ] = 0.0
    transition_alpha: Annotated[
        float, Knob("scoring", 0, 2, neutral=0.0, about="weight of items that followed the newest ones; 0 is off")
    ] = 0.0
    item_cf_alpha: Annotated[
        float, Knob("scoring", 0, 2, neutral=0.0, about="weight of items met near the newest ones; 0 is off")
    ] = 0.0
    item_cf_window: Annotated[
        int,
        Knob("scoring", 3, 50, "log", when=(Condition(field="item_cf_alpha"),), about="how many places count as near"),
    ] = 10
    prior_top_k: Annotated[
        int, Knob("scoring", 20, 200, "log", when=_RELATED, about="related items kept for each item")
    ] = 50
    prior_recent_k: Annotated[
        int, Knob("scoring", 1, 10, when=_RELATED, about="newest items whose relations count")
    ] = 5
    prior_norm: Annotated[
        Literal["sqrt", "count", "none"],
        Knob("scoring", when=_RELATED, about="counts over the root of both totals, over the first item's, or raw"),
    ] = "sqrt"
    score_normalization: Annotated[
        Literal["none", "z_score"], Knob("scoring", when=_PRIORS, about="weights in units of a user's score deviation")
    ] = "z_score"
    rerank_top_k: Annotated[
        int,
        Knob("scoring", 50, 200, "log", zero=True, neutral=0, when=_PRIORS, about="re-order the best N only; 0 is all"),
    ] = 0

    @property
    def updates_touched_rows(self) -> bool:
        """Whether a step updates only the item rows of its batch; on full softmax `table_updates` has no effect."""
        return self.table_updates == "touched_rows" and self.loss != "full_softmax"


def space_of(spec: type[Spec], defaults: Config | None = None) -> Space:
    """The space that a spec class declares; `defaults`, such as the config of a preset, replace its own."""
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
