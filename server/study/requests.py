"""What a client asks of a study: StudyRequest opens one, TrialRequest trains a configuration in one.

Tools, driver and command line all pass these. A new option is a field here, its use, and its line in the docs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from memory.records import EarlyStop, Expected
from trainers.contract.metrics import Metric
from trainers.contract.presets import Preset
from trainers.contract.wire import FilterSeen

Seed = Annotated[int, Field(ge=0, lt=2**31)]
MOST_TRIALS = 1_000_000
"""Configurations of one study, at most."""
MOST_SECONDS = 1e9
"""About thirty years: more is a slip, and what no clock can count."""


def _label(text: str) -> str:
    if not 1 <= len(text) <= 64 or not text.isprintable():
        raise ValueError("not allowed: a label has 1 to 64 printable characters")
    return text


def _countable(seconds: float) -> float:
    if not seconds <= MOST_SECONDS:
        raise ValueError(f"not allowed: at most {MOST_SECONDS:g} seconds")
    return seconds


def _storable(trials: int) -> int:
    if trials > MOST_TRIALS:
        raise ValueError(f"not allowed: at most {MOST_TRIALS:,} configurations")
    return trials


Seconds = Annotated[float, Field(gt=0), AfterValidator(_countable)]


UNLISTED = {"start_study": ("drive_options",), "cancel_study": ("forget",)}
"""Arguments by tool that are accepted, and left out of the tool list because no model has a use for them."""


class StudyRequest(BaseModel):
    """What opens a study. `space` narrows the fields of the backbone, `guardrails` limits what may be chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    backbone: str = "sasrec"
    metric: Metric = "ndcg@10"
    preset: Preset = "strong"
    space: dict[str, Any] | None = None
    """By field: one value, a list of choices, or bounds as {"low": …, "high": …}."""
    filter_seen: FilterSeen = "auto"
    max_trials: Annotated[int, Field(ge=1), AfterValidator(_storable)] | None = None
    """How many configurations may be tried. Replicates do not count. None is no limit."""
    budget_seconds: Seconds | None = None
    """Wall clock from the start of the study."""
    trial_seconds: Seconds | None = None
    """Wall clock of one training."""
    gpu_seconds: Seconds | None = None
    """How long all trainings of the study together may hold slots."""
    policy: Annotated[str, AfterValidator(_label)] = "client"
    """A label that says who tunes."""
    seed: Seed = 0
    early_stop: EarlyStop = "auto"
    guardrails: dict[str, dict[str, float]] | None = None
    """By measure: {"min": …}, {"max": …} or both."""
    min_gain: Annotated[float, Field(gt=0, le=1)] | None = None
    """The smallest relative gain that matters: 0.02 is 2 %. None: the larger of 2 % and two sigmas."""
    confirm_seeds: Annotated[int, Field(ge=0, le=10)] | None = None
    """Fresh seeds of the choice and of the default that the end trains. None: 2 where the budget has room."""
    withhold: Annotated[float, Field(ge=0, le=0.9)] | None = None
    """The chance that the study does not see a heuristic of another study. None takes the home's setting."""
    allow_small: bool = False
    """Whether fewer than 30 users may be measured."""
    drive_options: Annotated[SkipJsonSchema[str], Field(max_length=4000)] = ""
    """How a drive tunes the study beyond these fields, as JSON text for --resume. The tool list leaves it out."""


class TrialRequest(BaseModel):
    """One training that a client asks for. Without `parent` the changes apply to the incumbent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study_id: str
    changes: dict[str, Any] | None = None
    parent: str | None = None
    hypothesis: str | None = None
    expected: Expected | None = None
    cites: list[str] | None = None
    """Ids of the notes that suggested the trial."""
    snapshot_id: str | None = None
    """The read of memory that the trial was planned from. None: none is recorded."""
    replicate_of: str | None = None
    """A trial whose configuration is trained again, with another seed."""
    seed: Seed | None = None
    early_stop: EarlyStop = "auto"
    """`auto`: as the study does. `off`: this trial is trained to its end; the rule does not apply to it."""
    request_key: str | None = None
    """A retry with the same key is answered with the trial that the first call started."""
