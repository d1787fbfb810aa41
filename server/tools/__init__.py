"""The MCP server: the app, the tools (one file for each family), resources, completions, schemas, tasks.

A tool builds its request, calls one function of another folder and builds the answer. It holds no rule of a study.
"""
