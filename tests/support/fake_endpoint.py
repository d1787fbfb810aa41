"""A local HTTP endpoint that answers POSTs from a script, well or badly, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Raw:
    """An answer that is not what a client expects. `cut`: the connection ends before all of it was sent."""

    body: bytes
    content_type: str = "application/json"
    cut: bool = False


class Never:
    """No answer, until the endpoint ends."""


Body = dict[str, Any] | Raw | Never
Reply = tuple[int, Body]
Script = Sequence[Reply] | Callable[[dict[str, Any]], Reply]


class Endpoint:
    """`requests` are the bodies in order, `headers` and `paths` beside them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []


@contextmanager
def serving(replies: Script) -> Iterator[Endpoint]:
    """Serve `replies`, one a request, the last one again once they are used up; or what a function makes of each."""
    waiting = [] if callable(replies) else list(replies)
    ended = threading.Event()

    def reply_to(request: dict[str, Any]) -> Reply:
        if callable(replies):
            return replies(request)
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            endpoint.requests.append(json.loads(body or b"{}", parse_constant=_refuse))
            endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
            endpoint.paths.append(self.path)
            status, answer = reply_to(endpoint.requests[-1])
            if isinstance(answer, Never):
                ended.wait()
                return
            raw = answer if isinstance(answer, Raw) else Raw(json.dumps(answer).encode())
            self.send_response(status)
            self.send_header("content-type", raw.content_type)
            self.send_header("content-length", str(len(raw.body) + raw.cut))
            if status in (429, 500):
                self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(raw.body)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _refuse(word: str) -> Any:
    raise AssertionError(f"a client sent {word}, which strict servers refuse")
