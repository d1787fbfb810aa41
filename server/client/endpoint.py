"""Where a bridge's messages go: to the owner of a home on this machine, or to a server elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

import httpx2

from server.client.home import MCP_PATH, attach, find_owner
from server.settings import Settings

_CONNECT_SECONDS = 10.0


class RemoteError(RuntimeError):
    """The server at a URL cannot be used; the message says why and what to do."""


def read_token(path: Path) -> str:
    """The first token of a token file: one per line, optionally followed by a name and a role. Raises RemoteError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text; save it as UTF-8"
        raise RemoteError(f"--token-file {path} cannot be read: {reason}.") from None
    words = [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not words:
        raise RemoteError(f"--token-file {path} holds no token; one a line is expected.")
    return words[0]


def open_remote(url: str, token: str | None, hooks: Mapping[str, list[Any]] | None = None) -> httpx2.AsyncClient:
    """An HTTP client of the server at `url`, which is its base address. Raises RemoteError for an unusable proxy."""
    try:
        return httpx2.AsyncClient(
            base_url=url,
            headers={b"authorization": f"Bearer {token}".encode()} if token else {},
            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=None),
            limits=httpx2.Limits(max_connections=None),
            event_hooks=hooks,
            trust_env=uses_proxies(url),
        )
    except (ImportError, ValueError) as error:
        raise RemoteError(proxy_problem(url, error)) from None


def uses_proxies(url: str) -> bool:
    """Whether a proxy of the environment may stand between here and `url`: never for this machine itself."""
    try:
        host = httpx2.URL(url).host
    except httpx2.InvalidURL:
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")
    return not (address.is_loopback or address.is_unspecified)


def check_proxies() -> None:
    """Raises RemoteError where the environment names a proxy that cannot be used."""
    try:
        httpx2.Client().close()
    except (ImportError, ValueError) as error:
        raise RemoteError(proxy_problem("other machines", error)) from None


def proxy_problem(url: str, error: Exception) -> str:
    """One line for a proxy in the environment that cannot be used."""
    said = str(error).partition("\n")[0]
    reason = "it is a SOCKS proxy" if "socks" in said.lower() else said
    return (
        f"The environment names a proxy for {url} that cannot be used: {reason}. Unset ALL_PROXY or the like, name an "
        "HTTP proxy, or put the host into NO_PROXY."
    )


class Endpoint(Protocol):
    """The server that takes a bridge's messages."""

    def attach(self) -> AbstractAsyncContextManager[tuple[httpx2.AsyncClient, httpx2.Response | None]]:
        """An HTTP client, and a response whose body ends when the server does, if the server offers one."""
        ...

    def is_there(self) -> bool:
        """Whether the server that was attached to may still answer."""
        ...

    @property
    def path(self) -> str:
        """Path of the MCP endpoint below the client's base address."""
        ...

    @property
    def no_answer_message(self) -> str:
        """The message for a client when no attempt to send its message has succeeded."""
        ...

    def refusal_message(self, status: int) -> str | None:
        """The message for an HTTP status that no further attempt will change; None where one may."""
        ...


class LocalEndpoint:
    """The home's owner, which is started if none runs."""

    path = MCP_PATH

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def attach(self) -> AbstractAsyncContextManager[tuple[httpx2.AsyncClient, httpx2.Response | None]]:
        return attach(self._settings)

    def is_there(self) -> bool:
        return find_owner(self._settings) is not None  # checks the process: a closed connection may be noticed late

    @property
    def no_answer_message(self) -> str:
        return f"The owner keeps ending; {self._settings.home / 'owner.log'} says why."

    def refusal_message(self, status: int) -> str | None:
        return None


class RemoteEndpoint:
    """A server at a URL, with a bearer token."""

    def __init__(self, url: str, token: str | None) -> None:
        address = httpx2.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise RemoteError(f"--url {url} is no address; it looks like https://host/mcp.")
        self._url = url
        self._base = str(address.copy_with(path="/", query=None))
        self._token = token
        self.path = address.raw_path.decode() if address.path != "/" else MCP_PATH

    @asynccontextmanager
    async def attach(self) -> AsyncGenerator[tuple[httpx2.AsyncClient, httpx2.Response | None]]:
        async with open_remote(self._base, self._token) as http:
            yield http, None

    def is_there(self) -> bool:
        return True

    @property
    def no_answer_message(self) -> str:
        return f"{self._url} does not answer: is the server up, and the address right? Trials that run there go on."

    def refusal_message(self, status: int) -> str | None:
        if status == 401:
            token = "does not admit the token" if self._token else "wants a bearer token"
            return f"{self._url} {token} (401): give one of its own with --token-file."
        if status in (403, 421):
            return (
                f"{self._url} does not admit this Host or Origin ({status}): set allowed_hosts in its virtualmle.yaml."
            )
        return None
