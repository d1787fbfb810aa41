"""What works on a node of a Ray cluster: an actor for a training at a time, and nothing on a disk that others share.

The class goes to the node by value and brings the project's own code with it, so only Python and Ray are imported here;
a node needs what the project requires, not the project.
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

GROWING = ("epochs.jsonl", "trial.log")
"""Files of which only what is new is sent, the first in whole lines."""
PASSING = (".tmp", ".partial")
"""Endings of files that are on their way to another name."""
STATE = "training.safetensors"
_LOOK_SECONDS, _LONGEST_SECONDS = 0.1, 1.0
"""How often the files are looked at, and how long a call for news stays without any."""
_UNASKED_SECONDS = 2 * _LONGEST_SECONDS
_CLOCK_SECONDS = 1.0
"""By which the creation time of a process may change when the clock is set."""
_UNUSED_SECONDS = 30 * 86400
"""Parcels that no training has used for so long are thrown away."""


class Node:
    """One training after the other, each in a directory of its own; the one who asks for news keeps the files."""

    def __init__(self) -> None:
        self._executor: Any = None
        self._all_told = asyncio.Event()
        self._all_told.set()

    async def begin(self, told: dict[str, Any], files: dict[str, bytes], parcels: list[Any]) -> str:
        """Starts a training and answers on which node.

        `told`: directory, task, slot, command, folder and the name of the dataset. `files`: by place under the trials.
        `parcels`: kind, SHA-256 and reference of the zip files of the code and, where there is one, of the dataset.
        """
        import ray

        root = _own_folder(Path(told["folder"] or Path(tempfile.gettempdir()) / f"virtualmle-{os.getuid()}")).resolve()
        folders = {kind: await _unpacked(root / "parcels", digest, ref) for kind, digest, ref in parcels}
        if self._executor is None:
            self._executor = await self._open(root, folders["code"], told["command"])
        from server.executors.base import Slot
        from trainers.spec import RESULT_FILES

        self._all_told.clear()
        self._how = ""
        self._sent: dict[str, Any] = {}
        self._directory = self._scratch / "trials" / told["directory"]
        self._result = RESULT_FILES[told["task"]]
        await asyncio.to_thread(self._lay_out, files, told["dataset"], folders.get("dataset"))
        slot = Slot.model_validate(told["slot"])
        self._work = asyncio.ensure_future(self._executor.run([self._directory], slot, told["task"]))
        return ray.get_runtime_context().get_node_id()

    async def _open(self, root: Path, code: Path, command: Any) -> Any:
        sys.path.insert(0, str(code))
        from server.executors.process import TRAINERS, ProcessExecutor

        await asyncio.to_thread(_sweep, root)
        self._scratch = root / "work" / _me()
        (self._scratch / "datasets").mkdir(parents=True)
        executor = ProcessExecutor(self._scratch / "datasets", self._scratch, command or TRAINERS)
        return await executor.__aenter__()

    async def news(self, with_state: bool) -> dict[str, Any]:
        """What has changed in the run directory, once something has: grown, whole; at last exit, error or cancelled.

        Each change is told once. With the last of them nothing of the training is left here.
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
        self._all_told.set()
        return {"grown": grown, "whole": whole} | self._ending()

    async def end(self, how: str) -> None:
        """Ends the training: `cancelled` may still leave a result; `closing` and `taken over` are an owner's."""
        self._how = how
        if how == "cancelled":
            self._work.cancel()
        else:
            await self._executor.__aexit__(None, None, None)

    async def ping(self) -> None:
        """Says no more than that there is somebody."""

    async def leave(self) -> None:
        """Removes what is here for trainings to come, once the last news were asked for, unless nobody asks."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNASKED_SECONDS):
                await self._all_told.wait()
        await self._executor.__aexit__(None, None, None)
        await asyncio.to_thread(shutil.rmtree, self._scratch, True)

    def _ending(self) -> dict[str, Any]:
        if self._work.cancelled():
            return {"cancelled": True}
        error = self._work.exception()
        if error is not None:
            return {"error": f"{error or type(error).__name__} (On node {os.uname().nodename}.)"}
        if self._how == "taken over":
            return {"error": "The training was ended by the next owner of this home; the same run_trial goes on."}
        (exit,) = self._work.result()
        return {"exit": exit.model_dump()}

    def _lay_out(self, files: dict[str, bytes], name: str, dataset: Path | None) -> None:
        self._directory.mkdir(parents=True)
        if dataset is not None and not (self._scratch / "datasets" / name).is_symlink():
            (self._scratch / "datasets" / name).symlink_to(dataset)
        for place, content in files.items():
            path = self._scratch / "trials" / place
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            if path.parent == self._directory:
                self._sent[path.name] = _signature(path)

    def _changes(self, with_state: bool) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """The result comes last: whoever has it has all the rest."""
        grown: dict[str, bytes] = {}
        whole: dict[str, bytes] = {}
        for path in sorted(self._directory.iterdir(), key=lambda one: (one.name == self._result, one.name)):
            passing = path.suffix in PASSING or not path.is_file()
            if passing or (path.name == STATE and not with_state):
                continue
            try:
                if path.name in GROWING:
                    if new := self._grown(path):
                        grown[path.name] = new
                elif (signature := _signature(path)) != self._sent.get(path.name):
                    whole[path.name] = path.read_bytes()
                    self._sent[path.name] = signature
            except FileNotFoundError:  # removed meanwhile
                continue
        return grown, whole

    def _grown(self, path: Path) -> bytes:
        start = self._sent.get(path.name, 0)
        with path.open("rb") as file:
            file.seek(start)
            new = file.read()
        if path.suffix == ".jsonl":
            new = new[: new.rfind(b"\n") + 1]
        self._sent[path.name] = start + len(new)
        return new


def _signature(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _own_folder(folder: Path) -> Path:
    """Made for this user alone; what somebody else has made there is refused, for code is run from it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; remove it")
    return folder


async def _unpacked(parcels: Path, digest: str, ref: Any) -> Path:
    """The folder of a parcel, which is fetched and unpacked once for each node."""
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
        if not place.is_dir():  # nor has another training unpacked it meanwhile
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _me() -> str:
    """This process, by a name that no other ever has."""
    import psutil

    return f"{os.getpid()}-{psutil.Process().create_time():.2f}"


def _sweep(root: Path) -> None:
    """Ends and removes what actors left that were killed, and parcels that are of no use any more."""
    import psutil

    from server.executors.descendants import end_marked
    from server.executors.environment import HOME_MARK

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
        with suppress(FileNotFoundError):  # one that another actor unpacks
            if time.time() - parcel.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(parcel, ignore_errors=True)
