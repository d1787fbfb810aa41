"""DataError: the one exception that users of datasets see, and the translation of other errors into it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from trainers.contract.wire import NO_ROOM

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""The pattern that the whole name of a dataset must match."""


class DataError(ValueError):
    """A dataset or file cannot be used; the message is one line with what was wrong, the value, and what to do."""


def check_name(name: str) -> str:
    """`name` if it can name a dataset. Raises DataError otherwise, as for a path or an empty string."""
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise DataError(
            f"{name!r} cannot name a dataset: a name starts with a letter or digit and has at most 64 letters, "
            "digits, dots, dashes and underscores."
        )
    return name


def foreign(action: str, path: Path, error: BaseException) -> DataError:
    """A DataError with one line about `path`, from an error of the operating system, DuckDB or safetensors."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(words in str(error) for words in NO_ROOM):
        return DataError(f"The disk is full: {action} {str(path)!r} failed. Free some space and try again.")
    if isinstance(error, PermissionError):
        return DataError(f"{action} {str(path)!r} failed: permission denied for {error.filename!r}.")
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {str(error.filename)!r}"
    return DataError(f"{action} {str(path)!r} failed: {text[:300]}")
