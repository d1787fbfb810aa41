"""uvicorn's HTTP connection with limits: the time to send headers and body, the bytes of both, the number of clients.

A request that has arrived whole has no limit of time: calls wait for trials, and streams stay open for hours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

Phase = Literal["idle", "headers", "body", "whole", "closing"]
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True)
class Limits:
    """`unread_bytes`: what may still come of a body after its request was answered, such as refused."""

    connections: int = 512
    header_bytes: int = 16_384
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    unread_bytes: int = 8 * 2**20


class LimitedConnection(H11Protocol):
    """One connection. Subclasses may set other limits.

    When there are too many connections, the one that has been without a request for the longest time is closed for a
    new one. So neither half-sent headers nor refused clients keep others out.
    """

    limits = Limits()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._phase: Phase = "idle"
        self._deadline: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        self._unread_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_full = len(self.connections) >= self.limits.connections
        displaced = _longest_idle(self.connections) if is_full else None
        super().connection_made(transport)
        if displaced is not None:
            self.connections.discard(displaced)  # now: others may be made before its end is noticed
            displaced.abort()
        elif is_full:
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._enter("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter("whole")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_idle and self.conn.their_state is h11.SEND_BODY:
            self._unread_bytes += len(data)
            if self._unread_bytes > self.limits.unread_bytes:
                self.abort()
                return
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        self._idle_since, self._unread_bytes = self.loop.time(), 0
        super().on_response_complete()
        if self.transport.is_closing():
            self._enter("closing")
        elif self.conn.their_state is h11.IDLE:
            self._enter("idle")  # uvicorn limits the time until the next request
        else:
            self._follow()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():  # the client does not read, and closing waits until it has
            self.transport.abort()

    def abort(self) -> None:
        """Closes the connection without waiting for the client to read what is written."""
        self.transport.abort()

    def _follow(self) -> None:
        """Starts the time limit of what the client has to send now."""
        their_state = self.conn.their_state
        if their_state is h11.IDLE:
            self._enter("headers")
        else:
            self._enter("body" if their_state is h11.SEND_BODY else "whole")

    def _enter(self, phase: Phase) -> None:
        if phase == self._phase:
            return  # each further byte must not extend the time
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        limits = {"headers": self.limits.header_seconds, "body": self.limits.body_seconds}
        limits["closing"] = self.limits.body_seconds  # for a client that does not read the answer
        if (limit := limits.get(phase)) is not None:
            self._deadline = self.loop.call_later(limit, self.abort)


def _longest_idle(connections: Iterable[Any]) -> LimitedConnection | None:
    idle = [each for each in connections if isinstance(each, LimitedConnection) and each.is_idle]
    return min(idle, key=lambda each: each._idle_since, default=None)  # pyright: ignore[reportPrivateUsage]
