"""What really went wrong, where task groups wrap errors in groups."""

from __future__ import annotations

from typing import cast


def cause_of(error: BaseException) -> BaseException:
    """The first error in a group of them, however deep; an error that is no group as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = cast(BaseExceptionGroup[BaseException], error).exceptions[0]
    return error
