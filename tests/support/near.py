"""A number that a test expects but for rounding."""

from __future__ import annotations

from typing import cast

import pytest


def near(value: float) -> float:
    """pytest.approx where the type of a field wants a number, as in a record that is compared whole."""
    return cast("float", pytest.approx(value))
