"""The owner process and everything that reaches it: MCP tools, command line, drive, study page.

Each folder has one role, described in its `__init__`. Directly here is what all of them import (settings, version,
errors, answers, auth), and the Runtime record. A folder imports only folders below it; the order is in pyproject.toml,
under `importlinter`.
"""
