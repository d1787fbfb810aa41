"""Finds the actual error where task groups wrap errors in groups."""

from __future__ import annotations

from typing import cast


def cause_of(error: BaseException) -> BaseException:
    """The first error in a group, however deep; an error that is not a group is returned as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = cast(BaseExceptionGroup[BaseException], error).exceptions[0]
    return error
