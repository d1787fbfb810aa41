"""The code that runs on a node of a Ray cluster: an actor that runs one training at a time, without a shared disk.

The class is pickled by value, with what it uses of the modules in `BY_VALUE`, and it receives the project's code as a
parcel. Until then it imports nothing of the project: a node needs what the project requires, not the project.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainers.contract import regular_files
from trainers.contract.regular_files import is_regular, open_regular
from trainers.contract.wire import EPOCHS_FILE, LOG_FILE, RESUME_FILE

BY_VALUE = (sys.modules[__name__], regular_files)
"""The modules whose code travels to a node with the class itself."""
GROWING = (EPOCHS_FILE, LOG_FILE)
"""Files of which only the new part is sent; of epochs.jsonl, only complete lines."""
PASSING = (".tmp", ".partial")
"""Suffixes of temporary files, which are about to be renamed."""
_LOOK_SECONDS, _LONGEST_SECONDS = 0.1, 1.0
"""How often the files are checked, and how long a call for news waits without any."""
_UNASKED_SECONDS = 2 * _LONGEST_SECONDS
_CLOCK_SECONDS = 1.0
"""How much the creation time of a process may change when the clock is set."""
_UNUSED_SECONDS = 30 * 86400
"""Parcels that no training has used for this long are removed."""


class Node:
    """Runs one training after the other, each in its own directory; the caller of `news` stores the files."""

    def __init__(self) -> None:
        self._executor: Any = None
        self._all_reported = asyncio.Event()
        self._all_reported.set()

    async def begin(self, request: dict[str, Any], files: dict[str, bytes], parcels: list[Any]) -> str:
        """Starts a training; returns the id of its node.

        `request`: directory, task, slot, command, folder and the name of the dataset. `files`: contents by path under
        the trials. `parcels`: kind, SHA-256 and reference of the zip files of the code and, if any, of the dataset.
        """
        import ray

        root = _private_folder(
            Path(request["folder"] or Path(tempfile.gettempdir()) / f"virtualmle-{os.getuid()}")
        ).resolve()
        folders = {kind: await _fetch_parcel(root / "parcels", digest, ref) for kind, digest, ref in parcels}
        if self._executor is None:
            self._executor = await self._open(root, folders["code"], request["command"])
        from server.executors.base import Slot
        from trainers.contract.wire import RESULT_FILES

        self._all_reported.clear()
        self._end_reason = ""
        self._sent: dict[str, Any] = {}
        self._directory = self._scratch / "trials" / request["directory"]
        self._result = RESULT_FILES[request["task"]]
        await asyncio.to_thread(self._lay_out, files, request["dataset"], folders.get("dataset"))
        slot = Slot.model_validate(request["slot"])
        self._work = asyncio.ensure_future(self._executor.run([self._directory], slot, request["task"]))
        return ray.get_runtime_context().get_node_id()

    async def _open(self, root: Path, code: Path, command: Any) -> Any:
        sys.path.insert(0, str(code))
        from server.executors.process.executor import TRAINERS, ProcessExecutor

        await asyncio.to_thread(_sweep, root)
        self._scratch = root / "work" / _process_name()
        (self._scratch / "datasets").mkdir(parents=True)
        executor = ProcessExecutor(self._scratch / "datasets", self._scratch, command or TRAINERS)
        return await executor.__aenter__()

    async def news(self, with_state: bool) -> dict[str, Any]:
        """Waits for changes in the run directory: grown, whole; with the last, also exit, error or cancelled.

        Each change is reported once. After the last news nothing of the training is left on this node.
        """
        until = time.monotonic() + _LONGEST_SECONDS
        while True:
            over = self._work.done()
            grown, whole = await asyncio.to_thread(self._changes, with_state or over)
            if over:
                break
            if grown or whole or time.monotonic() > until:
                return {"grown": grown, "whole": whole}
            await asyncio.wait({self._work}, timeout=_LOOK_SECONDS)
        await asyncio.to_thread(shutil.rmtree, self._scratch / "trials", True)
        self._all_reported.set()
        return {"grown": grown, "whole": whole} | self._ending()

    async def end(self, reason: str) -> None:
        """Ends the training. `cancelled` may still leave a result; an owner sends `closing` or `taken over`."""
        self._end_reason = reason
        if reason == "cancelled":
            self._work.cancel()
        else:
            await self._executor.__aexit__(None, None, None)

    async def ping(self) -> None:
        """Shows that the actor still answers."""

    async def leave(self) -> None:
        """Removes what is kept for further trainings, once the last news is fetched or nobody asks for it in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNASKED_SECONDS):
                await self._all_reported.wait()
        await self._executor.__aexit__(None, None, None)
        await asyncio.to_thread(shutil.rmtree, self._scratch, True)

    def _ending(self) -> dict[str, Any]:
        if self._work.cancelled():
            return {"cancelled": True}
        error = self._work.exception()
        if error is not None:
            return {"error": f"{error or type(error).__name__} (On node {os.uname().nodename}.)"}
        if self._end_reason == "taken over":
            return {"error": "The training was ended by the next owner of this home; the same run_trial goes on."}
        (exit,) = self._work.result()
        return {"exit": exit.model_dump()}

    def _lay_out(self, files: dict[str, bytes], name: str, dataset: Path | None) -> None:
        self._directory.mkdir(parents=True)
        if dataset is not None:
            link = self._scratch / "datasets" / name
            link.unlink(missing_ok=True)  # an earlier task had other files of the dataset
            link.symlink_to(dataset)
        for place, content in files.items():
            path = self._scratch / "trials" / place
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            if path.parent == self._directory:
                self._sent[path.name] = _signature(path)

    def _changes(self, with_state: bool) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """The changed files (grown, whole). The result comes last: a driver that has it has everything else."""
        grown: dict[str, bytes] = {}
        whole: dict[str, bytes] = {}
        for path in sorted(self._directory.iterdir(), key=lambda path: (path.name == self._result, path.name)):
            skipped = path.suffix in PASSING or not is_regular(path)
            if skipped or (path.name == RESUME_FILE and not with_state):
                continue
            try:
                if path.name in GROWING:
                    if new := self._read_new(path):
                        grown[path.name] = new
                elif (signature := _signature(path)) != self._sent.get(path.name):
                    whole[path.name] = path.read_bytes()
                    self._sent[path.name] = signature
            except FileNotFoundError:  # removed meanwhile
                continue
        return grown, whole

    def _read_new(self, path: Path) -> bytes:
        start = self._sent.get(path.name, 0)
        with open_regular(path) as file:
            file.seek(start)
            new = file.read()
        if path.suffix == ".jsonl":
            new = new[: new.rfind(b"\n") + 1]
        self._sent[path.name] = start + len(new)
        return new


def _signature(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _private_folder(folder: Path) -> Path:
    """Makes a folder for this user alone. Raises PermissionError if it is another's: code is run from it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; remove it")
    return folder


async def _fetch_parcel(parcels: Path, digest: str, ref: Any) -> Path:
    """The folder of a parcel, which is fetched and unpacked once per node."""
    place = parcels / digest
    if not place.is_dir():
        content = await ref
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"parcel {digest[:12]} arrived damaged")
        await asyncio.to_thread(_unpack, content, place)
    os.utime(place)
    return place


def _unpack(content: bytes, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=place.parent, suffix=".tmp"))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(staging)
        staging.rename(place)
    except OSError:
        if not place.is_dir():  # no other training has unpacked it meanwhile
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _process_name() -> str:
    """A name for this process that no other process ever has."""
    import psutil

    return f"{os.getpid()}-{psutil.Process().create_time():.2f}"


def _sweep(root: Path) -> None:
    """Ends and removes what killed actors have left, and parcels that were not used for long."""
    import psutil

    from server.executors.environment import HOME_MARK
    from server.executors.process.process_tree import end_marked

    for scratch in (root / "work").glob("*"):
        pid, _, created = scratch.name.partition("-")
        try:
            alive = abs(psutil.Process(int(pid)).create_time() - float(created)) < _CLOCK_SECONDS
        except ValueError:  # not ours
            continue
        except psutil.Error:
            alive = False
        if not alive:
            end_marked(HOME_MARK, str(scratch))
            shutil.rmtree(scratch, ignore_errors=True)
    for parcel in (root / "parcels").glob("*"):
        with suppress(FileNotFoundError):  # another actor has just renamed it
            if time.time() - parcel.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(parcel, ignore_errors=True)
