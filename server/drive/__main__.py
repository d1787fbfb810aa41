"""python -m server.drive: the same as `virtualmle drive`."""

from __future__ import annotations

import sys

from server.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["drive", *sys.argv[1:]]))
