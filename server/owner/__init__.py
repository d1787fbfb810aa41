"""The owner process of a home: takes the lock, opens the runtime, listens, and ends cleanly.

Everything that exists once per process belongs here. What the MCP tools do is in server/tools.
"""
