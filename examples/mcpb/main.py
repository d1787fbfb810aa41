"""What the bundle starts: a bridge to the server at VIRTUALMLE_URL, else `virtualmle serve` of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def main() -> int:
    url, token = os.environ.get("VIRTUALMLE_URL", "").strip(), os.environ.get("VIRTUALMLE_TOKEN", "").strip()
    if url:
        from server.client.bridge import run_bridge
        from server.client.endpoint import RemoteEndpoint, RemoteError
        from server.client.home import HomeError

        try:
            run_bridge(RemoteEndpoint(url, token or None))
        except (HomeError, RemoteError) as error:
            return refused(str(error))
        return 0
    program = shutil.which("virtualmle")
    if program is None:
        return refused("virtualmle is not installed here: install it, or give the URL of a server elsewhere.")
    home = os.environ.get("VIRTUALMLE_HOME", "").strip()
    return subprocess.run([program, "serve", *(["--home", home] if home else [])]).returncode


def refused(why: str) -> int:
    print(f"virtualmle: {why}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
