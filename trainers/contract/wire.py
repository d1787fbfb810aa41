"""The values that pass through the run directory, and the names of its files. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainers.contract.space import Config

TRAINER_VERSION = "2"
"""Part of the training fingerprint; increased when the same spec, seed and data would train to other weights."""

ChildTask = Literal["run", "evaluate", "export", "recommend"]
"""The tasks that a child can do in a directory."""
REQUEST_FILES: dict[ChildTask, str] = {
    "run": "spec.json",
    "evaluate": "evaluate.json",
    "export": "export.json",
    "recommend": "recommend.json",
}
"""For each task, the file in the directory that tells the child what to do."""
RESULT_FILES: dict[ChildTask, str] = {
    "run": "result.json",
    "evaluate": "revealed.json",
    "export": "exported.json",
    "recommend": "recommended.json",
}
"""For each task, the result file, which the child writes last and by rename."""
SPEC_FILE = REQUEST_FILES["run"]
RESULT_FILE = RESULT_FILES["run"]
EPOCHS_FILE = "epochs.jsonl"
"""The file with one line of JSON for each finished epoch; see Epoch."""
CHECKPOINT_FILE = "checkpoint.safetensors"
"""The file with the weights of the best epoch."""
RANKS_FILE = "validation_ranks.safetensors"
"""The file with `ranks` (F,) uint8: the rank of each validation item, clipped at 255."""
TEST_RANKS_FILE = "test_ranks.safetensors"
"""Of an evaluation: for each trial id `(U,)` uint8, the rank of each user's test item, clipped at 255."""
LOG_FILE = "trial.log"
"""The file with what the child wrote to stdout and stderr."""
ATTEMPT_FILE = "attempt.json"
"""The file with `pid` and `create_time` of the child; the executor writes it as soon as the child runs."""
RESUME_FILE = "training.safetensors"
"""The file with the state of a training between two epochs, from which an interrupted trial is resumed."""
UNRECOVERED_FILE = "unrecovered.txt"
"""The file in which the owner says why it could not store what a trial had left."""
NO_ROOM = ("No space left on device", "Disk quota exceeded")
"""Texts of the operating system's errors when a disk is full."""
Outcome = Literal["ok", "stopped", "diverged", "out_of_memory", "timed_out", "cancelled", "crashed"]
FilterSeen = Literal["auto", "yes", "no", "reference"]

MOST_EPOCHS = 1_000_000
"""The highest number of an epoch that is believed."""
EpochNumber = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Seconds or megabytes."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=64)]


class TrialSpec(BaseModel):
    """spec.json: the trial that a child runs. It has no absolute paths: datasets resolve by hash under `--datasets`.

    `memory_mb` is the most memory the training may hold; a training that is predicted to need more does not start.
    `weights_of` names a finished trial with the same training fingerprint, whose run directory lies beside this one.
    `training_hash` is the hash of the dataset's training arrays alone, which the child compares before it trains.
    `num_items` is set for the user's own trainers, which read the arrays of the dataset themselves.
    `stop_below`: the training ends as `stopped` after epoch e if no epoch so far reached `stop_below[e - 1]`.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    task: Literal["train", "predict"] = "train"
    backbone: str
    config: Config
    seed: int
    dataset_hash: str
    training_hash: str | None = None
    threads: int
    memory_mb: int | None = None
    metric: str = "ndcg@10"
    filter_seen: FilterSeen = "auto"
    weights_of: str | None = None
    stop_below: tuple[float, ...] = ()
    num_items: int | None = None


class Epoch(BaseModel):
    """One line of epochs.jsonl. `seconds` covers training only, `eval_seconds` evaluation only."""

    model_config = ConfigDict(frozen=True)

    epoch: EpochNumber
    loss: Finite
    validation: Annotated[dict[Name, Finite], Field(max_length=64)]
    seconds: Amount
    eval_seconds: Amount


class TrialResult(BaseModel):
    """result.json: how a trial ended. `validation` holds the metrics of the best epoch; empty if no epoch finished.

    `measures` describe the final scores of the same weights: `coverage@10`, the share of the catalogue that is in some
    user's top ten; `popularity@10`, the mean number of training events of a recommended item; and
    `ms_per_1000_users`, the milliseconds that it took to rank all items for 1,000 users.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    status: Outcome
    message: str = ""
    validation: Annotated[dict[Name, float], Field(max_length=64)] = {}
    measures: Annotated[dict[Name, float], Field(max_length=64)] = {}
    best_epoch: EpochNumber | None = None
    epochs: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] = 0
    seconds: Amount = 0.0
    eval_seconds: Amount = 0.0
    peak_memory_mb: Amount | None = None
    parameters: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    device: Name | None = None
    threads: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    weights_of: Name | None = None
    predicted_memory_mb: Amount | None = None
    trainer_version: Annotated[str, Field(max_length=256)] = TRAINER_VERSION
    versions: Annotated[dict[Name, Name], Field(max_length=64)] = {}


class CheckpointPath(BaseModel):
    """The checkpoint of one trial. `path` is relative to the directory of evaluate.json."""

    model_config = ConfigDict(frozen=True)

    trial_id: str
    path: str


class EvaluationSpec(BaseModel):
    """evaluate.json: the checkpoints to score on the sealed test, all trained on the dataset of `dataset_hash`."""

    model_config = ConfigDict(frozen=True)

    dataset_hash: str
    filter_seen: FilterSeen = "auto"
    checkpoints: tuple[CheckpointPath, ...]


class Revealed(BaseModel):
    """revealed.json: test metrics by trial id, or one line that says why there are none.

    `baselines` are the test metrics of models that need no training, by model, and `users` how many users were tested.
    The ranks of each user lie in TEST_RANKS_FILE. Users without a training event are in none of these: `apart` has
    their metrics by trial id, and `apart_users` their number.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "failed"]
    trials: dict[str, dict[str, Finite]] = {}
    baselines: Annotated[dict[Name, dict[Name, Finite]], Field(max_length=64)] = {}
    users: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    apart: dict[str, dict[str, Finite]] = {}
    apart_users: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    message: str = ""


class ExportSpec(BaseModel):
    """export.json: the trial whose checkpoint is exported; its run directory lies beside that of export.json.

    With `refit_epochs`, its configuration and seed are trained anew for that many epochs on every event of the dataset.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    threads: int
    memory_mb: int | None = None
    refit_epochs: int | None = None


class Exported(BaseModel):
    """exported.json: the files that an export wrote beside it, or one line that says why there are none.

    `interactions` is the number of events the weights were trained on. `onnx_difference` is the relative difference
    between states by torch and by ONNX. `no_onnx` says why there is no ONNX encoder, if there is none.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "failed"]
    message: str = ""
    files: tuple[str, ...] = ()
    interactions: int = 0
    onnx_difference: float | None = None
    no_onnx: str = ""


class RecommendSpec(BaseModel):
    """recommend.json: asks a trial's checkpoint for the `k` best items after a history of item ids.

    The trial's run directory lies beside that of recommend.json. `exclude_seen` None follows its `filter_seen`.
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
    """recommended.json: items, best first, and the ids of the history that the dataset does not have."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "failed"]
    message: str = ""
    items: tuple[RecommendedItem, ...] = ()
    unknown: tuple[str, ...] = ()
