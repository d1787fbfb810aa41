"""Plans of drives for tests: options of the study and of the drive side by side."""

from __future__ import annotations

from typing import Any

from server.drive.plan import TRIALS, Plan
from server.study.requests import StudyRequest


def plan_for(**options: Any) -> Plan:
    """A plan whose study has the options that StudyRequest knows; the others are the drive's."""
    request = {name: options.pop(name) for name in list(options) if name in StudyRequest.model_fields}
    default = {"dataset": "demo", "policy": "playbook", "max_trials": TRIALS}
    return Plan(StudyRequest.model_validate({**default, **request}), **options)
