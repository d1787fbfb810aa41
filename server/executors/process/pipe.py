"""Exchanges lines of JSON with a process, through a pair of pipes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.executors.process.child import Child

_CLOSED = -1
"""Marks a closed descriptor, whose old number may belong to something else by now."""


class MessagePipe:
    """`take` gets each line that the process writes. If it rejects one (ValueError, LookupError), the process ends."""

    def __init__(self, process: Child, requests: int, answers: int, take: Callable[[bytes], None]) -> None:
        self.process = process
        self._requests = requests
        self._answers = answers
        self._take = take
        self._partial_line = b""
        asyncio.get_running_loop().add_reader(answers, self._read_lines)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        take: Callable[[bytes], None],
        log: Path | None = None,
    ) -> MessagePipe:
        """Starts `command`; must be called from the thread that runs the event loop. Raises OSError."""
        requests, answers = os.pipe(), os.pipe()
        try:
            process = Child.start(command, directory, environment, log, (requests[0], answers[1]))
        except OSError:
            os.close(requests[1])
            os.close(answers[0])
            raise
        finally:
            os.close(requests[0])
            os.close(answers[1])
        for descriptor in (requests[1], answers[0]):
            os.set_blocking(descriptor, False)
        return cls(process, requests[1], answers[0], take)

    def send(self, values: Mapping[str, Any]) -> None:
        """Sends one line. Raises OSError where nobody reads it; a process that takes only part of a line is killed."""
        line = json.dumps(values).encode() + b"\n"
        try:
            written = os.write(self._requests, line)
        except BlockingIOError:
            written = 0
        if written < len(line):
            self.process.send(signal.SIGKILL)
            raise BrokenPipeError(errno.EPIPE, "it does not listen")

    async def ended(self, seconds: float = 0.0) -> None:
        """Returns once the process has ended and its output was read. Processes it started get `seconds` to end."""
        await self.process.wait()
        while self._read_lines():  # what it wrote before it ended
            pass
        asyncio.get_running_loop().remove_reader(self._answers)
        await self.process.end(seconds)  # everything it started carries its mark
        os.close(self._requests)
        os.close(self._answers)
        self._requests = self._answers = _CLOSED

    def _read_lines(self) -> bool:
        """Takes what the process has written; returns whether there was anything."""
        try:
            text = os.read(self._answers, 65536)
        except BlockingIOError:
            return False
        if not text:
            asyncio.get_running_loop().remove_reader(self._answers)
            self.process.send(signal.SIGKILL)  # a process that cannot answer is of no use
            return False
        *lines, self._partial_line = (self._partial_line + text).split(b"\n")
        try:
            for line in lines:
                self._take(line)
        except (ValueError, LookupError):  # a command other than ours may write anything
            self.process.send(signal.SIGKILL)
        return True
