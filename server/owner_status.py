"""What an owner says of itself on its private route."""

from __future__ import annotations

from pydantic import BaseModel


class Status(BaseModel):
    """`busy`: it is training, evaluating or playing."""

    version: str
    clients: int
    busy: bool
    running: list[str]
    queued: list[str]
    playing: list[str] = []
    """Studies that a policy plays."""
