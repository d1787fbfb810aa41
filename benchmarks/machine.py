"""What a row must say of where it was measured: processor, code and versions, without a host's name or a path."""

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
ROOT = Path(__file__).resolve().parents[1]


@cache
def hardware(device: str, threads: int) -> str:
    """The processor and how many of its cores are used, or the GPU."""
    if device == "cuda":
        return _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()[0]
    return f"{_processor()}, {threads} {'core' if threads == 1 else 'cores'}"


@cache
def commit(*paths: str) -> str:
    """The last commit that touched `paths` of this checkout; with + and a digest of them where they differ from it.

    A copy without its history is told by VIRTUALMLE_COMMIT what it is a copy of.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT]
    found = _said("git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", *paths).strip() or "none"
    if not _said("git", "-C", str(ROOT), "status", "--porcelain", "--", *paths).strip():
        return found
    digest = hashlib.sha256()
    listed = _said("git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "--", *paths)
    for name in sorted(set(listed.splitlines())):
        path = ROOT / name
        digest.update(name.encode() + (path.read_bytes() if path.exists() else b""))
    return f"{found}+{digest.hexdigest()[:6]}"


@cache
def versions(*packages: str, python: Path | None = None) -> str:
    """Python's version and those of `packages` as an interpreter has them installed: none of them is imported."""
    code = (
        "import json, platform, sys; from importlib.metadata import version\n"
        "print(json.dumps([platform.python_version(), *map(version, sys.argv[1:])]))"
    )
    found = json.loads(_said(str(python or sys.executable), "-I", "-c", code, *packages))
    return ", ".join(f"{name} {number}" for name, number in zip(("python", *packages), found, strict=True))


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


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
