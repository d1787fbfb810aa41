"""DatasetFacts: the meta-features of a dataset."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class DatasetFacts(BaseModel):
    """Meta-features of a dataset. Sizes and lengths count all its events; Gini and rates count training events only."""

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
    """Number of users with a validation item, over whom metrics are averaged; None if every user has one."""

    repeating_users: float | None = None
    """Share of users who repeat an item in their training events; None for datasets of before it was counted."""

    @property
    def measured_users(self) -> int:
        """The number of users a validation metric is averaged over; the more there are, the less noise it has."""
        return self.users if self.validated_users is None else self.validated_users
