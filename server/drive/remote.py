"""A client of a remote server, over HTTP with a bearer token."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from server.client.endpoint import RemoteError, open_remote, read_token
from server.errors import cause_of


@asynccontextmanager
async def connect_url(url: str, token_file: Path | None) -> AsyncGenerator[Client]:
    """An MCP client of the server at `url`; raises RemoteError if it cannot be reached or refuses the token."""
    token = read_token(token_file) if token_file else None
    refusals: list[int] = []

    async def watch(response: httpx2.Response) -> None:
        if response.status_code in (401, 403, 404, 421):
            refusals.append(response.status_code)

    async with open_remote(url, token, {"response": [watch]}) as http:
        connected = False
        try:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                connected = True
                yield client
        except (MCPError, httpx2.HTTPError, OSError, BaseExceptionGroup) as error:
            if connected:
                raise
            raise RemoteError(_explain(url, token_file, refusals, error)) from error


def _explain(url: str, token_file: Path | None, refusals: list[int], error: BaseException) -> str:
    if 401 in refusals and token_file is not None:
        return f"{url} does not admit the token of {token_file} (401)."
    if 401 in refusals:
        return f"{url} wants a bearer token (401): give it with --token-file."
    if refusals:
        meanings = {403: "it does not admit this Origin", 404: "there is no MCP server at this path, try /mcp"}
        return f"{url} refused (HTTP {refusals[-1]}): {meanings.get(refusals[-1], 'it does not admit this Host name')}."
    cause = cause_of(error)
    return f"{url} does not answer as an MCP server: {str(cause) or type(cause).__name__}."
