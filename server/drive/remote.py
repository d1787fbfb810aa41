"""A client of a server that is reached over HTTP with a bearer token."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from server.causes import cause_of
from server.reach import RemoteError, read_token

CONNECT_SECONDS = 10.0


@asynccontextmanager
async def connect_url(url: str, token_file: Path | None) -> AsyncGenerator[Client]:
    """An MCP client of the server at `url`; raises RemoteError where it cannot be reached or refuses the token."""
    headers = {"authorization": f"Bearer {read_token(token_file)}"} if token_file else {}
    refused: list[int] = []

    async def watch(response: httpx2.Response) -> None:
        if response.status_code in (401, 403, 404, 421):
            refused.append(response.status_code)

    timeout = httpx2.Timeout(CONNECT_SECONDS, read=None)
    hooks = {"response": [watch]}
    async with httpx2.AsyncClient(headers=headers, timeout=timeout, event_hooks=hooks) as http:
        entered = False
        try:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                entered = True
                yield client
        except (MCPError, httpx2.HTTPError, OSError, BaseExceptionGroup) as error:
            if entered:
                raise
            raise RemoteError(_why(url, token_file, refused, error)) from error


def _why(url: str, token_file: Path | None, refused: list[int], error: BaseException) -> str:
    if 401 in refused and token_file is not None:
        return f"{url} does not admit the token of {token_file} (401)."
    if 401 in refused:
        return f"{url} wants a bearer token (401): give it with --token-file."
    if refused:
        meant = {403: "it does not admit this Origin", 404: "there is no MCP server at this path, try /mcp"}
        return f"{url} refused (HTTP {refused[-1]}): {meant.get(refused[-1], 'it does not admit this Host name')}."
    cause = cause_of(error)
    return f"{url} does not answer as an MCP server: {str(cause) or type(cause).__name__}."
