"""The plan of a study that is in memory: how a drive goes on with it, and the command that repeats it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory.records import Study
from server.drive.ablation import MemoryMode
from server.drive.plan import MODEL_PLANS, TRIALS, ModelPlan, Plan, PlanError, Resume
from server.study.replayed import replay_of
from server.study.requests import StudyRequest

AGAIN = {"space", "guardrails", "drive_options"}
"""Fields of a request that a study's record holds in another form."""


class _DriveOptions(BaseModel):
    """What a drive stored about itself. Any client can write it, so what is not as it should be is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    memory: MemoryMode = "on"
    reflection: bool = True
    parallel: Annotated[int, Field(ge=1, le=1000)] = 1


def plan_of(study: Study) -> Plan:
    """The plan of a drive that repeats this study. Its policy is the study's label, which may be another client's."""
    values = study.model_dump(include=set(StudyRequest.model_fields) - AGAIN)
    asked: dict[str, Any] = json.loads(study.brief).get("request", {})
    fixed = {} if asked else {field.name: field.default for field in study.space.fields if field.fixed}
    space = asked.get("space") or fixed
    if replay := replay_of(study):
        values["seed"] = replay.seed
    request = StudyRequest.model_validate({**values, "space": space or None, "guardrails": study.limits or None})
    stored = _parsed(asked.get("drive_options"))
    try:
        options = _DriveOptions.model_validate(stored)
    except ValidationError:
        options = _DriveOptions()
    return Plan(
        request,
        _model(stored) if study.policy == "llm" else None,
        memory=options.memory,
        reflection=options.reflection,
        parallel=options.parallel,
        replay=Path(replay.tables) if replay else None,
    )


def resumed(asked: Plan, resume: Resume, study: Study, tried: int) -> Plan:
    """The plan of a drive that goes on with an open study, of which `tried` configurations were tried.

    Raises PlanError where the study does not say how, or does not allow what was asked for.
    """
    own, named = plan_of(study), f"Study {study.study_id!r}"
    policy = resume.policy or own.playable
    if resume.policy is None and study.policy == "llm" and own.model is None:
        raise PlanError(
            f"{named} was tuned by a language model that its record does not name in full: give --policy llm "
            "--model NAME with the options that it was started with, or another --policy."
        )
    if policy == "llm" and own.memory not in ("on", "off"):
        raise PlanError(f"{named} was started with --memory {own.memory}, which --policy llm cannot play.")
    limit = study.max_trials
    if limit is not None and resume.more_trials is not None:
        raise PlanError(
            f"--trials cannot be changed on a resumed study; {named} was started with {limit}. Leave --trials out."
        )
    request = own.request.model_copy(
        update={"policy": policy, "max_trials": limit or tried + (resume.more_trials or TRIALS)}
    )
    return replace(
        asked,
        request=request,
        model=(asked.model or own.model) if policy == "llm" else None,
        memory=own.memory,
        reflection=own.reflection if resume.reflection is None else resume.reflection,
        parallel=resume.parallel or own.parallel,
    )


def _parsed(text: Any) -> dict[str, Any]:
    """The stored options; empty where they are not a JSON object."""
    try:
        options = json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", options) if isinstance(options, dict) else {}


def _model(options: dict[str, Any]) -> ModelPlan | None:
    """The stored language model; None without one that a study may remember."""
    try:
        model = MODEL_PLANS.validate_python(options.get("model"))
    except ValidationError:
        return None
    return model if model.portable and model.key_file is None and model.provider != "replay" else None
