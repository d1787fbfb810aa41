"""What an owner reports about itself on its private status route."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

StopBy = Literal["user", "successor"]
"""Who asks an owner to end: its user, or a `serve --http` that is to take its place."""


class QueueLine(BaseModel):
    """A trial that trains or waits. `memory_mb` is reserved for it; `gpu` None means the CPU."""

    trial_id: str
    study_id: str
    dataset: str
    backbone: str
    running: bool
    epochs: int
    memory_mb: float
    gpu: int | None = None


class Status(BaseModel):
    """The state of an owner. `busy`: it is training, evaluating or playing a policy."""

    version: str
    clients: int
    busy: bool
    running: list[str]
    queued: list[str]
    playing: list[str] = []
    """Ids of the studies that a policy is playing."""
    slots: int = 1
    """How many trainings may run at a time."""
    queue: list[QueueLine] = []
    """The trials that train or wait, in order of arrival."""
    replay: str | None = None
    """In a replay home: the folder of the recorded tables."""
