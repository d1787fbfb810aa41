"""Where a row was measured: processor, code and versions, without a host name or a path."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

COMMIT = "VIRTUALMLE_COMMIT"
ROOT = Path(__file__).resolve().parents[2]


@cache
def hardware(device: str, threads: int) -> str:
    """The processor and how many of its cores are used, or the GPU."""
    if device == "cuda":
        return _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()[0]
    return f"{_processor()}, {threads} {'core' if threads == 1 else 'cores'}"


@cache
def commit(*paths: str) -> str:
    """The last commit that touched `paths` of this checkout, plus a digest of the files where they differ from it.

    In a copy without history, the variable VIRTUALMLE_COMMIT names the commit.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT]
    last = _output_of("git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", *paths).strip() or "none"
    if not _output_of("git", "-C", str(ROOT), "status", "--porcelain", "--", *paths).strip():
        return last
    digest = hashlib.sha256()
    listed = _output_of("git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "--", *paths)
    for name in sorted(set(listed.splitlines())):
        path = ROOT / name
        digest.update(name.encode() + (path.read_bytes() if path.exists() else b""))
    return f"{last}+{digest.hexdigest()[:6]}"


@cache
def versions(*packages: str, python: Path | None = None) -> str:
    """The versions of Python and of `packages` as installed for an interpreter. No package is imported."""
    code = (
        "import json, platform, sys; from importlib.metadata import version\n"
        "print(json.dumps([platform.python_version(), *map(version, sys.argv[1:])]))"
    )
    numbers = json.loads(_output_of(str(python or sys.executable), "-I", "-c", code, *packages))
    return ", ".join(f"{name} {number}" for name, number in zip(("python", *packages), numbers, strict=True))


def version(package: str, python: Path) -> str:
    """The version of `package` under the interpreter `python`."""
    return versions(package, python=python).rpartition(" ")[2]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return " ".join(next(named, platform.machine()).split())


def _output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
