"""A process that is spoken with: lines of JSON to it and from it, through pipes of its own."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.executors.child import Child

_CLOSED = -1
"""No descriptor: its old number may be somebody else's by now."""


class Talk:
    """`take` is given each line of the process; one that it refuses (ValueError, LookupError) ends the process."""

    def __init__(self, process: Child, requests: int, answers: int, take: Callable[[bytes], None]) -> None:
        self.process = process
        self._requests = requests
        self._answers = answers
        self._take = take
        self._rest = b""
        asyncio.get_running_loop().add_reader(answers, self._hear)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        take: Callable[[bytes], None],
        log: Path = Path(os.devnull),
    ) -> Talk:
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

    def ask(self, values: Mapping[str, Any]) -> None:
        """Says a line. Raises OSError where nobody listens any more; one who does not take a whole line is ended."""
        line = json.dumps(values).encode() + b"\n"
        try:
            written = os.write(self._requests, line)
        except BlockingIOError:
            written = 0
        if written < len(line):
            self.process.send(signal.SIGKILL)
            raise BrokenPipeError(errno.EPIPE, "it does not listen")

    async def ended(self, seconds: float = 0.0) -> None:
        """Returns once the process has ended and all it said was taken; what it started is given `seconds` to end."""
        await self.process.wait()
        while self._hear():  # what it said before it ended
            pass
        asyncio.get_running_loop().remove_reader(self._answers)
        await self.process.end(seconds)  # all that it started carries its mark
        os.close(self._requests)
        os.close(self._answers)
        self._requests = self._answers = _CLOSED

    def _hear(self) -> bool:
        """Takes what the process has said; whether there was anything."""
        try:
            text = os.read(self._answers, 65536)
        except BlockingIOError:
            return False
        if not text:
            asyncio.get_running_loop().remove_reader(self._answers)
            self.process.send(signal.SIGKILL)  # without a voice it is of no use
            return False
        *whole, self._rest = (self._rest + text).split(b"\n")
        try:
            for line in whole:
                self._take(line)
        except (ValueError, LookupError):  # another command than ours need not know how to answer
            self.process.send(signal.SIGKILL)
        return True
