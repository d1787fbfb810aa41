"""What the tools answer about datasets."""

from __future__ import annotations

from server.answers.base import Answer


class DatasetLine(Answer):
    name: str
    users: int
    items: int
    interactions: int
    mean_length: float
    p90_length: float
    content_hash: str
    synthetic: bool = False
    recorded: list[str] | None = None
    """In a replay home: the backbones that were recorded on it."""


class DatasetList(Answer):
    datasets: list[DatasetLine]
    replay: str | None = None
    """In a replay home: says that nothing is trained."""
    next: str
