"""DataError: the one exception that a user of datasets sees, and the translation of foreign errors into it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What the name of a dataset looks like, whole."""


class DataError(ValueError):
    """A dataset or a file that cannot be used; one line that says what was wrong, the value, and what to do."""


def check_name(name: str) -> str:
    """`name` if it can name a dataset; a path or an empty string cannot."""
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise DataError(
            f"{name!r} cannot name a dataset: a name starts with a letter or digit and has at most 64 letters, "
            "digits, dots, dashes and underscores."
        )
    return name


def foreign(action: str, path: Path, error: BaseException) -> DataError:
    """`error` of the operating system, DuckDB or safetensors as one line about `path`."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error):
        return DataError(f"The disk is full: {action} {str(path)!r} failed. Free some space and try again.")
    if isinstance(error, PermissionError):
        return DataError(f"{action} {str(path)!r} failed: permission denied for {error.filename!r}.")
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {str(error.filename)!r}"
    return DataError(f"{action} {str(path)!r} failed: {text[:300]}")
