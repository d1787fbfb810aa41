"""Describes a dataset to people and clients in one flat form, and with the report of its import."""

from __future__ import annotations

from typing import Any

from trainers.data import Dataset


def data_line(dataset: Dataset) -> dict[str, Any]:
    """The flat form of a dataset: name and hash, then its facts."""
    return {
        "name": dataset.name,
        **dataset.facts.model_dump(),
        "content_hash": dataset.content_hash,
        "split": dataset.split,
        **{f"cold_{name}": number for name, number in dataset.cold.items()},
        **({"updates": dataset.updates} if dataset.updates else {}),
        "synthetic": dataset.synthetic,
    }


def data_card(dataset: Dataset) -> dict[str, Any]:
    """The flat form of a dataset, and the report of its import."""
    return {**data_line(dataset), "report": dataset.report.model_dump()}
