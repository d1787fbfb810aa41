"""The specs of the built-in backbones, their presets, and the values that cross the run directory. No torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from trainers.fields import Spec
from trainers.space import Config, Knob

METRICS = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10")
TRAINER_VERSION = "2"
"""Part of the training fingerprint: raised whenever the same spec, seed and data would train to other weights."""

Task = Literal["run", "evaluate", "export", "recommend"]
RESULT_FILES: dict[Task, str] = {
    "run": "result.json",
    "evaluate": "revealed.json",
    "export": "exported.json",
    "recommend": "recommended.json",
}
"""What a child is asked to do in a directory, and the file that it leaves last."""
RESUME_FILE = "training.safetensors"
"""The state of a training between two epochs, for the next attempt of an interrupted one."""
NO_ROOM = ("No space left on device", "Disk quota exceeded")
"""What a system says of a full disk."""
Outcome = Literal["ok", "stopped", "diverged", "out_of_memory", "timed_out", "cancelled", "crashed"]
FilterSeen = Literal["auto", "yes", "no", "reference"]
Preset = Literal["strong", "paper"]


class SASRecSpec(Spec):
    """SASRec: causal softmax attention (Kang & McAuley 2018), pre-norm, recency-aligned learned positions."""

    backbone: ClassVar[str] = "sasrec"

    feed_forward: Annotated[
        Literal["gelu", "swiglu"], Knob("architecture", neutral="gelu", about="what follows attention")
    ] = "gelu"


class HSTUSpec(Spec):
    """HSTU: pointwise SiLU attention with relative position bias (Zhai et al. 2024)."""

    backbone: ClassVar[str] = "hstu"

    linear_dim: Annotated[int, Knob("architecture", 8, 128, "log", about="width of u and v a head")] = 16
    attention_dim: Annotated[int, Knob("architecture", 8, 128, "log", about="width of q and k a head")] = 16
    feed_forward: Annotated[
        Literal["none", "gelu", "swiglu"], Knob("architecture", neutral="none", about="what follows attention")
    ] = "none"


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
    validated_users: int | None = None
    """Users with a validation item, where that is not every user: metrics are means over them."""

    @property
    def measured_users(self) -> int:
        """How many users a validation metric is a mean over: its noise falls with their number."""
        return self.users if self.validated_users is None else self.validated_users


def preset(name: Preset, backbone: str, facts: DatasetFacts) -> Spec:
    """The default spec of `backbone` for a dataset with `facts`: pure, and what trial 0 of every study trains."""
    spec = SPECS[backbone]
    if name == "paper":
        return spec.model_validate(_PAPER[backbone])
    config: Config = {"max_length": next((n for n in LENGTHS if facts.p90_length <= n), LENGTHS[-1])}
    if facts.items > FULL_SOFTMAX_ITEMS:
        config |= {"loss": "sampled_softmax", "table_updates": "touched_rows"}
    return spec.model_validate(config)


class TrialSpec(BaseModel):
    """spec.json: what a child is asked to do. No absolute path: datasets resolve by hash under `--datasets`.

    `memory_mb` is what the training may hold at most; one that is predicted to need more does not begin.
    `weights_of` names a finished trial of the same training fingerprint, whose run directory lies beside this one.
    `num_items` is told to trainers of the user's own, which read the arrays of the dataset themselves.
    `stop_below`: the training is `stopped` after epoch e if no epoch so far validated at `stop_below[e - 1]` or above.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    task: Literal["train", "predict"] = "train"
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
    num_items: int | None = None


class Epoch(BaseModel):
    """One line of epochs.jsonl. `seconds` is training only, `eval_seconds` evaluation only."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    loss: float
    validation: dict[str, float]
    seconds: float
    eval_seconds: float


class TrialResult(BaseModel):
    """result.json: how a trial ended. `validation` is that of the best epoch; empty where no epoch finished.

    `measures`, of the same weights and their final scores: `coverage@10`, the share of the catalogue that is among the
    ten best of some user; `popularity@10`, the training events of a recommended item, on average; and
    `ms_per_1000_users`, the milliseconds that it took to rank all items for 1,000 users.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    status: Outcome
    message: str = ""
    validation: dict[str, float] = {}
    measures: dict[str, float] = {}
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


class ExportSpec(BaseModel):
    """export.json: the trial whose checkpoint is taken home; its run directory lies beside that of export.json.

    `refit_epochs`: its configuration and seed are trained anew for so many epochs, on every event of the dataset.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    threads: int
    memory_mb: int | None = None
    refit_epochs: int | None = None


class Exported(BaseModel):
    """exported.json: what an export left beside it, or one line that says why there is nothing.

    `interactions` is what the weights were trained on, `onnx_difference` that between states by torch and by ONNX,
    relative; `no_onnx` says why there is no ONNX encoder, where that is so.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "failed"]
    message: str = ""
    files: tuple[str, ...] = ()
    interactions: int = 0
    onnx_difference: float | None = None
    no_onnx: str = ""


class RecommendSpec(BaseModel):
    """recommend.json: the `k` best items after a history of item ids, by the checkpoint of a trial beside it.

    `exclude_seen`: None does what the trial's `filter_seen` says.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    history: tuple[str, ...]
    k: int = 10
    exclude_seen: bool | None = None


class RecommendedItem(BaseModel):
    """One recommended item."""

    model_config = ConfigDict(frozen=True)

    item: str
    score: float


class Recommendations(BaseModel):
    """recommended.json: items, the best first, and what of the history is no item of the dataset."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "failed"]
    message: str = ""
    items: tuple[RecommendedItem, ...] = ()
    unknown: tuple[str, ...] = ()
