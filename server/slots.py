"""Which trial trains next, and where: places on GPUs or on the CPU, packed by memory and shared between studies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.executors.base import Slot

PATIENCE = 8
"""How often others may overtake a trial that waits for memory; then a device is kept for it."""


@dataclass(frozen=True)
class Place:
    """One slot: the GPU it is on (None: the CPU), and which of that GPU's slots."""

    gpu: int | None = None
    lane: int = 0


@dataclass(frozen=True)
class Lease:
    """A place that is taken."""

    place: Place
    study_id: str = ""
    memory_mb: float = 0.0

    def slot(self, threads: int, limit_mb: int | None, deadline_seconds: float | None = None) -> Slot:
        """The place as executors know it."""
        gpus = () if self.place.gpu is None else (self.place.gpu,)
        return Slot(
            threads=threads, gpu_ids=gpus, lane=self.place.lane, memory_mb=limit_mb, deadline_seconds=deadline_seconds
        )


@dataclass(eq=False)
class _Request:
    study_id: str
    memory_mb: float
    granted: asyncio.Future[Lease]
    overtaken: int = 0
    kept: Place | None = None
    """On the device that is kept for it."""


class Slots:
    """`room`: by GPU (None: the machine) the MiB that its trainings may hold together; not there is no limit.

    The study with the fewest trainings under way is served first, then whoever came first. What no device has room for
    is trained alone on one: whether it really cannot fit is the trainer's to find out.
    """

    def __init__(self, places: Sequence[Place], room: Mapping[int | None, float]) -> None:
        self._places = tuple(places)
        self._room = dict(room)
        self._leases: list[Lease] = []
        self._guests: list[Lease] = []
        self._crowded: set[Lease] = set()
        self._waiting: list[_Request] = []

    @property
    def places(self) -> int:
        """How many trainings go on at a time, at most."""
        return len(self._places)

    @property
    def on_gpus(self) -> bool:
        """Whether trainings go on there, rather than on the CPU."""
        return self._places[0].gpu is not None

    @property
    def whole_mb(self) -> float:
        """Whoever wants so much has a device for itself."""
        return max(self._room.values(), default=0.0)

    @asynccontextmanager
    async def guest(self) -> AsyncGenerator[Lease]:
        """A share of the first device that takes nobody's place; those who are there meanwhile have company."""
        lease = Lease(self._places[0])
        self._guests.append(lease)
        self._meet(lease.place)
        try:
            yield lease
        finally:
            self._guests.remove(lease)
            self._crowded.discard(lease)

    def crowded(self, lease: Lease) -> bool:
        """Whether others have trained beside it since it was taken, in the same memory."""
        return lease in self._crowded and lease.place.gpu in self._room

    @asynccontextmanager
    async def take(self, study_id: str, memory_mb: float) -> AsyncGenerator[Lease]:
        """A place, once there is one; it is free again at the end of the block."""
        request = _Request(study_id, memory_mb, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._grant()
        try:
            lease = await request.granted
        except asyncio.CancelledError:
            if request in self._waiting:
                self._waiting.remove(request)
            elif not request.granted.cancelled():
                self._free(request.granted.result())
            raise
        try:
            yield lease
        finally:
            self._free(lease)

    def _free(self, lease: Lease) -> None:
        self._leases.remove(lease)
        self._crowded.discard(lease)
        self._grant()

    def _grant(self) -> None:
        while (found := self._next()) is not None:
            request, place = found
            lease = Lease(place, request.study_id, request.memory_mb)
            self._waiting.remove(request)
            self._leases.append(lease)
            self._meet(place)
            request.granted.set_result(lease)

    def _meet(self, place: Place) -> None:
        beside = [one for one in (*self._leases, *self._guests) if one.place.gpu == place.gpu]
        if len(beside) > 1:
            self._crowded.update(beside)

    def _next(self) -> tuple[_Request, Place] | None:
        """Who is served now, and where; None where nobody can be."""
        held = Counter(lease.study_id for lease in self._leases)
        overtaken: list[_Request] = []
        kept: set[int | None] = set()
        for request in sorted(self._waiting, key=lambda one: held[one.study_id]):  # sorting keeps the order of arrival
            if request.granted.cancelled():
                continue
            place = self._fitting(request.memory_mb, kept)
            if place is not None:
                for one in overtaken:
                    one.overtaken += 1
                return request, place
            if request.overtaken < PATIENCE:
                overtaken.append(request)
                continue
            request.kept = request.kept or self._roomiest(request.memory_mb)
            kept.add(request.kept.gpu)
        return None

    def _fitting(self, memory_mb: float, kept: Collection[int | None]) -> Place | None:
        """A free place whose device has room and is kept for nobody, on the one that has most."""
        taken = {lease.place for lease in self._leases}
        free = [place for place in self._places if place not in taken and place.gpu not in kept]
        best = max(free, key=self._left, default=None)
        return None if best is None or self._left(best) < min(memory_mb, self.whole_mb) else best

    def _roomiest(self, memory_mb: float) -> Place:
        """Where it will fit soonest: of the devices that are large enough, on the one that has most left."""
        needed = min(memory_mb, self.whole_mb)
        enough = [place for place in self._places if self._room.get(place.gpu, float("inf")) >= needed]
        return max(enough, key=self._left)

    def _left(self, place: Place) -> float:
        """MiB that its device has left."""
        used = sum(lease.memory_mb for lease in self._leases if lease.place.gpu == place.gpu)
        return self._room.get(place.gpu, float("inf")) - used
