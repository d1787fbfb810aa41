"""The packages that are measured beside ours: their versions, and virtual environments that hold them.

python -m benchmarks.peers install DIR
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.interpreters import install


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("install", help="make a virtual environment for each peer under DIR")
    command.add_argument("folder", type=Path, metavar="DIR")
    try:
        install(parser.parse_args().folder)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed with exit code {error.returncode}; its last lines above say why.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
