"""The packages that are measured beside ours: their versions, and virtual environments that hold them.

python -m benchmarks.peers install DIR
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PINNED = {"rectools": "rectools[torch]==0.19.0", "replay": "replay-rec[torch]==0.22.0"}
"""The newest that install with the torch below; each needs an environment of its own (numpy and Lightning differ)."""
PACKAGES = {"rectools": "rectools", "replay": "replay-rec"}
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peers:
    """The interpreters that have the peers installed; None where nobody named one."""

    rectools: Path | None
    replay: Path | None

    def python(self, who: str) -> Path | None:
        """The interpreter of `who`; None for our own trainers, which run under this one."""
        return {"rectools": self.rectools, "replay": self.replay}.get(who)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name the peers' interpreters."""
    for who in PINNED:
        parser.add_argument(f"--{who}-python", type=Path, metavar="PATH", help=f"default: ${_variable(who)}")


def given(options: argparse.Namespace) -> Peers:
    """The interpreters by option or environment; exits where one is no program."""
    found: dict[str, Path | None] = {}
    for who in PINNED:
        named: Path | None = getattr(options, f"{who}_python") or _from_environment(who)
        if named is not None and not os.access(named, os.X_OK):
            sys.exit(f"--{who}-python: {str(named)!r} is no interpreter; {how_to_install(who)}")
        found[who] = named.absolute() if named else None
    return Peers(**found)


def how_to_install(who: str) -> str:
    """What to do to have the rows of `who`."""
    return (
        f"python -m benchmarks.peers install DIR makes an environment with {PINNED[who]}; "
        f"then give --{who}-python DIR/{who}/bin/python"
    )


def install(folder: Path) -> None:
    """A virtual environment for each peer under `folder`. Raises CalledProcessError where pip fails."""
    folder.mkdir(parents=True, exist_ok=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(TORCH + "\n", encoding="utf-8")
    for who, requirement in PINNED.items():
        python = folder / who / "bin" / "python"
        print(f"==> {requirement} in {folder / who}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder / who)], check=True)
        pip = [str(python), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        subprocess.run([*pip, "-c", str(constraints), requirement], check=True, stdout=sys.stderr)
        print(f"--{who}-python {python}")


def _variable(who: str) -> str:
    return f"VIRTUALMLE_{who.upper()}_PYTHON"


def _from_environment(who: str) -> Path | None:
    named = os.environ.get(_variable(who))
    return Path(named) if named else None


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
