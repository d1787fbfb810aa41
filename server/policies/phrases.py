"""Short phrases that several texts share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.policies.rules import SPARSE_LENGTH, SPARSE_USERS


def changed(changes: Mapping[str, Any]) -> str:
    """The changes in words, or `the default`."""
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "the default"


def counted(number: int, noun: str) -> str:
    """A count with its noun, in the singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def data_words(facts: Mapping[str, Any]) -> str:
    """The data that a lesson was learned on, so that it can be weighed elsewhere."""
    users, length = int(facts.get("users", 0)), float(facts.get("mean_length", 0.0))
    kinds = [word for word, fits in (("short", length < SPARSE_LENGTH), ("sparse", users < SPARSE_USERS)) if fits]
    kind = " and ".join(kinds) + " " if kinds else ""
    size = f"mean length {length:.1f}, {users:,} users, {int(facts.get('items', 0)):,} items"
    return f"On {kind}sequences ({size})"
