"""The image's entry point: `stdio`, `http`, `health`, or any virtualmle command."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from server.cli.main import main as command
from server.client.home import find_owner
from server.settings import load_settings

LISTEN = "0.0.0.0:8765"
"""Address inside the container; which address of the host reaches it is up to `docker run -p`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the container was started with; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["http"]
    name, rest = words[0], words[1:]
    if name == "health":
        return health()
    shortcuts = {"stdio": ["serve"], "http": ["serve", "--http", LISTEN]}
    return command([*shortcuts[name], *rest] if name in shortcuts else words)


def health() -> int:
    """0 if the owner answers, or if a stdio container has not needed one yet; else 1."""
    owner = find_owner(load_settings())
    if owner is None:
        return 0 if _is_stdio() else 1
    parts = urlsplit(owner.url)
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores a proxy set for the container
        with direct.open(f"{parts.scheme}://{parts.netloc}/health", timeout=4) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, TimeoutError):
        return 1


def _is_stdio() -> bool:
    """Whether the container's first process serves stdio."""
    return b"stdio" in Path("/proc/1/cmdline").read_bytes().split(b"\0")


if __name__ == "__main__":
    sys.exit(main())
