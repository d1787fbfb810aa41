"""The actual error in groups of errors, and the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import cast


def cause_of(error: BaseException) -> BaseException:
    """The first error in a group, however deep; an error that is not a group is returned as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = cast(BaseExceptionGroup[BaseException], error).exceptions[0]
    return error


def nearest(name: str, names: Sequence[str]) -> str:
    """` Did you mean 'get_trial'?` for a name that is nearly one of `names`, or is one behind a prefix; else ""."""
    prefixed = [known for known in names if name.endswith(known)]
    close = prefixed or difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {max(close, key=len)!r}?" if close else ""
