"""The version of this installation: what --version prints and what an owner reports to its clients."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The package's version; "unknown" in a clone that was never installed."""
    try:
        return version("virtualmle")
    except PackageNotFoundError:
        return "unknown"
