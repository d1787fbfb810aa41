"""Decides which trial trains next and where: on GPUs or the CPU, packed by memory and shared between studies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.executors.base import Slot

PATIENCE = 8
"""How often others may overtake a trial that waits for memory before a device is reserved for it."""


@dataclass(frozen=True)
class Place:
    """One slot: the GPU it is on (None: the CPU), and which of that GPU's slots."""

    gpu: int | None = None
    lane: int = 0


@dataclass(frozen=True)
class Lease:
    """A place in use."""

    place: Place
    study_id: str = ""
    memory_mb: float = 0.0

    def slot(self, threads: int, limit_mb: int | None, deadline_seconds: float | None = None) -> Slot:
        """The place as a slot for executors."""
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
    reserved: Place | None = None
    """A place on the device that is reserved for the request."""


class Slots:
    """`room` is the MiB that the trainings on a GPU (None: on the CPU) may hold together; no entry is no limit.

    The study with the fewest running trainings is served first, then the earliest request. A training that no device
    has room for gets a device to itself: the trainer finds out whether it really does not fit.
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
        """The largest number of trainings at a time."""
        return len(self._places)

    @property
    def on_gpus(self) -> bool:
        """Whether trainings run on GPUs rather than on the CPU."""
        return self._places[0].gpu is not None

    @property
    def whole_mb(self) -> float:
        """MiB of the largest device. A request for this much gets a device to itself."""
        return max(self._room.values(), default=0.0)

    @asynccontextmanager
    async def guest(self) -> AsyncGenerator[Lease]:
        """A lease on the first device that takes up no place. The trainings there count as crowded meanwhile."""
        lease = Lease(self._places[0])
        self._guests.append(lease)
        self._mark_crowded(lease.place)
        try:
            yield lease
        finally:
            self._guests.remove(lease)
            self._crowded.discard(lease)

    def crowded(self, lease: Lease) -> bool:
        """Whether others have used the same memory since the lease was taken."""
        return lease in self._crowded and lease.place.gpu in self._room

    @asynccontextmanager
    async def take(self, study_id: str, memory_mb: float) -> AsyncGenerator[Lease]:
        """Waits for a place, which is free again at the end of the block."""
        request = _Request(study_id, memory_mb, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._grant_requests()
        try:
            lease = await request.granted
        except asyncio.CancelledError:
            if request in self._waiting:
                self._waiting.remove(request)
            elif not request.granted.cancelled():
                self._release(request.granted.result())
            raise
        try:
            yield lease
        finally:
            self._release(lease)

    def _release(self, lease: Lease) -> None:
        self._leases.remove(lease)
        self._crowded.discard(lease)
        self._grant_requests()

    def _grant_requests(self) -> None:
        while (grant := self._next_grant()) is not None:
            request, place = grant
            lease = Lease(place, request.study_id, request.memory_mb)
            self._waiting.remove(request)
            self._leases.append(lease)
            self._mark_crowded(place)
            request.granted.set_result(lease)

    def _mark_crowded(self, place: Place) -> None:
        neighbours = [lease for lease in (*self._leases, *self._guests) if lease.place.gpu == place.gpu]
        if len(neighbours) > 1:
            self._crowded.update(neighbours)

    def _next_grant(self) -> tuple[_Request, Place] | None:
        """The request to serve now, and its place; None if no request can be served."""
        held = Counter(lease.study_id for lease in self._leases)
        overtaken: list[_Request] = []
        reserved: set[int | None] = set()
        for request in sorted(self._waiting, key=lambda waiting: held[waiting.study_id]):  # keeps the order of arrival
            if request.granted.cancelled():
                continue
            place = self._free_place(request.memory_mb, reserved)
            if place is not None:
                for earlier in overtaken:
                    earlier.overtaken += 1
                return request, place
            if request.overtaken < PATIENCE:
                overtaken.append(request)
                continue
            request.reserved = request.reserved or self._place_to_reserve(request.memory_mb)
            reserved.add(request.reserved.gpu)
        return None

    def _free_place(self, memory_mb: float, reserved: Collection[int | None]) -> Place | None:
        """A free place on the device with the most room left, if that is enough; reserved devices are left out."""
        taken = {lease.place for lease in self._leases}
        free = [place for place in self._places if place not in taken and place.gpu not in reserved]
        best = max(free, key=self._free_mb, default=None)
        return None if best is None or self._free_mb(best) < min(memory_mb, self.whole_mb) else best

    def _place_to_reserve(self, memory_mb: float) -> Place:
        """A place where the training will fit soonest: on the large enough device with the most room left."""
        needed = min(memory_mb, self.whole_mb)
        large_enough = [place for place in self._places if self._room.get(place.gpu, float("inf")) >= needed]
        return max(large_enough, key=self._free_mb)

    def _free_mb(self, place: Place) -> float:
        """MiB that are left on the place's device."""
        used = sum(lease.memory_mb for lease in self._leases if lease.place.gpu == place.gpu)
        return self._room.get(place.gpu, float("inf")) - used
