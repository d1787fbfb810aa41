"""Makes, names and finds the virtual environments of the peers."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PINNED = {"rectools": "rectools[torch]==0.19.0", "replay": "replay-rec[torch]==0.22.0"}
"""The newest versions that install with TORCH. Each needs its own environment (numpy and Lightning differ)."""
PACKAGES = {"rectools": "rectools", "replay": "replay-rec"}
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peers:
    """The interpreters that have the peers installed; None where none was named."""

    rectools: Path | None
    replay: Path | None

    def python(self, who: str) -> Path | None:
        """The interpreter of `who`; None for our own trainers, which run under this one."""
        return {"rectools": self.rectools, "replay": self.replay}.get(who)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name the peers' interpreters."""
    for who in PINNED:
        parser.add_argument(f"--{who}-python", type=Path, metavar="PATH", help=f"default: ${_variable(who)}")


def peers_of(options: argparse.Namespace) -> Peers:
    """The interpreters from options or environment variables. Exits where one is not executable."""
    pythons: dict[str, Path | None] = {}
    for who in PINNED:
        path: Path | None = getattr(options, f"{who}_python") or _from_environment(who)
        if path is not None and not os.access(path, os.X_OK):
            sys.exit(f"--{who}-python: {str(path)!r} is no interpreter; {how_to_install(who)}")
        pythons[who] = path.absolute() if path else None
    return Peers(**pythons)


def how_to_install(who: str) -> str:
    """A sentence on how to install the peer `who`."""
    return (
        f"python -m benchmarks.peers install DIR makes an environment with {PINNED[who]}; "
        f"then give --{who}-python DIR/{who}/bin/python"
    )


def install(folder: Path) -> None:
    """Makes a virtual environment for each peer under `folder`. Raises CalledProcessError where pip fails."""
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
    path = os.environ.get(_variable(who))
    return Path(path) if path else None
