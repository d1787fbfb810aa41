"""What an owner says of itself on its private route."""

from __future__ import annotations

from pydantic import BaseModel


class QueueLine(BaseModel):
    """A trial that trains or waits. `memory_mb` is what is set aside for it; `gpu` None is the CPU."""

    trial_id: str
    study_id: str
    dataset: str
    backbone: str
    running: bool
    epochs: int
    memory_mb: float
    gpu: int | None = None


class Status(BaseModel):
    """`busy`: it is training, evaluating or playing."""

    version: str
    clients: int
    busy: bool
    running: list[str]
    queued: list[str]
    playing: list[str] = []
    """Studies that a policy plays."""
    slots: int = 1
    """Trainings at a time."""
    queue: list[QueueLine] = []
    """What trains and what waits, in the order it came."""
